use serde_json::json;

use super::*;

/// The first token answer under some manners, as it came.
async fn answer(change: impl FnOnce(&mut Manners)) -> Page {
    let (provider, _) = provider();
    provider.behave(change);
    let code = callback(&provider, "").await.parameter("code").unwrap();
    let form = [&code_form(&code)[..], &[("client_id", "me"), ("client_secret", "hush")]].concat();
    Browser::new().post(&provider.url("/token"), &form).await.unwrap()
}

async fn tokens(change: impl FnOnce(&mut Manners)) -> Value {
    serde_json::from_str(&answer(change).await.body).unwrap()
}

#[tokio::test]
async fn an_answer_comes_in_each_format() {
    let form = answer(|manners| manners.format = Format::Form).await;
    assert!(form.header("content-type").unwrap().starts_with("application/x-www-form-urlencoded"));
    assert!(form.body.contains("access_token=at-3.") && form.body.contains("scope=mail.read+mail.send"));
    assert!(answer(|manners| manners.format = Format::AsAccepted).await.body.contains("access_token=at-"));
    let text = answer(|manners| manners.format = Format::TextJson).await;
    assert!(text.header("content-type").unwrap().starts_with("text/plain") && text.body.starts_with('{'));
}

#[tokio::test]
async fn tokens_can_be_nested() {
    let nested = tokens(|manners| manners.nested = Some("/data/authed_user".into())).await;
    assert!(
        nested.pointer("/data/authed_user/access_token").is_some() && nested.get("access_token").is_none()
    );
}

#[tokio::test]
async fn an_expiry_comes_in_each_shape() {
    for (shape, expected) in [
        (Expiry::Seconds, json!(3600)),
        (Expiry::Text, json!("3600")),
        (Expiry::Float, json!(3600.5)),
        (Expiry::Milliseconds, json!(3_600_000)),
        (Expiry::Raw(json!(-1)), json!(-1)),
        (Expiry::Raw(json!(1e99)), json!(1e99)),
        (Expiry::Missing, Value::Null),
    ] {
        let tokens = tokens(|manners| manners.expiry = shape.clone()).await;
        assert_eq!(tokens["expires_in"], expected, "{shape:?}");
        assert!(tokens.get("expires_at").is_none());
    }
    let date = tokens(|manners| manners.expiry = Expiry::Date).await;
    assert!(text(&date, "expires_at").contains('T') && date.get("expires_in").is_none());
    assert!(tokens(|manners| manners.expiry = Expiry::UnixTime).await["expires_at"].is_i64());
}

#[tokio::test]
async fn scopes_come_in_each_shape() {
    for (shape, expected) in [
        (ScopeShape::Text, json!("mail.read mail.send")),
        (ScopeShape::Commas, json!("mail.read,mail.send")),
        (ScopeShape::List, json!(["mail.read", "mail.send"])),
        (ScopeShape::Missing, Value::Null),
    ] {
        assert_eq!(tokens(|manners| manners.scope = shape).await["scope"], expected, "{shape:?}");
    }
    let narrower = tokens(|manners| manners.granted = Some(vec!["mail.read".into()])).await;
    assert_eq!(narrower["scope"], "mail.read");
}

#[tokio::test]
async fn other_members_can_be_added_and_bent() {
    let tokens = tokens(|manners| {
        manners.token_type = Some("mac".into());
        manners.answer_extra =
            json!({ "instance_url": "https://eu.example.com" }).as_object().unwrap().clone();
    });
    let tokens = tokens.await;
    assert_eq!(
        (text(&tokens, "token_type"), text(&tokens, "instance_url")),
        ("mac", "https://eu.example.com")
    );
}

#[tokio::test]
async fn errors_can_be_bent() {
    let (provider, _) = provider();
    for description in [hostile::HTML.to_owned(), hostile::CONTROL.to_owned(), hostile::long(100_000)] {
        provider.behave(|manners| {
            manners.error_status = Some(200);
            manners.error_code = Some("bad_refresh_token".into());
            manners.error_description = Some(description.clone());
        });
        let (status, error) = refresh(&provider, "nonsense").await;
        assert_eq!((status, text(&error, "error")), (200, "bad_refresh_token"));
        assert_eq!(text(&error, "error_description"), description);
    }
    let page = Browser::new().get(&provider.url("/userinfo")).await.unwrap();
    assert_eq!((page.status.unwrap().as_u16(), page.body.as_str()), (401, r#"{"error":"invalid_token"}"#));
    assert_eq!(
        provider.history()[0].outcome,
        Outcome::Refused("invalid_grant"),
        "what is true does not bend"
    );
}

#[tokio::test]
async fn an_id_token_says_whose_and_repeats_the_nonce() {
    let (provider, _) = provider();
    let url = authorize_url(&provider, "&nonce=n1").replace("scope=", "scope=openid+");
    let page = Browser::new().get_until(&url, CALLBACK).await.unwrap();
    let (_, tokens) = token(&provider, &code_form(&page.parameter("code").unwrap())).await;
    let claims = text(&tokens, "id_token").split('.').nth(1).unwrap();
    use base64::Engine as _;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["sub"], &claims["nonce"]), (&json!("user-ada"), &json!("n1")));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(provider.issuer()), &json!("me")));
}
