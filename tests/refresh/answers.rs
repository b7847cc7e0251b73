//! What a provider may answer, and what is made of it: nothing that passes costs an owner the connection.

use std::time::Duration;

use keyholder_proto::v1::{self, ConnectionState};
use keyholder_testkit::provider::{Call, Effect, Endpoint, Expiry, Outcome, RefreshTokens, Reuse, Stage};
use serde_json::json;
use tonic::Code;

use super::staged::Staged;
use super::*;
use crate::harness::{assert_refused, log_lines};
use crate::oauth::world::Setup;

/// A world whose refresh tokens stay good, at Keyholder and at the provider.
fn steady() -> OAuth {
    let oauth = OAuth::start_with(&Setup { recipe: STATIC, ..Setup::default() });
    oauth.provider.behave(|manners| manners.reuse = Reuse::Static);
    oauth
}

/// Whatever a provider answered to one refresh: the connection is in use, what it has is served, the next one
/// goes through, and one call was made for each of the two.
async fn assert_survives(oauth: &OAuth, made: &v1::Connection, effect: Effect, error: &str) {
    let what = format!("{effect:?}");
    let before = (oauth.calls(Endpoint::Token).len(), oauth.token(made).await);
    oauth.provider.spoil(1, Stage::After, effect);
    let failed = refresh_now(oauth, made).await.expect_err(&what);
    assert_eq!(
        (failed.code(), reason(&failed).as_str()),
        (Code::Unavailable, "PROVIDER_UNAVAILABLE"),
        "{what}"
    );
    let now = oauth.connection(&made.connection_id).await;
    let refresh = now.refresh.clone().unwrap();
    assert_eq!((now.state(), refresh.error.as_str()), (ConnectionState::Active, error), "{what}");
    assert_eq!(refresh.failures, 1, "{what}");
    assert_eq!(oauth.token(made).await, before.1, "{what}: what is good is served");
    assert_eq!(oauth.calls(Endpoint::Token).len(), before.0 + 1, "{what}: asked once");

    let refreshed = refresh_now(oauth, made).await;
    let refreshed = refreshed.unwrap_or_else(|status| panic!("{what}: {}", reason(&status)));
    assert!(refreshed.generation > now.generation, "{what}");
    assert_eq!(refreshed.refresh.unwrap().error, "", "{what}");
    assert_ne!(oauth.token(made).await, before.1, "{what}");
    assert_good(oauth, made).await;
}

fn raw(status: u16, content_type: &str, body: &str) -> Effect {
    Effect::Raw { status, content_type: content_type.into(), body: body.as_bytes().to_vec() }
}

fn error(status: u16, code: &str) -> Effect {
    Effect::Error { status, code: code.into() }
}

// === F15 to F20 ===

#[tokio::test(flavor = "multi_thread")]
async fn f15_f16_i13_a_provider_that_does_not_work_costs_nobody_anything() {
    let oauth = steady();
    let made = oauth.connect("user:ada").await;
    let redirect = |status| Effect::Redirect { status, location: oauth.provider.url("/token") };
    let table = [
        (Effect::Status(500), "PROVIDER_UNAVAILABLE"),
        (Effect::Status(502), "PROVIDER_UNAVAILABLE"),
        (Effect::Status(503), "PROVIDER_UNAVAILABLE"),
        (Effect::Status(504), "PROVIDER_UNAVAILABLE"),
        (Effect::Html(502), "PROVIDER_UNAVAILABLE"),
        (Effect::Empty(500), "PROVIDER_UNAVAILABLE"),
        (error(500, "server_error"), "PROVIDER_UNAVAILABLE"),
        (error(400, "temporarily_unavailable"), "PROVIDER_UNAVAILABLE"),
        (error(200, "server_error"), "PROVIDER_UNAVAILABLE"),
        (Effect::Reset, "NO_ANSWER"),
        (Effect::Cut(0), "NO_ANSWER"),
        (Effect::Cut(20), "NO_ANSWER"),
        (Effect::Cut(250), "NO_ANSWER"),
        // F20: never followed.
        (redirect(301), "NO_ANSWER"),
        (redirect(302), "NO_ANSWER"),
        (redirect(303), "NO_ANSWER"),
        (redirect(307), "NO_ANSWER"),
        (redirect(308), "NO_ANSWER"),
        (Effect::Redirect { status: 307, location: "https://10.0.0.1/token".into() }, "NO_ANSWER"),
    ];
    for (effect, error) in table {
        assert_survives(&oauth, &made, effect, error).await;
    }
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
    assert_eq!(oauth.provider.counts().replays, 0);
    assert_silent(&oauth, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_f18_i13_nonsense_costs_nobody_anything() {
    let oauth = steady();
    let made = oauth.connect("user:ada").await;
    let unusable = "ANSWER_UNUSABLE";
    let table = [
        (Effect::Html(200), unusable),
        (Effect::Html(403), unusable),
        (Effect::Html(404), unusable),
        (Effect::Status(400), unusable),
        (Effect::Empty(200), unusable),
        (Effect::Empty(204), unusable),
        (error(400, "novelty"), unusable),
        (error(400, ""), unusable),
        (error(400, "invalid_request"), "REQUEST_REFUSED"),
        (error(400, "invalid_scope"), "REQUEST_REFUSED"),
        (error(400, "unsupported_grant_type"), "REQUEST_REFUSED"),
        (error(403, "access_denied"), "REQUEST_REFUSED"),
        (Effect::Huge(2 * 1024 * 1024), "NO_ANSWER"),
        (Effect::Deep(100_000), unusable),
        (Effect::NotUtf8, unusable),
        (Effect::Twice, unusable),
        (raw(200, "application/json", "{"), unusable),
        (raw(200, "application/json", "[]"), unusable),
        (raw(200, "application/json", "null"), unusable),
        (raw(200, "application/json", "{}"), unusable),
        (raw(200, "application/json", "\"access_token\""), unusable),
        (raw(200, "application/json", "{\"access_token\":NaN}"), unusable),
        (raw(200, "application/json", "{\"access_token\":\"\\ud800\"}"), unusable),
        (raw(200, "application/json", "access_token=at&token_type=bearer"), unusable),
        (raw(200, "image/png", "access_token=at&token_type=bearer"), unusable),
        (raw(200, "text/html", "<html>access_token=at</html>"), unusable),
    ];
    for (effect, error) in table {
        assert_survives(&oauth, &made, effect, error).await;
    }
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_i13_the_wrong_shapes_cost_nobody_anything_and_are_never_released() {
    let oauth = steady();
    let made = oauth.connect("user:ada").await;
    for shape in [json!(null), json!(""), json!(7), json!(true), json!({ "a": 1 }), json!(["at"])] {
        assert_survives(&oauth, &made, Effect::member("access_token", shape), "ANSWER_UNUSABLE").await;
    }
    assert_survives(&oauth, &made, Effect::token_with_line_break(), "ANSWER_UNUSABLE").await;
    assert_survives(&oauth, &made, Effect::long_token(64 * 1024 + 1), "ANSWER_UNUSABLE").await;
    for shape in [json!("mac"), json!("DPoP"), json!(7)] {
        assert_survives(&oauth, &made, Effect::member("token_type", shape), "ANSWER_UNUSABLE").await;
    }
    assert_survives(&oauth, &made, Effect::member("refresh_token", "rt\r\nX: y"), "ANSWER_UNUSABLE").await;
    assert_survives(&oauth, &made, Effect::member("scope", 7), "ANSWER_UNUSABLE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_an_end_that_makes_no_sense_is_neither_now_nor_never() {
    let oauth = steady();
    let made = oauth.connect("user:ada").await;
    for value in [json!(-1), json!(0), json!(1e99), json!("abc"), json!(null), json!([3600])] {
        oauth.provider.behave(|manners| manners.expiry = Expiry::Raw(value.clone()));
        let refreshed = refresh_now(&oauth, &made).await.unwrap();
        assert_eq!(refreshed.tokens.unwrap().expire_time, None, "{value}");
        assert_good(&oauth, &made).await;
    }
    oauth.provider.behave(|manners| manners.expiry = Expiry::Seconds);
    let refreshed = refresh_now(&oauth, &made).await.unwrap();
    assert!(refreshed.tokens.unwrap().expire_time.is_some());
    assert_ne!(row(&oauth, &made, "due_time"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_i12_what_failed_goes_on_by_itself_when_the_provider_works_again() {
    let oauth = OAuth::start();
    let short = |manners: &mut keyholder_testkit::provider::Manners| {
        manners.access_lifetime = Duration::from_secs(12);
    };
    oauth.provider.behave(short);
    let made = oauth.connect("user:ada").await;
    oauth.provider.spoil(1, Stage::Before, Effect::Status(503));
    oauth.provider.spoil(1, Stage::Before, Effect::Html(502));
    eventually("two failures and a refresh", || (oauth.provider.counts().refreshes > 0).then_some(()));
    let calls = oauth.calls(Endpoint::Token);
    assert_eq!(calls.iter().take(4).filter(|call| call.fault.is_some()).count(), 2);
    eventually("it is on record", || (events_of(&oauth, "CONNECTION_REFRESHED") != "0").then_some(()));
    assert_good(&oauth, &made).await;
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
    assert_eq!(oauth.provider.counts().replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_an_answer_that_does_not_come_is_given_up_in_time_and_asked_for_again() {
    let oauth = steady();
    let made = oauth.connect("user:ada").await;
    for effect in [Effect::Hang, Effect::Trickle(Duration::from_secs(1))] {
        oauth.provider.spoil(1, Stage::After, effect.clone());
        let failed = refresh_now(&oauth, &made).await;
        assert_refused(failed, Code::Unavailable, "PROVIDER_UNAVAILABLE");
        assert_good(&oauth, &made).await;
        assert_eq!(row(&oauth, &made, "last_error"), "NO_ANSWER", "{effect:?}");
        refresh_now(&oauth, &made).await.unwrap();
        assert_good(&oauth, &made).await;
    }
}

// === F21 ===

#[tokio::test(flavor = "multi_thread")]
async fn f21_tokens_beside_an_error_are_what_saves_a_connection() {
    let oauth = OAuth::start();
    let beside = [
        (400, "invalid_grant"),
        (500, "server_error"),
        (200, "server_error"),
        (400, "novelty"),
        (400, "invalid_request"),
    ];
    for (number, (status, code)) in beside.into_iter().enumerate() {
        oauth.provider.behave(|manners| manners.account = format!("account-{number}"));
        let made = oauth.connect(&format!("user:{number}")).await;
        let before = oauth.token(&made).await;
        oauth.provider.spoil(1, Stage::After, Effect::ErrorBeside { status, code: code.into() });
        refresh_now(&oauth, &made).await.unwrap_err();
        assert_eq!(oauth.token(&made).await, before, "{status} {code}: the error counts");
        assert_saved(&oauth, &made, &format!("{status} {code}")).await;
    }
    assert_silent(&oauth, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_tokens_beside_an_error_that_is_not_the_connections_fault_save_it_too() {
    let oauth = OAuth::start();
    for (number, (status, code)) in [(429, "slow"), (401, "invalid_client")].into_iter().enumerate() {
        oauth.provider.behave(|manners| manners.account = format!("account-{number}"));
        let made = oauth.connect(&format!("user:{number}")).await;
        oauth.provider.spoil(1, Stage::After, Effect::ErrorBeside { status, code: code.into() });
        // Whoever waits for one that was one call too many goes on waiting for the next.
        let refreshed = refresh_now(&oauth, &made).await.is_ok();
        assert_eq!(refreshed, status == 429, "{status} {code}");
        oauth.world.sql("UPDATE provider_clients SET pause_time = NULL, probe_time = clock_timestamp()");
        make_due(&oauth, &made);
        eventually("another attempt", || {
            let refreshes = oauth.calls(Endpoint::Token);
            (refreshes.iter().filter(|call| call.is_refresh()).count() >= 2 * (number + 1)).then_some(())
        });
        eventually("its end", || (row(&oauth, &made, "attempt_id IS NULL") == "t").then_some(()));
        assert_saved(&oauth, &made, &format!("{status} {code}")).await;
    }
}

/// The next refresh shows the token that came beside the error, and no other.
async fn assert_saved(oauth: &OAuth, made: &v1::Connection, what: &str) {
    let account = oauth.provider.manners().account;
    if row(oauth, made, "done_attempt_id IS NULL") == "t" {
        let refreshed = refresh_now(oauth, made).await;
        assert_eq!(oauth.provider.counts().replays, 0, "{what}: the replaced token is not shown again");
        assert!(refreshed.is_ok(), "{what}: {}", reason(&refreshed.unwrap_err()));
    }
    assert_eq!(oauth.provider.counts().replays, 0, "{what}: the replaced token is not shown again");
    assert!(oauth.provider.grant_is_alive(&account), "{what}");
    assert_good(oauth, made).await;
    assert_eq!(oauth.world.sql("SELECT count(*) FROM late_answers"), "0", "{what}: it has been used");
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_the_same_tokens_again_are_an_answer_like_any_other() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.refresh_tokens = RefreshTokens::Same);
    let made = oauth.connect("user:ada").await;
    let token = oauth.token(&made).await;
    oauth.provider.spoil(1, Stage::After, Effect::member("access_token", token.as_str()));
    let refreshed = refresh_now(&oauth, &made).await.unwrap();
    assert!(refreshed.generation > made.generation);
    assert_eq!(oauth.token(&made).await, token);
    refresh_now(&oauth, &made).await.unwrap();
    let refreshes = refreshes(&oauth);
    assert_eq!(refreshes[0].presented, refreshes[1].presented);
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_another_accounts_tokens_are_never_used_and_somebody_is_told() {
    let recipe = "  account: { from: token_answer, id: /user/id, name: /user/name }";
    let oauth = OAuth::start_with(&Setup { recipe, ..Setup::default() });
    let says = |id: &str| {
        oauth.provider.behave(|manners| {
            let user = json!({ "id": id, "name": "Somebody" });
            manners.answer_extra.insert("user".into(), user);
        });
    };
    says("u-1");
    let made = oauth.connect("user:ada").await;
    assert_eq!(made.account.as_ref().unwrap().id, "u-1");
    let refreshed = refresh_now(&oauth, &made).await.unwrap();
    let before = oauth.token(&made).await;
    says("u-2");
    make_due(&oauth, &made);
    let blocked = until_state(&oauth, &made, ConnectionState::ReauthorizationRequired).await;
    assert_eq!(blocked.state_reason, "ACCOUNT_CHANGED");
    assert_eq!(blocked.account, refreshed.account);
    assert_eq!(events(&oauth, "REAUTHORIZATION_REQUIRED"), "ACCOUNT_CHANGED");
    let alarm =
        |line: &serde_json::Value| line["level"] == "ERROR" && line["connection_id"] == made.connection_id;
    assert!(log_lines(&oauth.world.server.log).iter().any(alarm));
    let refused = resolve(&oauth, &made).await;
    assert_refused(refused, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");

    // The owner consents as the one that it was.
    says("u-1");
    let again = oauth.connect("user:ada").await;
    assert_eq!(again.connection_id, made.connection_id);
    assert_ne!(oauth.token(&again).await, before);
    refresh_now(&oauth, &again).await.unwrap();
    assert_silent(&oauth, &[]);
}

// === What is kept of a good answer ===

/// The calls that asked for a refresh.
fn refreshes(oauth: &OAuth) -> Vec<Call> {
    oauth.calls(Endpoint::Token).into_iter().filter(Call::is_refresh).collect()
}

/// The id of the refresh token that an answer carried.
fn given(call: &Call) -> String {
    let Outcome::Issued { refresh: Some(refresh), .. } = &call.outcome else { panic!("{:?}", call.outcome) };
    refresh.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn c37_c39_a_new_refresh_token_takes_the_place_of_the_old_one_each_time() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    for _ in 0..3 {
        refresh_now(&oauth, &made).await.unwrap();
    }
    let calls = refreshes(&oauth);
    assert_eq!(calls.len(), 3);
    for pair in calls.windows(2) {
        assert_eq!(pair[1].presented.as_deref(), Some(given(&pair[0]).as_str()));
    }
    assert_eq!(oauth.provider.counts().replays, 0);
    // What would be given back is the newest.
    oauth.delete(&made).await;
    let newest = given(&calls[2]);
    eventually("the newest is given back", || {
        let given_back = oauth.calls(Endpoint::Revoke);
        given_back.iter().any(|call| call.presented.as_deref() == Some(&newest)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn c37_the_access_token_and_the_refresh_token_change_in_the_same_commit_or_not_at_all() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let both = format!(
        "SELECT md5(sealed_credential) || ' ' || md5(sealed_renewal) FROM connections \
         WHERE connection_id = '{}'",
        id(&made)
    );
    let old = oauth.world.sql(&both);
    let mut lock = oauth.world.lock("SELECT 1 FROM organizations FOR UPDATE");
    make_due(&oauth, &made);
    eventually("an answer that is kept", || {
        (row(&oauth, &made, "sealed_answer IS NOT NULL") == "t").then_some(())
    });
    assert_eq!(oauth.world.sql(&both), old, "before the commit, nothing");
    lock.release();
    let new = eventually("new tokens", || Some(oauth.world.sql(&both)).filter(|both| *both != old));
    let [old, new] = [&old, &new].map(|both| both.split(' ').collect::<Vec<_>>());
    assert!(old[0] != new[0] && old[1] != new[1], "after it, both");
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c37_without_a_new_refresh_token_the_old_one_is_kept() {
    let oauth = steady();
    oauth.provider.behave(|manners| manners.refresh_tokens = RefreshTokens::FirstOnly);
    let made = oauth.connect("user:ada").await;
    for _ in 0..3 {
        let refreshed = refresh_now(&oauth, &made).await.unwrap();
        assert!(refreshed.tokens.unwrap().renewable);
    }
    let calls = refreshes(&oauth);
    assert!(calls.iter().all(|call| call.presented == calls[0].presented && call.presented.is_some()));
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c38_a_refresh_asks_for_no_more_than_was_granted_and_less_is_stored() {
    for (recipe, asks) in [("  refresh: { sends_scope: true }", true), (STATIC, false)] {
        let oauth = OAuth::start_with(&Setup { recipe, ..Setup::default() });
        let made = oauth.connect("user:ada").await;
        oauth.provider.behave(|manners| manners.granted = Some(vec!["read".into()]));
        assert_eq!(refresh_now(&oauth, &made).await.unwrap().scopes, ["read"]);
        let ask = v1::ResolveCredentialRequest {
            scopes: vec!["write".into()],
            ..resolve_request("user:ada", &made.connection_id)
        };
        let refused = oauth.world.grants("gateway").resolve_credential(ask).await;
        assert_refused(refused, Code::FailedPrecondition, "SCOPE_MISSING");
        assert_good(&oauth, &made).await;
        refresh_now(&oauth, &made).await.unwrap();
        for call in refreshes(&oauth) {
            let scopes: Vec<&str> = call.parameter("scope").unwrap_or_default().split_whitespace().collect();
            assert_eq!(scopes.is_empty(), !asks, "{recipe}");
            assert!(scopes.iter().all(|scope| ["read", "write"].contains(scope)), "{scopes:?}");
        }
        // None said means as before.
        oauth.provider.behave(|manners| manners.scope = keyholder_testkit::provider::ScopeShape::Missing);
        assert_eq!(refresh_now(&oauth, &made).await.unwrap().scopes, ["read"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_refresh_token_moves_with_each_new_one_and_is_not_waited_for() {
    let recipe = "  answer: { refresh_expires: /refresh_token_expires_in }";
    let oauth = OAuth::start_with(&Setup { recipe, ..Setup::default() });
    let lives = |seconds| {
        oauth.provider.behave(|manners| manners.refresh_lifetime = Some(Duration::from_secs(seconds)));
    };
    let end = |made: &v1::Connection| made.tokens.as_ref().unwrap().idle_expire_time.unwrap().seconds;
    lives(86_400);
    let made = oauth.connect("user:ada").await;
    lives(2 * 86_400);
    let refreshed = refresh_now(&oauth, &made).await.unwrap();
    assert!((86_000..=87_000).contains(&(end(&refreshed) - end(&made))), "{refreshed:?}");
    // One that ends before the access token does is used before that.
    lives(600);
    let refreshed = refresh_now(&oauth, &made).await.unwrap();
    let before = format!("due_time < to_timestamp({}) - interval '2 minutes'", end(&refreshed));
    assert_eq!(row(&oauth, &made, &before), "t");
    assert!(end(&refreshed) < refreshed.tokens.unwrap().expire_time.unwrap().seconds);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_token_counts_from_before_it_was_asked_for() {
    let staged = Staged::start(super::staged::STATIC).await;
    let gate = staged.hold(Stage::After);
    let asked = staged.oauth.world.sql("SELECT clock_timestamp()");
    let later = format!("SELECT clock_timestamp() > '{asked}'::timestamptz + interval '1500 milliseconds'");
    eventually("a provider that takes its time", || (staged.oauth.world.sql(&later) == "t").then_some(()));
    gate.release();
    staged.assert_refreshed().await;
    let ended =
        format!("SELECT token_expire_time - '{asked}'::timestamptz <= interval '1 hour' FROM connections");
    assert_eq!(
        staged.oauth.world.sql(&ended),
        "t",
        "{asked} {}",
        staged.oauth.world.sql("SELECT token_expire_time FROM connections")
    );
}
