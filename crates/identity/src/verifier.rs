use std::collections::HashSet;
use std::sync::Arc;

use keyholder_domain::WorkloadId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::leaf::Leaf;
use crate::{Refusal, TrustStore};

/// The most certificates that a client may send: its own, and five issuers.
///
/// The search for a path tries the issuers in every order. Five are 326 paths at most.
pub(crate) const MAX_CHAIN: usize = 6;

/// Decides, in the handshake, whether a client is the workload that its certificate names.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    trust: TrustStore,
    dns_names: HashSet<Box<str>>,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl PeerVerifier {
    pub(crate) fn new(
        trust: TrustStore,
        dns_names: HashSet<Box<str>>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { hints: trust.subjects(), trust, dns_names, provider }
    }

    /// Cheap rules first; a signature is verified only for a leaf that could be accepted.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(Refusal::ChainTooLong);
        }
        let workload = Leaf::read(leaf)?.workload;
        if matches!(&workload, WorkloadId::Dns(name) if !self.dns_names.contains(&**name)) {
            return Err(Refusal::DnsNameUnknown);
        }
        let bundle = self.trust.bundle_for(&workload).ok_or(Refusal::TrustDomain)?;
        bundle.verify(leaf, intermediates, self.provider.signature_verification_algorithms.all, now)
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
