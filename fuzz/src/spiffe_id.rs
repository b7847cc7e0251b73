//! The identity of a workload: it comes out of a certificate, a configuration or a request.

use keyholder_domain::{SpiffeId, TrustDomain, WorkloadId, WorkloadPattern};

/// What is accepted is written back unchanged, and the three types agree on what an identity is.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let id = WorkloadId::parse(text);
    if let Ok(spiffe) = SpiffeId::parse(text) {
        assert_eq!((spiffe.as_str(), spiffe.to_string().as_str()), (text, text));
        let domain = spiffe.trust_domain();
        assert_eq!(TrustDomain::parse(domain.as_str()).as_ref(), Ok(domain));
        assert!(text.starts_with(&format!("spiffe://{domain}/")));
        assert_eq!(id, Ok(WorkloadId::Spiffe(spiffe)));
    }
    if let Ok(id) = &id {
        assert_eq!(id.to_string(), text);
        let itself = WorkloadPattern::parse(text).expect("an identity is a pattern that covers just itself");
        assert!(itself.covers(id));
    }
    if let Ok(pattern) = WorkloadPattern::parse(text) {
        assert_eq!(pattern.as_str(), text);
        covers_whole_segments(&pattern, id.ok().as_ref());
    }
}

/// A star stands for one whole segment, neither for more nor for less.
fn covers_whole_segments(pattern: &WorkloadPattern, id: Option<&WorkloadId>) {
    let filled = pattern.as_str().replace('*', "x");
    let covered = WorkloadId::parse(&filled).expect("a pattern whose stars are filled is an identity");
    assert!(pattern.covers(&covered));
    assert_eq!(pattern.as_str().contains('*'), id.is_none());
    let longer = format!("{filled}x");
    let last_is_star = pattern.as_str().ends_with("/*");
    for other in [format!("{filled}/x"), filled.replacen("spiffe://", "spiffe://x", 1), longer.clone()] {
        if let (Ok(id), true) = (WorkloadId::parse(&other), other != filled) {
            assert_eq!(pattern.covers(&id), last_is_star && other == longer, "{other}");
        }
    }
}
