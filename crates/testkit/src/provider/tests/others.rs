use serde_json::json;

use super::clients::jwt;
use super::*;

async fn user_info(provider: &Provider, token: &str) -> (u16, Value) {
    let mut browser = Browser::new();
    browser.set_header("authorization", &format!("Bearer {token}"));
    let page = browser.get(&provider.url("/userinfo")).await.unwrap();
    (page.status.unwrap().as_u16(), serde_json::from_str(&page.body).unwrap())
}

async fn revoke(provider: &Provider, token: &str) -> u16 {
    let form = [("token", token), ("client_id", "me"), ("client_secret", "hush")];
    post(provider, "/revoke", &form).await.unwrap().0
}

#[tokio::test]
async fn says_whose_a_token_is() {
    let (provider, hand) = provider();
    provider.behave(|manners| manners.account = "bob".into());
    let tokens = connect(&provider).await;
    let token = text(&tokens, "access_token");
    let expected = json!({ "sub": "user-bob", "name": "Bob Kahn", "email": "bob@example.com" });
    assert_eq!(user_info(&provider, token).await, (200, expected));
    assert_eq!(user_info(&provider, "nonsense").await.0, 401);
    hand.forward(Duration::from_secs(3600));
    assert_eq!(user_info(&provider, token).await, (401, json!({ "error": "invalid_token" })));
}

#[tokio::test]
async fn revokes_a_refresh_token_with_all_and_an_access_token_alone() {
    let (provider, _) = provider();
    let tokens = connect(&provider).await;
    assert_eq!(revoke(&provider, text(&tokens, "access_token")).await, 200);
    assert_eq!(user_info(&provider, text(&tokens, "access_token")).await.0, 401);
    let (status, tokens) = refresh(&provider, text(&tokens, "refresh_token")).await;
    assert_eq!(status, 200);
    assert_eq!(revoke(&provider, text(&tokens, "refresh_token")).await, 200);
    assert_eq!(user_info(&provider, text(&tokens, "access_token")).await.0, 401);
    assert_eq!(refresh(&provider, text(&tokens, "refresh_token")).await.0, 400);
    assert_eq!(revoke(&provider, "nonsense").await, 200, "RFC 7009 section 2.2");
    assert_eq!(provider.counts().revocations, 2);
}

#[tokio::test]
async fn revokes_nothing_for_a_stranger() {
    let (provider, _) = provider();
    provider.register(Client::confidential("you", "hush", CALLBACK));
    let tokens = connect(&provider).await;
    let token = text(&tokens, "refresh_token");
    let form = [("token", token), ("client_id", "you"), ("client_secret", "hush")];
    assert_eq!(post(&provider, "/revoke", &form).await.unwrap().0, 200);
    assert_eq!(post(&provider, "/revoke", &[("token", token)]).await.unwrap().0, 401);
    assert_eq!(refresh(&provider, token).await.0, 200);
}

#[tokio::test]
async fn exchanges_a_token_for_a_long_lived_one_and_that_for_the_next() {
    let (provider, hand) = provider();
    let tokens = connect(&provider).await;
    let get = async |path: String| {
        let page = Browser::new().get(&provider.url(&path)).await.unwrap();
        (page.status.unwrap().as_u16(), serde_json::from_str::<Value>(&page.body).unwrap())
    };
    let exchange =
        format!("/exchange?grant_type=ig_exchange_token&access_token={}", text(&tokens, "access_token"));
    assert_eq!(get(exchange.clone()).await.0, 401);
    let (status, long) = get(exchange + "&client_secret=hush").await;
    assert_eq!((status, &long["expires_in"]), (200, &json!(5_184_000)));
    let refresh = format!(
        "/refresh_long_lived?grant_type=ig_refresh_token&access_token={}",
        text(&long, "access_token")
    );
    assert_eq!(get(refresh.clone()).await.0, 400, "it is too young");
    hand.forward(Duration::from_secs(59 * 86400));
    let (status, next) = get(refresh.clone()).await;
    assert_eq!(status, 200);
    hand.forward(Duration::from_secs(2 * 86400));
    assert_eq!(get(refresh).await.0, 401, "it has ended");
    assert_eq!(provider.account_of(text(&next, "access_token")).as_deref(), Some("ada"));
}

#[tokio::test]
async fn gives_an_installation_its_token_for_an_assertion() {
    let (provider, hand) = provider();
    let url = provider.url("/app/installations/42/access_tokens");
    let now = hand.now().unix_timestamp();
    for (token, status) in [
        (jwt(&json!({ "iss": 7, "exp": now + 60 })), 201),
        (jwt(&json!({ "iss": 7, "exp": now - 1 })), 401),
        ("a.b".to_owned(), 401),
    ] {
        let mut browser = Browser::new();
        browser.set_header("authorization", &format!("Bearer {token}"));
        let page = browser.post(&url, &[]).await.unwrap();
        assert_eq!(page.status.unwrap(), status);
        if status == 201 {
            let answer: Value = serde_json::from_str(&page.body).unwrap();
            assert!(text(&answer, "token").starts_with("at-") && text(&answer, "expires_at").ends_with('Z'));
        }
    }
}

#[tokio::test]
async fn says_what_it_can_do() {
    let (provider, _) = provider();
    let page = Browser::new().get(&provider.url("/.well-known/oauth-authorization-server")).await.unwrap();
    let metadata: Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!(text(&metadata, "issuer"), provider.issuer());
    assert_eq!(text(&metadata, "token_endpoint"), provider.url("/token"));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    assert_eq!(Browser::new().get(&provider.url("/other")).await.unwrap().status.unwrap(), 404);
}
