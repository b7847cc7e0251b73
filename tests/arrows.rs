//! The arrows between the crates of this workspace: who may use whom. `docs/architecture.md` draws them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::workspace::cargo;

/// What each crate may use. A crate without a row fails; a row may wait for its crate.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("proto", &[]),
    ("egress", &[]),
    ("vault", &["domain"]),
    ("catalog", &["domain"]),
    ("identity", &["domain"]),
    ("testkit", &["domain"]),
    ("store", &["domain", "vault"]),
    ("upstream", &["catalog", "domain", "egress", "vault"]),
    ("broker", &["catalog", "domain", "egress", "store", "upstream", "vault"]),
    (
        "server",
        &[
            "broker", "catalog", "domain", "egress", "identity", "proto", "store", "testkit", "upstream",
            "vault",
        ],
    ),
    // Certificates, Postgres and a provider to measure against come from testkit, and its clock from domain. It uses
    // no product crate: what it measures is the binary, and its baseline must not be made of ours.
    ("bench", &["domain", "proto", "testkit"]),
    ("tests", &[]),
];

/// The black-box suites: their tests may look at every crate.
const SUITES: &str = "tests";

/// What helps tests. In a product crate it must be optional, so that an image is built without it.
const TESTKIT: &str = "testkit";

/// What measures the product, and is in no image.
const BENCH: &str = "bench";

/// One dependency of one crate of this workspace on another; names without `keyholder-`.
#[derive(Debug)]
struct Arrow {
    from: String,
    to: String,
    for_tests: bool,
    optional: bool,
}

impl Arrow {
    fn complaint(&self, rows: &BTreeMap<&str, &[&str]>) -> Option<String> {
        let Self { from, to, for_tests, optional } = self;
        if *for_tests && (to == TESTKIT || from == SUITES) {
            return None;
        }
        if !rows.get(from.as_str())?.contains(&to.as_str()) {
            return Some(format!("{from} may not use {to}"));
        }
        (to == TESTKIT && !for_tests && !optional && from != BENCH)
            .then(|| format!("{from} must use {to} as an optional dependency"))
    }
}

fn complaints(crates: &BTreeSet<String>, arrows: &[Arrow]) -> Vec<String> {
    let rows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let strangers = crates.iter().filter(|name| !rows.contains_key(name.as_str()));
    strangers
        .map(|name| format!("{name} has no row in tests/arrows.rs"))
        .chain(arrows.iter().filter_map(|arrow| arrow.complaint(&rows)))
        .collect()
}

// === Reading the workspace ===

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    optional: bool,
    path: Option<String>,
}

fn short(name: &str) -> String {
    name.strip_prefix("keyholder-").unwrap_or(name).to_owned()
}

fn read_workspace() -> (BTreeSet<String>, Vec<Arrow>) {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Metadata = serde_json::from_str(&text).unwrap();
    let crates = metadata.packages.iter().map(|package| short(&package.name)).collect();
    let arrows = metadata.packages.iter().flat_map(|package| {
        package.dependencies.iter().filter(|dependency| dependency.path.is_some()).map(|dependency| Arrow {
            from: short(&package.name),
            to: short(&dependency.name),
            for_tests: dependency.kind.as_deref() == Some("dev"),
            optional: dependency.optional,
        })
    });
    (crates, arrows.collect())
}

// === The facts ===

#[test]
fn crates_use_only_what_their_row_allows() {
    let (crates, arrows) = read_workspace();
    assert!(crates.contains("domain") && arrows.iter().any(|arrow| arrow.to == "domain"), "nothing was read");
    assert_eq!(complaints(&crates, &arrows), Vec::<String>::new());
}

#[test]
fn rows_point_only_to_rows_above_or_beside_and_never_in_a_circle() {
    let rows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut settled = BTreeSet::new();
    while let Some((name, _)) = rows
        .iter()
        .find(|(name, uses)| !settled.contains(*name) && uses.iter().all(|used| settled.contains(used)))
    {
        settled.insert(name);
    }
    assert_eq!(settled.len(), rows.len(), "these rows settle: {settled:?}");
}

fn arrow(from: &str, to: &str) -> Arrow {
    Arrow { from: from.to_owned(), to: to.to_owned(), for_tests: false, optional: false }
}

fn complains(arrow: Arrow) -> bool {
    !complaints(&BTreeSet::new(), &[arrow]).is_empty()
}

#[test]
fn refuses_an_arrow_that_points_up() {
    assert!(complains(arrow("store", "broker")));
    assert!(complains(arrow("domain", "vault")));
    assert!(complains(Arrow { for_tests: true, ..arrow("vault", "store") }));
    assert!(!complains(arrow("store", "vault")));
}

#[test]
fn refuses_a_crate_without_a_row() {
    assert_eq!(complaints(&BTreeSet::from(["cellar".to_owned()]), &[]).len(), 1);
}

#[test]
fn testkit_reaches_products_only_as_an_option() {
    assert!(complains(arrow("server", "testkit")));
    assert!(complains(arrow("broker", "testkit")));
    assert!(!complains(Arrow { optional: true, ..arrow("server", "testkit") }));
    assert!(!complains(Arrow { for_tests: true, ..arrow("broker", "testkit") }));
}

#[test]
fn the_bench_looks_at_the_product_from_outside_only() {
    assert!(!complains(arrow("bench", "testkit")));
    for product in ["broker", "identity", "server", "store"] {
        assert!(complains(arrow("bench", product)), "{product}");
    }
}

#[test]
fn suites_may_look_at_everything_but_only_as_tests() {
    assert!(complains(arrow("tests", "server")));
    assert!(!complains(Arrow { for_tests: true, ..arrow("tests", "server") }));
}
