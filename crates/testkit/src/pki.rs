//! A development PKI on disk, and certificates of any shape for tests.
//!
//! Keys made here are for a developer's own machine. Nothing in a production build trusts them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use keyholder_domain::Timestamp;
use rcgen::SanType;
use time::Duration;

mod authority;
mod file;
mod kept;

pub use authority::{Authority, Issued, LeafRequest};

/// The trust domain of the development PKI.
pub const TRUST_DOMAIN: &str = "keyholder.dev";

/// The workloads that get a certificate, by file name and last segment of their SPIFFE ID.
pub const WORKLOADS: [&str; 4] = ["operator", "console", "gateway", "auditor"];

const CA_NAME: &str = "Keyholder development CA";
const CA_LIFETIME: Duration = Duration::days(3650);
const LEAF_LIFETIME: Duration = Duration::days(365);

/// A development PKI could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be written, or the directory cannot be made.
    #[error("cannot write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A certificate cannot be made as it was asked for.
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
}

/// A certificate authority, a server certificate and one certificate for each workload, as files of one
/// directory: `ca.pem`, `server.pem`, `<workload>.pem`, and for each its key, `<name>-key.pem`.
#[derive(Debug, Clone)]
pub struct DevPki {
    dir: PathBuf,
}

impl DevPki {
    /// Makes what is missing in a directory, and renews what is damaged, does not fit together, or has less
    /// than 30 days left. The authority lasts 10 years, the others one.
    pub fn ensure(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        file::create_dir(dir)?;
        let pki = Self { dir: dir.into() };
        let ca = pki.ensure_ca(now)?;
        pki.ensure_leaf("server", server(now)?, &ca, now)?;
        for name in WORKLOADS {
            pki.ensure_leaf(name, LeafRequest::spiffe(&spiffe_id(name), now)?, &ca, now)?;
        }
        Ok(pki)
    }

    /// The certificate of `ca`, `server` or one of [`WORKLOADS`].
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }

    /// The private key of `ca`, `server` or one of [`WORKLOADS`].
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-key.pem"))
    }

    fn ensure_ca(&self, now: Timestamp) -> Result<Authority, PkiError> {
        if let Some(kept) = kept::read(&self.certificate("ca"), &self.key("ca"), now) {
            return Ok(Authority::from_kept(CA_NAME, kept, now));
        }
        let ca = Authority::root_with(CA_NAME, now, |params| params.not_after = now + CA_LIFETIME)?;
        self.write("ca", ca.pem(), &ca.key_pem())?;
        Ok(ca)
    }

    fn ensure_leaf(
        &self,
        name: &str,
        request: LeafRequest,
        ca: &Authority,
        now: Timestamp,
    ) -> Result<(), PkiError> {
        let kept = kept::read(&self.certificate(name), &self.key(name), now);
        if kept.is_some_and(|kept| kept::is_signed_by(&kept.certificate, ca.certificate())) {
            return Ok(());
        }
        let issued = ca.issue(request.with(|params| params.not_after = now + LEAF_LIFETIME))?;
        self.write(name, &issued.pem(), &issued.key_pem())
    }

    /// The key first: a certificate without its key would look finished.
    fn write(&self, name: &str, certificate: &str, key: &str) -> Result<(), PkiError> {
        file::write(&self.key(name), key, 0o600)?;
        file::write(&self.certificate(name), certificate, 0o644)
    }
}

fn server(now: Timestamp) -> Result<LeafRequest, PkiError> {
    let localhost = SanType::DnsName("localhost".try_into()?);
    let loopback =
        [SanType::IpAddress(Ipv4Addr::LOCALHOST.into()), SanType::IpAddress(Ipv6Addr::LOCALHOST.into())];
    Ok(LeafRequest::spiffe(&spiffe_id("keyholder"), now)?.with(|params| {
        params.subject_alt_names.push(localhost);
        params.subject_alt_names.extend(loopback);
    }))
}

fn spiffe_id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{name}")
}

#[cfg(test)]
mod tests;
