use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyholder_domain::{Clock, SystemClock, Timestamp};
use serde_json::Value;

use super::chance::challenge;
use super::*;
use crate::browser::{Browser, BrowserError, Page};

mod authorize;
mod clients;
mod device;
mod faults;
mod limit;
mod many;
mod others;
mod refreshes;
mod reuse;
mod shapes;

const CALLBACK: &str = "http://127.0.0.1:9/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A clock that a test moves.
#[derive(Debug, Clone)]
struct Hand(Arc<Mutex<Timestamp>>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl Hand {
    fn forward(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

/// A provider with one client, whose people allow everything.
fn provider() -> (Provider, Hand) {
    let hand = Hand(Arc::new(Mutex::new(SystemClock.now())));
    let provider = Provider::start(Arc::new(hand.clone())).unwrap();
    provider.register(Client::confidential("me", "hush", CALLBACK));
    provider.behave(|manners| manners.consent = Consent::Allow);
    (provider, hand)
}

fn authorize_url(provider: &Provider, more: &str) -> String {
    let challenge = challenge(VERIFIER);
    provider.url(&format!(
        "/authorize?client_id=me&response_type=code&redirect_uri={CALLBACK}&scope=mail.read+mail.send&state=s1\
         &code_challenge={challenge}&code_challenge_method=S256{more}"
    ))
}

async fn callback(provider: &Provider, more: &str) -> Page {
    Browser::new().get_until(&authorize_url(provider, more), CALLBACK).await.unwrap()
}

async fn post(provider: &Provider, path: &str, form: &[(&str, &str)]) -> Result<(u16, Value), BrowserError> {
    let page = Browser::new().post(&provider.url(path), form).await?;
    Ok((page.status.unwrap().as_u16(), serde_json::from_str(&page.body).unwrap_or_default()))
}

/// A call of the token endpoint as the client.
async fn token(provider: &Provider, form: &[(&str, &str)]) -> (u16, Value) {
    try_token(provider, form).await.unwrap()
}

async fn try_token(provider: &Provider, form: &[(&str, &str)]) -> Result<(u16, Value), BrowserError> {
    let client = [("client_id", "me"), ("client_secret", "hush")];
    post(provider, "/token", &[form, &client].concat()).await
}

fn code_form(code: &str) -> [(&str, &str); 4] {
    [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ]
}

/// The first tokens of a new grant.
async fn connect(provider: &Provider) -> Value {
    let code = callback(provider, "").await.parameter("code").unwrap();
    let (status, tokens) = token(provider, &code_form(&code)).await;
    assert_eq!(status, 200, "{tokens}");
    tokens
}

async fn refresh(provider: &Provider, token_text: &str) -> (u16, Value) {
    token(provider, &[("grant_type", "refresh_token"), ("refresh_token", token_text)]).await
}

fn text<'a>(tokens: &'a Value, name: &str) -> &'a str {
    tokens[name].as_str().unwrap_or_else(|| panic!("no {name} in {tokens}"))
}

#[test]
fn listens_on_loopback_only() {
    let error = Provider::start_at(([0, 0, 0, 0], 0).into(), Arc::new(SystemClock)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[tokio::test]
async fn is_gone_when_dropped_even_while_a_call_hangs() {
    let (provider, _) = provider();
    provider.spoil(1, Stage::Before, Effect::Hang);
    let url = provider.url("/token");
    let call = tokio::spawn(async move { Browser::new().post(&url, &[]).await });
    while provider.history().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let address = provider.address();
    drop(provider);
    assert!(matches!(call.await.unwrap(), Err(BrowserError::Server(_))));
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn remembers_what_was_presented_and_given() {
    let (provider, _) = provider();
    let tokens = connect(&provider).await;
    refresh(&provider, text(&tokens, "refresh_token")).await;
    let calls = provider.history();
    let seen: Vec<_> =
        calls.iter().map(|call| (call.number, call.endpoint, call.presented.as_deref())).collect();
    assert_eq!(
        seen,
        [
            (1, Endpoint::Authorize, None),
            (2, Endpoint::Token, Some("code-1")),
            (3, Endpoint::Token, Some("rt-2")),
        ]
    );
    assert_eq!(calls[2].outcome, Outcome::Issued { access: "at-5".into(), refresh: Some("rt-4".into()) });
    assert!(calls.iter().all(|call| call.answered.is_some()));
    assert!(calls[2].is_refresh() && calls[2].parameter("client_id") == Some("me"));
    assert_eq!(provider.text_of("rt-2").as_deref(), Some(text(&tokens, "refresh_token")));
    assert_eq!(provider.secrets().len(), 5);
    let counts = provider.counts();
    assert_eq!((counts.token_calls, counts.grants, counts.refreshes, counts.replays), (2, 1, 1, 0));
    assert_eq!(counts.most_refreshes_at_once, 1);
}
