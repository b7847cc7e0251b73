//! Kinds of keys and signatures: M4.

use std::process::Command;

use rcgen::{
    CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;

use crate::support::{NOW, Server, root, svid};

const ID: &str = "spiffe://td/gateway";

#[tokio::test]
async fn m4_accepts_p384_and_ed25519() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        server.accept(&ca.issue(svid(ID).algorithm(algorithm)).unwrap()).await;
    }
}

#[tokio::test]
async fn m4_accepts_rsa_of_2048_and_3072_bits() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    for bits in ["rsa_keygen_bits:2048", "rsa_keygen_bits:3072"] {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", bits])
            .output()
            .expect("openssl must be installed: ring makes no RSA keys");
        let key = KeyPair::from_pem(&String::from_utf8(made.stdout).unwrap()).unwrap();
        server.accept(&ca.issue_for(svid(ID), key).unwrap()).await;
    }
}

/// An RSA key of which only the size is real, since nothing is ever verified with it.
struct RsaLike(Vec<u8>);

impl RsaLike {
    fn new(bits: usize) -> Self {
        let modulus = [&[0, 0xc1][..], &vec![0x55; bits / 8 - 1]].concat();
        Self(crate::der::sequence(&[crate::der::element(2, &modulus), crate::der::element(2, &[1, 0, 1])]))
    }
}

impl PublicKeyData for RsaLike {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

impl SigningKey for RsaLike {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![0x55; 256])
    }
}

/// Shows a leaf with a key that is not the leaf's own: it is refused before that matters.
async fn refuse_leaf(server: &mut Server, leaf: CertificateDer<'static>) -> String {
    let key = KeyPair::generate().unwrap().serialize_der();
    let client = server.client_with(vec![leaf], key.try_into().unwrap());
    server.refuse_client(client).await
}

fn replace(der: &CertificateDer<'_>, from: &[u8], to: &[u8]) -> CertificateDer<'static> {
    let mut bytes = der.to_vec();
    let places: Vec<_> =
        (0..bytes.len() - from.len()).filter(|start| bytes[*start..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for start in places {
        bytes[start..start + to.len()].copy_from_slice(to);
    }
    bytes.into()
}

#[tokio::test]
async fn m4_refuses_small_rsa_keys_and_other_curves() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    for bits in [512, 1024, 2040, 16384] {
        let leaf = ca.certify(&svid(ID), &RsaLike::new(bits)).unwrap();
        assert_eq!(refuse_leaf(&mut server, leaf.der().clone()).await, "key_not_accepted", "{bits}");
    }
    const CURVE: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P192: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1];
    let leaf = replace(ca.issue(svid(ID)).unwrap().leaf(), &CURVE, &P192);
    assert_eq!(refuse_leaf(&mut server, leaf).await, "key_not_accepted");
}

#[tokio::test]
async fn m4_refuses_signatures_with_sha1_or_md5() {
    const SHA256_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    let key = RsaLike::new(2048);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = NOW;
    params.not_after = NOW + time::Duration::hours(1);
    let anchor = params.self_signed(&key).unwrap();
    let mut server = Server::trusting_pem(&anchor.pem()).await;
    let issuer = rcgen::Issuer::new(params, key);
    let signed = svid(ID).params().signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    assert_eq!(refuse_leaf(&mut server, signed.der().clone()).await, "signature_wrong");
    for (name, last) in [("SHA-1", 5), ("MD5", 4)] {
        let mut weak = SHA256_RSA;
        weak[8] = last;
        let leaf = replace(signed.der(), &SHA256_RSA, &weak);
        assert_eq!(refuse_leaf(&mut server, leaf).await, "signature_algorithm", "{name}");
    }
}
