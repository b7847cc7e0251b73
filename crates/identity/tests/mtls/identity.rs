//! Who a certificate says that its holder is: M1, M2, M14 to M26.

use keyholder_testkit::pki::LeafRequest;
use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use crate::der::{self, DNS, URI};
use crate::support::{NOW, Server, Setup, root, svid};

const ID: &str = "spiffe://td/ns/prod/gateway";

/// A leaf whose names are raw bytes.
fn raw(names: &[(u8, &[u8])]) -> LeafRequest {
    LeafRequest::new(Vec::new(), NOW).with(|params| params.custom_extensions = vec![der::names(names)])
}

fn uri(uri: impl AsRef<[u8]>) -> LeafRequest {
    raw(&[(URI, uri.as_ref())])
}

#[tokio::test]
async fn m1_a_good_leaf_is_known_by_its_exact_id() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let shown = ca.issue(svid(ID)).unwrap();
    let (accepted, client) = server.accept(&shown).await;
    let peer = accepted.peer();
    assert_eq!(peer.workload().to_string(), ID);
    assert_eq!(peer.address(), client.get_ref().0.local_addr().unwrap());
    assert_eq!(peer.fingerprint().to_string().len(), 64);
    assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn m2_other_kinds_of_names_are_no_identity() {
    let ca = root("ca");
    let mut server = Server::start(Setup {
        domains: vec![("td", &[&ca])],
        dns: Some(&ca),
        policy: "[[workload]]\nid = 'dns:gateway.example'\nroles = ['auditor']\norganizations = ['*']",
        ..Setup::default()
    })
    .await;
    let request = svid(ID).with(|params| {
        params.subject_alt_names.push(SanType::DnsName("gateway.example".try_into().unwrap()));
        params.subject_alt_names.insert(0, SanType::DnsName("other.example".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("a@b.example".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
    });
    let (accepted, _client) = server.accept(&ca.issue(request).unwrap()).await;
    assert_eq!(accepted.peer().workload().to_string(), ID);
}

#[tokio::test]
async fn m7_m8_the_longest_id_and_every_legal_character_are_accepted() {
    let ca = root("ca");
    let domain = "d".repeat(255);
    let mut server =
        Server::start(Setup { domains: vec![("td", &[&ca]), (&domain, &[&ca])], ..Setup::default() }).await;
    let longest = format!("spiffe://{domain}/{}", "p".repeat(2048 - 9 - 255 - 1));
    for id in [&longest, "spiffe://td/A", "spiffe://td/...", "spiffe://td/.x", "spiffe://td/_-"] {
        let (accepted, _client) = server.accept(&ca.issue(svid(id)).unwrap()).await;
        assert_eq!(accepted.peer().workload().to_string(), id);
    }
}

#[tokio::test]
async fn m14_refuses_an_authority_as_leaf() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let ca_leaf = svid(ID).with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(server.refuse(&ca.issue(ca_leaf).unwrap()).await, "authority_as_leaf");
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let leaf = svid(ID).with(|params| params.key_usages.push(usage));
        assert_eq!(server.refuse(&ca.issue(leaf).unwrap()).await, "authority_as_leaf");
    }
    let named_ca = ca
        .intermediate_with("named", NOW, |params| {
            params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        })
        .unwrap();
    let key = rcgen::KeyPair::from_pem(&named_ca.key_pem()).unwrap().serialize_der();
    let client = server.client_with(vec![named_ca.certificate().clone()], key.try_into().unwrap());
    assert_eq!(server.refuse_client(client).await, "authority_as_leaf");
}

#[tokio::test]
async fn m15_refuses_a_leaf_whose_key_usage_is_missing_or_wrong() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let none = svid(ID).with(|params| params.key_usages.clear());
    let other = svid(ID).with(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    let uncritical = svid(ID).with(|params| {
        params.key_usages.clear();
        params.custom_extensions = vec![der::uncritical_key_usage()];
    });
    for (leaf, reason) in
        [(none, "key_usage_missing"), (other, "digital_signature_missing"), (uncritical, "key_usage_missing")]
    {
        assert_eq!(server.refuse(&ca.issue(leaf).unwrap()).await, reason);
    }
}

#[tokio::test]
async fn m16_the_extended_key_usage_must_have_client_auth_or_be_absent() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let with = |purposes: &[ExtendedKeyUsagePurpose]| {
        let leaf = svid(ID).with(|params| params.extended_key_usages = purposes.to_vec());
        ca.issue(leaf).unwrap()
    };
    for purposes in [vec![ServerAuth], vec![Any], vec![Any, ServerAuth]] {
        assert_eq!(server.refuse(&with(&purposes)).await, "client_auth_missing", "{purposes:?}");
    }
    for purposes in [vec![], vec![ClientAuth], vec![Any, ClientAuth]] {
        server.accept(&with(&purposes)).await;
    }
}

#[tokio::test]
async fn m17_refuses_a_leaf_without_a_uri_and_never_reads_the_common_name() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let common_name = LeafRequest::new(Vec::new(), NOW)
        .with(|params| params.distinguished_name.push(DnType::CommonName, ID));
    assert_eq!(server.refuse(&ca.issue(common_name).unwrap()).await, "no_identity");
    let dns = LeafRequest::dns("gateway.example", NOW).unwrap();
    assert_eq!(server.refuse(&ca.issue(dns).unwrap()).await, "dns_name_unknown");
}

#[tokio::test]
async fn m18_refuses_more_than_one_uri() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    for second in ["spiffe://td/other", "https://td/x", ID] {
        let leaf = raw(&[(URI, ID.as_bytes()), (URI, second.as_bytes())]);
        assert_eq!(server.refuse(&ca.issue(leaf).unwrap()).await, "several_uris", "{second}");
    }
    let twice = LeafRequest::new(Vec::new(), NOW).with(|params| {
        params.custom_extensions =
            vec![der::names(&[(URI, ID.as_bytes())]), der::names(&[(URI, ID.as_bytes())])];
    });
    assert_eq!(server.refuse(&ca.issue(twice).unwrap()).await, "certificate_malformed");
}

/// Every id is refused, and no part of it reaches the log.
async fn refuses_ids(ids: &[&[u8]], reason: &str) {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    for id in ids {
        let shown = String::from_utf8_lossy(id);
        let client = server.client(&ca.issue(uri(id)).unwrap());
        assert_eq!(server.refuse_client(client).await, reason, "{shown:?}");
        let log = server.log();
        assert!(!["://", "forged", "\u{1b}"].iter().any(|part| log.contains(part)), "{shown:?}: {log}");
    }
}

#[tokio::test]
async fn m19_to_m23_refuse_what_is_not_exactly_a_spiffe_id() {
    let ids: &[&[u8]] = &[
        b"https://td/x",
        b"SPIFFE://td/x",
        b"spiffe:td/x",
        b"spiffe:///x",
        b"spiffe://",
        b"",
        b"spiffe://td",
        b"spiffe://td/",
        b"spiffe://td/a//b",
        b"spiffe://td/a/./b",
        b"spiffe://td/a/../b",
        b"spiffe://td/a/",
        b"spiffe://td//a",
        b"spiffe://td/%2e%2e",
        b"spiffe://td/%61dmin",
        b"spiffe://td/a%2Fb",
        b"spiffe://td/%00",
        b"spiffe://t%64/a",
        b"spiffe://td/a?x=1",
        b"spiffe://td/a#f",
        b"spiffe://user@td/a",
        b"spiffe://td:443/a",
        b"spiffe://[::1]/a",
    ];
    refuses_ids(ids, "spiffe_id_invalid").await;
}

#[tokio::test]
async fn m24_trust_domains_are_compared_exactly() {
    refuses_ids(&[b"spiffe://TD/a", b"spiffe://tD/a"], "spiffe_id_invalid").await;
    refuses_ids(&[b"spiffe://td./a", b"spiffe://.td/a", b"spiffe://t..d/a"], "trust_domain_unknown").await;
    refuses_ids(&["spiffe://t\u{e4}/a".as_bytes()], "spiffe_id_invalid").await;
}

#[tokio::test]
async fn m25_refuses_every_other_character_and_keeps_it_out_of_the_log() {
    let ids: &[&[u8]] = &[
        b"spiffe://td/\0",
        b"spiffe://td/a\0b",
        b"spiffe://td/a\r\n{\"reason\":\"forged\"}",
        b"spiffe://td/ ",
        b"spiffe://td/\t",
        b"spiffe://td/\x1b[31m",
        b"spiffe://td/\x7f",
        b"spiffe://td/*",
        "spiffe://td/\u{e9}".as_bytes(),
        "spiffe://td/\u{202e}".as_bytes(),
    ];
    refuses_ids(ids, "spiffe_id_invalid").await;
    refuses_ids(&[b"spiffe://td/\xff"], "name_malformed").await;
}

#[tokio::test]
async fn m26_refuses_ids_and_name_lists_that_are_too_long() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let long = format!("spiffe://td/{}", "p".repeat(2048 - 11));
    assert_eq!(long.len(), 2049);
    assert_eq!(server.refuse(&ca.issue(uri(&long)).unwrap()).await, "spiffe_id_invalid");
    let many = |count: usize, name: &'static [u8]| {
        let mut names = vec![(URI, ID.as_bytes())];
        names.resize(count, (DNS, name));
        ca.issue(raw(&names)).unwrap()
    };
    server.accept(&many(64, b"a.b")).await;
    assert_eq!(server.refuse(&many(65, b"a.b")).await, "too_many_names");
    assert_eq!(server.refuse(&many(5_000, b"a.b")).await, "certificate_too_large");
}

#[tokio::test]
async fn m26_a_flight_that_no_honest_client_sends_is_cut_off_by_the_tls_library() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    for count in [5_000, 10_000] {
        let names = vec![(DNS, &b"a.b.example"[..]); count];
        assert_eq!(server.refuse(&ca.issue(raw(&names)).unwrap()).await, "flight_too_large", "{count}");
    }
}

#[tokio::test]
async fn m27_a_literal_wildcard_in_a_certificate_is_refused() {
    refuses_ids(&[b"spiffe://td/ns/*", b"spiffe://*/ns", b"spiffe://td/ns/a*"], "spiffe_id_invalid").await;
}

#[tokio::test]
async fn a_client_that_is_no_client_at_all_is_named_so() {
    let mut server = Server::trusting(&root("ca")).await;
    let mut socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(server.logged_reason().await, "not_tls");
}
