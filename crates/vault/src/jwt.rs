//! Signed assertions: JSON Web Tokens (RFC 7519) in compact form (RFC 7515, section 7.1).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::rsa::KeyPair as RsaKeyPair;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// A signature's algorithm (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

/// A private key that signs assertions. Prints as its type's name.
pub enum SigningKey {
    /// An RSA key.
    Rsa(Box<RsaKeyPair>),
    /// A key on P-256.
    Ecdsa(Box<EcdsaKeyPair>),
}

/// Why a text is no key that can sign. Says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// It is no private key in PEM.
    #[error("is not a private key in PEM (PKCS#8, PKCS#1 or SEC1)")]
    NotPem,
    /// It is a key of another kind.
    #[error(
        "is not a key for the algorithm: RS256 takes RSA of 2048 bits or more, ES256 a P-256 key in PKCS#8"
    )]
    WrongKind,
}

impl SigningAlgorithm {
    /// The algorithm's name in a header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

impl SigningKey {
    /// Reads a private key in PEM.
    pub fn from_pem(algorithm: SigningAlgorithm, pem: &SecretString) -> Result<Self, SigningKeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes())
            .map_err(|_| SigningKeyError::NotPem)?;
        let wrong = |_| SigningKeyError::WrongKind;
        match (algorithm, &der) {
            (SigningAlgorithm::Rs256, PrivateKeyDer::Pkcs8(der)) => {
                Ok(Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(wrong)?)))
            }
            (SigningAlgorithm::Rs256, PrivateKeyDer::Pkcs1(der)) => {
                Ok(Self::Rsa(Box::new(RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(wrong)?)))
            }
            (SigningAlgorithm::Es256, PrivateKeyDer::Pkcs8(der)) => {
                let key = EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    der.secret_pkcs8_der(),
                    &SystemRandom::new(),
                );
                Ok(Self::Ecdsa(Box::new(key.map_err(wrong)?)))
            }
            _ => Err(SigningKeyError::WrongKind),
        }
    }

    /// Signs claims, both parts as JSON text, and returns the token.
    ///
    /// # Panics
    ///
    /// If the operating system has no random bytes to give.
    pub fn sign(&self, header: &str, claims: &str) -> SecretString {
        let message =
            Zeroizing::new(format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature)
                    .expect("the signature has the modulus' length, and there are random bytes");
                signature
            }
            Self::Ecdsa(key) => {
                let signature = key.sign(&random, message.as_bytes()).expect("there are random bytes");
                signature.as_ref().to_vec()
            }
        };
        SecretString::from(format!("{}.{}", message.as_str(), URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, KeyPair as _, UnparsedPublicKey};

    use super::*;

    fn p256() -> (SecretString, Vec<u8>) {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        (pem.into(), key.public_key().as_ref().to_vec())
    }

    #[test]
    fn what_is_signed_can_be_verified_and_nothing_else() {
        let (pem, public) = p256();
        let key = SigningKey::from_pem(SigningAlgorithm::Es256, &pem).unwrap();
        let token = key.sign(r#"{"alg":"ES256"}"#, r#"{"iss":"a"}"#);
        let (message, signature) = token.expose_secret().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
        assert!(verifier.verify(message.as_bytes(), &signature).is_ok());
        assert!(verifier.verify(b"eyJhbGciOiJFUzI1NiJ9.e30", &signature).is_err());
        assert!(message.starts_with("eyJhbGciOiJFUzI1NiJ9."));
    }

    #[test]
    fn what_cannot_sign_is_refused_without_a_word_of_it() {
        let (pem, _) = p256();
        let refused = |algorithm, pem: &SecretString| SigningKey::from_pem(algorithm, pem).unwrap_err();
        assert_eq!(refused(SigningAlgorithm::Rs256, &pem), SigningKeyError::WrongKind);
        assert_eq!(refused(SigningAlgorithm::Es256, &"nonsense".into()), SigningKeyError::NotPem);
        let key = SigningKey::from_pem(SigningAlgorithm::Es256, &pem).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey");
    }
}
