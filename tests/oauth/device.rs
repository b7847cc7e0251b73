//! Devices: owners type a code in elsewhere, and the provider is asked no more often than it wants.

use std::time::Duration;

use keyholder_domain::Timestamp;
use keyholder_proto::v1::{self, AuthorizationState};
use keyholder_testkit::provider::{Consent, Effect, Endpoint, Stage};
use tonic::Code;

use super::world::{OAuth, start};
use crate::harness::{assert_refused, eventually};

/// Two clocks read the same moment a little apart.
const TOLERANCE: Duration = Duration::from_millis(150);

impl OAuth {
    fn with_devices(interval: Option<u64>) -> Self {
        let oauth = Self::start();
        oauth.provider.behave(|manners| {
            manners.consent = Consent::Ask;
            manners.device_interval = interval.map(Duration::from_secs);
        });
        oauth
    }

    async fn begin_device(&self) -> v1::StartAuthorizationResponse {
        self.begin_as(device()).await
    }

    /// When the provider was asked, by its own clock.
    fn polls(&self) -> Vec<Timestamp> {
        self.calls(Endpoint::Token).iter().map(|call| call.at).collect()
    }

    fn until_polled(&self, times: usize) {
        eventually("another question", || (self.polls().len() >= times).then_some(()));
    }

    fn poll_seconds(&self) -> String {
        self.world.sql("SELECT poll_seconds FROM authorizations")
    }
}

fn device() -> v1::StartAuthorizationRequest {
    v1::StartAuthorizationRequest { auth_method: v1::AuthMethod::Oauth2Device.into(), ..start("user:ada") }
}

#[track_caller]
fn assert_apart(polls: &[Timestamp], seconds: u64) {
    for pair in polls.windows(2) {
        assert!(pair[1] - pair[0] + TOLERANCE >= Duration::from_secs(seconds), "{polls:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c44_a_device_is_asked_for_at_the_interval_until_its_owner_has_decided() {
    let oauth = OAuth::with_devices(Some(1));
    let (_second, _) = oauth.replica("second");
    let begun = oauth.begin_device().await;
    let told = begun.authorization.clone().unwrap();
    assert!(begun.authorization_url.is_empty() && told.user_code.len() == 9, "{told:?}");
    assert_eq!(told.verification_uri, oauth.provider.url("/device"));
    oauth.until_polled(4);
    assert!(oauth.provider.allow_device(&told.user_code, "ada"));
    let done = oauth.until(&begun, AuthorizationState::Completed).await;
    assert_eq!(oauth.connection(&done.connection_id).await.account.unwrap().id, "user-ada");
    let polls = oauth.polls();
    assert_apart(&polls, 1);
    let slowed = oauth
        .calls(Endpoint::Token)
        .iter()
        .filter(|call| format!("{:?}", call.outcome).contains("slow_down"))
        .count();
    assert_eq!(slowed, 0, "never too fast, by two replicas");
}

#[tokio::test(flavor = "multi_thread")]
async fn c44_slow_down_adds_five_seconds_for_good() {
    let oauth = OAuth::with_devices(Some(1));
    oauth.provider.spoil(1, Stage::Before, Effect::Error { status: 400, code: "slow_down".into() });
    let begun = oauth.begin_device().await;
    oauth.until_polled(3);
    assert_apart(&oauth.polls(), 6);
    assert_eq!(oauth.poll_seconds(), "6");
    let told = begun.authorization.clone().unwrap();
    assert!(oauth.provider.allow_device(&told.user_code, "ada"));
    oauth.until(&begun, AuthorizationState::Completed).await;
    assert_apart(&oauth.polls(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn c44_without_an_interval_it_is_five_seconds_and_a_long_one_is_kept() {
    for (interval, seconds) in [(None, "5"), (Some(900), "900"), (Some(0), "1")] {
        let oauth = OAuth::with_devices(interval);
        oauth.begin_device().await;
        assert_eq!(oauth.poll_seconds(), seconds);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c44_a_provider_that_does_not_answer_is_asked_half_as_often() {
    let oauth = OAuth::with_devices(Some(1));
    for effect in [Effect::Status(503), Effect::Reset] {
        oauth.provider.spoil(1, Stage::Before, effect);
    }
    let begun = oauth.begin_device().await;
    oauth.until_polled(3);
    let polls = oauth.polls();
    assert_apart(&polls[..2], 2);
    assert_apart(&polls[1..3], 4);
    let told = begun.authorization.clone().unwrap();
    assert!(oauth.provider.allow_device(&told.user_code, "ada"));
    oauth.until(&begun, AuthorizationState::Completed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c44_any_other_error_stops_the_questions() {
    let oauth = OAuth::with_devices(Some(1));
    let error = |code: &str| Effect::Error { status: 400, code: code.to_owned() };
    for (code, reason) in [
        ("access_denied", "ACCESS_DENIED"),
        ("expired_token", "EXPIRED"),
        ("invalid_grant", "CODE_REFUSED"),
        ("invalid_client", "CLIENT_REFUSED"),
        ("novelty", "ANSWER_UNUSABLE"),
    ] {
        oauth.provider.spoil(1, Stage::Before, error(code));
        let before = oauth.polls().len();
        let begun = oauth.begin_device().await;
        assert_eq!(oauth.failure(&begun).await, reason, "{code}");
        assert_eq!(oauth.polls().len(), before + 1, "{code}");
    }
    let left = oauth
        .world
        .sql("SELECT count(*) FROM authorizations WHERE state <> 'FAILED' OR sealed_flow IS NOT NULL");
    assert_eq!(left, "0", "nobody is asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_would_be_shown_is_a_page_of_the_web() {
    let oauth = OAuth::with_devices(Some(1));
    for (name, value) in [
        ("verification_uri", "javascript:alert(1)".to_owned()),
        ("verification_uri", "data:text/html,x".to_owned()),
        ("verification_uri", "not a URL".to_owned()),
        ("verification_uri", format!("https://a.example/{}", "x".repeat(3_000))),
        ("verification_uri_complete", "javascript:alert(1)".to_owned()),
        ("user_code", "x".repeat(100_000)),
        ("user_code", "a\u{1b}[31m".to_owned()),
        ("user_code", String::new()),
        ("device_code", String::new()),
    ] {
        oauth.provider.spoil_at(
            Endpoint::DeviceAuthorization,
            1,
            Stage::After,
            Effect::member(name, value.clone()),
        );
        let refused = oauth.world.connections().start_authorization(device()).await;
        assert!(refused.is_err(), "{name}: {value:.40}");
        assert_refused(refused, Code::FailedPrecondition, "PROVIDER_REFUSED");
    }
    assert_eq!(oauth.world.sql("SELECT count(*) FROM authorizations"), "0");
}
