//! How servers differ from the standards: each is a recipe, and needs no code.

use keyholder_proto::v1;
use keyholder_testkit::browser::Browser;
use keyholder_testkit::provider::{
    Call, Effect, Endpoint, Expiry, Format, Manners, Outcome, Pkce, RefreshTokens, ScopeShape, Stage,
};
use serde_json::json;

use super::world::{OAuth, Setup, start, text};
use crate::harness::{ACME, eventually};

/// The usual endpoints.
const ENDPOINTS: &str = "  client_authentication: basic
  authorize: { url: HERE/authorize }
  token: { url: HERE/token }
";

/// A definition around a recipe.
fn definition(base_url: &str, config: &str, recipe: &str) -> String {
    format!(
        "id: demo\nname: Demo\ndocumentation_url: https://example.com/docs\nfacts_checked: 2026-11-26\n\
         base_url: '{base_url}'\n{config}\
         auth_methods:\n\
         \x20 - method: oauth2_code\n    title: Sign in\n    test:\n      request: GET /userinfo\n      good: [200]\n\
         \x20     dead: [401]\n      account: {{ id: /sub, name: /name, email: /email }}\n\
         oauth2:\n{recipe}\
         scopes:\n  - {{ name: read, title: Read }}\n  - {{ name: write, title: Write }}\n\
         default_scopes: [read, write]\n"
    )
}

/// A world whose provider is described by a recipe, and behaves like it.
fn world(recipe: &str, manners: impl FnOnce(&mut Manners)) -> OAuth {
    with_config("HERE", "", recipe, manners)
}

fn with_config(base_url: &str, config: &str, recipe: &str, manners: impl FnOnce(&mut Manners)) -> OAuth {
    let oauth = OAuth::start_with(&Setup { demo: &definition(base_url, config, recipe), ..Setup::default() });
    oauth.provider.behave(manners);
    oauth
}

/// Connects Ada, and finds that her token is good.
async fn connected(oauth: &OAuth) -> v1::Connection {
    let made = oauth.connect("user:ada").await;
    let token = oauth.token(&made).await;
    assert_eq!(oauth.provider.account_of(&token).as_deref(), Some("ada"));
    assert_eq!(made.account.as_ref().unwrap().id, "user-ada");
    made
}

/// How a flow fails, and what the owner reads.
async fn failure(oauth: &OAuth) -> (String, String) {
    let begun = oauth.begin("user:ada").await;
    let page = text(&oauth.consent(&begun).await);
    let done = oauth.authorization(&begun).await;
    assert_eq!(done.state(), v1::AuthorizationState::Failed, "{page}");
    (done.failure, page)
}

fn calls(oauth: &OAuth, endpoint: Endpoint) -> Vec<Call> {
    oauth.provider.history().into_iter().filter(|call| call.endpoint == endpoint).collect()
}

/// The seconds that an access token has left.
fn left(made: &v1::Connection) -> i64 {
    made.tokens.as_ref().unwrap().expire_time.unwrap().seconds - made.create_time.unwrap().seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_are_joined_and_parted_by_commas() {
    let oauth = world(&format!("  scope_separator: ','\n{ENDPOINTS}"), |manners| {
        manners.scope = ScopeShape::Commas;
    });
    let made = connected(&oauth).await;
    assert_eq!(made.scopes, ["read", "write"]);
    assert_eq!(calls(&oauth, Endpoint::Authorize)[0].parameter("scope"), Some("read,write"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_read_as_json_as_a_form_and_as_json_that_calls_itself_text() {
    let oauth = world(ENDPOINTS, |_| {});
    let mut made = Vec::new();
    for (format, scope) in [
        (Format::Json, ScopeShape::List),
        (Format::Form, ScopeShape::Text),
        (Format::TextJson, ScopeShape::Missing),
        (Format::AsAccepted, ScopeShape::Commas),
    ] {
        oauth.provider.behave(|manners| (manners.format, manners.scope) = (format, scope));
        let connection = connected(&oauth).await;
        assert_eq!(connection.scopes, ["read", "write"], "{format:?}");
        assert!(connection.tokens.as_ref().unwrap().renewable, "{format:?}");
        made.push(connection.connection_id);
    }
    made.dedup();
    assert_eq!(made.len(), 1, "the same account each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_with_200_is_an_error() {
    let recipe = format!(
        "{ENDPOINTS}  answer:\n    ok: {{ pointer: /ok, equals: true }}\n\
         \x20   error: {{ dead: [invalid_code], client: [bad_client], passing: [ratelimited] }}\n"
    );
    let oauth = world(&recipe, |manners| drop(manners.answer_extra.insert("ok".into(), json!(true))));
    connected(&oauth).await;
    let said = |code: &str| Effect::Raw {
        status: 200,
        content_type: "application/json".into(),
        body: json!({ "ok": false, "error": code }).to_string().into(),
    };
    for (code, expected) in [
        ("invalid_code", "CODE_REFUSED"),
        ("bad_client", "CLIENT_REFUSED"),
        ("ratelimited", "PROVIDER_UNAVAILABLE"),
        ("never_heard_of", "ANSWER_UNUSABLE"),
    ] {
        oauth.provider.spoil(1, Stage::Before, said(code));
        assert_eq!(failure(&oauth).await.0, expected, "{code}");
    }
    let good = oauth.provider.counts().grants;
    oauth.provider.behave(|manners| drop(manners.answer_extra.insert("ok".into(), json!(false))));
    assert_eq!(failure(&oauth).await.0, "ANSWER_UNUSABLE", "a token alone is no success");
    assert_eq!(oauth.provider.counts().grants, good + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_found_deep_in_the_answer() {
    let recipe = format!(
        "{ENDPOINTS}  answer:\n    access_token: /data/user/access_token\n    refresh_token: /data/user/refresh_token\n\
         \x20   scope: /data/user/scope\n    expires: /data/user/expires_in\n"
    );
    let oauth = world(&recipe, |manners| {
        manners.nested = Some("/data/user".into());
        manners.granted = Some(vec!["read".into()]);
    });
    let made = connected(&oauth).await;
    assert_eq!(made.scopes, ["read"]);
    assert!(made.tokens.as_ref().unwrap().renewable && (3590..=3600).contains(&left(&made)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_is_told_in_seconds_milliseconds_and_moments() {
    for (expiry, answer) in [
        (Expiry::Text, ""),
        (Expiry::Milliseconds, "  answer: { expires_unit: milliseconds }\n"),
        (Expiry::Date, "  answer: { expires: /expires_at, expires_unit: date }\n"),
        (Expiry::UnixTime, "  answer: { expires: /expires_at, expires_unit: unix_seconds }\n"),
        (Expiry::Missing, "  refresh: { access_token_seconds: 3600 }\n"),
    ] {
        let oauth = world(&format!("{ENDPOINTS}{answer}"), |manners| manners.expiry = expiry.clone());
        let made = connected(&oauth).await;
        assert!((3595..=3605).contains(&left(&made)), "{expiry:?}: {}", left(&made));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_that_nobody_told_is_not_known() {
    let oauth = world(ENDPOINTS, |manners| manners.expiry = Expiry::Missing);
    let made = connected(&oauth).await;
    assert_eq!(made.tokens.unwrap().expire_time, None);
    let resolved = oauth.resolve("user:ada", &made.connection_id).await;
    assert_eq!(resolved.valid_until, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_go_by_the_servers_own_names() {
    let recipe = "  client_authentication: body\n  names: { client_id: client_key, client_secret: app_secret }\n\
         \x20 authorize: { url: HERE/authorize }\n  token: { url: HERE/token }\n";
    let oauth = world(recipe, |manners| {
        manners.names = [("client_id", "client_key"), ("client_secret", "app_secret")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
    });
    connected(&oauth).await;
    for endpoint in [Endpoint::Authorize, Endpoint::Token] {
        let call = &calls(&oauth, endpoint)[0];
        assert_eq!(call.parameter("client_key"), Some("keyholder"), "{endpoint:?}");
        assert_eq!(call.parameter("client_id"), None, "{endpoint:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_request_is_json_where_the_server_wants_it() {
    let recipe = "  client_authentication: basic_raw\n  authorize: { url: HERE/authorize }\n\
         \x20 token: { url: HERE/token, format: json, headers: { X-Version: '3' }, parameters: { audience: api } }\n";
    let oauth = world(recipe, |_| {});
    connected(&oauth).await;
    let call = &calls(&oauth, Endpoint::Token)[0];
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!((call.header("x-version"), call.parameter("audience")), (Some("3"), Some("api")));
    assert!(call.query.is_empty(), "nothing secret goes into a URL");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_verifier_is_sent_where_no_challenge_was() {
    let recipe = "  client_authentication: basic\n  authorize: { url: HERE/authorize, pkce: off }\n\
         \x20 token: { url: HERE/token }\n";
    let oauth = world(recipe, |manners| manners.pkce = Pkce::Ignored);
    connected(&oauth).await;
    assert_eq!(calls(&oauth, Endpoint::Authorize)[0].parameter("code_challenge"), None);
    assert_eq!(calls(&oauth, Endpoint::Token)[0].parameter("code_verifier"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_on_the_redirect_is_kept_if_it_fits_and_else_ends_the_flow_before_the_code_is_sent() {
    let recipe = "  client_authentication: basic\n  token: { url: HERE/token }\n\
         \x20 authorize: { url: HERE/authorize, config: { realmId: realm_id } }\n";
    let config = "config:\n  - { name: realm_id, title: Company, learned: true, pattern: '[0-9]{5,20}' }\n";
    let oauth = with_config("HERE", config, recipe, |manners| {
        manners.redirect_extra = vec![("realmId".into(), "123145".into())];
    });
    let made = connected(&oauth).await;
    assert_eq!(made.config["realm_id"], "123145");
    let asked = oauth.provider.counts().token_calls;
    for hostile in ["12", "123145/../../admin", "123145@evil.example", "１２３４５６"] {
        oauth.provider.behave(|manners| manners.redirect_extra = vec![("realmId".into(), hostile.into())]);
        let (reason, page) = failure(&oauth).await;
        assert_eq!(reason, "CONFIG_REFUSED", "{hostile}");
        assert!(!page.contains(hostile), "{page}");
    }
    oauth.provider.behave(|manners| manners.redirect_twice = vec!["realmId".into()]);
    let begun = oauth.begin("user:ada").await;
    assert_ne!(oauth.consent(&begun).await.status.unwrap(), 200, "said twice, it says nothing");
    assert_eq!(oauth.provider.counts().token_calls, asked);
}

const LEARNS_ADDRESS: &str = "  client_authentication: basic
  authorize: { url: HERE/authorize }
  token: { url: HERE/token }
  revoke: { url: HERE/revoke }
  answer: { config: { instance_url: /instance_url } }
";

const ADDRESS: &str = "config:\n  - { name: instance_url, title: Address, learned: true, format: https_url, pattern: 'https?://[a-z0-9.:]+' }\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_the_answer_is_where_requests_go() {
    let oauth = with_config("{config.instance_url}", ADDRESS, LEARNS_ADDRESS, |_| {});
    let issuer = oauth.provider.issuer();
    oauth.provider.behave(|manners| drop(manners.answer_extra.insert("instance_url".into(), json!(issuer))));
    let made = connected(&oauth).await;
    assert_eq!(made.config["instance_url"], issuer);
    let resolved = oauth.resolve("user:ada", &made.connection_id).await;
    assert_eq!(resolved.http.unwrap().base_url, issuer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_the_answer_that_may_not_be_called_ends_the_flow_and_gives_the_tokens_back() {
    let oauth = with_config("{config.instance_url}", ADDRESS, LEARNS_ADDRESS, |_| {});
    let hostile = [
        "https://10.0.0.1",
        "https://169.254.169.254",
        "http://example.com",
        "https://127.0.0.1",
        "ftp://a.example",
    ];
    for (number, address) in (1..).zip(hostile) {
        oauth
            .provider
            .behave(|manners| drop(manners.answer_extra.insert("instance_url".into(), json!(address))));
        assert_eq!(failure(&oauth).await.0, "CONFIG_REFUSED", "{address}");
        eventually("the tokens are given back", || {
            let events =
                "SELECT count(*) FROM audit_events WHERE kind = 'TOKEN_REVOKED' AND reason = 'REVOKED'";
            (oauth.world.sql(events) == number.to_string()).then_some(())
        });
    }
    assert!(calls(&oauth, Endpoint::UserInfo).is_empty());
    assert_eq!(oauth.world.sql("SELECT count(*) FROM connections"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_refresh_token_a_connection_says_when_it_will_stop() {
    let oauth = world(ENDPOINTS, |manners| manners.refresh_tokens = RefreshTokens::Never);
    let tokens = connected(&oauth).await.tokens.unwrap();
    assert!(tokens.renewal_missing && !tokens.renewable);
    assert!(tokens.expire_time.is_some());
    assert_eq!(tokens.stop_time, tokens.expire_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_refresh_tokens_misses_none() {
    let oauth = world(&format!("{ENDPOINTS}  refresh: {{ reuse: no_refresh }}\n"), |manners| {
        manners.refresh_tokens = RefreshTokens::Never;
    });
    let tokens = connected(&oauth).await.tokens.unwrap();
    assert!(!tokens.renewal_missing && !tokens.renewable);
    assert_eq!(tokens.stop_time, tokens.expire_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_that_were_asked_for_and_not_granted_are_named() {
    let oauth = world(ENDPOINTS, |manners| manners.granted = Some(vec!["read".into(), "profile".into()]));
    let made = connected(&oauth).await;
    assert_eq!(made.scopes, ["profile", "read"]);
    let tokens = made.tokens.unwrap();
    assert_eq!(
        (tokens.requested_scopes, tokens.missing_scopes),
        (vec!["read".into(), "write".into()], vec!["write".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_kept_when_a_later_consent_brings_none() {
    let oauth = world(&format!("{ENDPOINTS}  revoke: {{ url: HERE/revoke }}\n"), |_| {});
    let first = connected(&oauth).await;
    let before = oauth.token(&first).await;
    oauth.provider.behave(|manners| manners.refresh_tokens = RefreshTokens::Never);
    let again = v1::StartAuthorizationRequest {
        organization_id: ACME.into(),
        connection_id: first.connection_id.clone(),
        ..Default::default()
    };
    let begun = oauth.begin_as(again).await;
    oauth.consent(&begun).await;
    let second = oauth.connection(&oauth.authorization(&begun).await.connection_id).await;
    assert_eq!(second.connection_id, first.connection_id);
    let tokens = second.tokens.clone().unwrap();
    assert!(tokens.renewable && !tokens.renewal_missing);
    assert_ne!(oauth.token(&second).await, before);
    oauth.delete(&second).await;
    let given = eventually("both tokens are given back", || {
        let given = calls(&oauth, Endpoint::Revoke);
        (given.len() >= 2).then_some(given)
    });
    let names: Vec<_> = given.iter().map(|call| call.presented.clone().unwrap()).collect();
    let issued = calls(&oauth, Endpoint::Token).into_iter().map(|call| call.outcome);
    let issued: Vec<_> = issued
        .map(|outcome| match outcome {
            Outcome::Issued { access, refresh } => (access, refresh),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [issued[0].1.clone().unwrap(), issued[1].0.clone()]);
    assert_eq!(issued[1].1, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_counts_from_the_answer_however_late_the_app_completes() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use keyholder_domain::{Clock as _, SystemClock};

    let oauth = world(ENDPOINTS, |_| {});
    let verifier = "v".repeat(43);
    let challenge = URL_SAFE_NO_PAD.encode(keyholder_vault::sha256(verifier.as_bytes()));
    let request = v1::StartAuthorizationRequest { completion_challenge: challenge, ..start("user:ada") };
    let begun = oauth.begin_as(request).await;
    Browser::new().get(&begun.authorization_url).await.unwrap();
    let consented = SystemClock.now();
    let complete = v1::CompleteAuthorizationRequest {
        organization_id: ACME.into(),
        authorization_id: begun.authorization.unwrap().authorization_id,
        completion_verifier: verifier,
        ..Default::default()
    };
    let done = oauth.world.connections().complete_authorization(complete).await.unwrap().into_inner();
    let made = oauth.connection(&done.authorization.unwrap().connection_id).await;
    let ends = made.tokens.unwrap().expire_time.unwrap();
    let latest = consented + time::Duration::HOUR;
    let ends = (ends.seconds, i64::from(ends.nanos));
    assert!(ends <= (latest.unix_timestamp(), i64::from(latest.nanosecond())), "{ends:?} {latest}");
}
