use proptest::prelude::*;

use super::*;

fn workload(text: &str) -> WorkloadId {
    WorkloadId::parse(text).unwrap()
}

fn pattern(text: &str) -> WorkloadPattern {
    WorkloadPattern::parse(text).unwrap()
}

#[test]
fn m7_accepts_the_longest_id_and_trust_domain() {
    let domain = "d".repeat(255);
    let id = format!("spiffe://{domain}/{}", "p".repeat(2048 - 9 - 255 - 1));
    assert_eq!(id.len(), 2048);
    assert!(SpiffeId::parse(&id).is_ok());
    assert!(SpiffeId::parse(&format!("{id}p")).is_err());
    assert!(SpiffeId::parse(&format!("spiffe://{domain}d/p")).is_err());
}

#[test]
fn m8_paths_that_differ_in_any_byte_are_distinct_ids() {
    let ids: Vec<_> = ["/A", "/a", "/...", "/.x", "/_", "/-", "/a.b", "/..x"]
        .map(|path| SpiffeId::parse(&format!("spiffe://td{path}")).unwrap())
        .to_vec();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[test]
fn m19_refuses_other_schemes_and_spellings() {
    for text in [
        "https://td/x",
        "SPIFFE://td/x",
        "Spiffe://td/x",
        "spiffe:td/x",
        "spiffe:/td/x",
        "spiffe:///x",
        "spiffe://",
        "",
    ] {
        assert!(SpiffeId::parse(text).is_err(), "{text}");
    }
}

#[test]
fn m20_refuses_an_id_without_a_workload_path() {
    for text in ["spiffe://td", "spiffe://td/"] {
        assert!(SpiffeId::parse(text).is_err(), "{text}");
    }
}

#[test]
fn m21_refuses_empty_and_dot_segments() {
    for text in
        ["spiffe://td/a//b", "spiffe://td/a/./b", "spiffe://td/a/../b", "spiffe://td/a/", "spiffe://td//a"]
    {
        assert!(SpiffeId::parse(text).is_err(), "{text}");
    }
}

#[test]
fn m22_refuses_percent_encoding() {
    for text in [
        "spiffe://td/%2e%2e",
        "spiffe://td/%61dmin",
        "spiffe://td/a%2Fb",
        "spiffe://td/%00",
        "spiffe://t%64/a",
    ] {
        assert!(SpiffeId::parse(text).is_err(), "{text}");
    }
}

#[test]
fn m23_refuses_query_fragment_userinfo_port_and_address() {
    for text in [
        "spiffe://td/a?x=1",
        "spiffe://td/a#f",
        "spiffe://user@td/a",
        "spiffe://td:443/a",
        "spiffe://[::1]/a",
    ] {
        assert!(SpiffeId::parse(text).is_err(), "{text}");
    }
}

#[test]
fn m24_trust_domains_are_lower_case_and_never_normalised() {
    for text in ["spiffe://TD/a", "spiffe://tD/a", "spiffe://t\u{e4}/a"] {
        assert!(SpiffeId::parse(text).is_err(), "{text}");
    }
    let dotted = SpiffeId::parse("spiffe://td./a").unwrap();
    assert_ne!(dotted, SpiffeId::parse("spiffe://td/a").unwrap());
    assert_eq!(dotted.trust_domain().as_str(), "td.");
}

#[test]
fn m25_refuses_every_other_character_in_the_path() {
    for text in ["é", "\0", "\r", "\n", " ", "\t", "*", "a*", "\u{7f}", "~", "+", "@", ":", "\\", "\""] {
        assert!(SpiffeId::parse(&format!("spiffe://td/{text}")).is_err(), "{text:?}");
    }
}

#[test]
fn m27_patterns_match_whole_segments_only() {
    let one = pattern("spiffe://td/ns/*");
    assert!(one.covers(&workload("spiffe://td/ns/a")));
    for other in ["spiffe://td/ns", "spiffe://td/ns/a/b", "spiffe://td/nsx/a", "spiffe://td2/ns/a"] {
        assert!(!one.covers(&workload(other)), "{other}");
    }
    let exact = pattern("spiffe://td/ns/a");
    assert!(exact.covers(&workload("spiffe://td/ns/a")));
    assert!(!exact.covers(&workload("spiffe://td/ns/ab")));
    assert!(!exact.covers(&workload("spiffe://td/ns/a/b")));
    assert!(WorkloadPattern::parse("spiffe://td/ns/a*").is_err());
    assert!(WorkloadPattern::parse("spiffe://*/ns/a").is_err());
    assert!(WorkloadPattern::parse("spiffe://td").is_err());
}

#[test]
fn m28_a_pattern_of_one_trust_domain_never_covers_another() {
    assert!(!pattern("spiffe://ours/gateway").covers(&workload("spiffe://theirs/gateway")));
}

#[test]
fn dns_names_are_covered_exactly_and_never_by_a_spiffe_pattern() {
    let named = workload("dns:gateway.example.com");
    assert!(pattern("dns:gateway.example.com").covers(&named));
    assert!(!pattern("dns:example.com").covers(&named));
    assert!(!pattern("spiffe://td/*").covers(&named));
    assert!(!pattern("dns:gateway").covers(&workload("spiffe://gateway/x")));
    for text in ["dns:", "dns:A.example", "dns:*.example", "dns:a..b", "dns:-a", "dns:a.", "dns:a b"] {
        assert!(WorkloadId::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn never_panics_and_what_is_accepted_is_written_back_unchanged(text in "\\PC{0,64}|spiffe://[a-z./*%-]{0,40}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert!(WorkloadPattern::parse(&text).unwrap().covers(&WorkloadId::Spiffe(id)));
        }
    }
}
