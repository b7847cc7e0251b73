use std::{
    fmt::{self, Write as _},
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::{
    KeyError,
    cipher::{Cipher, KEY_LEN, KeyBytes, derive},
    random_bytes,
};

/// A key that wraps data keys. It never enters the database.
pub struct KeyEncryptionKey {
    id: String,
    bytes: KeyBytes,
    cipher: Cipher,
}

/// A key and its line end take less; anything longer is another file.
const MAX_TEXT: usize = 256;

impl KeyEncryptionKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self::new(Zeroizing::new(random_bytes()))
    }

    /// Reads a key: 32 bytes in standard or URL-safe base64, padded or not, white space around it allowed.
    pub fn from_base64(text: &SecretString) -> Result<Self, KeyError> {
        let text = text.expose_secret().trim();
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(KeyError::NotBase64);
        }
        let engine = if text.contains(['-', '_']) { &URL_SAFE_ENGINE } else { &STANDARD_ENGINE };
        let mut decoded = Zeroizing::new([0; MAX_TEXT]);
        let length = engine.decode_slice(text, decoded.as_mut_slice()).map_err(|_| KeyError::NotBase64)?;
        if length != KEY_LEN {
            return Err(KeyError::WrongLength { bytes: length });
        }
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        bytes.copy_from_slice(&decoded[..KEY_LEN]);
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(KeyError::NotRandom);
        }
        Ok(Self::new(bytes))
    }

    /// Reads a key file, which nobody but its owner may read.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        Self::from_base64(&read_text(file).map_err(failed)?)
    }

    /// Writes the key into a new file that only its owner may read. Never overwrites one.
    pub fn create_file(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let text = self.to_base64();
        file.write_all(text.expose_secret().as_bytes()).map_err(failed)?;
        file.write_all(b"\n").and_then(|()| file.sync_all()).map_err(failed)
    }

    /// The key as [`KeyEncryptionKey::from_base64`] reads it.
    pub fn to_base64(&self) -> SecretString {
        STANDARD_ENGINE.encode(self.bytes.as_slice()).into()
    }

    /// Its id, derived from the key, so that nobody has to name it: `kek-` and 16 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) const fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    fn new(bytes: KeyBytes) -> Self {
        let mut id = String::from("kek-");
        for byte in *derive::<8>(&bytes, "keyholder/kek-id/v1") {
            write!(id, "{byte:02x}").expect("a String takes all that is written");
        }
        let cipher = Cipher::new(&bytes);
        Self { id, bytes, cipher }
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyEncryptionKey({})", self.id)
    }
}

const PADDING_OPTIONAL: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD_ENGINE: GeneralPurpose = GeneralPurpose::new(&STANDARD, PADDING_OPTIONAL);
const URL_SAFE_ENGINE: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, PADDING_OPTIONAL);

/// Reads a short text without leaving copies of it behind.
fn read_text(file: File) -> io::Result<SecretString> {
    let mut buffer = Zeroizing::new([0; MAX_TEXT + 1]);
    let mut length = 0;
    let mut file = file.take(buffer.len() as u64);
    loop {
        match file.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    let text = str::from_utf8(&buffer[..length]).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

    fn key(text: &str) -> Result<KeyEncryptionKey, KeyError> {
        KeyEncryptionKey::from_base64(&text.into())
    }

    #[test]
    fn every_spelling_of_a_key_is_the_same_key() {
        // The id is the one that `known_answers.py` computes.
        assert_eq!(key(KEY).unwrap().id(), "kek-a13bf4ddd381ea0b");
        let url_safe = KEY.replace('/', "_").replace('+', "-");
        for text in [&KEY[..43], &format!(" {KEY}\r\n"), &url_safe, &url_safe[..43]] {
            assert_eq!(key(text).unwrap().id(), key(KEY).unwrap().id(), "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_key() {
        for text in ["", " ", "not a key", "ab*=", &KEY.repeat(10)] {
            assert!(matches!(key(text), Err(KeyError::NotBase64)), "{text:?}");
        }
        assert!(matches!(key("c2hvcnQ="), Err(KeyError::WrongLength { bytes: 5 })));
        assert!(matches!(key(&"A".repeat(43)), Err(KeyError::NotRandom)));
    }

    #[test]
    fn i6_prints_neither_in_debug_nor_in_errors() {
        let secret = "hunter2-hunter2-hunter2-hunter2-";
        let error = key(secret).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert_eq!(
            format!("{:?}", key(KEY).unwrap()),
            format!("KeyEncryptionKey({})", key(KEY).unwrap().id())
        );
    }

    #[test]
    fn a_written_file_is_read_back_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = KeyEncryptionKey::generate();
        made.create_file(&path).unwrap();
        assert_eq!(KeyEncryptionKey::from_file(&path).unwrap().id(), made.id());
        assert!(matches!(KeyEncryptionKey::generate().create_file(&path), Err(KeyError::File { .. })));
        assert_eq!(KeyEncryptionKey::from_file(&path).unwrap().id(), made.id());
    }

    #[test]
    fn refuses_a_file_that_others_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        KeyEncryptionKey::generate().create_file(&path).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = KeyEncryptionKey::from_file(&path).unwrap_err();
            assert!(matches!(error, KeyError::Exposed { .. }), "{mode:o}: {error}");
        }
    }
}
