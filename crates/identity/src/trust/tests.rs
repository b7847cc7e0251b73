use keyholder_testkit::pki::{Authority as Ca, LeafRequest};
use rcgen::{IsCa, KeyUsagePurpose};
use tempfile::TempDir;
use time::Duration;
use time::macros::datetime;

use super::*;

const NOW: Timestamp = datetime!(2026-11-22 12:00 UTC);

fn root() -> Ca {
    Ca::root("ca", NOW).unwrap()
}

fn load(text: &str) -> Result<CaBundle, ConfigError> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("bundle.pem");
    std::fs::write(&file, text).unwrap();
    CaBundle::load(&[file])
}

/// The entry that a bundle is refused for.
fn refused_entry(text: &str) -> usize {
    match load(text) {
        Err(ConfigError::Entry { file, entry, .. }) => {
            assert!(file.ends_with("bundle.pem"));
            entry
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_every_authority_of_every_file() {
    let dir = TempDir::new().unwrap();
    let files = ["a.pem", "b.pem"].map(|name| dir.path().join(name));
    let long = Ca::root_with("ca", NOW, |params| params.not_after = NOW + Duration::days(9)).unwrap();
    std::fs::write(&files[0], format!("# the old one\n{}\n# the new one\n{}", root().pem(), long.pem()))
        .unwrap();
    std::fs::write(&files[1], root().pem()).unwrap();
    let bundle = CaBundle::load(&files).unwrap();
    let soon = NOW + Duration::hours(1);
    let expected = [(&*files[0], soon), (&*files[0], NOW + Duration::days(9)), (&*files[1], soon)];
    assert_eq!(bundle.expirations().collect::<Vec<_>>(), expected);
}

#[test]
fn m47_an_empty_bundle_is_an_error() {
    for text in ["", "\n", "# nothing yet\n"] {
        assert!(matches!(load(text), Err(ConfigError::NoCertificate { .. })), "{text:?}");
    }
    assert!(matches!(CaBundle::load(&[] as &[&Path]), Err(ConfigError::NothingTrusted)));
}

#[test]
fn m47_one_unparsable_entry_among_good_ones_is_an_error_that_names_it() {
    let (good, other) = (root(), root());
    let (good, other) = (good.pem(), other.pem());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let spoilt = [
        other.replace("-----BEGIN", "----BEGIN"),
        other.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        other.replace("-----END CERTIFICATE-----", ""),
        other.replace("MII", "AII"),
        other.replace("MII", "M!I"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned(),
        key,
    ];
    for bad in &spoilt {
        assert_eq!(refused_entry(&format!("{good}{bad}{good}")), 2, "{bad}");
    }
}

#[test]
fn what_is_not_an_authority_is_no_anchor() {
    let leaf = root().issue(LeafRequest::spiffe("spiffe://td/a", NOW).unwrap()).unwrap();
    assert_eq!(refused_entry(&leaf.pem()), 1);
    let plain = Ca::root_with("plain", NOW, |params| params.is_ca = IsCa::NoCa).unwrap();
    assert_eq!(refused_entry(plain.pem()), 1);
    let mute =
        Ca::root_with("mute", NOW, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]).unwrap();
    assert_eq!(refused_entry(mute.pem()), 1);
}

#[test]
fn a_missing_file_is_named() {
    let error = CaBundle::load(&["/nonexistent/ca.pem"]).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/ca.pem: cannot be read");
}

#[test]
fn a_trust_domain_has_one_bundle() {
    let domain = TrustDomain::parse("td").unwrap();
    let mut trust = TrustStore::new();
    assert!(!trust.can_verify(&WorkloadId::parse("spiffe://td/a").unwrap()));
    trust.add_domain(domain.clone(), load(root().pem()).unwrap()).unwrap();
    assert!(trust.can_verify(&WorkloadId::parse("spiffe://td/a").unwrap()));
    assert!(!trust.can_verify(&WorkloadId::parse("spiffe://other/a").unwrap()));
    assert!(!trust.can_verify(&WorkloadId::parse("dns:a.example").unwrap()));
    let again = trust.add_domain(domain, load(root().pem()).unwrap());
    assert!(matches!(again, Err(ConfigError::TrustDomainTwice(_))));
}
