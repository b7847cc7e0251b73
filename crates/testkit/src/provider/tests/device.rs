use super::*;

async fn start(provider: &Provider) -> Value {
    provider.register(Client::public("device"));
    let form = [("client_id", "device"), ("scope", "mail.read")];
    let (status, answer) = post(provider, "/device_authorization", &form).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn poll(provider: &Provider, started: &Value) -> Value {
    let grant_type = "urn:ietf:params:oauth:grant-type:device_code";
    let form =
        [("client_id", "device"), ("grant_type", grant_type), ("device_code", text(started, "device_code"))];
    post(provider, "/token", &form).await.unwrap().1
}

#[tokio::test]
async fn a_device_gets_its_tokens_once_a_person_allows_it() {
    let (provider, hand) = provider();
    provider.behave(|manners| manners.consent = Consent::Ask);
    let started = start(&provider).await;
    assert_eq!((&started["interval"], &started["expires_in"]), (&Value::from(5), &Value::from(600)));
    assert_eq!(text(&poll(&provider, &started).await, "error"), "authorization_pending");
    let mut browser = Browser::new();
    let page = browser.get(text(&started, "verification_uri_complete")).await.unwrap();
    let code = page.field("user_code").unwrap();
    assert_eq!(code, text(&started, "user_code"));
    let form = [("user_code", code.as_str()), ("decision", "allow")];
    let page = browser.post(text(&started, "verification_uri"), &form).await.unwrap();
    assert!(page.body.contains("connected"));
    hand.forward(Duration::from_secs(5));
    let tokens = poll(&provider, &started).await;
    assert_eq!(provider.account_of(text(&tokens, "access_token")).as_deref(), Some("ada"));
    assert_eq!(text(&tokens, "scope"), "mail.read");
    hand.forward(Duration::from_secs(5));
    assert_eq!(text(&poll(&provider, &started).await, "error"), "invalid_grant", "tokens come once");
    assert_eq!(provider.history().last().unwrap().presented.as_deref(), Some("device-1"));
}

#[tokio::test]
async fn a_hasty_device_is_slowed_down_for_good() {
    let (provider, hand) = provider();
    provider.behave(|manners| manners.consent = Consent::Ask);
    let started = start(&provider).await;
    for (wait, error) in
        [(0, "authorization_pending"), (4, "slow_down"), (9, "slow_down"), (15, "authorization_pending")]
    {
        hand.forward(Duration::from_secs(wait));
        assert_eq!(text(&poll(&provider, &started).await, "error"), error, "after {wait} s");
    }
}

#[tokio::test]
async fn a_device_is_refused_when_a_person_says_so_or_nobody_says_anything() {
    let (provider, hand) = provider();
    provider.behave(|manners| manners.consent = Consent::Ask);
    let started = start(&provider).await;
    let code = text(&started, "user_code").to_lowercase();
    assert!(provider.deny_device(&code) && !provider.allow_device(&code, "ada"));
    assert_eq!(text(&poll(&provider, &started).await, "error"), "access_denied");
    let started = start(&provider).await;
    hand.forward(Duration::from_secs(600));
    assert_eq!(text(&poll(&provider, &started).await, "error"), "expired_token");
}

#[tokio::test]
async fn an_interval_can_be_left_out() {
    let (provider, _) = provider();
    provider.behave(|manners| manners.device_interval = None);
    assert!(start(&provider).await.get("interval").is_none());
}
