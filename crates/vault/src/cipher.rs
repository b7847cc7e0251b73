use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use zeroize::Zeroizing;

use crate::{
    OpenError, random_bytes,
    sealed::{Envelope, Sealed},
};

/// The length of every key, in bytes.
pub(crate) const KEY_LEN: usize = 32;

/// A raw 256-bit key, zeroed when dropped.
pub(crate) type KeyBytes = Zeroizing<[u8; KEY_LEN]>;

/// AES-256-GCM under one key, with a new random nonce for every seal.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(crate) fn new(key: &KeyBytes) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("a 256-bit key fits AES-256");
        Self(LessSafeKey::new(key))
    }

    pub(crate) fn seal(&self, key_id: &str, associated: &[u8], plaintext: &[u8]) -> Sealed {
        self.seal_with_nonce(random_bytes(), key_id, associated, plaintext)
    }

    /// A nonce must never be used twice under one key: outside of tests, only [`Cipher::seal`] calls this.
    pub(crate) fn seal_with_nonce(
        &self,
        nonce: [u8; NONCE_LEN],
        key_id: &str,
        associated: &[u8],
        plaintext: &[u8],
    ) -> Sealed {
        let mut bytes = Vec::with_capacity(NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(plaintext);
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated),
                &mut bytes[NONCE_LEN..],
            )
            .expect("AES-GCM seals anything shorter than 64 GiB");
        bytes.extend_from_slice(tag.as_ref());
        Sealed::from_parts(key_id, &bytes)
    }

    pub(crate) fn open(
        &self,
        associated: &[u8],
        envelope: &Envelope,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        // Becomes the plaintext.
        let mut bytes = Zeroizing::new(envelope.bytes().to_vec());
        let nonce = Nonce::assume_unique_for_key(envelope.nonce());
        let opened = self.0.open_in_place(nonce, Aad::from(associated), bytes.as_mut_slice());
        let length = opened.map_err(|_| OpenError::NotAuthentic)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

/// Derives bytes from a key that tell nothing about it and nothing about what another label derives.
pub(crate) fn derive<const N: usize>(key: &KeyBytes, label: &'static str) -> Zeroizing<[u8; N]> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    let mut derived = Zeroizing::new([0; N]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"keyholder")
        .extract(key.as_slice())
        .expand(&[label.as_bytes()], Length(N))
        .and_then(|output| output.fill(derived.as_mut_slice()))
        .expect("HKDF-SHA256 gives up to 8160 bytes");
    derived
}
