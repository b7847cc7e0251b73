use std::io;
use std::path::PathBuf;

use keyholder_domain::TrustDomain;

/// The operator's files or settings are wrong. Nothing is loaded in part: whoever reloads keeps what was
/// loaded before.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A certificate file without a certificate. An empty bundle never means "trust all".
    #[error("{}: holds no certificate", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// One entry of a certificate file is not what it must be.
    #[error("{}: entry {entry}: {problem}", file.display())]
    Entry {
        /// The file.
        file: PathBuf,
        /// Which entry, counted from 1.
        entry: usize,
        /// The rule that it breaks.
        problem: &'static str,
    },
    /// A file that must hold one private key does not.
    #[error("{}: must hold exactly one private key in PEM", file.display())]
    PrivateKey {
        /// The file.
        file: PathBuf,
    },
    /// The key does not serve the certificate: another key pair, or a kind that is not supported.
    #[error("{}: cannot serve the certificate in {}", key.display(), certificate.display())]
    ServerKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says about it.
        source: rustls::Error,
    },
    /// A trust domain was given two bundles.
    #[error("trust domain {0} has more than one bundle")]
    TrustDomainTwice(TrustDomain),
    /// There is no bundle at all, so that no workload could ever connect.
    #[error("no trust domain and no DNS bundle is configured")]
    NothingTrusted,
    /// The policy lists a workload by DNS name, and no bundle verifies those.
    #[error("workload dns:{0} is listed, but no bundle for DNS names is configured")]
    DnsWithoutBundle(String),
    /// A workload's entry in the policy is wrong.
    #[error("workload {entry} ({id:?}): {field}: {problem}")]
    Workload {
        /// Which entry, counted from 1.
        entry: usize,
        /// Its id, as it is written.
        id: String,
        /// The field.
        field: &'static str,
        /// The rule that it breaks, with the value that does.
        problem: String,
    },
    /// The TLS library refuses its configuration.
    #[error("the TLS configuration is refused")]
    Tls(#[source] rustls::Error),
}
