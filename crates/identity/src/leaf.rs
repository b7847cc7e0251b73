//! What a client's own certificate says, and whether it may say so: the rules for a leaf, apart from its
//! chain.

use keyholder_domain::{SpiffeId, Timestamp, WorkloadId};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
    OID_X509_EXT_BASIC_CONSTRAINTS, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::Refusal;

/// The largest leaf, in bytes. The longest SPIFFE ID and an RSA-8192 key leave half of it free.
pub(crate) const MAX_LEN: usize = 16 * 1024;

/// The most subject alternative names.
pub(crate) const MAX_NAMES: usize = 64;

/// What a leaf that keeps the rules says.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) workload: WorkloadId,
    pub(crate) not_after: Timestamp,
}

impl Leaf {
    /// Reads a leaf and holds it to every rule that needs no other certificate.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Refusal> {
        if der.len() > MAX_LEN {
            return Err(Refusal::TooLarge);
        }
        let certificate = parse(der)?;
        let workload = identity(&certificate)?;
        check_authority(&certificate)?;
        check_usage(&certificate, matches!(workload, WorkloadId::Spiffe(_)))?;
        check_key(&certificate)?;
        Ok(Self { workload, not_after: certificate.validity().not_after.to_datetime() })
    }
}

/// Parses one certificate, all of it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refusal::Malformed),
    }
}

/// Whether the certificate is that of an authority that may sign certificates (RFC 5280, section 6.1.4).
pub(crate) fn may_sign_certificates(certificate: &X509Certificate<'_>) -> Result<bool, Refusal> {
    let may_sign = certificate
        .key_usage()
        .map_err(|_| Refusal::Malformed)?
        .is_some_and(|usage| usage.value.key_cert_sign());
    Ok(may_sign && basic_constraints(certificate)?.is_some_and(|(ca, _)| ca))
}

/// The basic constraints, if there are any: `cA` and `pathLenConstraint`.
pub(crate) fn basic_constraints(
    certificate: &X509Certificate<'_>,
) -> Result<Option<(bool, Option<u32>)>, Refusal> {
    let extension =
        certificate.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS).map_err(|_| Refusal::Malformed)?;
    match extension.map(|extension| extension.parsed_extension()) {
        None => Ok(None),
        Some(ParsedExtension::BasicConstraints(found)) => Ok(Some((found.ca, found.path_len_constraint))),
        Some(_) => Err(Refusal::Malformed),
    }
}

/// The one identity: the only URI; without any URI the only DNS name.
fn identity(certificate: &X509Certificate<'_>) -> Result<WorkloadId, Refusal> {
    let names = certificate.subject_alternative_name().map_err(|_| Refusal::Malformed)?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    if names.len() > MAX_NAMES {
        return Err(Refusal::TooManyNames);
    }
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => dns_names.push(*name),
            GeneralName::Invalid(..) => return Err(Refusal::MalformedName),
            _ => {}
        }
    }
    match (&uris[..], &dns_names[..]) {
        ([uri], _) => SpiffeId::parse(uri).map(WorkloadId::Spiffe).map_err(Refusal::SpiffeId),
        ([], [name]) => WorkloadId::parse(&format!("dns:{name}")).map_err(|_| Refusal::DnsName),
        ([], []) => Err(Refusal::NoName),
        ([], _) => Err(Refusal::SeveralDnsNames),
        _ => Err(Refusal::SeveralUris),
    }
}

/// A leaf is no authority (X509-SVID, sections 4.1 and 4.3).
fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let usage = certificate.key_usage().map_err(|_| Refusal::Malformed)?;
    let signs = usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    if signs || basic_constraints(certificate)?.is_some_and(|(ca, _)| ca) {
        return Err(Refusal::Authority);
    }
    Ok(())
}

/// The key is for signatures, and for clients (X509-SVID, sections 4.3 and 4.4).
fn check_usage(certificate: &X509Certificate<'_>, must_be_critical: bool) -> Result<(), Refusal> {
    let usage = certificate.key_usage().map_err(|_| Refusal::Malformed)?.ok_or(Refusal::KeyUsage)?;
    if must_be_critical && !usage.critical {
        return Err(Refusal::KeyUsage);
    }
    if !usage.value.digital_signature() {
        return Err(Refusal::DigitalSignature);
    }
    match certificate.extended_key_usage().map_err(|_| Refusal::Malformed)? {
        Some(purposes) if !purposes.value.client_auth => Err(Refusal::Purpose),
        _ => Ok(()),
    }
}

/// The key is of a kind that the handshake can verify.
fn check_key(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let key = certificate.public_key();
    let kind = &key.algorithm.algorithm;
    let accepted = if *kind == OID_PKCS1_RSAENCRYPTION {
        matches!(key.parsed(), Ok(PublicKey::RSA(key)) if (2048..=8192).contains(&key.key_size()))
    } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        curve.is_some_and(|curve: Oid<'_>| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
    } else {
        *kind == OID_SIG_ED25519
    };
    if accepted { Ok(()) } else { Err(Refusal::Key) }
}

#[cfg(test)]
mod tests;
