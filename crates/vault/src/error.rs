use std::{io, path::PathBuf};

/// Why a sealed value does not open. Nothing here says what is inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The stored text is not one that this crate writes.
    #[error("the sealed value is malformed")]
    Malformed,
    /// The stored text was written by a later Keyholder.
    #[error("the sealed value is of a version that this release does not know")]
    UnknownVersion,
    /// The key that sealed it is not here: it was taken out of the configuration, or was never in it.
    #[error("the sealed value needs the key {key_id}, which is not here")]
    UnknownKey {
        /// The id of the missing key.
        key_id: String,
    },
    /// The value was changed, or it stands in a place that it was not sealed for.
    #[error("the sealed value is not authentic in this place")]
    NotAuthentic,
    /// The value opened, but what is inside is not of the kind that was asked for.
    #[error("the sealed value holds something of another kind")]
    UnexpectedContent,
}

/// Why a key-encryption key cannot be used: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not base64.
    #[error("an encryption key must be 32 random bytes in base64 (openssl rand -base64 32 makes one)")]
    NotBase64,
    /// The text is base64 of something longer or shorter.
    #[error("an encryption key must be 32 random bytes in base64, not {bytes} bytes")]
    WrongLength {
        /// How many bytes were given.
        bytes: usize,
    },
    /// The same byte 32 times.
    #[error("an encryption key must be random (openssl rand -base64 32 makes one)")]
    NotRandom,
    /// The same key was given twice.
    #[error("the encryption key {key_id} is given twice")]
    Duplicate {
        /// The id of the key.
        key_id: String,
    },
    /// Others than the file's owner may read it.
    #[error("the key file {} may be read by others: chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot use the key file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
