use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use keyholder_domain::{Timestamp, WorkloadId};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tonic::codegen::http::Extensions;

use crate::Refusal;
use crate::leaf::Leaf;

/// The workload on the other end of one connection, read from its certificate once, when the connection
/// was accepted.
#[derive(Debug)]
pub struct Peer {
    workload: WorkloadId,
    not_after: Timestamp,
    address: SocketAddr,
    fingerprint: Fingerprint,
}

impl Peer {
    /// Reads the leaf of a handshake that our verifier has accepted.
    pub(crate) fn read(leaf: &[u8], address: SocketAddr) -> Result<Self, Refusal> {
        let Leaf { workload, not_after } = Leaf::read(leaf)?;
        Ok(Self { workload, not_after, address, fingerprint: Fingerprint::of(leaf) })
    }

    /// Who it is.
    pub const fn workload(&self) -> &WorkloadId {
        &self.workload
    }

    /// The last second of its certificate.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Where it connected from.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Which certificate it showed.
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Whether the certificate is still within its time. A connection may outlive it; its calls must not.
    ///
    /// The second of `notAfter` still counts, as it does in the handshake (RFC 5280, section 4.1.2.5).
    pub const fn is_valid_at(&self, now: Timestamp) -> bool {
        now.unix_timestamp() <= self.not_after.unix_timestamp()
    }
}

/// The peer of the connection that a request came in on.
///
/// `None` only where the server does not listen through [`incoming`](crate::incoming()): refuse then.
pub fn peer_of(extensions: &Extensions) -> Option<&Arc<Peer>> {
    extensions.get()
}

/// The SHA-256 of a certificate, written in hex as `openssl x509 -fingerprint -sha256` does, but lower-case
/// and without colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(der: &[u8]) -> Self {
        // The TLS library's own SHA-256, so that there is one implementation in the house.
        let sha256 = TLS13_AES_128_GCM_SHA256.tls13().expect("a TLS 1.3 suite").common.hash_provider;
        let hash = sha256.hash(der);
        Self(hash.as_ref().try_into().expect("SHA-256 is 32 bytes"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
