#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| keyholder_fuzz::egress_url::check(input));
