//! From when until when: M10, M40.

use keyholder_domain::Clock as _;
use keyholder_testkit::pki::Authority;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use time::Duration;

use crate::support::{NOW, Server, Setup, root, svid};

const SECOND: Duration = Duration::SECOND;

#[tokio::test]
async fn m10_a_certificate_is_good_for_exactly_its_own_seconds() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let (from, to) = (NOW, NOW + Duration::minutes(10));
    let shown = ca.issue(svid("spiffe://td/a").valid(from, to)).unwrap();
    for good in [from, from + SECOND, to - SECOND, to] {
        server.clock.set(good);
        server.accept(&shown).await;
    }
    for early in [from - SECOND, from - Duration::minutes(1)] {
        server.clock.set(early);
        assert_eq!(server.refuse(&shown).await, "certificate_not_yet_valid");
    }
    for late in [to + SECOND, to + Duration::minutes(1)] {
        server.clock.set(late);
        assert_eq!(server.refuse(&shown).await, "certificate_expired");
    }
}

#[tokio::test]
async fn m10_issuers_and_anchors_must_be_within_their_time_as_well() {
    let end = NOW + Duration::minutes(10);
    let ca = root("ca");
    let intermediate = ca.intermediate_with("short", NOW, |params| params.not_after = end).unwrap();
    let short = Authority::root_with("short", NOW, |params| params.not_after = end).unwrap();
    let future = Authority::root_with("future", NOW, |params| params.not_before = end).unwrap();
    let mut server =
        Server::start(Setup { domains: vec![("td", &[&ca, &short, &future])], ..Setup::default() }).await;
    let [below, direct, early] =
        [&intermediate, &short, &future].map(|ca| ca.issue(svid("spiffe://td/a")).unwrap());
    server.clock.set(end);
    for shown in [&below, &direct, &early] {
        server.accept(shown).await;
    }
    server.clock.set(end + SECOND);
    for shown in [&below, &direct] {
        assert_eq!(server.refuse(shown).await, "certificate_expired");
    }
    server.clock.set(end - SECOND);
    assert_eq!(server.refuse(&early).await, "certificate_not_yet_valid");
}

#[tokio::test]
async fn m10_an_authority_that_renewed_its_certificate_and_kept_its_key_stays_trusted() {
    let end = NOW + Duration::minutes(10);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let renewed = params.self_signed(&key).unwrap().pem();
    params.not_after = end;
    let old = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let leaf = svid("spiffe://td/a").params().signed_by(&own, &issuer).unwrap().der().clone();
    let own = own.serialize_der();

    for (bundle, accepted) in
        [(format!("{old}{renewed}"), true), (format!("{renewed}{old}"), true), (old, false)]
    {
        let mut server = Server::trusting_pem(&bundle).await;
        server.clock.set(end + SECOND);
        let client = server.client_with(vec![leaf.clone()], own.clone().try_into().unwrap());
        if accepted {
            server.accept_client(client.into()).await;
        } else {
            assert_eq!(server.refuse_client(client).await, "certificate_expired");
        }
    }
}

#[tokio::test]
async fn m40_the_peer_of_an_open_connection_ends_with_its_certificate() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let end = NOW + Duration::minutes(10);
    let shown = ca.issue(svid("spiffe://td/a").valid(NOW, end)).unwrap();
    let (open, _client) = server.accept(&shown).await;
    assert_eq!(open.peer().not_after(), end);
    for (now, valid) in [(NOW, true), (end, true), (end + SECOND, false), (end + Duration::days(1), false)] {
        server.clock.set(now);
        assert_eq!(open.peer().is_valid_at(server.clock.now()), valid, "{now}");
    }
}
