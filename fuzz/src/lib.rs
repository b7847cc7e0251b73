//! What must hold for any input: nothing panics, and what is accepted is written back as it was read.
//!
//! Each module is one check, and one fuzz target of the same name in `fuzz_targets/`. Its seeds are in
//! `seeds/<name>/`; what the fuzzer finds on the way goes to `corpus/`, which is not committed. An input that broke
//! something is committed as a seed when it is mended: the seeds are also checked by `cargo test`.

pub mod egress_url;
pub mod page_token;
pub mod principal_scope_ids;
pub mod provider_definition;
pub mod request_conversion;
pub mod sealed_text;
pub mod spiffe_id;
