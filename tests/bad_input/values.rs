//! Values that are wrong wherever they stand.

/// Organizations that are none.
pub(super) fn organizations() -> Vec<String> {
    [vec![String::new(), "a".repeat(65)], texts(&["Acme", "-acme", "a b", "a/b", "acme\n", "*", "ä"])]
        .concat()
}

/// Principals that are none.
pub(super) fn principals() -> Vec<String> {
    let long = format!("user:{}", "x".repeat(129));
    let others = texts(&[
        "ada", "user:", ":ada", "robot:x", "User:ada", "user:a b", "user:a\n", "user:a:b", "user:*", "*",
    ]);
    [vec![long], others].concat()
}

/// Providers that cannot be.
pub(super) fn providers() -> Vec<String> {
    [vec!["a".repeat(65)], texts(&["OpenAI", "open ai", "../openai", "openai\0", "-openai"])].concat()
}

/// Ids of connections that cannot be.
pub(super) fn connection_ids() -> Vec<String> {
    texts(&[
        "0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
        "conn_",
        "grant_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
        "conn_0193A1B2C3D47E5F8A9B0C1D2E3F4A5B",
        "conn_0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b0",
        " conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
        "' OR 1=1 --",
    ])
}

/// Ids of grants that cannot be.
pub(super) fn grant_ids() -> Vec<String> {
    connection_ids().iter().map(|id| id.replace("grant_", "audit_").replace("conn_", "grant_")).collect()
}

/// Ids of authorizations that cannot be.
pub(super) fn authorization_ids() -> Vec<String> {
    connection_ids().iter().map(|id| id.replace("grant_", "run_").replace("conn_", "authz_")).collect()
}

/// Ids of runs that cannot be.
pub(super) fn run_ids() -> Vec<String> {
    connection_ids().iter().map(|id| id.replace("grant_", "authz_").replace("conn_", "run_")).collect()
}

/// A connection that is not there.
pub(super) const NO_CONNECTION: &str = "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";

/// A grant that is not there.
pub(super) const NO_GRANT: &str = "grant_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";

/// An authorization that is not there.
pub(super) const NO_AUTHORIZATION: &str = "authz_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";

/// A run that is not there.
pub(super) const NO_RUN: &str = "run_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";

/// Texts for people that are too long, or would deceive them.
pub(super) fn words() -> Vec<String> {
    let others =
        texts(&["a\nb", "\0", "\u{1b}[2J", "\u{7f}", "\u{85}", "\u{202e}abc", "\u{2066}a", "a\u{2028}b"]);
    [vec!["é".repeat(257)], others].concat()
}

/// Lists of scopes with something wrong.
pub(super) fn scopes() -> Vec<Vec<String>> {
    let one = |text: &str| vec!["fine".to_owned(), text.to_owned()];
    let mut lists: Vec<_> = ["", "a b", "a\"b", "a\\b", "é", "a\n"].into_iter().map(one).collect();
    lists.push(one(&"x".repeat(257)));
    lists.push((0..201).map(|number| format!("scope{number}")).collect());
    lists
}

/// Ids of requests that cannot be.
pub(super) fn request_ids() -> Vec<String> {
    [vec!["x".repeat(65)], texts(&["a b", "a\n", "\0", "é"])].concat()
}

/// Etags that were in no message.
pub(super) fn etags() -> Vec<String> {
    texts(&["2", "g", "g0", "g-2", "g+2", "g02", "g 2", "G2", "gx", "g99999999999999999999", "*", "\"g2\""])
}

/// Sizes of pages that cannot be.
pub(super) const PAGE_SIZES: [i32; 4] = [-1, 501, i32::MAX, i32::MIN];

/// Tokens that nobody ever gave out.
pub(super) fn tokens() -> Vec<String> {
    [vec!["A".repeat(100_000)], texts(&["x", "AAAAAAAAAAA", "....", "YWJjZGVmZ2hpamtsbW5vcA", "é"])].concat()
}

/// Workloads that cannot be.
pub(super) fn workloads() -> Vec<String> {
    let long = format!("spiffe://test.example/{}", "x".repeat(2_048));
    let others = texts(&[
        "gateway",
        "spiffe://test.example",
        "spiffe://test.example/",
        "spiffe://test.example/a//b",
        "spiffe://test.example/../b",
        "spiffe://Test.example/a",
        "SPIFFE://test.example/a",
        "https://test.example/a",
        "spiffe://test.example/a%20b",
        "spiffe://test.example/a?b",
        "dns:Gateway",
        "dns:",
    ]);
    [vec![long], others].concat()
}

/// Moments that are not between the years 1 and 9999.
pub(super) fn moments() -> Vec<prost_types::Timestamp> {
    [
        (0, -1),
        (0, 1_000_000_000),
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
        (i64::MAX, 0),
        (i64::MIN, i32::MIN),
    ]
    .map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos })
    .into()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
