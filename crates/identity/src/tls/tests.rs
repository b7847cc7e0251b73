use keyholder_domain::{SystemClock, TrustDomain};
use keyholder_testkit::pki::{Authority, LeafRequest};
use tempfile::TempDir;
use time::macros::datetime;

use super::*;
use crate::{CaBundle, WorkloadEntry};

const NOW: Timestamp = datetime!(2026-11-22 12:00 UTC);

/// A directory with the files of two servers, `a` and `b`.
fn files() -> TempDir {
    let dir = TempDir::new().unwrap();
    let ca = Authority::root("ca", NOW).unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
    for name in ["a", "b"] {
        let issued = ca.issue(LeafRequest::dns("localhost", NOW).unwrap()).unwrap();
        std::fs::write(dir.path().join(format!("{name}.pem")), issued.pem()).unwrap();
        std::fs::write(dir.path().join(format!("{name}-key.pem")), issued.key_pem()).unwrap();
    }
    dir
}

fn load(dir: &TempDir, certificate: &str, key: &str) -> Result<ServerCertificate, ConfigError> {
    ServerCertificate::load(&dir.path().join(certificate), &dir.path().join(key))
}

#[test]
fn reads_a_certificate_and_its_key() {
    let loaded = load(&files(), "a.pem", "a-key.pem").unwrap();
    assert_eq!(loaded.not_after(), NOW + time::Duration::hours(1));
}

#[test]
fn the_key_of_another_certificate_is_refused() {
    let refused = load(&files(), "a.pem", "b-key.pem");
    assert!(matches!(refused, Err(ConfigError::ServerKey { .. })), "{refused:?}");
}

#[test]
fn a_key_file_holds_exactly_one_key() {
    let dir = files();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let (key, certificate) = (read("a-key.pem"), read("a.pem"));
    for text in [String::new(), certificate, format!("{key}{key}"), key.replace("MI", "M!")] {
        std::fs::write(dir.path().join("bad.pem"), &text).unwrap();
        let refused = load(&dir, "a.pem", "bad.pem");
        assert!(matches!(refused, Err(ConfigError::PrivateKey { .. })), "{refused:?}");
    }
}

#[test]
fn neither_debug_nor_an_error_shows_the_key() {
    let dir = files();
    let key = std::fs::read_to_string(dir.path().join("a-key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let loaded = load(&dir, "a.pem", "a-key.pem").unwrap();
    assert!(!format!("{loaded:?}").contains(secret));
    std::fs::write(dir.path().join("bad.pem"), format!("{key}{key}")).unwrap();
    let error = load(&dir, "a.pem", "bad.pem").unwrap_err();
    assert!(!format!("{error:?} {error}").contains(secret));
}

fn config(trust: TrustStore, policy: &Policy) -> Result<Arc<ServerConfig>, ConfigError> {
    server_config(load(&files(), "a.pem", "a-key.pem").unwrap(), trust, policy, Arc::new(SystemClock))
}

fn trust() -> TrustStore {
    let mut trust = TrustStore::new();
    let bundle = CaBundle::load(&[files().path().join("ca.pem")]).unwrap();
    trust.add_domain(TrustDomain::parse("td").unwrap(), bundle).unwrap();
    trust
}

#[test]
fn m35_m37_m38_offers_tls_1_3_and_http_2_and_nothing_to_resume() {
    let config = config(trust(), &Policy::default()).unwrap();
    assert_eq!(config.alpn_protocols, [b"h2"]);
    assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
    assert!(!config.session_storage.can_cache());
    assert!(!config.ticketer.enabled());
}

#[test]
fn trusting_nobody_is_an_error() {
    let refused = config(TrustStore::new(), &Policy::default());
    assert!(matches!(refused, Err(ConfigError::NothingTrusted)));
}

#[test]
fn a_workload_by_dns_name_needs_a_bundle_for_dns_names() {
    let entry = WorkloadEntry {
        id: "dns:a.example".into(),
        roles: vec!["auditor".into()],
        organizations: vec!["*".into()],
        providers: None,
        actors: Vec::new(),
    };
    let policy = Policy::try_from(vec![entry]).unwrap();
    let error = config(trust(), &policy).unwrap_err();
    assert_eq!(
        error.to_string(),
        "workload dns:a.example is listed, but no bundle for DNS names is configured"
    );
}
