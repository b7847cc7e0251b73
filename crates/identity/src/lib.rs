//! Who is on the other end of mTLS, and what the policy lets it do.
//!
//! A connection's identity is decided once, in its TLS handshake, from the client's certificate alone. No
//! header, no server name and no address ever counts. What this crate never does: decide about a single
//! call, speak gRPC, or read the time from the air.
//!
//! The way in is [`incoming`], which yields only connections whose peer has proved who it is; a handler
//! asks [`peer_of`] its request's extensions, and [`Policy::find`] what that workload may do:
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use keyholder_domain::{SystemClock, TrustDomain};
//! use keyholder_identity::{
//!     CaBundle, HandshakeLimits, Policy, ServerCertificate, TrustStore, accept, incoming, server_config,
//! };
//!
//! # async fn listen(policy: Policy) -> Result<(), Box<dyn std::error::Error>> {
//! let certificate = ServerCertificate::load(Path::new("server.pem"), Path::new("server-key.pem"))?;
//! let mut trust = TrustStore::new();
//! trust.add_domain(TrustDomain::parse("keyholder.dev")?, CaBundle::load(&["ca.pem"])?)?;
//! let config = server_config(certificate, trust, &policy, Arc::new(SystemClock))?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7443").await?;
//! // One share for each runtime that serves.
//! for share in accept(listener, 1) {
//!     let connections = incoming(share, Arc::clone(&config), HandshakeLimits::default());
//!     // router.serve_with_incoming_shutdown(connections, shutdown).await?;
//! #   drop(connections);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The rules, where the standards leave a choice
//!
//! - **Trust domains.** The id in a leaf names its trust domain, and only that domain's bundle may have
//!   signed it. Bundles are never pooled.
//! - **DNS names.** A leaf without any URI and with exactly one DNS name is known by that name, if the
//!   policy lists it and the bundle for DNS names signed it. A common name never counts.
//! - **Time.** No allowance for skew: a certificate is good from the second of `notBefore` to the second of
//!   `notAfter`, both included. Authorities, the anchors among them, must be within their time as well.
//!   Whoever issues should date certificates back by a few minutes.
//! - **Extended key usage.** None: accepted (the X509-SVID text says SHOULD). Otherwise it must contain
//!   clientAuth; `anyExtendedKeyUsage` does not stand for it.
//! - **Key usage.** Must be there, and for a SPIFFE ID be critical, with digitalSignature and without
//!   keyCertSign and cRLSign. An intermediate must have keyCertSign.
//! - **Keys.** RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, Ed25519; no signature with SHA-1 or MD5.
//! - **Chains.** At most six certificates. Order does not matter, what does not belong is ignored.
//! - **URI name constraints.** Not supported: an authority that has one is refused for every workload with
//!   a SPIFFE ID, whether the constraint would permit it or not.
//! - **Server name.** The client's SNI is ignored; there is one certificate. ALPN must be `h2`.
//! - **Resumption.** None, and no early data: a resumed session would skip the client's certificate.
//! - **Open connections** outlive the handshake: ask [`Peer::is_valid_at`] on every call.
//!
//! # The commonest change
//!
//! A new rule for a client's own certificate goes into `leaf.rs`, with a [`Refusal`] and its stable reason;
//! a rule for issuers into `CaBundle::check_path`. The chain is verified by `webpki` itself rather than by
//! rustls' `WebPkiClientVerifier` around it, because only `webpki` shows the path that it found, and both
//! leave an issuer's key usage and an anchor's validity unchecked.

mod acceptor;
mod corked;
mod error;
mod handshake;
mod leaf;
mod peer;
mod pem;
mod policy;
mod refusal;
mod stream;
mod tls;
mod trust;
mod verifier;

pub use acceptor::{Accepted, HandshakeLimits, Incoming, accept, incoming};
pub use error::ConfigError;
pub use peer::{Fingerprint, Peer, peer_of};
pub use policy::{ActorRule, OrganizationRule, Policy, ProviderRule, Role, Workload, WorkloadEntry};
pub use refusal::Refusal;
pub use stream::MtlsStream;
pub use tls::{ServerCertificate, server_config};
pub use trust::{CaBundle, TrustStore};
