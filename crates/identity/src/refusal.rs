use std::sync::Arc;

use keyholder_domain::Invalid;
use rustls::{CertificateError, OtherError};

/// Why a client certificate is not accepted. The client is at fault in all of them.
///
/// Holds nothing that the client sent, so that it can be logged as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The leaf is larger than any honest one.
    #[error("the certificate is larger than {} bytes", crate::leaf::MAX_LEN)]
    TooLarge,
    /// Not an X.509 certificate, or an extension of it is malformed or there twice.
    #[error("the certificate cannot be read")]
    Malformed,
    /// More subject alternative names than any honest leaf has.
    #[error("the certificate has more than {} names", crate::leaf::MAX_NAMES)]
    TooManyNames,
    /// A subject alternative name that is not what its tag says, such as a URI outside ASCII.
    #[error("a subject alternative name is malformed")]
    MalformedName,
    /// No URI and no DNS name. The common name never counts.
    #[error("the certificate names no workload")]
    NoName,
    /// More than one URI (X509-SVID, section 2).
    #[error("the certificate has more than one URI")]
    SeveralUris,
    /// No URI, and more than one DNS name: not one identity.
    #[error("the certificate has more than one DNS name and no URI")]
    SeveralDnsNames,
    /// The URI is not a SPIFFE ID.
    #[error("the URI is not a SPIFFE ID")]
    SpiffeId(#[source] Invalid),
    /// The DNS name is not a host name in lower case.
    #[error("the DNS name is not a host name in lower case")]
    DnsName,
    /// No bundle for the trust domain that the id claims.
    #[error("the trust domain is not trusted")]
    TrustDomain,
    /// The policy lists no workload by this DNS name.
    #[error("the DNS name is not listed")]
    DnsNameUnknown,
    /// A certificate authority in place of a leaf: `cA`, keyCertSign or cRLSign is set.
    #[error("the certificate is that of an authority")]
    Authority,
    /// No key usage, or one that is not marked critical (X509-SVID, section 4.3).
    #[error("the key usage is missing or not critical")]
    KeyUsage,
    /// The key usage lacks digitalSignature.
    #[error("the key usage does not allow signatures")]
    DigitalSignature,
    /// The extended key usage lacks clientAuth.
    #[error("the extended key usage does not allow client authentication")]
    Purpose,
    /// Neither RSA of 2048 to 8192 bits, nor ECDSA P-256 or P-384, nor Ed25519.
    #[error("the key is of a kind or size that is not accepted")]
    Key,
    /// More certificates than a path to an anchor needs.
    #[error("the chain has more than {} certificates", crate::verifier::MAX_CHAIN)]
    ChainTooLong,
    /// No path to an anchor of the trust domain.
    #[error("the issuer is unknown")]
    UnknownIssuer,
    /// A certificate of the path, or its anchor, is past its time.
    #[error("a certificate has expired")]
    Expired,
    /// A certificate of the path is not valid yet.
    #[error("a certificate is not valid yet")]
    NotYetValid,
    /// A signature in the path is wrong.
    #[error("a signature is wrong")]
    Signature,
    /// A signature in the path is of a kind that is not accepted, such as one with SHA-1.
    #[error("a signature algorithm is not accepted")]
    SignatureAlgorithm,
    /// An issuer in the path is not an authority, or may not sign certificates.
    #[error("an issuer is not an authority")]
    IssuerNotAuthority,
    /// The path is longer than one of its authorities allows.
    #[error("the path is longer than an authority allows")]
    PathLength,
    /// A name is outside what an authority may name, or the constraint is of a kind that is not supported.
    #[error("an authority's name constraints refuse a name")]
    NameConstraint,
    /// Any other fault of the path: an unknown critical extension, a search that takes too long.
    #[error("the chain is not acceptable")]
    Chain,
}

impl Refusal {
    /// The reason as the log has it. Stable: dashboards and alarms rely on it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "certificate_too_large",
            Self::Malformed => "certificate_malformed",
            Self::TooManyNames => "too_many_names",
            Self::MalformedName => "name_malformed",
            Self::NoName => "no_identity",
            Self::SeveralUris => "several_uris",
            Self::SeveralDnsNames => "several_dns_names",
            Self::SpiffeId(_) => "spiffe_id_invalid",
            Self::DnsName => "dns_name_invalid",
            Self::TrustDomain => "trust_domain_unknown",
            Self::DnsNameUnknown => "dns_name_unknown",
            Self::Authority => "authority_as_leaf",
            Self::KeyUsage => "key_usage_missing",
            Self::DigitalSignature => "digital_signature_missing",
            Self::Purpose => "client_auth_missing",
            Self::Key => "key_not_accepted",
            Self::ChainTooLong => "chain_too_long",
            Self::UnknownIssuer => "issuer_unknown",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::Signature => "signature_wrong",
            Self::SignatureAlgorithm => "signature_algorithm",
            Self::IssuerNotAuthority => "issuer_not_authority",
            Self::PathLength => "path_length",
            Self::NameConstraint => "name_constraint",
            Self::Chain => "chain_refused",
        }
    }

    /// The refusal inside an error that our verifier returned, on the other side of the TLS library.
    pub(crate) fn find(error: &rustls::Error) -> Option<Self> {
        let rustls::Error::InvalidCertificate(error) = error else { return None };
        match error {
            CertificateError::Expired => Some(Self::Expired),
            CertificateError::NotValidYet => Some(Self::NotYetValid),
            CertificateError::UnknownIssuer => Some(Self::UnknownIssuer),
            CertificateError::Other(OtherError(inner)) => inner.downcast_ref().cloned(),
            _ => None,
        }
    }
}

impl From<Refusal> for rustls::Error {
    /// What a client can mend without us gets an alert of its own (`certificate_expired`, `unknown_ca`); for
    /// the rest it is `certificate_unknown`, and the log says more.
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(match refusal {
            Refusal::Expired => CertificateError::Expired,
            Refusal::NotYetValid => CertificateError::NotValidYet,
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

impl From<webpki::Error> for Refusal {
    fn from(error: webpki::Error) -> Self {
        use webpki::Error;
        #[expect(deprecated, reason = "still the library's to return")]
        match error {
            Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => Self::Malformed,
            Error::UnknownIssuer => Self::UnknownIssuer,
            Error::CertExpired { .. } | Error::InvalidCertValidity => Self::Expired,
            Error::CertNotValidYet { .. } => Self::NotYetValid,
            Error::InvalidSignatureForPublicKey => Self::Signature,
            Error::UnsupportedSignatureAlgorithm
            | Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKey
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | Error::SignatureAlgorithmMismatch => Self::SignatureAlgorithm,
            Error::CaUsedAsEndEntity => Self::Authority,
            Error::EndEntityUsedAsCa => Self::IssuerNotAuthority,
            Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => Self::PathLength,
            Error::RequiredEkuNotFound | Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
                Self::Purpose
            }
            Error::NameConstraintViolation
            | Error::MalformedNameConstraint
            | Error::InvalidNetworkMaskConstraint
            | Error::MaximumNameConstraintComparisonsExceeded => Self::NameConstraint,
            _ => Self::Chain,
        }
    }
}
