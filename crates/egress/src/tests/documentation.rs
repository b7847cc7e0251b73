//! `docs/egress.md` lists every reason there is, with its sentence.

use std::collections::HashSet;

use crate::{AddressClass, EgressError, Refusal};

fn rows() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/egress.md");
    let text = std::fs::read_to_string(path).unwrap();
    let cells = text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[1].to_owned())
    });
    cells.collect()
}

#[test]
fn the_manual_lists_every_reason_with_its_sentence() {
    let refusals = Refusal::ALL.iter().map(|refusal| (refusal.reason().to_owned(), refusal.to_string()));
    let errors = EgressError::ALL.iter().map(|error| (error.reason().to_owned(), error.to_string()));
    let expected: Vec<_> = refusals.chain(errors).collect();
    assert_eq!(rows(), expected);
}

#[test]
fn a_reason_is_one_word_and_means_one_thing() {
    let reasons: Vec<_> = Refusal::ALL
        .iter()
        .map(|refusal| refusal.reason())
        .chain(EgressError::ALL.iter().map(|error| error.reason()))
        .collect();
    let different: HashSet<_> = reasons.iter().collect();
    assert_eq!(different.len(), reasons.len());
    let is_word =
        |reason: &&str| reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'4');
    assert!(reasons.iter().all(is_word));
    assert!(!different.contains(&AddressClass::Global.label()));
}
