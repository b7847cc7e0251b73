use std::collections::HashMap;
use std::path::{Path, PathBuf};

use keyholder_domain::{Timestamp, TrustDomain, WorkloadId};
use rustls::DistinguishedName;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::tls::unix_time;
use crate::{ConfigError, Refusal, leaf, pem};

/// The authorities that may name the workloads of one trust domain, or those that are known by DNS name.
#[derive(Debug)]
pub struct CaBundle {
    authorities: Vec<Authority>,
    /// The anchors of `authorities`, in one piece as the path search wants them.
    anchors: Vec<TrustAnchor<'static>>,
}

/// One trust anchor, with what its certificate says beyond name and key.
#[derive(Debug)]
struct Authority {
    file: PathBuf,
    anchor: TrustAnchor<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
    path_length: Option<u32>,
}

impl CaBundle {
    /// Reads a bundle from PEM files. Every entry of every file must be the certificate of an authority.
    pub fn load(files: &[impl AsRef<Path>]) -> Result<Self, ConfigError> {
        let mut authorities = Vec::new();
        for file in files.iter().map(AsRef::as_ref) {
            for (index, certificate) in pem::certificates(file)?.iter().enumerate() {
                let wrong = |problem| ConfigError::Entry { file: file.into(), entry: index + 1, problem };
                authorities.push(Authority::read(file, certificate).map_err(wrong)?);
            }
        }
        let anchors: Vec<_> = authorities.iter().map(|authority| authority.anchor.clone()).collect();
        if anchors.is_empty() { Err(ConfigError::NothingTrusted) } else { Ok(Self { authorities, anchors }) }
    }

    /// When each of the authorities ends, with the file that it is in. For metrics.
    pub fn expirations(&self) -> impl Iterator<Item = (&Path, Timestamp)> {
        self.authorities.iter().map(|authority| (authority.file.as_path(), authority.not_after))
    }

    /// Finds a path from a leaf to one of the authorities, at a moment (RFC 5280, section 6).
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let leaf = EndEntityCert::try_from(leaf)?;
        let check_path = |path: &VerifiedPath<'_>| self.check_path(path, now);
        leaf.verify_for_usage(
            algorithms,
            &self.anchors,
            intermediates,
            now,
            KeyUsage::client_auth(),
            None,
            Some(&check_path),
        )?;
        Ok(())
    }

    /// The rules for authorities that the path search leaves to its caller: may each of them sign
    /// certificates, and is the anchor itself within its time and its path length?
    fn check_path(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let mut length = 0;
        for issuer in path.intermediate_certificates() {
            let der = issuer.der();
            let certificate = leaf::parse(&der).map_err(|_| webpki::Error::BadDer)?;
            if !matches!(leaf::may_sign_certificates(&certificate), Ok(true)) {
                return Err(webpki::Error::EndEntityUsedAsCa);
            }
            length += u32::from(issuer.subject() != issuer.issuer());
        }
        // An authority that renewed its certificate but kept its key is here twice.
        let mut outcome = Err(webpki::Error::UnknownIssuer);
        for authority in self.authorities.iter().filter(|authority| authority.anchor == *path.anchor()) {
            outcome = authority.check(length, now);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

impl Authority {
    fn read(file: &Path, der: &CertificateDer<'_>) -> Result<Self, &'static str> {
        const UNREADABLE: &str = "is not an X.509 certificate";
        let certificate = leaf::parse(der).map_err(|_| UNREADABLE)?;
        let Ok(Some((true, path_length))) = leaf::basic_constraints(&certificate) else {
            return Err("is not the certificate of an authority");
        };
        let usage = certificate.key_usage().map_err(|_| UNREADABLE)?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err("is that of an authority that may not sign certificates");
        }
        let validity = certificate.validity();
        Ok(Self {
            file: file.into(),
            anchor: webpki::anchor_from_trusted_cert(der).map_err(|_| UNREADABLE)?.to_owned(),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            path_length,
        })
    }

    fn check(&self, length: u32, now: UnixTime) -> Result<(), webpki::Error> {
        let (not_before, not_after) = (unix_time(self.not_before), unix_time(self.not_after));
        if now < not_before {
            Err(webpki::Error::CertNotValidYet { time: now, not_before })
        } else if now > not_after {
            Err(webpki::Error::CertExpired { time: now, not_after })
        } else if self.path_length.is_some_and(|most| length > most) {
            Err(webpki::Error::PathLenConstraintViolated)
        } else {
            Ok(())
        }
    }
}

/// Whom we believe about which workload. One bundle per trust domain, never pooled: the trust domain in a
/// certificate's own id decides which bundle must have signed it, so that no domain can name another's
/// workloads (SPIFFE federation, section 7.3).
#[derive(Debug, Default)]
pub struct TrustStore {
    domains: HashMap<TrustDomain, CaBundle>,
    dns: Option<CaBundle>,
}

impl TrustStore {
    /// A store that trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts a bundle for one trust domain.
    pub fn add_domain(&mut self, domain: TrustDomain, bundle: CaBundle) -> Result<(), ConfigError> {
        if self.domains.contains_key(&domain) {
            return Err(ConfigError::TrustDomainTwice(domain));
        }
        self.domains.insert(domain, bundle);
        Ok(())
    }

    /// Trusts a bundle for the workloads that are known by DNS name.
    pub fn set_dns(&mut self, bundle: CaBundle) {
        self.dns = Some(bundle);
    }

    /// Whether there is a bundle for a workload: one that the policy lists without it can never connect.
    pub fn can_verify(&self, workload: &WorkloadId) -> bool {
        self.bundle_for(workload).is_some()
    }

    /// When each authority ends, with the file that it is in. For metrics.
    pub fn expirations(&self) -> impl Iterator<Item = (&Path, Timestamp)> {
        self.bundles().flat_map(CaBundle::expirations)
    }

    pub(crate) fn bundle_for(&self, workload: &WorkloadId) -> Option<&CaBundle> {
        match workload {
            WorkloadId::Spiffe(id) => self.domains.get(id.trust_domain()),
            WorkloadId::Dns(_) => self.dns.as_ref(),
        }
    }

    pub(crate) const fn has_dns(&self) -> bool {
        self.dns.is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bundles().next().is_none()
    }

    /// The authorities' names, sent to clients so that they can choose among several certificates.
    pub(crate) fn subjects(&self) -> Vec<DistinguishedName> {
        let anchors = self.bundles().flat_map(|bundle| &bundle.anchors);
        anchors.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect()
    }

    fn bundles(&self) -> impl Iterator<Item = &CaBundle> {
        self.domains.values().chain(&self.dns)
    }
}

#[cfg(test)]
mod tests;
