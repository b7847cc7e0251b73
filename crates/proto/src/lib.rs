//! The wire types of `keyholder.v1`, generated from `proto/` and committed, so that a build needs no protoc.
//!
//! Only the codec is written by hand. After a change in `proto/`, run `make gen`; a test fails until the
//! generated files are what the protos say. A message with a field marked `debug_redact` prints its name
//! and nothing else:
//!
//! ```
//! let key = keyholder_proto::v1::ApiKeyCredential { api_key: "sk-123".into(), ..Default::default() };
//! assert_eq!(format!("{key:?}"), "ApiKeyCredential([REDACTED])");
//! ```

mod codec;

pub use codec::SmallMessages;

/// The package `keyholder.v1`.
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    include!("generated/keyholder.v1.rs");
}

/// The package's file descriptor set, with comments and options, as reflection serves it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/keyholder.v1.binpb");
