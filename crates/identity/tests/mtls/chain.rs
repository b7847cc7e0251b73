//! From the leaf to an authority: M3, M11 to M13, M30, M31.

use keyholder_testkit::pki::{Authority, Issued};
use rcgen::{
    BasicConstraints, CertificateParams, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls_pki_types::CertificateDer;

use crate::der;
use crate::support::{NOW, Server, root, svid};

const ID: &str = "spiffe://td/gateway";

fn leaf(ca: &Authority) -> Issued {
    ca.issue(svid(ID)).unwrap()
}

/// A chain below a root, whose intermediate is changed before it is signed.
fn below(ca: &Authority, edit: impl FnOnce(&mut CertificateParams)) -> Issued {
    leaf(&ca.intermediate_with("intermediate", NOW, edit).unwrap())
}

/// The same leaf with another chain behind it.
async fn refuse_chain(server: &mut Server, shown: &Issued, rest: &[CertificateDer<'static>]) -> String {
    let client = server.client_with(chain(shown, rest), shown.key());
    server.refuse_client(client).await
}

async fn accept_chain(server: &mut Server, shown: &Issued, rest: &[CertificateDer<'static>]) {
    let client = server.client_with(chain(shown, rest), shown.key());
    server.accept_client(client.into()).await;
}

fn chain(shown: &Issued, rest: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    [&[shown.leaf().clone()], rest].concat()
}

#[tokio::test]
async fn m3_a_leaf_with_the_intermediates_it_needs_is_accepted() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let first = ca.intermediate("first", NOW).unwrap();
    let second = first.intermediate("second", NOW).unwrap();
    server.accept(&leaf(&first)).await;
    server.accept(&leaf(&second)).await;
}

#[tokio::test]
async fn m11_refuses_strangers_who_look_right() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    assert_eq!(server.refuse(&leaf(&root("other"))).await, "issuer_unknown");
    assert_eq!(server.refuse(&leaf(&root("ca"))).await, "signature_wrong");
    let self_signed = Authority::root_with("self", NOW, |params| {
        *params = CertificateParams::default();
        params.not_before = NOW;
        params.not_after = NOW + time::Duration::hours(1);
        params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    })
    .unwrap();
    let key = rcgen::KeyPair::from_pem(&self_signed.key_pem()).unwrap().serialize_der();
    let client = server.client_with(vec![self_signed.certificate().clone()], key.try_into().unwrap());
    assert_eq!(server.refuse_client(client).await, "issuer_unknown");
}

#[tokio::test]
async fn m12_a_missing_intermediate_is_refused() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let first = ca.intermediate("first", NOW).unwrap();
    let second = first.intermediate("second", NOW).unwrap();
    let shown = leaf(&second);
    assert_eq!(refuse_chain(&mut server, &shown, &[]).await, "issuer_unknown");
    assert_eq!(refuse_chain(&mut server, &shown, &[second.certificate().clone()]).await, "issuer_unknown");
}

#[tokio::test]
async fn m12_order_and_certificates_that_do_not_belong_are_ignored() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let first = ca.intermediate("first", NOW).unwrap();
    let second = first.intermediate("second", NOW).unwrap();
    let shown = leaf(&second);
    let stranger = root("stranger");
    let unrelated = leaf(&stranger);
    let [first, second] = [&first, &second].map(|authority| authority.certificate().clone());
    accept_chain(&mut server, &shown, &[first.clone(), second.clone()]).await;
    let extras =
        [stranger.certificate().clone(), first, unrelated.leaf().clone(), second, ca.certificate().clone()];
    accept_chain(&mut server, &shown, &extras).await;
}

#[tokio::test]
async fn m12_a_chain_of_20_is_refused() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let mut last = ca.intermediate("0", NOW).unwrap();
    for name in 1..19 {
        last = last.intermediate(&name.to_string(), NOW).unwrap();
    }
    let shown = leaf(&last);
    assert_eq!(shown.chain().len(), 20);
    assert_eq!(server.refuse(&shown).await, "chain_too_long");
}

#[tokio::test]
async fn m12_a_loop_of_cross_signatures_ends() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let (one, two) = (root("one"), root("two"));
    let one_by_two = one.cross_signed_by(&two, "one", NOW).unwrap();
    let two_by_one = two.cross_signed_by(&one, "two", NOW).unwrap();
    let shown = leaf(&one);
    let looped = [one_by_two, two_by_one];
    assert_eq!(refuse_chain(&mut server, &shown, &looped).await, "issuer_unknown");
    let one_by_ca = one.cross_signed_by(&ca, "one", NOW).unwrap();
    let with_way_out = [&looped[..], &[one_by_ca]].concat();
    accept_chain(&mut server, &shown, &with_way_out).await;
}

#[tokio::test]
async fn m12_the_most_paths_that_fit_into_a_chain_are_searched_to_the_end() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let signer = root("same");
    let namesakes: Vec<_> =
        (0..5).map(|_| root("same").cross_signed_by(&signer, "same", NOW).unwrap()).collect();
    assert_eq!(refuse_chain(&mut server, &leaf(&signer), &namesakes).await, "issuer_unknown");
}

#[tokio::test]
async fn m13_refuses_an_issuer_that_may_not_sign_certificates() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let spoiled = [
        below(&ca, |params| params.is_ca = IsCa::NoCa),
        below(&ca, |params| params.is_ca = IsCa::ExplicitNoCa),
        below(&ca, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
        below(&ca, |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        below(&ca, |params| params.key_usages.clear()),
    ];
    for shown in &spoiled {
        assert_eq!(server.refuse(shown).await, "issuer_not_authority");
    }
}

#[tokio::test]
async fn m13_refuses_a_leaf_that_a_leaf_has_signed() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let shown = below(&ca, |params| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![SanType::URI("spiffe://td/other".try_into().unwrap())];
    });
    assert_eq!(server.refuse(&shown).await, "issuer_not_authority");
}

fn path_length(length: u8) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length))
}

#[tokio::test]
async fn m13_path_lengths_hold_for_intermediates_and_for_the_anchor() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let last = ca.intermediate_with("last", NOW, path_length(0)).unwrap();
    server.accept(&leaf(&last)).await;
    assert_eq!(server.refuse(&leaf(&last.intermediate("more", NOW).unwrap())).await, "path_length");

    let strict = Authority::root_with("strict", NOW, path_length(1)).unwrap();
    let mut server = Server::trusting(&strict).await;
    let one = strict.intermediate("one", NOW).unwrap();
    server.accept(&leaf(&strict)).await;
    server.accept(&leaf(&one)).await;
    assert_eq!(server.refuse(&leaf(&one.intermediate("two", NOW).unwrap())).await, "path_length");
}

#[tokio::test]
async fn m30_uri_name_constraints_are_not_supported_and_refused() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    for (which, host) in [(0, "td"), (1, "elsewhere"), (0, "elsewhere"), (1, "td")] {
        let shown = below(&ca, |params| params.custom_extensions = vec![der::uri_constraint(which, host)]);
        assert_eq!(server.refuse(&shown).await, "name_constraint", "{which} {host}");
    }
}

#[tokio::test]
async fn m31_name_constraints_of_other_kinds_are_honoured() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let constrained = ca
        .intermediate_with("constrained", NOW, |params| {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("good.example".into())],
                excluded_subtrees: Vec::new(),
            });
        })
        .unwrap();
    let named = |name: &str| {
        let name = SanType::DnsName(name.try_into().unwrap());
        constrained.issue(svid(ID).with(|params| params.subject_alt_names.push(name))).unwrap()
    };
    server.accept(&named("a.good.example")).await;
    assert_eq!(server.refuse(&named("bad.example")).await, "name_constraint");
}
