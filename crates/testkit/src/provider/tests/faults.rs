use std::time::Instant;

use super::*;

async fn refreshed(provider: &Provider, token_text: &str) -> Result<(u16, Value), BrowserError> {
    try_token(provider, &[("grant_type", "refresh_token"), ("refresh_token", token_text)]).await
}

/// A provider and a refresh token that is good.
async fn connected() -> (Provider, String) {
    let (provider, _) = provider();
    let token = text(&connect(&provider).await, "refresh_token").to_owned();
    (provider, token)
}

#[tokio::test]
async fn a_fault_before_the_work_changes_nothing() {
    let (provider, token) = connected().await;
    for effect in
        [Effect::Status(503), Effect::Html(502), Effect::Empty(200), Effect::NotUtf8, Effect::Deep(5000)]
    {
        provider.spoil(1, Stage::Before, effect.clone());
        let (_, answer) = refreshed(&provider, &token).await.unwrap();
        assert!(answer.get("refresh_token").is_none(), "{effect:?}");
        assert_eq!(provider.history().last().unwrap().outcome, Outcome::Nothing);
    }
    provider.spoil(1, Stage::Before, Effect::Reset);
    assert!(matches!(refreshed(&provider, &token).await, Err(BrowserError::Server(_))));
    assert_eq!(refreshed(&provider, &token).await.unwrap().0, 200, "the token is still good");
}

#[tokio::test]
async fn a_fault_after_the_work_loses_the_answer() {
    for effect in [Effect::Reset, Effect::Cut(200), Effect::Status(500)] {
        let (provider, token) = connected().await;
        provider.spoil(1, Stage::After, effect.clone());
        let lost = refreshed(&provider, &token).await;
        assert!(lost.is_err() || lost.unwrap().0 == 500, "{effect:?}");
        let call = provider.history().pop().unwrap();
        assert!(matches!(call.outcome, Outcome::Issued { .. }), "{effect:?}");
        assert_eq!(call.answered.is_none(), effect != Effect::Status(500));
        assert_eq!(refreshed(&provider, &token).await.unwrap().0, 400, "{effect:?}: the token was replaced");
        assert_eq!(provider.counts().replays, 1);
    }
}

#[tokio::test]
async fn faults_strike_in_their_order_and_at_their_endpoint() {
    let (provider, token) = connected().await;
    provider.spoil(2, Stage::Before, Effect::RetryAfter(429, "7".into()));
    provider.spoil(1, Stage::Before, Effect::Error { status: 400, code: "invalid_grant".into() });
    provider.spoil_at(Endpoint::Revoke, 1, Stage::Before, Effect::Status(503));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(refreshed(&provider, &token).await.unwrap().0);
    }
    assert_eq!(statuses, [429, 429, 400, 200]);
    assert_eq!((provider.forgive(), provider.forgive()), (1, 0));
}

#[tokio::test]
async fn retry_after_and_redirects_are_headers() {
    let (provider, _) = connected().await;
    let url = provider.url("/token");
    for said in ["120", "Wed, 21 Oct 2026 07:28:00 GMT", "soon, perhaps"] {
        provider.spoil(1, Stage::Before, Effect::RetryAfter(503, said.into()));
        let page = Browser::new().post(&url, &[]).await.unwrap();
        assert_eq!(page.header("retry-after"), Some(said));
    }
    let location = provider.url("/elsewhere");
    provider.spoil(1, Stage::Before, Effect::Redirect { status: 307, location: location.clone() });
    let page = Browser::new().post(&url, &[("a", "b")]).await.unwrap();
    assert_eq!(page.url.as_str(), location);
    let call = provider.history().pop().unwrap();
    assert_eq!((call.method.as_str(), call.parameter("a")), ("POST", Some("b")), "307 repeats the form");
}

#[tokio::test]
async fn the_right_answer_can_have_something_wrong_in_it() {
    let (provider, _) = provider();
    let cases = [
        (Effect::token_with_line_break(), "at-0\r\nX-Injected: yes".into()),
        (Effect::member("access_token", Value::Null), Value::Null),
        (Effect::member("access_token", 42), Value::from(42)),
        (Effect::long_token(1 << 20), "a".repeat(1 << 20).into()),
    ];
    for (effect, expected) in cases {
        let token = text(&connect(&provider).await, "refresh_token").to_owned();
        provider.spoil(1, Stage::Before, effect);
        let (status, answer) = refreshed(&provider, &token).await.unwrap();
        assert!(status == 200 && answer["access_token"] == expected);
        assert!(answer["refresh_token"].is_string(), "it was rotated");
    }
    let token = text(&connect(&provider).await, "refresh_token").to_owned();
    provider.spoil(1, Stage::After, Effect::ErrorBeside { status: 400, code: "server_error".into() });
    let (status, answer) = refreshed(&provider, &token).await.unwrap();
    assert_eq!((status, text(&answer, "error")), (400, "server_error"));
    let next = text(&answer, "refresh_token").to_owned();
    provider.spoil(1, Stage::After, Effect::Twice);
    let form = [("grant_type", "refresh_token"), ("refresh_token", &next)];
    let form = [&form[..], &[("client_id", "me"), ("client_secret", "hush")]].concat();
    let page = Browser::new().post(&provider.url("/token"), &form).await.unwrap();
    assert_eq!(page.body.matches("\"access_token\"").count(), 2);
}

#[tokio::test]
async fn an_answer_can_be_large_late_or_slow() {
    let (provider, token) = connected().await;
    provider.spoil(1, Stage::Before, Effect::Huge(10_000_000));
    let page = Browser::new().post(&provider.url("/token"), &[]).await.unwrap();
    assert!(page.body.len() > 10_000_000);
    for stage in [Stage::Before, Stage::After] {
        provider.spoil(1, stage, Effect::Delay(Duration::from_millis(80)));
        let started = Instant::now();
        let call = tokio::time::timeout(Duration::from_millis(40), refreshed(&provider, &token)).await;
        assert!(call.is_err(), "too early");
        // The provider works on, although nobody waits for it.
        while provider.counts().refreshes < 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(if stage == Stage::Before { 80 } else { 40 }));
        let answered = provider.history().pop().unwrap().answered;
        assert!(answered.is_none(), "nobody got the answer");
    }
    provider.spoil(1, Stage::Before, Effect::Trickle(Duration::from_millis(1)));
    let started = Instant::now();
    assert_eq!(refreshed(&provider, "nonsense").await.unwrap().0, 400);
    assert!(started.elapsed() >= Duration::from_millis(150), "one byte after the other");
}

#[tokio::test]
async fn a_hanging_call_never_ends() {
    let (provider, token) = connected().await;
    provider.spoil(1, Stage::After, Effect::Hang);
    let call = tokio::time::timeout(Duration::from_millis(100), refreshed(&provider, &token)).await;
    assert!(call.is_err());
    assert_eq!(provider.counts().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_holds_a_call_before_or_after_the_work() {
    let (provider, mut token) = connected().await;
    let provider = Arc::new(provider);
    for stage in [Stage::Before, Stage::After] {
        let gate = provider.hold(stage);
        assert!(!gate.wait_until_held(Duration::from_millis(5)));
        let before = provider.counts().refreshes;
        let (there, held) = (Arc::clone(&provider), token.clone());
        let call = tokio::spawn(async move { refreshed(&there, &held).await.unwrap() });
        gate.held().await;
        assert!(gate.wait_until_held(Duration::ZERO));
        assert_eq!(provider.counts().refreshes - before, u64::from(stage == Stage::After));
        assert!(!call.is_finished());
        gate.release();
        let (status, answer) = call.await.unwrap();
        assert_eq!(status, 200);
        token = text(&answer, "refresh_token").to_owned();
    }
    drop(provider.hold(Stage::Before));
    assert_eq!(refreshed(&provider, &token).await.unwrap().0, 200, "a gate that is gone holds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_at_one_time_are_counted_for_each_grant_alone() {
    let (provider, _) = provider();
    let provider = Arc::new(provider);
    let [one, other] = ["ada", "bob"].map(|account| provider.issue("me", account, &[]).refresh.unwrap());
    let hold = async |stage, token_text: String| {
        let gate = provider.hold(stage);
        let there = Arc::clone(&provider);
        let call = tokio::spawn(async move { refreshed(&there, &token_text).await.unwrap().0 });
        gate.held().await;
        (gate, call)
    };
    let (first_gate, first) = hold(Stage::After, one).await;
    assert_eq!(refreshed(&provider, &other).await.unwrap().0, 200);
    assert_eq!(provider.counts().most_refreshes_at_once, 1);
    // Another token, but the same grant.
    let next = provider.text_of(&provider.current_refresh("ada").unwrap()).unwrap();
    let (second_gate, second) = hold(Stage::Before, next).await;
    assert_eq!(provider.counts().most_refreshes_at_once, 2);
    drop((first_gate, second_gate));
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_of_one_grant_at_one_time_are_counted() {
    let (provider, token) = connected().await;
    provider.behave(|manners| manners.reuse = Reuse::Static);
    provider.spoil(3, Stage::Before, Effect::Delay(Duration::from_millis(200)));
    let calls = tokio::join!(
        refreshed(&provider, &token),
        refreshed(&provider, &token),
        refreshed(&provider, &token)
    );
    assert!(calls.0.is_ok() && calls.1.is_ok() && calls.2.is_ok());
    assert_eq!(provider.counts().most_refreshes_at_once, 3);
}
