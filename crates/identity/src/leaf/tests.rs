use std::sync::LazyLock;

use keyholder_testkit::pki::{Authority, LeafRequest};
use proptest::prelude::*;
use rcgen::SanType;
use time::macros::datetime;

use super::*;

const NOW: Timestamp = datetime!(2026-11-22 12:00 UTC);

static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| issue(&["spiffe://td/gateway"]));

fn issue(uris: &[&str]) -> Vec<u8> {
    let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    let ca = Authority::root("ca", NOW).unwrap();
    ca.issue(LeafRequest::new(names, NOW)).unwrap().leaf().to_vec()
}

#[test]
fn m26_a_name_of_a_megabyte_is_refused_unread() {
    let huge = issue(&[&format!("spiffe://td/{}", "p".repeat(1 << 20))]);
    assert_eq!(Leaf::read(&huge).unwrap_err(), Refusal::TooLarge);
}

#[test]
fn m26_ten_thousand_names_are_refused_unread() {
    assert_eq!(Leaf::read(&issue(&["spiffe://td/a"; 10_000])).unwrap_err(), Refusal::TooLarge);
}

#[test]
fn trailing_bytes_are_refused() {
    assert!(Leaf::read(&LEAF).is_ok());
    assert_eq!(Leaf::read(&[&LEAF[..], &[0]].concat()).unwrap_err(), Refusal::Malformed);
}

proptest! {
    #[test]
    fn m50_no_spoiled_certificate_panics_or_is_known_by_another_id(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut der = LEAF.clone();
        for (place, byte) in edits {
            *place.get_mut(&mut der) = byte;
        }
        if let Ok(leaf) = Leaf::read(&der) {
            prop_assert!(leaf.workload.to_string().len() == "spiffe://td/gateway".len());
        }
        prop_assert!(Leaf::read(&der[..cut.index(der.len())]).is_err());
    }

    #[test]
    fn m50_random_bytes_are_no_certificate(der in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Leaf::read(&der).is_err());
    }
}
