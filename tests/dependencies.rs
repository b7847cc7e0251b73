//! The rules of `deny.toml` for crates from outside, proved without cargo-deny and without a network.
//!
//! cargo-deny looks at more systems than this one and at advisories; this suite looks at what is built here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};

use crate::workspace::{cargo, toml_file};

// === deny.toml and Cargo.lock, as far as they are needed ===

#[derive(Deserialize)]
struct Rules {
    bans: Bans,
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
    wrappers: Option<BTreeSet<String>>,
    #[serde(default)]
    deny_multiple_versions: bool,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<LockedPackage>,
}

#[derive(Deserialize)]
struct LockedPackage {
    name: String,
    source: Option<String>,
}

fn rules() -> Rules {
    toml_file("deny.toml")
}

fn lock() -> Vec<LockedPackage> {
    toml_file::<Lock>("Cargo.lock").package
}

// === The tree that is built here ===

/// A crate version in the tree.
#[derive(Default)]
struct Node {
    license: String,
    parents: BTreeSet<String>,
}

/// By name and version.
type Tree = BTreeMap<(String, String), Node>;

fn tree() -> Tree {
    let edges = ["--workspace", "--all-features", "--edges", "normal,build,dev"];
    let form = ["--prefix", "depth", "--format", "|{p}|{l}"];
    parse_tree(&cargo(&[&["tree", "--locked"], &edges[..], &form[..]].concat()))
}

/// Reads lines such as `3|thiserror v2.0.21|MIT OR Apache-2.0 (*)`, where 3 is the depth.
fn parse_tree(text: &str) -> Tree {
    let mut tree = Tree::new();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let [depth, package, license] = line.splitn(3, '|').collect::<Vec<_>>()[..] else {
            panic!("not a line of the tree: {line}");
        };
        let mut words = package.split(' ');
        let (name, version) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        path.truncate(depth.parse().unwrap());
        let node = tree.entry((name.clone(), version)).or_default();
        node.license = license.trim_end_matches("(*)").trim().to_owned();
        node.parents.extend(path.last().cloned());
        path.push(name);
    }
    tree
}

// === The rules ===

impl Ban {
    fn complaints(&self, tree: &Tree, lock: &[LockedPackage]) -> Vec<String> {
        let Self { name, reason, .. } = self;
        let locked = lock.iter().filter(|package| package.name == *name).count();
        if self.deny_multiple_versions {
            return (locked > 1)
                .then(|| format!("{locked} versions of {name}: {reason}"))
                .into_iter()
                .collect();
        }
        let Some(wrappers) = &self.wrappers else {
            return (locked > 0).then(|| format!("{name} is in Cargo.lock: {reason}")).into_iter().collect();
        };
        tree.iter()
            .filter(|((dependency, _), _)| dependency == name)
            .flat_map(|(_, node)| node.parents.difference(wrappers))
            .map(|parent| format!("{parent} uses {name}: {reason}"))
            .collect()
    }
}

/// Whether an expression can be met with the allowed licences alone. No licence is never allowed.
fn is_allowed(license: &str, allowed: &[Licensee]) -> bool {
    Expression::parse_mode(license, ParseMode::LAX)
        .is_ok_and(|expression| expression.evaluate(|asked| allowed.iter().any(|one| one.satisfies(asked))))
}

fn allowed() -> Vec<Licensee> {
    rules().licenses.allow.iter().map(|license| Licensee::parse(license).unwrap()).collect()
}

// === The facts ===

#[test]
fn no_ban_is_broken() {
    let (tree, lock) = (tree(), lock());
    let complaints: Vec<_> = rules().bans.deny.iter().flat_map(|ban| ban.complaints(&tree, &lock)).collect();
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn the_bans_that_the_design_rests_on_stand() {
    let bans = rules().bans.deny;
    let stands = |name: &str, wrapper: Option<&str>| {
        bans.iter().any(|ban| match (&ban.wrappers, wrapper) {
            (Some(wrappers), Some(wrapper)) => ban.name == name && wrappers.contains(wrapper),
            (None, None) => ban.name == name && !ban.deny_multiple_versions,
            _ => false,
        })
    };
    for name in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"] {
        assert!(stands(name, None), "{name}");
    }
    for (name, wrapper) in [
        ("sqlx", "keyholder-store"),
        ("ring", "keyholder-vault"),
        ("rcgen", "keyholder-testkit"),
        ("hickory-resolver", "keyholder-egress"),
        ("oauth2", "keyholder-upstream"),
    ] {
        assert!(stands(name, Some(wrapper)), "{name} under {wrapper}");
    }
}

#[test]
fn every_license_is_allowed() {
    let allowed = allowed();
    let refused: Vec<_> = tree()
        .into_iter()
        .filter(|(_, node)| !is_allowed(&node.license, &allowed))
        .map(|((name, version), node)| format!("{name} {version}: {:?}", node.license))
        .collect();
    assert_eq!(refused, Vec::<String>::new());
}

#[test]
fn every_crate_from_outside_comes_from_one_index() {
    let sources: BTreeSet<_> = lock().into_iter().filter_map(|package| package.source).collect();
    assert!(
        sources.len() == 1 && sources.iter().all(|source| source.starts_with("registry+")),
        "{sources:?}"
    );
}

// === That the checks can fail ===

const SAMPLE: &str = "0|keyholder-broker v0.1.0 (/somewhere)|Apache-2.0\n\
                      1|keyholder-store v0.1.0 (/somewhere)|Apache-2.0\n\
                      2|sqlx v0.9.0|MIT OR Apache-2.0\n\
                      1|sqlx v0.9.0|MIT OR Apache-2.0 (*)\n";

fn ban(name: &str, wrapper: Option<&str>) -> Ban {
    Ban {
        name: name.to_owned(),
        reason: "because".to_owned(),
        wrappers: wrapper.map(|wrapper| BTreeSet::from([wrapper.to_owned()])),
        deny_multiple_versions: false,
    }
}

fn locked(name: &str) -> LockedPackage {
    LockedPackage { name: name.to_owned(), source: None }
}

#[test]
fn refuses_a_crate_that_goes_around_the_door() {
    let complaints = ban("sqlx", Some("keyholder-store")).complaints(&parse_tree(SAMPLE), &[]);
    assert_eq!(complaints, ["keyholder-broker uses sqlx: because"]);
}

#[test]
fn refuses_a_banned_crate_that_is_only_in_the_lock_file() {
    let ban = ban("openssl", None);
    assert_eq!(ban.complaints(&Tree::new(), &[locked("openssl")]).len(), 1);
    assert!(ban.complaints(&Tree::new(), &[]).is_empty());
}

#[test]
fn refuses_two_versions_of_what_must_be_one() {
    let ban = Ban { deny_multiple_versions: true, ..ban("ring", None) };
    assert!(ban.complaints(&Tree::new(), &[locked("ring")]).is_empty());
    assert_eq!(ban.complaints(&Tree::new(), &[locked("ring"), locked("ring")]).len(), 1);
}

#[test]
fn reads_license_expressions() {
    let allowed = allowed();
    for license in ["MIT", "MIT/Apache-2.0", "GPL-3.0-only OR MIT", "(MIT OR GPL-3.0-only) AND Unicode-3.0"] {
        assert!(is_allowed(license, &allowed), "{license}");
    }
    for license in
        ["", "GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0 WITH Classpath-exception-2.0", "nonsense"]
    {
        assert!(!is_allowed(license, &allowed), "{license}");
    }
}
