use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, NONCE_LEN};

use crate::OpenError;

/// A value that is encrypted, authenticated and bound to its [`Place`](crate::Place), as the text
/// `enc:v1:<key id>:<base64url(nonce ‖ ciphertext ‖ tag)>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sealed(Box<str>);

impl Sealed {
    /// Reads the text of a sealed value. Every value has exactly one spelling.
    pub fn parse(text: &str) -> Result<Self, OpenError> {
        Envelope::parse(text)?;
        Ok(Self(text.into()))
    }

    /// The text, as the database holds it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the key that sealed it.
    pub fn key_id(&self) -> &str {
        self.0.split(':').nth(2).expect("a sealed value has four parts")
    }

    pub(crate) fn from_parts(key_id: &str, bytes: &[u8]) -> Self {
        Self(format!("enc:v1:{key_id}:{}", URL_SAFE_NO_PAD.encode(bytes)).into())
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({})", self.key_id())
    }
}

/// A data key that a key-encryption key has wrapped: a text of the form of [`Sealed`], but of another use.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WrappedKey(pub(crate) Sealed);

impl WrappedKey {
    /// Reads the text of a wrapped key.
    pub fn parse(text: &str) -> Result<Self, OpenError> {
        Sealed::parse(text).map(Self)
    }

    /// The text, as the database holds it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The id of the key-encryption key that wrapped it.
    pub fn key_id(&self) -> &str {
        self.0.key_id()
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({})", self.key_id())
    }
}

/// A sealed text that was read, and is as sealed as before: for what is opened again and again.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    key_id: Box<str>,
    nonce: [u8; NONCE_LEN],
    /// The ciphertext, and the tag behind it.
    bytes: Box<[u8]>,
}

impl Envelope {
    /// Reads the text of a sealed value.
    pub fn parse(text: &str) -> Result<Self, OpenError> {
        // A fifth part would be in the body, where no colon can be.
        let mut parts = text.splitn(4, ':');
        let (Some("enc"), Some(version), Some(key_id), Some(body)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(OpenError::Malformed);
        };
        check_version(version)?;
        if !is_key_id(key_id) {
            return Err(OpenError::Malformed);
        }
        // This engine refuses padding, white space and bits that are left over at the end.
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| OpenError::Malformed)?;
        match bytes.split_first_chunk() {
            Some((nonce, bytes)) if bytes.len() >= AES_256_GCM.tag_len() => {
                Ok(Self { key_id: key_id.into(), nonce: *nonce, bytes: bytes.into() })
            }
            _ => Err(OpenError::Malformed),
        }
    }

    /// The id of the key that sealed it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    pub(crate) const fn nonce(&self) -> [u8; NONCE_LEN] {
        self.nonce
    }

    pub(crate) const fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({})", self.key_id)
    }
}

fn check_version(version: &str) -> Result<(), OpenError> {
    let number = version.strip_prefix('v').ok_or(OpenError::Malformed)?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    match number {
        "1" => Ok(()),
        _ if is_number && (1..=4).contains(&number.len()) && !number.starts_with('0') => {
            Err(OpenError::UnknownVersion)
        }
        _ => Err(OpenError::Malformed),
    }
}

fn is_key_id(text: &str) -> bool {
    let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=64).contains(&text.len()) && text.bytes().all(inside)
}

#[cfg(test)]
mod tests;
