use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;

const FORM: [(&str, &str); 1] = [("grant_type", "client_credentials")];

async fn with_basic(provider: &Provider, pair: &str, form: &[(&str, &str)]) -> u16 {
    let mut browser = Browser::new();
    browser.set_header("authorization", &format!("Basic {}", STANDARD.encode(pair)));
    browser.post(&provider.url("/token"), form).await.unwrap().status.unwrap().as_u16()
}

#[tokio::test]
async fn an_unknown_client_and_a_wrong_secret_are_refused_alike() {
    let (provider, _) = provider();
    for (id, secret) in [("you", "hush"), ("me", "wrong"), ("me", "")] {
        let form = [&FORM[..], &[("client_id", id), ("client_secret", secret)]].concat();
        let page = Browser::new().post(&provider.url("/token"), &form).await.unwrap();
        assert_eq!(page.status.unwrap(), 401);
        assert_eq!(page.body, r#"{"error":"invalid_client"}"#);
        assert!(page.header("www-authenticate").is_some());
    }
    provider.forget("me");
    assert_eq!(token(&provider, &FORM).await.0, 401);
}

#[tokio::test]
async fn two_secrets_can_be_good_at_once() {
    let (provider, _) = provider();
    provider.set_secrets("me", &["old", "new"]);
    for (secret, status) in [("old", 200), ("new", 200), ("hush", 401)] {
        assert_eq!(with_basic(&provider, &format!("me:{secret}"), &FORM).await, status, "{secret}");
    }
}

#[tokio::test]
async fn two_ways_at_once_are_refused() {
    let (provider, _) = provider();
    let both = [&FORM[..], &[("client_id", "me"), ("client_secret", "hush")]].concat();
    assert_eq!(with_basic(&provider, "me:hush", &both).await, 400);
    assert_eq!(with_basic(&provider, "me:hush", &FORM).await, 200);
    let twice = [&FORM[..], &FORM].concat();
    assert_eq!(with_basic(&provider, "me:hush", &twice).await, 400);
}

#[tokio::test]
async fn ways_that_a_client_does_not_use_are_refused() {
    let (provider, _) = provider();
    for (way, basic, body) in [
        (Authentication::Any, 200, 200),
        (Authentication::Basic, 200, 401),
        (Authentication::Body, 401, 200),
        (Authentication::Assertion, 401, 401),
    ] {
        let client = Client::confidential("me", "hush", CALLBACK);
        provider.register(Client { authentication: way, ..client });
        assert_eq!(with_basic(&provider, "me:hush", &FORM).await, basic, "{way:?}");
        assert_eq!(token(&provider, &FORM).await.0, body, "{way:?}");
    }
}

#[tokio::test]
async fn basic_is_form_encoded_or_raw_as_the_client_is_registered() {
    let (provider, _) = provider();
    let secret = "a:b%41+ü &=";
    for (way, encoded, raw) in [(Authentication::Basic, 200, 401), (Authentication::BasicRaw, 401, 200)] {
        let client = Client::confidential("me", secret, CALLBACK);
        provider.register(Client { authentication: way, ..client });
        assert_eq!(with_basic(&provider, "me:a%3Ab%2541%2B%C3%BC+%26%3D", &FORM).await, encoded, "{way:?}");
        assert_eq!(with_basic(&provider, &format!("me:{secret}"), &FORM).await, raw, "{way:?}");
    }
}

#[tokio::test]
async fn a_client_that_acts_for_itself_needs_a_secret_and_gets_no_refresh_token() {
    let (provider, _) = provider();
    let (_, tokens) = token(&provider, &[&FORM[..], &[("scope", "all")]].concat()).await;
    assert_eq!((tokens.get("refresh_token"), text(&tokens, "scope")), (None, "all"));
    provider.register(Client::public("public"));
    let form = [&FORM[..], &[("client_id", "public")]].concat();
    assert_eq!(post(&provider, "/token", &form).await.unwrap().0, 401);
}

pub(super) fn jwt(claims: &Value) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims.to_string()), part("signature"))
}

#[tokio::test]
async fn an_assertion_gets_a_token_and_is_remembered() {
    let (provider, hand) = provider();
    let now = hand.now().unix_timestamp();
    let claims = serde_json::json!({ "iss": "robot", "sub": "ada", "scope": "mail.read", "exp": now + 60 });
    let bearer =
        [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &jwt(&claims))];
    let (status, tokens) = post(&provider, "/token", &bearer).await.unwrap();
    assert_eq!((status, text(&tokens, "scope")), (200, "mail.read"));
    assert_eq!(provider.account_of(text(&tokens, "access_token")).as_deref(), Some("ada"));
    assert_eq!(provider.history()[0].claims, Some(claims.clone()));
    provider.register(Client {
        authentication: Authentication::Assertion,
        ..Client::confidential("robot", "", CALLBACK)
    });
    let by_jwt = jwt(&serde_json::json!({ "iss": "robot", "sub": "robot", "exp": now + 60 }));
    let form = [&FORM[..], &[("client_assertion", &by_jwt)]].concat();
    assert_eq!(post(&provider, "/token", &form).await.unwrap().0, 200);
    hand.forward(Duration::from_secs(60));
    assert_eq!(post(&provider, "/token", &bearer).await.unwrap().0, 400, "the assertion has ended");
}
