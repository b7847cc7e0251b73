//! The only way out: every request that leaves Keyholder leaves through here.
//!
//! Users type URLs, and providers return them. This crate decides which may be called, and calls them: it
//! resolves the host, classifies every address, connects to one that passed, and bounds what comes back in
//! time and size. What it never does: follow a redirect, use a proxy, repair a URL, unpack a body, log a path,
//! a query, a header or a body, or say what a provider's answer means.
//!
//! A URL is parsed where it enters, which needs no lookup, and judged again whenever it is called:
//!
//! ```no_run
//! use http::{Method, header};
//! use keyholder_egress::{Egress, Request, Settings, Target};
//! use zeroize::Zeroizing;
//!
//! # async fn call(key: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let egress = Egress::new(&Settings::default())?;
//! let target = Target::parse("https://api.github.com/user", egress.rules())?;
//! let bearer = Zeroizing::new(format!("Bearer {key}").into_bytes());
//! let request = Request::new(Method::GET, target).secret_header(header::AUTHORIZATION, bearer)?;
//! match egress.send(request).await {
//!     Ok(response) => println!("{}", response.status),
//!     Err(error) => println!("{} ({}), retry: {}", error, error.reason(), error.is_retryable()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The rules, where a choice was to make
//!
//! - **HTTP/1.1 only.** Every provider speaks it, and it has one request on a connection at a time: nothing
//!   that one answer does can hold up another.
//! - **No compression.** It is not offered; an answer that is compressed all the same is refused by type, so
//!   that there is nothing to unpack and no bomb to go off. The limit of a body is on the bytes that come.
//! - **No TLS resumption**: each connection's certificate is verified. TLS 1.2 and 1.3.
//! - **Both families.** The A and the AAAA answer must both be there, and all addresses in them acceptable.
//! - **A connection is used again** only if its peer is among the addresses that were vetted for this request.
//! - **No task of its own** works for a call: dropping the future of [`Egress::send`] ends everything.
//!
//! # The commonest change
//!
//! A range that is newly reserved goes into the table in `class.rs`, and its edges into the test beside it. A
//! new reason goes into `refusal.rs`, with its label and sentence, and into `docs/egress.md`; a test compares
//! the two.

mod cidr;
mod class;
mod dial;
mod egress;
mod error;
mod host;
mod names;
mod pool;
mod refusal;
mod request;
mod resolve;
mod rules;
mod settings;
mod target;
mod tls;
mod vet;
mod wire;

#[cfg(test)]
mod tests;

pub use cidr::Cidr;
pub use class::AddressClass;
pub use egress::Egress;
pub use error::{EgressError, TlsFault};
pub use host::Host;
pub use refusal::Refusal;
pub use request::{Body, Request, Response};
pub use resolve::ResolverFault;
pub use rules::Rules;
pub use settings::{Danger, Deadlines, HostPort, Limits, SelfAddress, Settings, SettingsError};
pub use target::{Origin, Target};
pub use vet::{Outcome, Verdict};
