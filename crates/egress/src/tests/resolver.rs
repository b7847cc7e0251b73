//! Name servers that fail, and names that are made to hurt.

use std::net::UdpSocket;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use http::Method;

use super::dns::{NameServer, Reply};
use super::server::{Root, Server};
use super::tap::Tap;
use crate::{
    AddressClass, Deadlines, Egress, EgressError, Outcome, Refusal, Request, ResolverFault, Settings, Target,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

struct Stage {
    names: NameServer,
    egress: Egress,
    tap: Tap,
    _server: Server,
}

impl Stage {
    async fn new(resolve: Duration) -> Self {
        let root = Root::new();
        let names = NameServer::start().await;
        let server = Server::answering(Some(root.server(["good.example.com"])), OK).await;
        let settings = Settings {
            nameservers: vec![names.address],
            deadlines: Deadlines { resolve, total: Duration::from_secs(60), ..Deadlines::default() },
            ..root.settings()
        };
        let tap = Tap::leading_to(server.address);
        names.say("good.example.com", Reply::records(["93.184.216.34"]));
        Self { names, egress: Egress::tapped(&settings, tap.clone()), tap, _server: server }
    }

    async fn call(&self, name: &str) -> Result<u16, EgressError> {
        let target = Target::parse(&format!("https://{name}/"), self.egress.rules()).unwrap();
        Ok(self.egress.send(Request::new(Method::GET, target)).await?.status.as_u16())
    }
}

const PATIENT: Duration = Duration::from_secs(10);
const HASTY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_name_server_that_fails_is_a_fault_of_its_own() {
    let stage = Stage::new(PATIENT).await;
    for (number, code) in
        [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp].iter().enumerate()
    {
        let name = format!("bad{number}.example.com");
        stage.names.say(&name, Reply::Code(*code));
        let error = stage.call(&name).await.unwrap_err();
        assert_eq!(error, EgressError::Resolver(ResolverFault::Failed), "{code}");
        assert!(error.is_retryable() && !error.may_have_been_sent());
        let verdict = stage.egress.judge(&format!("https://{name}/")).await;
        assert_eq!(verdict.outcome, Outcome::Unknown(ResolverFault::Failed));
    }
    assert_eq!(stage.tap.dialled(), []);
}

#[tokio::test]
async fn a_name_without_an_address_is_refused_and_may_be_tried_again() {
    let stage = Stage::new(PATIENT).await;
    stage.names.say("gone.example.com", Reply::Code(ResponseCode::NXDomain));
    stage.names.say("empty.example.com", Reply::Records(vec![Vec::new()]));
    stage.names.say("dangling.example.com", Reply::records(["CNAME gone.example.com"]));
    for name in ["gone.example.com", "empty.example.com", "dangling.example.com"] {
        let error = stage.call(name).await.unwrap_err();
        assert_eq!(error, EgressError::Refused(Refusal::NoAddress), "{name}");
        assert!(error.is_retryable());
    }
    stage.names.say("gone.example.com", Reply::records(["93.184.216.34"]));
    let verdict = stage.egress.judge("https://gone.example.com/").await;
    assert_eq!(verdict.outcome, Outcome::Allowed, "it has one now");
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let stage = Stage::new(PATIENT).await;
    let half = Reply::HalfOf("93.184.216.34".to_owned(), ResponseCode::ServFail);
    stage.names.say("good.example.com", half);
    assert_eq!(stage.call("good.example.com").await, Err(EgressError::Resolver(ResolverFault::Failed)));
    let only_ipv4 = Reply::HalfOf("93.184.216.34".to_owned(), ResponseCode::NXDomain);
    stage.names.say("good.example.com", only_ipv4);
    assert_eq!(stage.call("good.example.com").await, Ok(200));
}

#[tokio::test]
async fn a_name_server_that_is_silent_or_gone_is_given_up_on() {
    let stage = Stage::new(HASTY).await;
    stage.names.say("silent.example.com", Reply::Silence);
    let error = stage.call("silent.example.com").await.unwrap_err();
    assert_eq!(error, EgressError::Resolver(ResolverFault::TimedOut));
    assert!(error.is_retryable());
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let deadlines = Deadlines { resolve: HASTY, ..Deadlines::default() };
    let root = Root::new();
    let settings = Settings { nameservers: vec![gone], deadlines, ..root.settings() };
    let egress = Egress::new(&settings).unwrap();
    let verdict = egress.judge("https://good.example.com/").await;
    assert!(matches!(verdict.outcome, Outcome::Unknown(_)), "{verdict:?}");
}

/// More of them than a connection to a name server carries at once, and over both transports.
#[tokio::test]
async fn names_that_hang_delay_no_other_host() {
    let stage = Stage::new(PATIENT).await;
    let mut hanging = tokio::task::JoinSet::new();
    for number in 0..100 {
        let name = format!("hang{number}.example.com");
        stage.names.say(&name, Reply::Silence);
        let egress = stage.egress.clone();
        hanging.spawn(async move { egress.judge(&format!("https://{name}/")).await });
    }
    while stage.names.asked("hang99.example.com") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.call("good.example.com").await, Ok(200));
    assert!(hanging.try_join_next().is_none(), "they still hang");
}

#[tokio::test]
async fn names_that_hung_spoil_nothing_for_later() {
    let stage = Stage::new(HASTY).await;
    let mut hanging = tokio::task::JoinSet::new();
    for number in 0..20 {
        let name = format!("hang{number}.example.com");
        stage.names.say(&name, Reply::Silence);
        let egress = stage.egress.clone();
        hanging.spawn(async move { egress.judge(&format!("https://{name}/")).await.outcome });
    }
    while let Some(outcome) = hanging.join_next().await {
        assert_eq!(outcome.unwrap(), Outcome::Unknown(ResolverFault::TimedOut));
    }
    assert_eq!(stage.call("good.example.com").await, Ok(200));
}

#[tokio::test]
async fn a_thousand_addresses_are_too_many() {
    let stage = Stage::new(PATIENT).await;
    let addresses = |count: u32| {
        let first = u32::from(std::net::Ipv4Addr::new(93, 184, 0, 0));
        (0..count).map(|at| std::net::Ipv4Addr::from(first + at).to_string()).collect()
    };
    stage.names.say("many.example.com", Reply::Records(vec![addresses(1000)]));
    assert_eq!(stage.call("many.example.com").await, Err(Refusal::TooManyAddresses.into()));
    assert!(stage.names.over_tcp() > 0, "such an answer comes over TCP");
    stage.names.say("many.example.com", Reply::Records(vec![addresses(65)]));
    assert_eq!(stage.call("many.example.com").await, Err(Refusal::TooManyAddresses.into()));
    stage.names.say("good.example.com", Reply::Records(vec![addresses(64)]));
    assert_eq!(stage.call("good.example.com").await, Ok(200));
}

#[tokio::test]
async fn aliases_are_judged_and_counted() {
    let stage = Stage::new(PATIENT).await;
    for (alias, expected) in [
        ("metadata.google.internal", Refusal::LocalName),
        ("localhost", Refusal::LocalName),
        ("a.LOCALHOST", Refusal::LocalName),
        ("db.svc", Refusal::LocalName),
        ("router", Refusal::SingleLabel),
    ] {
        stage.names.say(&alias.to_lowercase(), Reply::records(["93.184.216.34"]));
        stage.names.say("middle.example.org", Reply::AliasAlone(alias.to_owned()));
        for reply in [
            Reply::records([&format!("CNAME {alias}")]),
            Reply::AliasAlone(alias.to_owned()),
            Reply::AliasAlone("middle.example.org".to_owned()),
        ] {
            stage.names.say("alias.example.com", reply);
            assert_eq!(stage.call("alias.example.com").await, Err(expected.into()), "{alias}");
        }
    }
    stage.names.say("good.example.com", Reply::records(["CNAME _edge.example.org"]));
    stage.names.say("_edge.example.org", Reply::records(["93.184.216.34"]));
    assert_eq!(stage.call("good.example.com").await, Ok(200), "an alias need not be a host's name");
    stage.names.say("loop.example.com", Reply::records(["CNAME loop.example.com"]));
    assert!(stage.call("loop.example.com").await.is_err());
    assert!(stage.tap.dialled().iter().all(|address| address.ip().to_string() == "93.184.216.34"));
}

#[tokio::test]
async fn the_owner_of_an_address_is_judged_like_an_alias() {
    let stage = Stage::new(PATIENT).await;
    for (owner, address, expected) in [
        ("secret.internal", "93.184.216.34", Refusal::LocalName),
        ("other.example.org", "10.0.0.1", Refusal::Private),
    ] {
        let reply = Reply::Foreign { owner: owner.to_owned(), address: address.to_owned() };
        stage.names.say("strange.example.com", reply);
        assert_eq!(stage.call("strange.example.com").await, Err(expected.into()), "{owner}");
    }
    assert_eq!(stage.tap.dialled(), []);
}

#[tokio::test]
async fn an_answer_without_a_lifetime_is_asked_for_every_time() {
    let stage = Stage::new(PATIENT).await;
    for turn in 1..=3 {
        assert_eq!(stage.call("good.example.com").await, Ok(200));
        assert_eq!(stage.names.asked("good.example.com"), turn);
    }
}

#[tokio::test]
async fn an_answer_with_a_lifetime_is_kept_and_judged_again() {
    let stage = Stage::new(PATIENT).await;
    stage.names.set_ttl(60);
    for _ in 0..3 {
        assert_eq!(stage.call("good.example.com").await, Ok(200));
        assert_eq!(stage.names.asked("good.example.com"), 1);
    }
    stage.names.say("bad.example.com", Reply::records(["10.0.0.1"]));
    stage.names.say("gone.example.com", Reply::Code(ResponseCode::NXDomain));
    for _ in 0..3 {
        assert_eq!(stage.call("bad.example.com").await, Err(Refusal::Private.into()));
        assert_eq!(stage.call("gone.example.com").await, Err(Refusal::NoAddress.into()));
    }
    assert_eq!((stage.names.asked("bad.example.com"), stage.names.asked("gone.example.com")), (1, 1));
}

#[tokio::test]
async fn an_alias_is_judged_although_what_it_leads_to_is_known_already() {
    let stage = Stage::new(PATIENT).await;
    stage.names.set_ttl(60);
    assert_eq!(stage.call("good.example.com").await, Ok(200));
    stage.names.say("first.example.com", Reply::AliasAlone("secret.internal".to_owned()));
    stage.names.say("second.example.com", Reply::AliasAlone("secret.internal".to_owned()));
    stage.names.say("secret.internal", Reply::AliasAlone("good.example.com".to_owned()));
    for name in ["first.example.com", "second.example.com", "first.example.com"] {
        assert_eq!(stage.call(name).await, Err(Refusal::LocalName.into()), "{name}");
    }
}

#[tokio::test]
async fn a_verdict_shows_every_address_and_what_it_is_for() {
    let stage = Stage::new(PATIENT).await;
    stage.names.say("mixed.example.com", Reply::records(["93.184.216.34", "10.0.0.1", "fe80::1"]));
    let verdict = stage.egress.judge("https://mixed.example.com/").await;
    let mut classes: Vec<_> = verdict.addresses.iter().map(|(_, class)| *class).collect();
    classes.sort_by_key(|class| class.label());
    assert_eq!(classes, [AddressClass::Global, AddressClass::LinkLocal, AddressClass::Private]);
    assert!(matches!(verdict.outcome, Outcome::Refused(Refusal::Private | Refusal::LinkLocal)));
    assert_eq!(stage.tap.dialled(), []);
}

#[tokio::test]
async fn no_search_domain_is_ever_tried() {
    let stage = Stage::new(PATIENT).await;
    stage.names.say("a.example", Reply::Code(ResponseCode::NXDomain));
    stage.names.say_otherwise(Reply::records(["93.184.216.34"]));
    assert_eq!(stage.call("a.example").await, Err(Refusal::NoAddress.into()));
}
