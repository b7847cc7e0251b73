use keyholder_domain::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::Duration;

use super::PkiError;
use super::kept::Kept;

/// Clocks differ: what is made now is valid from a little before.
const BACKDATE: Duration = Duration::minutes(5);

/// How long what tests make is valid.
const LIFETIME: Duration = Duration::hours(1);

/// A certificate authority that signs whatever it is asked to, good or bad.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// The certificates between the root and what this authority signs, the nearest first.
    chain: Vec<Certificate>,
}

impl Authority {
    /// A root, valid for an hour.
    pub fn root(name: &str, now: Timestamp) -> Result<Self, PkiError> {
        Self::root_with(name, now, |_| {})
    }

    /// A root whose certificate is changed before it is signed.
    pub fn root_with(
        name: &str,
        now: Timestamp,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(name, now);
        edit(&mut params);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            chain: Vec::new(),
        })
    }

    /// An authority that this one has signed, valid for an hour.
    pub fn intermediate(&self, name: &str, now: Timestamp) -> Result<Self, PkiError> {
        self.intermediate_with(name, now, |_| {})
    }

    /// An authority that this one has signed, whose certificate is changed before.
    pub fn intermediate_with(
        &self,
        name: &str,
        now: Timestamp,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Result<Self, PkiError> {
        let mut params = authority_params(name, now);
        params.use_authority_key_identifier_extension = true;
        edit(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            chain: [&[certificate], &self.chain[..]].concat(),
        })
    }

    /// A certificate of this authority's key and name, signed by another: a cross-signature.
    pub fn cross_signed_by(
        &self,
        other: &Self,
        name: &str,
        now: Timestamp,
    ) -> Result<CertificateDer<'static>, PkiError> {
        Ok(authority_params(name, now).signed_by(self.issuer.key(), &other.issuer)?.der().clone())
    }

    /// A root that was made before.
    pub(super) fn from_kept(name: &str, kept: Kept, now: Timestamp) -> Self {
        Self {
            certificate: kept.certificate,
            pem: kept.pem,
            issuer: Issuer::new(authority_params(name, now), kept.key),
            chain: Vec::new(),
        }
    }

    /// Its own certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its own certificate, as a bundle file has it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key, as a key file has it.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs what is asked for, with a new key.
    pub fn issue(&self, request: LeafRequest) -> Result<Issued, PkiError> {
        let key = KeyPair::generate_for(request.algorithm)?;
        self.issue_for(request, key)
    }

    /// Signs what is asked for, for a key that already exists.
    pub fn issue_for(&self, request: LeafRequest, key: KeyPair) -> Result<Issued, PkiError> {
        let leaf = self.certify(&request, &key)?;
        let chain = [&[leaf], &self.chain[..]].concat();
        Ok(Issued { chain, key })
    }

    /// Signs what is asked for, for a public key whose private key need not be known.
    pub fn certify(&self, request: &LeafRequest, key: &impl PublicKeyData) -> Result<Certificate, PkiError> {
        Ok(request.params.signed_by(key, &self.issuer)?)
    }
}

/// A leaf to be issued. Begins as a good one; tests spoil it.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    params: CertificateParams,
    algorithm: &'static SignatureAlgorithm,
}

impl LeafRequest {
    /// An X509-SVID, valid for an hour.
    pub fn spiffe(id: &str, now: Timestamp) -> Result<Self, PkiError> {
        Ok(Self::new(vec![SanType::URI(id.try_into()?)], now))
    }

    /// A certificate for a DNS name, valid for an hour.
    pub fn dns(name: &str, now: Timestamp) -> Result<Self, PkiError> {
        Ok(Self::new(vec![SanType::DnsName(name.try_into()?)], now))
    }

    /// A certificate for whatever names, none included, valid for an hour.
    pub fn new(names: Vec<SanType>, now: Timestamp) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("workload");
        params.subject_alt_names = names;
        params.not_before = now - BACKDATE;
        params.not_after = now + LIFETIME;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Self { params, algorithm: &PKCS_ECDSA_P256_SHA256 }
    }

    /// What is asked for, to be signed by something else than an [`Authority`].
    pub const fn params(&self) -> &CertificateParams {
        &self.params
    }

    /// Changes anything about the certificate.
    #[must_use]
    pub fn with(mut self, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        edit(&mut self.params);
        self
    }

    /// Sets the validity.
    #[must_use]
    pub fn valid(self, from: Timestamp, to: Timestamp) -> Self {
        self.with(|params| (params.not_before, params.not_after) = (from, to))
    }

    /// Sets the kind of key.
    #[must_use]
    pub const fn algorithm(mut self, algorithm: &'static SignatureAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }
}

/// A leaf with its chain and its key.
#[derive(Debug)]
pub struct Issued {
    chain: Vec<Certificate>,
    key: KeyPair,
}

impl Issued {
    /// The leaf.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        self.chain[0].der()
    }

    /// The leaf and the intermediates that a verifier needs, without the root.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().map(|certificate| certificate.der().clone()).collect()
    }

    /// The private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// The chain, as a certificate file has it.
    pub fn pem(&self) -> String {
        self.chain.iter().map(Certificate::pem).collect()
    }

    /// The private key, as a key file has it.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

fn authority_params(name: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name);
    params.not_before = now - BACKDATE;
    params.not_after = now + LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
