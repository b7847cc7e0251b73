//! The way of a device: its owner types a code in elsewhere, and Keyholder asks until they have decided.

use std::time::Duration;

use keyholder_proto::v1;
use keyholder_testkit::provider::{Consent, Effect, Endpoint, Outcome, Stage};
use tonic::Code;

use super::world::{OAuth, start};
use crate::harness::{assert_refused, eventually};

fn device(owner: &str) -> v1::StartAuthorizationRequest {
    v1::StartAuthorizationRequest { auth_method: v1::AuthMethod::Oauth2Device.into(), ..start(owner) }
}

/// A world whose provider lets itself be asked each second, and waits for the owner.
fn quick() -> OAuth {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| {
        manners.device_interval = Some(Duration::from_secs(1));
        manners.consent = Consent::Ask;
    });
    oauth
}

/// What the provider said to each question, in order.
fn polls(oauth: &OAuth) -> Vec<Outcome> {
    let history = oauth.provider.history();
    history.into_iter().filter(|call| call.endpoint == Endpoint::Token).map(|call| call.outcome).collect()
}

/// Waits until the provider was asked so many times.
fn asked(oauth: &OAuth, times: usize) -> Vec<Outcome> {
    eventually("the provider is asked", || Some(polls(oauth)).filter(|polls| polls.len() >= times))
}

const PENDING: Outcome = Outcome::Refused("authorization_pending");

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_connected_once_its_owner_has_typed_the_code_in() {
    let oauth = quick();
    let begun = oauth.begin_as(device("user:ada")).await;
    assert_eq!(begun.authorization_url, "", "no browser of ours is needed");
    let waiting = oauth.authorization(&begun).await;
    assert_eq!(waiting, begun.authorization.clone().unwrap());
    assert_eq!(waiting.state(), v1::AuthorizationState::Pending);
    assert_eq!(waiting.verification_uri, oauth.provider.url("/device"));
    assert!(waiting.verification_uri_complete.contains(&waiting.user_code));
    assert_eq!(asked(&oauth, 1)[0], PENDING);

    assert!(oauth.provider.allow_device(&waiting.user_code, "ada"));
    let done = oauth.end_of(&begun).await;
    assert_eq!(done.state(), v1::AuthorizationState::Completed);
    let made = oauth.connection(&done.connection_id).await;
    assert_eq!(
        (made.state(), made.auth_method()),
        (v1::ConnectionState::Active, v1::AuthMethod::Oauth2Device)
    );
    assert_eq!(made.account.as_ref().unwrap().id, "user-ada");
    assert!(made.tokens.as_ref().unwrap().renewable);
    let token = oauth.token(&made).await;
    assert_eq!(oauth.provider.account_of(&token).as_deref(), Some("ada"));
    let answers = polls(&oauth);
    assert!(matches!(answers.last(), Some(Outcome::Issued { .. })), "{answers:?}");
    assert!(!answers.contains(&Outcome::Refused("slow_down")), "asked no faster than allowed: {answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_its_owner_denies_is_not_connected() {
    let oauth = quick();
    let begun = oauth.begin_as(device("user:ada")).await;
    assert!(oauth.provider.deny_device(&begun.authorization.as_ref().unwrap().user_code));
    let done = oauth.end_of(&begun).await;
    assert_eq!((done.state(), done.failure.as_str()), (v1::AuthorizationState::Failed, "ACCESS_DENIED"));
    assert_eq!(oauth.world.sql("SELECT count(*) FROM connections"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_code_has_ended_is_not_asked_for_again() {
    let oauth = quick();
    oauth.provider.behave(|manners| manners.device_lifetime = Duration::ZERO);
    let begun = oauth.begin_as(device("user:ada")).await;
    let done = oauth.end_of(&begun).await;
    assert_eq!((done.state(), done.failure.as_str()), (v1::AuthorizationState::Failed, "EXPIRED"));
    assert_eq!(polls(&oauth), [Outcome::Refused("expired_token")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_nobody_finished_in_time_ends_by_itself() {
    let oauth = quick();
    let begun = oauth.begin_as(device("user:ada")).await;
    // The hour is over, as far as the flow is concerned.
    oauth.world.sql("UPDATE authorizations SET expire_time = create_time + interval '1 millisecond'");
    let done = oauth.end_of(&begun).await;
    assert_eq!(done.failure, "EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_down_holds_for_good() {
    let oauth = quick();
    let slow_down = Effect::Error { status: 400, code: "slow_down".into() };
    oauth.provider.spoil(1, Stage::Before, slow_down);
    let begun = oauth.begin_as(device("user:ada")).await;
    let seconds = || oauth.world.sql("SELECT poll_seconds FROM authorizations");
    assert_eq!(seconds(), "1");
    eventually("the longer wait", || (seconds() == "6").then_some(()));
    assert_eq!(asked(&oauth, 2)[1], PENDING);
    let states = || oauth.world.sql("SELECT state || poll_seconds FROM authorizations");
    eventually("the same wait", || (states() == "PENDING6").then_some(()));
    let user_code = &begun.authorization.as_ref().unwrap().user_code;
    assert!(oauth.provider.allow_device(user_code, "ada"));
    assert_eq!(oauth.end_of(&begun).await.state(), v1::AuthorizationState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_asked_less_often_and_not_given_up() {
    let oauth = quick();
    oauth.provider.spoil(1, Stage::Before, Effect::Reset);
    oauth.provider.spoil(1, Stage::Before, Effect::Html(503));
    let begun = oauth.begin_as(device("user:ada")).await;
    let user_code = &begun.authorization.as_ref().unwrap().user_code;
    assert!(oauth.provider.allow_device(user_code, "ada"));
    assert_eq!(oauth.end_of(&begun).await.state(), v1::AuthorizationState::Completed);
    assert_eq!(oauth.world.sql("SELECT poll_seconds FROM authorizations"), "4", "twice as long each time");
    assert_eq!(polls(&oauth).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_goes_on_when_one_is_killed_between_two_questions() {
    let mut oauth = quick();
    let begun = oauth.begin_as(device("user:ada")).await;
    asked(&oauth, 1);
    oauth.world.server.signal("KILL");
    oauth.world.server.child.wait().unwrap();
    // Whatever it had in hand is free when its lease has run out.
    oauth.world.sql("UPDATE authorizations SET lease_expire_time = create_time");
    oauth.world.server = oauth.world.server("second");
    let asked_before = polls(&oauth).len();
    asked(&oauth, asked_before + 1);
    assert!(oauth.provider.allow_device(&begun.authorization.as_ref().unwrap().user_code, "ada"));
    let done = oauth.end_of(&begun).await;
    assert_eq!(done.state(), v1::AuthorizationState::Completed, "{done:?}");
    assert_eq!(oauth.provider.counts().grants, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_goes_on_when_one_is_killed_while_it_asks() {
    let mut oauth = quick();
    let gate = oauth.provider.hold(Stage::Before);
    let begun = oauth.begin_as(device("user:ada")).await;
    gate.held().await;
    oauth.world.server.signal("KILL");
    oauth.world.server.child.wait().unwrap();
    assert_eq!(oauth.world.sql("SELECT state FROM authorizations"), "EXCHANGING");
    gate.release();
    oauth.world.sql("UPDATE authorizations SET lease_expire_time = create_time");
    assert!(polls(&oauth).len() == 1);
    oauth.world.server = oauth.world.server("second");
    asked(&oauth, 2);
    assert!(oauth.provider.allow_device(&begun.authorization.as_ref().unwrap().user_code, "ada"));
    assert_eq!(oauth.end_of(&begun).await.state(), v1::AuthorizationState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_connected_through_a_device_again_is_the_same_connection() {
    let oauth = quick();
    let mut made = Vec::new();
    for _ in 0..2 {
        let begun = oauth.begin_as(device("user:ada")).await;
        assert!(oauth.provider.allow_device(&begun.authorization.as_ref().unwrap().user_code, "ada"));
        made.push(oauth.end_of(&begun).await.connection_id);
    }
    assert_eq!(made[0], made[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flow_begins_when_the_device_endpoint_makes_no_sense() {
    let oauth = quick();
    let answers = |status, body: &str| Effect::Raw {
        status,
        content_type: "application/json".into(),
        body: body.into(),
    };
    let code = |uri: &str| {
        format!(r#"{{"device_code":"d","user_code":"ABCD","verification_uri":"{uri}","expires_in":600}}"#)
    };
    for (effect, status, reason) in [
        (Effect::Empty(503), Code::Unavailable, "PROVIDER_UNAVAILABLE"),
        (answers(200, "[]"), Code::FailedPrecondition, "PROVIDER_REFUSED"),
        (answers(401, r#"{"error":"invalid_client"}"#), Code::FailedPrecondition, "OAUTH_CLIENT_REFUSED"),
        // As GitHub has it.
        (
            answers(200, r#"{"error":"unauthorized_client"}"#),
            Code::FailedPrecondition,
            "OAUTH_CLIENT_REFUSED",
        ),
        (answers(200, &code("javascript:alert(1)")), Code::FailedPrecondition, "PROVIDER_REFUSED"),
        (answers(200, &code("data:text/html,hi")), Code::FailedPrecondition, "PROVIDER_REFUSED"),
    ] {
        oauth.provider.spoil_at(Endpoint::DeviceAuthorization, 1, Stage::Before, effect.clone());
        let refused = oauth.world.connections().start_authorization(device("user:ada")).await;
        let refused = refused.map(|begun| format!("{begun:?} after {effect:?}"));
        assert_refused(refused, status, reason);
    }
    assert_eq!(oauth.world.sql("SELECT count(*) FROM authorizations"), "0");
}
