//! Chance and hashes, from the TLS library that is here anyway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_rustls::rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio_rustls::rustls::crypto::ring::default_provider;

/// 128 random bits in hexadecimal digits.
pub(super) fn random_hex() -> String {
    let mut bytes = [0; 16];
    default_provider().secure_random.fill(&mut bytes).expect("the system has randomness");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The S256 challenge of a verifier (RFC 7636 section 4.2).
pub(super) fn challenge(verifier: &str) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("it is a suite of TLS 1.3");
    URL_SAFE_NO_PAD.encode(suite.common.hash_provider.hash(verifier.as_bytes()))
}

#[cfg(test)]
mod tests {
    /// The example of RFC 7636, appendix B.
    #[test]
    fn makes_the_challenge_of_the_standard() {
        let challenge = super::challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
