#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| keyholder_fuzz::principal_scope_ids::check(input));
