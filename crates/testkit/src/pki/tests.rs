use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::macros::datetime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::*;

const NOW: Timestamp = datetime!(2026-11-22 12:00 UTC);

fn contents(dir: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|file| {
            (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&file).unwrap())
        })
        .collect()
}

/// The names of the files that a second run changed.
fn renewed(dir: &Path, now: Timestamp) -> Vec<String> {
    let before = contents(dir);
    DevPki::ensure(dir, now).unwrap();
    contents(dir)
        .into_iter()
        .filter(|(name, text)| before.get(name) != Some(text))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn makes_an_authority_a_server_and_every_workload() {
    let dir = tempfile::tempdir().unwrap();
    let pki = DevPki::ensure(&dir.path().join("new/pki"), NOW).unwrap();
    let names = ["ca", "server"].into_iter().chain(WORKLOADS);
    assert_eq!(contents(&dir.path().join("new/pki")).len(), 2 * names.clone().count());
    for name in names {
        assert!(pki.certificate(name).is_file(), "{name}");
        let mode = fs::metadata(pki.key(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn names_a_workload_as_an_x509_svid_does() {
    let dir = tempfile::tempdir().unwrap();
    let pki = DevPki::ensure(dir.path(), NOW).unwrap();
    let der = CertificateDer::from_pem_slice(&fs::read(pki.certificate("gateway")).unwrap()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [GeneralName::URI("spiffe://keyholder.dev/gateway")]);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.flags.count_ones() == 1);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && purposes.server_auth && !purposes.any);
}

#[test]
fn keeps_what_is_still_good() {
    let dir = tempfile::tempdir().unwrap();
    DevPki::ensure(dir.path(), NOW).unwrap();
    assert_eq!(renewed(dir.path(), NOW + Duration::days(300)), Vec::<String>::new());
}

#[test]
fn renews_leaves_in_their_last_30_days_and_keeps_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    DevPki::ensure(dir.path(), NOW).unwrap();
    let renewed = renewed(dir.path(), NOW + Duration::days(336));
    assert_eq!(renewed.len(), 2 * 5);
    assert!(!renewed.iter().any(|name| name.starts_with("ca")));
}

#[test]
fn a_new_authority_renews_everything() {
    let dir = tempfile::tempdir().unwrap();
    DevPki::ensure(dir.path(), NOW).unwrap();
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    assert_eq!(renewed(dir.path(), NOW).len(), 2 * 6);
}

#[test]
fn renews_what_is_damaged_or_does_not_fit_together() {
    let dir = tempfile::tempdir().unwrap();
    let pki = DevPki::ensure(dir.path(), NOW).unwrap();
    fs::copy(pki.key("console"), pki.key("gateway")).unwrap();
    fs::write(pki.certificate("auditor"), "not a certificate").unwrap();
    let renewed = renewed(dir.path(), NOW);
    assert_eq!(renewed, ["auditor-key.pem", "auditor.pem", "gateway-key.pem", "gateway.pem"]);
}
