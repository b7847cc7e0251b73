//! Secret types, sealing and the key ring: what stands between the database and a credential.
//!
//! A key-encryption key (outside the database) wraps one data key per organization (inside it), and the data
//! key seals values with AES-256-GCM. A sealed value is the text
//! `enc:v1:<key id>:<base64url(nonce ‖ ciphertext ‖ tag)>`; its associated data is its [`Place`], so that it
//! opens only in its own organization, row, field and generation.
//!
//! # What is promised
//!
//! - Whoever can read the database learns no credential, only how long it is and when it changes.
//! - Whoever can also write it can delete or damage, but not move a value to another tenant, row or field,
//!   nor put an older value back into a row whose generation has grown: it will not open. Putting back the whole
//!   row, generation included, is an attack that no sealing sees.
//! - Without its data key nothing of an organization opens: erasing the wrapped key in every copy shreds all.
//! - Neither a key nor a credential is in a `Debug` print or an error.
//!
//! # What is not
//!
//! - No forward secrecy: whoever gets the key-encryption key and a copy of the database, also an old one,
//!   reads every credential in it. Rewrapping under a new key helps only copies made afterwards.
//! - No protection from a reader of this process's memory. Plaintext and raw keys are zeroed when dropped, as
//!   far as safe Rust can; the expanded key schedules inside `ring` are not.
//! - Nonces are random, so one data key may seal 2^32 values at most (NIST SP 800-38D, section 8.3). A seal
//!   happens when a credential changes, never when it is read: 10,000 connections that are refreshed every
//!   hour would take 49 years. An organization that seals a hundred times a second has more than a year, and
//!   should be given a new data key in it. Wrapping, once per data key and rewrap, is nowhere near.
//!
//! # The commonest change: one more sealed value
//!
//! Give it a field name that no other value in its row has, and seal it with the row's next generation:
//!
//! ```
//! use keyholder_domain::{Generation, OrganizationId, Timestamp};
//! use keyholder_vault::{DataKey, OpenError, Place};
//!
//! let organization = OrganizationId::parse("acme")?;
//! let key = DataKey::generate(Timestamp::UNIX_EPOCH);
//! let place = Place {
//!     organization: &organization,
//!     row: "authz_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
//!     field: "pkce_verifier",
//!     generation: Generation::FIRST,
//! };
//! let sealed = key.seal(&place, b"verifier");
//! assert_eq!(key.open(&place, sealed.as_str())?.as_slice(), b"verifier");
//!
//! let later = Place { generation: Generation::FIRST.next(), ..place };
//! assert_eq!(key.open(&later, sealed.as_str()), Err(OpenError::NotAuthentic));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cipher;
mod credential;
mod data_key;
mod error;
mod framing;
mod hash;
mod jwt;
mod key_encryption_key;
mod key_ring;
mod place;
mod random;
mod sealed;

pub use credential::Credential;
pub use data_key::{DataKey, DataKeyId};
pub use error::{KeyError, OpenError};
pub use hash::sha256;
pub use jwt::{SigningAlgorithm, SigningKey, SigningKeyError};
pub use key_encryption_key::KeyEncryptionKey;
pub use key_ring::KeyRing;
pub use place::Place;
pub use random::random_bytes;
pub use sealed::{Envelope, Sealed, WrappedKey};
pub use secrecy::{ExposeSecret, SecretString};
