//! Which authorities may name whom: M5, M6, M28, M29, and workloads known by DNS name.

use keyholder_testkit::pki::LeafRequest;
use rcgen::SanType;

use crate::support::{NOW, Server, Setup, root, svid};

#[tokio::test]
async fn m28_each_trust_domain_names_its_own_workloads() {
    let (ours, theirs) = (root("ours"), root("theirs"));
    let mut server = Server::start(Setup {
        domains: vec![("ours", &[&ours]), ("theirs", &[&theirs])],
        ..Setup::default()
    })
    .await;
    for (ca, id) in [(&ours, "spiffe://ours/gateway"), (&theirs, "spiffe://theirs/gateway")] {
        let (accepted, _client) = server.accept(&ca.issue(svid(id)).unwrap()).await;
        assert_eq!(accepted.peer().workload().to_string(), id);
    }
}

#[tokio::test]
async fn m29_a_federated_authority_cannot_name_our_workloads() {
    let (ours, theirs) = (root("ours"), root("theirs"));
    let mut server = Server::start(Setup {
        domains: vec![("ours", &[&ours]), ("theirs", &[&theirs])],
        dns: Some(&theirs),
        ..Setup::default()
    })
    .await;
    let forged = theirs.issue(svid("spiffe://ours/gateway")).unwrap();
    assert_eq!(server.refuse(&forged).await, "issuer_unknown");
    let namesake = theirs.intermediate("ours", NOW).unwrap();
    let forged = namesake.issue(svid("spiffe://ours/gateway")).unwrap();
    assert_eq!(server.refuse(&forged).await, "signature_wrong");
}

#[tokio::test]
async fn a_trust_domain_without_a_bundle_is_refused() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let stranger = ca.issue(svid("spiffe://elsewhere/gateway")).unwrap();
    assert_eq!(server.refuse(&stranger).await, "trust_domain_unknown");
}

#[tokio::test]
async fn m5_old_and_new_authority_are_trusted_side_by_side_while_one_replaces_the_other() {
    let (old, new) = (root("ca"), root("ca"));
    let leaves = [&old, &new].map(|ca| ca.issue(svid("spiffe://td/a")).unwrap());
    let mut server = Server::start(Setup { domains: vec![("td", &[&old, &new])], ..Setup::default() }).await;
    for leaf in &leaves {
        server.accept(leaf).await;
    }
    let mut server = Server::trusting(&new).await;
    server.accept(&leaves[1]).await;
    assert_eq!(server.refuse(&leaves[0]).await, "signature_wrong");
}

#[tokio::test]
async fn m6_a_workload_may_hold_several_certificates_at_once() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let [first, second] = [(); 2].map(|()| ca.issue(svid("spiffe://td/a")).unwrap());
    let (one, _client) = server.accept(&first).await;
    let (other, _client) = server.accept(&second).await;
    assert_eq!(one.peer().workload(), other.peer().workload());
    assert_ne!(one.peer().fingerprint(), other.peer().fingerprint());
}

const GATEWAY: &str =
    "[[workload]]\nid = 'dns:gateway.example'\nroles = ['manager']\norganizations = ['acme']";

#[tokio::test]
async fn a_listed_dns_name_is_an_identity_under_its_own_bundle_only() {
    let (domain, dns) = (root("domain"), root("dns"));
    let mut server = Server::start(Setup {
        domains: vec![("td", &[&domain])],
        dns: Some(&dns),
        policy: GATEWAY,
        ..Setup::default()
    })
    .await;
    let leaf = |name| LeafRequest::dns(name, NOW).unwrap();
    let (accepted, _client) = server.accept(&dns.issue(leaf("gateway.example")).unwrap()).await;
    assert_eq!(accepted.peer().workload().to_string(), "dns:gateway.example");
    for (ca, name, reason) in [
        (&domain, "gateway.example", "issuer_unknown"),
        (&dns, "other.example", "dns_name_unknown"),
        (&dns, "Gateway.example", "dns_name_invalid"),
        (&dns, "*.example", "dns_name_invalid"),
    ] {
        assert_eq!(server.refuse(&ca.issue(leaf(name)).unwrap()).await, reason, "{name}");
    }
    let forged = dns.issue(svid("spiffe://td/gateway")).unwrap();
    assert_eq!(server.refuse(&forged).await, "issuer_unknown");
}

#[tokio::test]
async fn several_dns_names_are_not_one_identity() {
    let ca = root("ca");
    let mut server = Server::start(Setup { dns: Some(&ca), policy: GATEWAY, ..Setup::default() }).await;
    let two = LeafRequest::dns("gateway.example", NOW).unwrap().with(|params| {
        params.subject_alt_names.push(SanType::DnsName("other.example".try_into().unwrap()));
    });
    assert_eq!(server.refuse(&ca.issue(two).unwrap()).await, "several_dns_names");
}
