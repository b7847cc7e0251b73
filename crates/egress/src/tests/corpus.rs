//! The corpus of URLs: the verdict of every entry, and that nothing was dialled that is not permitted.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::dns::{NameServer, Reply};
use super::server::{Root, Server, read_request};
use super::tap::Tap;
use crate::{AddressClass, Egress, EgressError, Outcome, Refusal, Request, Settings, Target};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    #[expect(dead_code, reason = "the corpus is for people too")]
    class: String,
    url: String,
    expect: Expectation,
    #[expect(dead_code, reason = "the corpus is for people too")]
    why: String,
    dns: Option<HashMap<String, Vec<Vec<String>>>>,
    phase: Option<Phase>,
    #[serde(default)]
    forbid_connect: Vec<IpAddr>,
    #[serde(default)]
    redirects: Vec<Redirect>,
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize, PartialEq, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum Expectation {
    Allow,
    Deny,
}

/// When the second answer is given: both come to the same here, for there is one lookup for one request.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    SecondLookup,
    UseAfterSave,
}

#[derive(Deserialize, Clone)]
struct Redirect {
    status: u16,
    location: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Config {
    allow_cidrs: Vec<String>,
    allow_ports: Vec<u16>,
    self_addrs: Vec<String>,
}

/// The world of one entry.
struct Stage {
    egress: Egress,
    tap: Tap,
    server: Server,
    names: NameServer,
}

const PUBLIC: &str = "93.184.216.34";

fn entries() -> Vec<Entry> {
    serde_json::from_str(include_str!("../../tests/data/ssrf.json")).unwrap()
}

/// The host of a URL that is allowed, as a certificate has it.
fn host(url: &str) -> String {
    let authority = url.split('/').nth(2).unwrap();
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap().to_owned(),
        None => authority.split(':').next().unwrap().to_ascii_lowercase(),
    }
}

impl Stage {
    async fn new(entry: &Entry, root: &Root, tls: &Arc<rustls::ServerConfig>) -> Self {
        let names = NameServer::start().await;
        match &entry.dns {
            None => names.say_otherwise(Reply::records([PUBLIC])),
            Some(zone) => {
                names.say_otherwise(Reply::Code(hickory_resolver::proto::op::ResponseCode::NXDomain));
                zone.iter().for_each(|(name, turns)| names.say(name, Reply::Records(turns.clone())));
            }
        }
        let server = answering_in_turn(tls.clone(), entry.redirects.clone()).await;
        let parse = |text: &String| text.parse().unwrap();
        let settings = Settings {
            nameservers: vec![names.address],
            allow_cidrs: entry.config.allow_cidrs.iter().map(parse).collect(),
            extra_ports: entry.config.allow_ports.clone(),
            self_addresses: entry
                .config
                .self_addrs
                .iter()
                .map(|text| text.parse::<IpAddr>().unwrap().into())
                .collect(),
            ..root.settings()
        };
        let tap = Tap::leading_to(server.address);
        Self { egress: Egress::tapped(&settings, tap.clone()), tap, server, names }
    }

    async fn call(&self, url: &str) -> Result<u16, EgressError> {
        let target = Target::parse(url, self.egress.rules())?;
        let response = self.egress.send(Request::new(Method::POST, target)).await?;
        Ok(response.status.as_u16())
    }
}

/// Redirects as they are listed, one for each request, and 200 from then on.
async fn answering_in_turn(tls: Arc<rustls::ServerConfig>, redirects: Vec<Redirect>) -> Server {
    let turn = Arc::new(AtomicUsize::new(0));
    Server::start(Some(tls), move |mut peer| {
        let (turn, redirects) = (turn.clone(), redirects.clone());
        async move {
            while read_request(&mut peer).await.is_some() {
                let answer = match redirects.get(turn.fetch_add(1, Ordering::SeqCst)) {
                    Some(Redirect { status, location }) => format!(
                        "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
                    ),
                    None => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
                };
                peer.write_all(answer.as_bytes()).await.unwrap();
                peer.flush().await.unwrap();
            }
        }
    })
    .await
}

fn is_permitted(entry: &Entry, address: &SocketAddr) -> bool {
    let opened = |range: &String| range.parse::<crate::Cidr>().unwrap().contains(address.ip());
    let class = AddressClass::of(address.ip());
    (class == AddressClass::Global || class.may_be_opened() && entry.config.allow_cidrs.iter().any(opened))
        && !entry.forbid_connect.contains(&address.ip())
}

#[tokio::test]
async fn every_entry_gets_its_verdict_and_opens_no_forbidden_socket() {
    let entries = entries();
    let allowed = entries.iter().filter(|entry| entry.expect == Expectation::Allow || entry.dns.is_none());
    let hosts = allowed.map(|entry| entry.url.as_str()).filter(|url| {
        Target::parse(url, &crate::Rules::default()).is_ok() || url.contains("corp.example.com")
    });
    let root = Root::new();
    let tls = root.server(hosts.map(host).chain(["rebind.example.net".to_owned()]));
    let mut count = 0;
    for entry in &entries {
        let stage = Stage::new(entry, &root, &tls).await;
        match entry.phase {
            None => check(entry, &stage).await,
            Some(phase) => check_rebinding(entry, phase, &stage).await,
        }
        for address in stage.tap.dialled() {
            assert!(is_permitted(entry, &address), "{}: {address} was dialled", entry.id);
        }
        count += 1;
    }
    assert_eq!(count, 190);
}

async fn check(entry: &Entry, stage: &Stage) {
    let outcome = stage.call(&entry.url).await;
    let dialled = stage.tap.dialled().len();
    match entry.expect {
        Expectation::Allow => {
            assert_eq!(outcome, Ok(200), "{}", entry.id);
            assert_eq!((dialled, stage.server.connections()), (1, 1), "{}", entry.id);
            assert_eq!(stage.egress.judge(&entry.url).await.outcome, Outcome::Allowed, "{}", entry.id);
        }
        Expectation::Deny if entry.redirects.is_empty() => {
            let Err(EgressError::Refused(refusal)) = outcome else { panic!("{}: {outcome:?}", entry.id) };
            assert_eq!((dialled, stage.server.connections()), (0, 0), "{}", entry.id);
            assert_eq!(
                stage.egress.judge(&entry.url).await.outcome,
                Outcome::Refused(refusal),
                "{}",
                entry.id
            );
        }
        Expectation::Deny => {
            assert_eq!(outcome, Err(Refusal::Redirect.into()), "{}", entry.id);
            assert_eq!((dialled, stage.server.connections()), (1, 1), "{}", entry.id);
        }
    }
}

/// First the check, which the first answer passes; then the use, which gets the second.
async fn check_rebinding(entry: &Entry, phase: Phase, stage: &Stage) {
    let host = host(&entry.url);
    assert_eq!(entry.expect, Expectation::Deny);
    assert_eq!(stage.egress.judge(&entry.url).await.outcome, Outcome::Allowed, "{}", entry.id);
    assert_eq!(stage.names.asked(&host), 1, "{}", entry.id);
    let outcome = stage.call(&entry.url).await;
    assert!(matches!(outcome, Err(EgressError::Refused(_))), "{}: {outcome:?}", entry.id);
    assert_eq!(stage.names.asked(&host), 2, "{}: one lookup for one call", entry.id);
    assert_eq!(stage.tap.dialled(), [], "{}", entry.id);
    match phase {
        Phase::SecondLookup | Phase::UseAfterSave => {}
    }
}

#[tokio::test]
async fn a_name_that_changes_between_check_and_connect_is_looked_up_once() {
    let root = Root::new();
    let entries = entries();
    let entry = entries.iter().find(|entry| entry.id == "rebind-d01").unwrap();
    let stage = Stage::new(entry, &root, &root.server(["rebind.example.net"])).await;
    assert_eq!(stage.call(&entry.url).await, Ok(200));
    assert_eq!(stage.names.asked("rebind.example.net"), 1);
    assert_eq!(stage.tap.dialled(), [format!("{PUBLIC}:443").parse().unwrap()]);
}
