use super::clients::jwt;
use super::*;

/// A provider of so many calls a second, and a refresh token that stays good.
fn limited(per_second: u32) -> (Provider, Hand, String) {
    let (provider, hand) = provider();
    provider.behave(|manners| {
        manners.reuse = Reuse::Static;
        manners.limit = Some(Limit { per_second, retry_after: true });
    });
    let token = provider.issue("me", "ada", &[]).refresh.unwrap();
    // The windows are the seconds of the clock: this is the beginning of one.
    let into_the_second = hand.now().nanosecond();
    hand.forward(Duration::from_nanos(u64::from(1_000_000_000 - into_the_second)));
    (provider, hand, token)
}

async fn statuses(provider: &Provider, token_text: &str, calls: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..calls {
        statuses.push(refresh(provider, token_text).await.0);
    }
    statuses
}

#[tokio::test]
async fn a_client_has_so_many_calls_in_each_second_of_the_clock() {
    let (provider, hand, token) = limited(2);
    assert_eq!(statuses(&provider, &token, 4).await, [200, 200, 429, 429]);
    hand.forward(Duration::from_millis(999));
    assert_eq!(statuses(&provider, &token, 1).await, [429]);
    hand.forward(Duration::from_millis(1));
    assert_eq!(statuses(&provider, &token, 3).await, [200, 200, 429]);
    let counts = provider.counts();
    assert_eq!((counts.token_calls, counts.limited, counts.refreshes), (8, 4, 4));
}

#[tokio::test]
async fn a_call_that_is_refused_for_the_limit_changes_nothing() {
    let (provider, hand, _) = limited(1);
    provider.behave(|manners| manners.reuse = Reuse::None);
    let (first, code) = (provider.issue("me", "ada", &[]).refresh.unwrap(), callback(&provider, "").await);
    let second = text(&refresh(&provider, &first).await.1, "refresh_token").to_owned();
    assert_eq!(statuses(&provider, &second, 1).await, [429]);
    assert_eq!(statuses(&provider, &first, 1).await, [429], "a replay, but nobody looks at it");
    let code = code.parameter("code").unwrap();
    assert_eq!(token(&provider, &code_form(&code)).await.0, 429);
    assert_eq!(provider.counts().replays, 0);
    assert_eq!(provider.history().last().unwrap().outcome, Outcome::Answered(429));
    hand.forward(Duration::from_secs(1));
    assert_eq!(statuses(&provider, &second, 1).await, [200]);
    hand.forward(Duration::from_secs(1));
    assert_eq!(token(&provider, &code_form(&code)).await.0, 200);
}

#[tokio::test]
async fn the_limit_says_when_to_come_again_only_if_it_is_told_to() {
    let (provider, _, _) = limited(0);
    for (retry_after, expected) in [(true, Some("1")), (false, None)] {
        provider.behave(|manners| manners.limit = Some(Limit { per_second: 0, retry_after }));
        let page = Browser::new().post(&provider.url("/token"), &[]).await.unwrap();
        assert_eq!((page.status.unwrap().as_u16(), page.header("retry-after")), (429, expected));
        let body: Value = serde_json::from_str(&page.body).unwrap();
        assert!(body["message"].is_string() && body.get("error").is_none());
    }
}

#[tokio::test]
async fn a_limit_is_of_one_client_and_of_the_token_endpoint() {
    let (provider, hand, token_text) = limited(1);
    provider.register(Client::confidential("you", "hush", CALLBACK));
    assert_eq!(statuses(&provider, &token_text, 2).await, [200, 429]);
    let revoke = [("token", "nonsense"), ("client_id", "me"), ("client_secret", "hush")];
    assert_eq!(post(&provider, "/revoke", &revoke).await.unwrap().0, 200);
    let mut browser = Browser::new();
    // "you:hush", and the same client in the body.
    browser.set_header("authorization", "Basic eW91Omh1c2g=");
    let own = [("grant_type", "client_credentials")];
    let page = browser.post(&provider.url("/token"), &own).await.unwrap();
    assert_eq!(page.status.unwrap(), 200);
    let own = [own[0], ("client_id", "you"), ("client_secret", "hush")];
    assert_eq!(post(&provider, "/token", &own).await.unwrap().0, 429);
    let ends = hand.now().unix_timestamp() + 60;
    let assertion = jwt(&serde_json::json!({ "iss": "robot", "exp": ends }));
    let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
    assert_eq!(post(&provider, "/token", &form).await.unwrap().0, 200);
    assert_eq!(post(&provider, "/token", &form).await.unwrap().0, 429);
}

#[tokio::test]
async fn a_fault_in_place_of_the_work_is_not_counted_for_the_limit() {
    let (provider, _, token) = limited(1);
    provider.spoil(2, Stage::Before, Effect::Status(503));
    assert_eq!(statuses(&provider, &token, 4).await, [503, 503, 200, 429]);
}
