use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyholder_domain::{Clock, Timestamp};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use crate::verifier::PeerVerifier;
use crate::{ConfigError, Policy, TrustStore, leaf, pem};

/// The one application protocol that is spoken: HTTP/2.
pub(crate) const ALPN: &[u8] = b"h2";

/// Our own certificate chain and its private key.
#[derive(Debug)]
pub struct ServerCertificate {
    key: CertifiedKey,
    not_after: Timestamp,
}

impl ServerCertificate {
    /// Reads the chain, our own certificate first, and the key from PEM files, and checks that they are of
    /// one key pair: a rotation writes two files, and may be caught between them.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, ConfigError> {
        let chain = pem::certificates(certificate)?;
        let unreadable = |_| ConfigError::Entry {
            file: certificate.into(),
            entry: 1,
            problem: "is not an X.509 certificate",
        };
        let not_after = leaf::parse(&chain[0]).map_err(unreadable)?.validity().not_after.to_datetime();
        let certified = CertifiedKey::from_der(chain, pem::private_key(key)?, &provider());
        let mismatch =
            |source| ConfigError::ServerKey { certificate: certificate.into(), key: key.into(), source };
        Ok(Self { key: certified.map_err(mismatch)?, not_after })
    }

    /// When it ends. For metrics.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// The configuration of the workload port: TLS 1.3 only, a client certificate always, every handshake a
/// full one, HTTP/2 only.
///
/// A session that could be resumed would skip the verification of the client's certificate (RFC 8446,
/// section 4.6.1), so there are no tickets, no session store, and no early data.
pub fn server_config(
    certificate: ServerCertificate,
    trust: TrustStore,
    policy: &Policy,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, ConfigError> {
    if trust.is_empty() {
        return Err(ConfigError::NothingTrusted);
    }
    if let Some(name) = policy.dns_names().next()
        && !trust.has_dns()
    {
        return Err(ConfigError::DnsWithoutBundle(name.into()));
    }
    let dns_names = policy.dns_names().map(Into::into).collect();
    let provider = provider();
    let verifier = PeerVerifier::new(trust, dns_names, Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(HandshakeTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ConfigError::Tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The cryptography, always the same and never the process's default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The clock, as the TLS library asks it.
#[derive(Debug)]
struct HandshakeTime(Arc<dyn Clock>);

impl TimeProvider for HandshakeTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

/// A moment in whole seconds, as the TLS library counts them. Before 1970 is 1970.
pub(crate) fn unix_time(moment: Timestamp) -> UnixTime {
    let seconds = u64::try_from(moment.unix_timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
