//! What happens to a connection while it is refreshed, and connections that nobody consents to.

use std::time::Duration;

use keyholder_proto::v1::{self, AuthMethod, ConnectionState};
use keyholder_testkit::provider::{Client, Effect, Endpoint, Outcome, Reuse, Stage};

use super::*;
use crate::oauth::world::Setup;

/// A key that opens nothing.
const KEY: &str = include_str!("../oauth/rsa-key.pem");

#[tokio::test(flavor = "multi_thread")]
async fn f36_tokens_that_come_for_a_connection_that_was_deleted_meanwhile_go_back() {
    for stage in [Stage::Before, Stage::After] {
        let oauth = OAuth::start();
        let made = oauth.connect("user:ada").await;
        let gate = oauth.provider.hold(stage);
        make_due(&oauth, &made);
        gate.held().await;
        // What is given back is not heard: else the new tokens would be dead before they are on their way.
        oauth.provider.spoil_at(Endpoint::Revoke, 2, Stage::Before, Effect::Empty(200));
        oauth.delete(&made).await;
        eventually("the old tokens", || (oauth.calls(Endpoint::Revoke).len() == 2).then_some(()));
        gate.release();
        let refresh = eventually("the new tokens", || {
            let call = oauth.calls(Endpoint::Token).into_iter().find(|call| call.is_refresh())?;
            let Outcome::Issued { access, refresh } = call.outcome else { return None };
            Some([access, refresh.unwrap()])
        });
        for token in refresh {
            eventually("a new token that goes back", || {
                let calls = oauth.calls(Endpoint::Revoke);
                calls.iter().any(|call| call.presented.as_deref() == Some(&token)).then_some(())
            });
        }
        eventually("the end of the grant", || (!oauth.provider.grant_is_alive("ada")).then_some(()));
        let now = oauth.connection(&made.connection_id).await;
        assert_eq!(now.state(), ConnectionState::Deleted);
        assert_eq!(oauth.world.sql("SELECT count(*) FROM refreshes"), "0");
        eventually("nothing of them is left", || {
            (oauth.world.sql("SELECT count(*) FROM late_answers") == "0").then_some(())
        });
        assert_silent(&oauth, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_an_owner_brings_during_a_refresh_win() {
    for stage in [Stage::Before, Stage::After] {
        let oauth = OAuth::start();
        let made = oauth.connect("user:ada").await;
        let gate = oauth.provider.hold(stage);
        make_due(&oauth, &made);
        gate.held().await;
        let again = oauth.connect("user:ada").await;
        assert_eq!(again.connection_id, made.connection_id);
        let token = oauth.token(&again).await;
        gate.release();
        eventually("the answer that came too late", || {
            metric(&oauth, r#"keyholder_refreshes{provider="demo",outcome="SUPERSEDED"}"#)
        });
        assert_eq!(oauth.token(&again).await, token);
        let newest = oauth.provider.current_refresh("ada").unwrap();
        refresh_now(&oauth, &again).await.unwrap();
        let shown = oauth.calls(Endpoint::Token).into_iter().rfind(|call| call.is_refresh()).unwrap();
        assert_eq!(shown.presented, Some(newest), "the owner's is shown next");
        assert_good(&oauth, &again).await;
        assert_eq!(oauth.provider.counts().replays, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_connection_is_kept_alive_and_is_as_good_as_ever_when_it_is_enabled() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| {
        manners.access_lifetime = Duration::from_secs(6);
        manners.refresh_lifetime = Some(Duration::from_secs(20));
    });
    let made = oauth.connect("user:ada").await;
    let disable = v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        ..Default::default()
    };
    oauth.world.connections().disable_connection(disable).await.unwrap();
    eventually("two refreshes", || (oauth.provider.counts().refreshes >= 2).then_some(()));
    let now = oauth.connection(&made.connection_id).await;
    assert_eq!(now.state(), ConnectionState::Disabled);
    assert!(resolve(&oauth, &made).await.is_err());
    let refreshed = refresh_now(&oauth, &made).await.unwrap();
    assert_eq!(refreshed.state(), ConnectionState::Disabled);
    let enable = v1::EnableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        ..Default::default()
    };
    oauth.world.connections().enable_connection(enable).await.unwrap();
    assert_good(&oauth, &made).await;
}

// === Without an owner's consent ===

const TWO_LEGGED: &str = r#"id: demo
name: Demo
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - method: jwt_bearer
    title: Service account
    fields:
      - { name: client_email, title: E-mail }
      - { name: private_key, title: Key, secret: true, multiline: true }
    account_id: client_email
  - method: oauth2_client_credentials
    title: Client
    fields:
      - { name: client_id, title: Id }
      - { name: client_secret, title: Secret, secret: true }
oauth2:
  client_authentication: body
  token: { url: HERE/token }
  assertion:
    key: private_key
    algorithm: RS256
    issuer: "{credential.client_email}"
    audience: HERE/token
    scope: true
  refresh: { reuse: no_refresh }
scopes:
  - { name: read, title: Read }
default_scopes: [read]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_client_and_of_an_assertion_are_renewed_by_asking_again_whatever_happened_before() {
    let oauth = OAuth::start_with(&Setup { demo: TWO_LEGGED, ..Setup::default() });
    oauth.provider.register(Client::confidential("reports", "owners-secret-2b", ""));
    oauth.provider.behave(|manners| manners.access_lifetime = Duration::from_secs(6));
    let assertion = [("client_email", "robot@acme.example"), ("private_key", KEY)];
    let client = [("client_id", "reports"), ("client_secret", "owners-secret-2b")];
    let made = [
        oauth.create("demo", AuthMethod::JwtBearer, &assertion).await.unwrap(),
        oauth.create("demo", AuthMethod::Oauth2ClientCredentials, &client).await.unwrap(),
    ];
    let asked = |grant_type: &str| {
        let calls = oauth.calls(Endpoint::Token);
        calls.iter().filter(|call| call.parameter("grant_type") == Some(grant_type)).count()
    };
    // Lost answers are no harm: nothing is used up.
    oauth.provider.spoil(2, Stage::After, Effect::Reset);
    for grant_type in ["urn:ietf:params:oauth:grant-type:jwt-bearer", "client_credentials"] {
        eventually("more tokens", || (asked(grant_type) >= 4).then_some(()));
    }
    for made in &made {
        eventually("a refresh", || (row(&oauth, made, "done_attempt_id IS NOT NULL") == "t").then_some(()));
        let resolved = resolve(&oauth, made).await.unwrap();
        assert!(oauth.provider.account_of(token_in(&resolved)).is_some());
        let now = oauth.connection(&made.connection_id).await;
        assert_eq!(now.state(), ConnectionState::Active);
        assert!(now.generation > made.generation && now.tokens.unwrap().renewable);
    }
    assert_eq!(asked("refresh_token"), 0);
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
    let line = KEY.lines().nth(1).unwrap();
    assert_silent(&oauth, &["owners-secret-2b", line]);
}

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
  refresh:
    reuse: static
    with: access_token
    url: HERE/exchange
    format: query
    parameters: { grant_type: ig_exchange_token }
    idle_days: 60
scopes:
  - { name: read, title: Read }
default_scopes: [read]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_renewed_with_itself_is_renewed() {
    let oauth = OAuth::start_with(&Setup { demo: LONG_LIVED, ..Setup::default() });
    oauth.provider.behave(|manners| manners.reuse = Reuse::Static);
    let made = oauth.connect("user:ada").await;
    let mut before = oauth.token(&made).await;
    for _ in 0..2 {
        let refreshed = refresh_now(&oauth, &made).await.unwrap();
        let call = oauth.calls(Endpoint::Exchange).into_iter().next_back().unwrap();
        assert_eq!(call.parameter("access_token"), Some(before.as_str()));
        let tokens = refreshed.tokens.unwrap();
        let now = refreshed.update_time.unwrap().seconds;
        assert!(tokens.expire_time.unwrap().seconds > now + 59 * 86_400);
        assert!(tokens.renewable && tokens.idle_expire_time.is_some());
        let token = oauth.token(&made).await;
        assert_ne!(token, before);
        assert_good(&oauth, &made).await;
        before = token;
    }
    // A lost answer does no harm: the old one is still good.
    oauth.provider.spoil_at(Endpoint::Exchange, 1, Stage::After, Effect::Reset);
    refresh_now(&oauth, &made).await.unwrap_err();
    refresh_now(&oauth, &made).await.unwrap();
    assert_good(&oauth, &made).await;
    assert_silent(&oauth, &[]);
}

// === Secrets ===

#[tokio::test(flavor = "multi_thread")]
async fn i6_whatever_comes_of_refreshes_no_secret_of_theirs_and_no_word_of_a_providers_is_told() {
    const CANARY: &str = "kanarienvogel-8c1d40";
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.error_description = Some(CANARY.into()));
    let error = |status, code: &str| Effect::Error { status, code: code.into() };
    let raw = |body: &str| Effect::Raw {
        status: 200,
        content_type: "text/plain".into(),
        body: body.as_bytes().to_vec(),
    };
    let effects = [
        Effect::ErrorBeside { status: 400, code: CANARY.into() },
        error(400, CANARY),
        error(429, CANARY),
        error(503, CANARY),
        raw(CANARY),
        raw(&format!("access_token={CANARY}%0d%0a")),
        Effect::RetryAfter(503, CANARY.into()),
        Effect::Redirect { status: 302, location: format!("https://{CANARY}.example/?{CANARY}") },
        Effect::Reset,
        error(400, "invalid_grant"),
        raw(&format!("{{\"access_token\":\"{CANARY}\",\"token_type\":\"{CANARY}\"}}")),
        error(401, "invalid_client"),
    ];
    for (number, effect) in effects.into_iter().enumerate() {
        oauth.provider.behave(|manners| manners.account = format!("account-{number}"));
        let made = oauth.connect(&format!("user:{number}")).await;
        let held =
            "UPDATE provider_clients SET pause_time = NULL, failures = 0, rate = NULL, quarantine = NULL,
             quarantine_time = NULL";
        oauth.provider.spoil(1, Stage::After, effect.clone());
        make_due(&oauth, &made);
        // Whichever connection it struck: one that failed before may have been quicker.
        eventually(&format!("{effect:?}"), || {
            // Those that fail again meanwhile must not have the client left alone.
            oauth.world.sql(held);
            let calls = oauth.calls(Endpoint::Token);
            let struck = calls.iter().any(|call| call.fault == Some((Stage::After, effect.clone())));
            let open = oauth.world.sql("SELECT count(attempt_id) FROM refreshes");
            (struck && open == "0").then_some(())
        });
        let now = oauth.connection(&made.connection_id).await;
        assert!(!format!("{now:?}").contains(CANARY), "{effect:?}");
    }
    keyholder_refresh(&oauth, &["status"]);
    assert_silent(&oauth, &[CANARY]);
}
