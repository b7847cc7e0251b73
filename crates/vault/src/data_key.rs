use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keyholder_domain::{Invalid, Timestamp};
use ring::hmac;
use zeroize::{Zeroizing, optimization_barrier};

use crate::{
    Credential, OpenError, Place, Sealed,
    cipher::{Cipher, KEY_LEN, KeyBytes, derive},
    framing, random_bytes,
    sealed::Envelope,
};

/// The id of a data key: `dk_` and the 32 hex digits of a UUIDv7.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataKeyId(Box<str>);

impl DataKeyId {
    /// What every id of a data key begins with.
    pub const PREFIX: &'static str = "dk_";

    /// Makes a new id from the time and 10 random bytes.
    pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        Self(format!("{}{}", Self::PREFIX, uuid.simple()).into())
    }

    /// Reads an id.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix(Self::PREFIX) {
            Some(hex) if hex.len() == 32 && hex.bytes().all(is_hex) => Ok(Self(text.into())),
            _ => Err(Invalid("must be \"dk_\" and 32 lower-case hex digits")),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key that seals what one organization owns.
pub struct DataKey {
    id: DataKeyId,
    bytes: KeyBytes,
    cipher: Cipher,
    fingerprints: hmac::Key,
}

impl DataKey {
    /// A new random key, whose id tells when it was made.
    pub fn generate(now: Timestamp) -> Self {
        Self::new(DataKeyId::new(now, random_bytes()), Zeroizing::new(random_bytes()))
    }

    pub(crate) fn new(id: DataKeyId, bytes: KeyBytes) -> Self {
        let cipher = Cipher::new(&bytes);
        let subkey = derive::<KEY_LEN>(&bytes, "keyholder/fingerprint/v1");
        let fingerprints = hmac::Key::new(hmac::HMAC_SHA256, subkey.as_slice());
        Self { id, bytes, cipher, fingerprints }
    }

    pub(crate) const fn bytes(&self) -> &KeyBytes {
        &self.bytes
    }

    /// Its id.
    pub const fn id(&self) -> &DataKeyId {
        &self.id
    }

    /// Seals bytes into a place.
    pub fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Sealed {
        self.cipher.seal(self.id.as_str(), &place.associated_data(&self.id), plaintext)
    }

    /// Opens what was sealed into a place.
    pub fn open(&self, place: &Place<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        self.open_envelope(place, &Envelope::parse(sealed)?)
    }

    fn open_envelope(&self, place: &Place<'_>, sealed: &Envelope) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if sealed.key_id() != self.id.as_str() {
            return Err(OpenError::UnknownKey { key_id: sealed.key_id().to_owned() });
        }
        self.cipher.open(&place.associated_data(&self.id), sealed)
    }

    /// Seals a credential into a place.
    pub fn seal_credential(&self, place: &Place<'_>, credential: &Credential) -> Sealed {
        self.seal(place, &credential.encode())
    }

    /// Opens a credential that was sealed into a place.
    pub fn open_credential(&self, place: &Place<'_>, sealed: &Envelope) -> Result<Credential, OpenError> {
        let mut bytes = self.open_envelope(place, sealed)?;
        let credential = Credential::decode(&bytes);
        wipe(std::mem::take(&mut *bytes));
        credential.ok_or(OpenError::UnexpectedContent)
    }

    /// A text that is the same for the same credential, and that tells nothing about it without this key: 43
    /// characters of base64url. The label keeps fingerprints of different uses apart.
    pub fn fingerprint(&self, label: &str, credential: &Credential) -> String {
        self.authenticate(["credential", label], &credential.encode())
    }

    /// The same for any bytes, such as a request. Never equal to the fingerprint of a credential.
    pub fn fingerprint_bytes(&self, label: &str, bytes: &[u8]) -> String {
        self.authenticate(["bytes", label], bytes)
    }

    /// HMAC-SHA256 over the labels and the bytes, each behind its length.
    fn authenticate(&self, labels: [&str; 2], bytes: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.fingerprints);
        for part in [labels[0].as_bytes(), labels[1].as_bytes(), bytes] {
            context.update(&framing::length(part));
            context.update(part);
        }
        URL_SAFE_NO_PAD.encode(context.sign())
    }
}

/// Zeroes bytes all at once, where `Zeroizing` goes byte by byte. Not what lies behind them: a buffer that grew or shrank may
/// hold more of a secret than this sees.
fn wipe(mut bytes: Vec<u8>) {
    bytes.fill(0);
    optimization_barrier(bytes.as_slice());
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", self.id)
    }
}

#[cfg(test)]
mod tests;
