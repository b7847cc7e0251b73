//! Which files of an earlier run are still good.

use std::fs;
use std::path::Path;

use keyholder_domain::Timestamp;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

/// A certificate with less than this left is renewed.
const RENEW_BEFORE: Duration = Duration::days(30);

/// A certificate and its key.
pub(super) struct Kept {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
    pub(super) key: KeyPair,
}

/// A certificate that is within its time and will be for a while, with the key that belongs to it.
pub(super) fn read(certificate: &Path, key: &Path, now: Timestamp) -> Option<Kept> {
    let pem = fs::read_to_string(certificate).ok()?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let key = KeyPair::from_pem(&fs::read_to_string(key).ok()?).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let valid = parsed.validity();
    let fresh = valid.not_before.to_datetime() <= now && now + RENEW_BEFORE < valid.not_after.to_datetime();
    let fits = *parsed.public_key().subject_public_key.data == *key.public_key_raw();
    (fresh && fits).then(|| Kept { certificate: der.clone(), pem, key })
}

/// Whether a certificate names an authority's key as the one that signed it.
pub(super) fn is_signed_by(certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let signer = key_identifier(certificate, |extension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    });
    let own = key_identifier(authority, |extension| match extension {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    signer.is_some() && signer == own
}

fn key_identifier(
    certificate: &CertificateDer<'_>,
    read: impl Fn(&ParsedExtension<'_>) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    parsed.extensions().iter().find_map(|extension| read(extension.parsed_extension()))
}
