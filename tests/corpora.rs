//! The seeds of the fuzz targets, checked without a fuzzer: what was mended stays mended.

use std::fs;

use crate::workspace::root;

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is the library of another crate, read here as a module")]
mod fuzz;

type Check = fn(&[u8]);

/// Every target. The fuzz crate is not built here, so its checks are.
const CHECKS: &[(&str, Check)] = &[
    ("egress_url", fuzz::egress_url::check),
    ("page_token", fuzz::page_token::check),
    ("principal_scope_ids", fuzz::principal_scope_ids::check),
    ("provider_definition", fuzz::provider_definition::check),
    ("request_conversion", fuzz::request_conversion::check),
    ("sealed_text", fuzz::sealed_text::check),
    ("spiffe_id", fuzz::spiffe_id::check),
];

/// The names in a folder of the fuzz crate, in order, without their extensions.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join("fuzz").join(folder)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_seed_passes_its_check() {
    for (target, check) in CHECKS {
        let folder = root().join("fuzz/seeds").join(target);
        let mut seeds = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            // The harness prints this if the check panics.
            println!("{}", file.display());
            check(&fs::read(&file).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "{target} has no seeds");
    }
}

#[test]
fn every_target_has_seeds_and_is_checked_here() {
    let checked: Vec<&str> = CHECKS.iter().map(|(target, _)| *target).collect();
    assert_eq!(names("fuzz_targets"), checked);
    assert_eq!(names("seeds"), checked);
}
