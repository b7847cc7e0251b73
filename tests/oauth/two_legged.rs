//! Credentials that are issued without asking an owner: to a client, for an assertion, or elsewhere before.

use keyholder_proto::v1;
use keyholder_testkit::provider::{Call, Client, Effect, Endpoint, Stage};
use tonic::Code;

use super::world::{OAuth, Setup, create};
use crate::harness::{ACME, assert_refused, eventually};

/// A key that opens nothing.
const KEY: &str = include_str!("rsa-key.pem");

const CLIENT_CREDENTIALS: v1::AuthMethod = v1::AuthMethod::Oauth2ClientCredentials;

fn last(oauth: &OAuth, endpoint: Endpoint) -> Call {
    let history = oauth.provider.history();
    history.into_iter().rfind(|call| call.endpoint == endpoint).unwrap()
}

fn stored(oauth: &OAuth) -> String {
    oauth.world.sql("SELECT count(*) FROM connections")
}

fn lifetime(made: &v1::Connection) -> i64 {
    made.tokens.as_ref().unwrap().expire_time.unwrap().seconds - made.create_time.unwrap().seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_own_client_gets_its_own_token() {
    let oauth = OAuth::start();
    oauth.provider.register(Client::confidential("reports", "s3cret:+%ü", ""));
    let fields = [("client_id", "reports"), ("client_secret", "s3cret:+%ü")];
    let made = oauth.create("demo", CLIENT_CREDENTIALS, &fields).await.unwrap();
    let tokens = made.tokens.clone().unwrap();
    assert_eq!((made.state(), tokens.client_id.as_str()), (v1::ConnectionState::Active, "reports"));
    assert!(tokens.renewable && !tokens.renewal_missing, "the client itself gets the next one");
    assert_eq!(tokens.stop_time, None);
    let token = oauth.token(&made).await;
    assert_eq!(oauth.provider.account_of(&token).as_deref(), Some("reports"));
    assert_eq!(last(&oauth, Endpoint::Token).parameter("scope"), Some("read write"));
    assert!(!format!("{made:?}").contains("s3cret"), "{made:?}");

    let again = oauth.create("demo", CLIENT_CREDENTIALS, &fields).await;
    assert_refused(again, Code::AlreadyExists, "CONNECTION_EXISTS");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_twice_at_once_makes_one_connection_and_both_get_it() {
    let oauth = OAuth::start();
    oauth.provider.register(Client::confidential("reports", "right", ""));
    let fields = [("client_id", "reports"), ("client_secret", "right")];
    let request = v1::CreateConnectionRequest {
        request_id: "once".into(),
        ..create("demo", CLIENT_CREDENTIALS, &fields)
    };
    let gate = oauth.provider.hold_at(Endpoint::Token, Stage::Before);
    let mut connections = oauth.world.connections();
    let held = request.clone();
    let slow = tokio::spawn(async move { connections.create_connection(held).await });
    gate.held().await;
    let quick = oauth.world.connections().create_connection(request).await.unwrap().into_inner();
    gate.release();
    assert_eq!(slow.await.unwrap().unwrap().into_inner(), quick);
    assert_eq!(stored(&oauth), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_client_of_an_owner_is_refused_and_nothing_is_kept() {
    let oauth = OAuth::start();
    oauth.provider.register(Client::confidential("reports", "right", ""));
    let wrong = [("client_id", "reports"), ("client_secret", "wrong")];
    let refused = oauth.create("demo", CLIENT_CREDENTIALS, &wrong).await;
    assert_refused(refused, Code::FailedPrecondition, "PROVIDER_REFUSED");
    let right = [("client_id", "reports"), ("client_secret", "right")];
    oauth.provider.spoil(1, Stage::Before, Effect::Status(503));
    let refused = oauth.create("demo", CLIENT_CREDENTIALS, &right).await;
    assert_refused(refused, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    oauth.provider.spoil(1, Stage::Before, Effect::Html(200));
    let refused = oauth.create("demo", CLIENT_CREDENTIALS, &right).await;
    assert_refused(refused, Code::FailedPrecondition, "PROVIDER_REFUSED");
    assert_eq!(stored(&oauth), "0");
    oauth.create("demo", CLIENT_CREDENTIALS, &right).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_asks_for_no_second_token() {
    let oauth = OAuth::start();
    oauth.provider.register(Client::confidential("reports", "right", ""));
    let request = v1::CreateConnectionRequest {
        request_id: "once".into(),
        ..create("demo", CLIENT_CREDENTIALS, &[("client_id", "reports"), ("client_secret", "right")])
    };
    let mut made = Vec::new();
    for _ in 0..2 {
        let answer = oauth.world.connections().create_connection(request.clone()).await.unwrap();
        made.push(answer.into_inner().connection.unwrap());
    }
    assert_eq!(made[0], made[1]);
    assert_eq!(oauth.provider.counts().token_calls, 1);
}

// === Assertions ===

const ASSERTIONS: &str = r#"id: demo
name: Demo
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - method: jwt_bearer
    title: Service account
    fields:
      - { name: client_email, title: E-mail }
      - { name: subject, title: As whom, required: false }
      - { name: private_key, title: Key, secret: true, multiline: true }
    account_id: client_email
oauth2:
  client_authentication: body
  token: { url: HERE/token }
  assertion:
    key: private_key
    algorithm: RS256
    issuer: "{credential.client_email}"
    subject: "{credential.subject}"
    audience: HERE/token
    scope: true
  refresh: { reuse: no_refresh }
scopes:
  - { name: read, title: Read }
default_scopes: [read]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_assertion_brings_a_token_and_no_client_is_named() {
    let oauth = OAuth::start_with(&Setup { demo: ASSERTIONS, ..Setup::default() });
    let fields = [("client_email", "robot@acme.example"), ("private_key", KEY)];
    let made = oauth.create("demo", v1::AuthMethod::JwtBearer, &fields).await.unwrap();
    let call = last(&oauth, Endpoint::Token);
    assert_eq!(call.parameter("grant_type"), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
    assert_eq!((call.parameter("client_id"), call.header("authorization")), (None, None));
    let claims = call.claims.unwrap();
    assert_eq!(claims["iss"], "robot@acme.example");
    assert_eq!(claims["aud"], oauth.provider.url("/token"));
    assert_eq!(claims["scope"], "read");
    assert!(claims.get("sub").is_none(), "an optional field that is not given");
    assert!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() <= 600);
    let tokens = made.tokens.clone().unwrap();
    assert!(tokens.renewable && tokens.client_id.is_empty());
    assert_eq!(made.account.as_ref().unwrap().id, "robot@acme.example");
    let token = oauth.token(&made).await;
    assert_eq!(oauth.provider.account_of(&token).as_deref(), Some("robot@acme.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_sign_reaches_nobody() {
    let oauth = OAuth::start_with(&Setup { demo: ASSERTIONS, ..Setup::default() });
    for key in ["no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        let fields = [("client_email", "robot@acme.example"), ("private_key", key)];
        let refused = oauth.create("demo", v1::AuthMethod::JwtBearer, &fields).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
    }
    assert_eq!((oauth.provider.counts().token_calls, stored(&oauth).as_str()), (0, "0"));
}

const INSTALLATION: &str = r#"id: demo
name: Demo
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - method: jwt_bearer
    title: App installation
    fields:
      - { name: app_id, title: App, pattern: "[0-9]+" }
      - { name: installation_id, title: Installation, pattern: "[0-9]+" }
      - { name: private_key, title: Key, secret: true, multiline: true }
    account_id: installation_id
oauth2:
  client_authentication: none
  token: { url: HERE/token }
  answer: { access_token: /token, expires: /expires_at, expires_unit: date }
  assertion:
    key: private_key
    algorithm: RS256
    issuer: "{credential.app_id}"
    send_as: bearer
    url: "HERE/app/installations/{credential.installation_id}/access_tokens"
  refresh: { reuse: no_refresh }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_shows_its_assertion_as_a_bearer_and_gets_an_installations_token() {
    let oauth = OAuth::start_with(&Setup { demo: INSTALLATION, ..Setup::default() });
    let fields = [("app_id", "77"), ("installation_id", "4242"), ("private_key", KEY)];
    let made = oauth.create("demo", v1::AuthMethod::JwtBearer, &fields).await.unwrap();
    let call = last(&oauth, Endpoint::Installation);
    assert!(call.form.is_empty() && call.query.is_empty(), "{:?}", call.form);
    assert_eq!(call.claims.unwrap()["iss"], "77");
    assert!((3590..=3605).contains(&lifetime(&made)), "{}", lifetime(&made));
    assert_eq!(made.account.as_ref().unwrap().id, "4242");
    let token = oauth.token(&made).await;
    assert_eq!(oauth.provider.account_of(&token).as_deref(), Some("77"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installations_token_is_given_back_by_whoever_holds_it() {
    let revoke = "  revoke: { url: HERE/revoke, request: delete, token: access_token, authentication: bearer, good: [204] }\n";
    let demo = format!("{INSTALLATION}{revoke}");
    let oauth = OAuth::start_with(&Setup { demo: &demo, ..Setup::default() });
    let fields = [("app_id", "77"), ("installation_id", "4242"), ("private_key", KEY)];
    let made = oauth.create("demo", v1::AuthMethod::JwtBearer, &fields).await.unwrap();
    let token = oauth.token(&made).await;
    let done = Effect::Empty(204);
    oauth.provider.spoil_at(Endpoint::Revoke, 1, Stage::Before, done);
    oauth.delete(&made).await;
    eventually("the outcome is on record", || {
        let events = oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
        (!events.is_empty()).then(|| assert_eq!(events, "REVOKED"))
    });
    let call = last(&oauth, Endpoint::Revoke);
    assert_eq!(
        (call.method.as_str(), call.header("authorization")),
        ("DELETE", Some(&*format!("Bearer {token}")))
    );
    assert!(call.form.is_empty(), "{:?}", call.form);
}

// === The second step of a login ===

const LONG_LIVED: &str = r#"id: demo
name: Demo
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - method: oauth2_code
    title: Sign in
    test: { request: GET /userinfo, good: [200], dead: [401], account: { id: /sub, name: /name } }
oauth2:
  client_authentication: body
  authorize: { url: HERE/authorize }
  token: { url: HERE/token }
  exchange: { url: HERE/exchange, format: query, parameters: { grant_type: ig_exchange_token } }
  refresh:
    reuse: static
    with: access_token
    url: HERE/refresh_long_lived
    format: query
    parameters: { grant_type: ig_refresh_token }
    earliest_seconds: 5097600
    idle_days: 60
scopes:
  - { name: read, title: Read }
default_scopes: [read]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_short_lived_token_is_exchanged_for_a_long_lived_one_before_anybody_gets_it() {
    let oauth = OAuth::start_with(&Setup { demo: LONG_LIVED, ..Setup::default() });
    let made = oauth.connect("user:ada").await;
    let call = last(&oauth, Endpoint::Exchange);
    assert_eq!(call.method, "GET");
    assert_eq!(call.parameter("grant_type"), Some("ig_exchange_token"));
    let day = 86_400;
    assert!((59 * day..=60 * day + 60).contains(&lifetime(&made)), "{}", lifetime(&made));
    let tokens = made.tokens.clone().unwrap();
    assert!(tokens.renewable && !tokens.renewal_missing, "it is renewed with itself");
    assert!(tokens.idle_expire_time.is_some());
    assert_eq!(made.scopes, ["read"], "as the first answer told");
    let token = oauth.token(&made).await;
    assert_eq!(oauth.provider.account_of(&token).as_deref(), Some("ada"));
    assert_ne!(call.parameter("access_token"), Some(token.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_first_answer_outlive_the_exchange() {
    let demo = LONG_LIVED
        .replace(
            "base_url: HERE\n",
            "base_url: HERE\nconfig:\n  - { name: user, title: User, learned: true, pattern: '[0-9]+' }\n",
        )
        .replace("  exchange:", "  answer: { config: { user: /user_id } }\n  exchange:");
    let oauth = OAuth::start_with(&Setup { demo: &demo, ..Setup::default() });
    oauth.provider.behave(|manners| drop(manners.answer_extra.insert("user_id".into(), 178_414.into())));
    assert_eq!(oauth.connect("user:ada").await.config["user"], "178414");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_lived_token_that_is_taken_over_renews_itself() {
    let oauth = OAuth::start_with(&Setup { demo: LONG_LIVED, ..Setup::default() });
    let made = oauth.connect("user:ada").await;
    let token = oauth.token(&made).await;
    let request = v1::CreateConnectionRequest {
        owner: "user:bob".into(),
        token_expire_time: made.tokens.as_ref().unwrap().expire_time,
        ..create("demo", v1::AuthMethod::Oauth2Code, &[("access_token", &token)])
    };
    let taken = oauth.world.connections().create_connection(request).await.unwrap();
    let tokens = taken.into_inner().connection.unwrap().tokens.unwrap();
    assert!(tokens.renewable && !tokens.renewal_missing, "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_lost_is_made_up_for_and_the_code_is_sent_once() {
    let oauth = OAuth::start_with(&Setup { demo: LONG_LIVED, ..Setup::default() });
    oauth.provider.spoil_at(Endpoint::Exchange, 1, Stage::Before, Effect::Status(503));
    let begun = oauth.begin("user:ada").await;
    oauth.consent(&begun).await;
    assert_eq!(oauth.authorization(&begun).await.state(), v1::AuthorizationState::Exchanging);
    // Its lease has run out.
    oauth.world.sql("UPDATE authorizations SET lease_expire_time = create_time");
    assert_eq!(oauth.end_of(&begun).await.state(), v1::AuthorizationState::Completed);
    assert_eq!(oauth.provider.counts().token_calls, 1);
}

// === Tokens that were issued elsewhere ===

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_taken_over_if_they_are_good() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let token = oauth.token(&made).await;
    let refresh_token = eventually("its refresh token", || {
        let history = oauth.provider.history();
        history.iter().find_map(|call| match &call.outcome {
            keyholder_testkit::provider::Outcome::Issued { refresh: Some(id), .. } => {
                oauth.provider.text_of(id)
            }
            _ => None,
        })
    });
    let fields = [("access_token", token.as_str()), ("refresh_token", refresh_token.as_str())];
    let request = v1::CreateConnectionRequest {
        owner: "user:bob".into(),
        ..create("demo", v1::AuthMethod::Oauth2Code, &fields)
    };
    let taken = oauth.world.connections().create_connection(request).await.unwrap();
    let taken = taken.into_inner().connection.unwrap();
    assert_eq!(taken.account.as_ref().unwrap().id, "user-ada", "the provider told whose they are");
    let tokens = taken.tokens.clone().unwrap();
    assert!(tokens.renewable && tokens.expire_time.is_none());
    assert_eq!(oauth.token(&taken).await, token);

    oauth.provider.withdraw("ada");
    let refused = oauth.create("demo", v1::AuthMethod::Oauth2Code, &fields).await;
    assert_refused(refused, Code::FailedPrecondition, "PROVIDER_REFUSED");
    let refused = oauth.create("demo", v1::AuthMethod::Oauth2Code, &[("password", "x")]).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
    let listed = v1::ListConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let listed = oauth.world.connections().list_connections(listed).await.unwrap().into_inner();
    assert_eq!(listed.connections.len(), 2);
}
