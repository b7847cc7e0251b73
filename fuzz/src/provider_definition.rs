//! An operator's provider definition. It is read from a folder, so here it is written into one.

use std::iter;
use std::path::Path;

use keyholder_catalog::{Catalog, Field, Provider, lint};
use keyholder_domain::ProviderId;
use tempfile::TempDir;

/// The id of the seeds: a definition must be named after its file.
const ID: &str = "seed";

/// Nothing panics, every finding is one line, and what has no findings loads and renders.
pub fn check(input: &[u8]) {
    let folder = TempDir::new().expect("a temporary folder can be made");
    std::fs::write(folder.path().join(format!("{ID}.yaml")), input).expect("the file can be written");
    check_folder(folder.path());
}

fn check_folder(folder: &Path) {
    let report = lint(folder).expect("the folder can be read");
    for finding in &report.findings {
        let line = finding.to_string();
        assert!(line.lines().count() == 1, "{line:?}");
    }
    if !report.is_clean() {
        return; // loading is slow, since it reads every built-in definition too
    }
    let catalog = Catalog::load(Some(folder)).expect("a clean definition loads");
    let id = ProviderId::parse(ID).expect("a name of the alphabet");
    renders(catalog.get(&id).expect("a clean definition is in the catalog"));
}

/// As long as a part of a path may be, and three times that once it is percent-encoded.
const LONG: &str = match str::from_utf8(&[b'%'; 512]) {
    Ok(text) => text,
    Err(_) => panic!(),
};

/// What owners fill in: plain, long, and what has a meaning to a header, a URL, a template or a terminal.
const VALUES: &[&str] = &[
    "x",
    "acme",
    "",
    "a:b",
    "a b",
    "a;b",
    "..",
    "Host",
    "X-API-Key",
    "https://example.com",
    "https://example.com/a/",
    "{api_key}",
    "{config.base_url}",
    "%2e%2e/?#@\\",
    "a\r\nb: c",
    "a\nb",
    "\u{e9}\u{202e}",
    LONG,
];

/// A value that passes its field's check can be rendered, alone or among others.
fn renders(provider: &Provider) {
    for method in &provider.auth_methods {
        for wanted in VALUES {
            let pick = |field: &Field| {
                let mut values = iter::once(wanted).chain(VALUES);
                values.find(|value| field.check(value).is_ok()).copied()
            };
            let of = |fields: &[Field], name: &str| pick(fields.iter().find(|field| field.name == name)?);
            if method.fields.iter().chain(&provider.config).all(|field| pick(field).is_some()) {
                let (credential, config) =
                    (|name: &str| of(&method.fields, name), |name: &str| of(&provider.config, name));
                let rendered = method.render(provider, &credential, &config);
                assert!(rendered.is_ok(), "{:?} with {wanted:?}", rendered.err());
            }
            // What was not checked is refused or comes out harmless, but never panics.
            if let Ok(injection) = method.render(provider, &|_| Some(wanted), &|_| Some(wanted)) {
                let pairs = injection.headers.iter().chain(&injection.cookies);
                for (name, value) in pairs {
                    assert!(!name.contains(char::is_control) && !value.contains(char::is_control));
                }
            }
        }
        method.render(provider, &|_| None, &|_| None).ok();
    }
}
