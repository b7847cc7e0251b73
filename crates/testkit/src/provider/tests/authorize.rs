use super::*;

#[tokio::test]
async fn a_code_is_given_back_with_state_and_issuer() {
    let (provider, _) = provider();
    let page = callback(&provider, "").await;
    assert_eq!(page.parameter("state").as_deref(), Some("s1"));
    assert_eq!(page.parameter("iss"), Some(provider.issuer()));
    assert!(page.parameter("error").is_none());
    let (_, tokens) = token(&provider, &code_form(&page.parameter("code").unwrap())).await;
    assert_eq!((text(&tokens, "token_type"), text(&tokens, "scope")), ("Bearer", "mail.read mail.send"));
    assert_eq!(provider.account_of(text(&tokens, "access_token")).as_deref(), Some("ada"));
}

#[tokio::test]
async fn a_person_is_asked_and_chooses_the_account() {
    let (provider, _) = provider();
    provider.behave(|manners| manners.consent = Consent::Ask);
    let mut browser = Browser::new();
    for (decision, parameter) in [("allow", "code"), ("deny", "error")] {
        let page = browser.get(&authorize_url(&provider, "")).await.unwrap();
        assert!(page.body.contains("mail.read") && page.body.contains("Ada Lovelace"), "{}", page.body);
        assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
        let wish = page.field("wish").unwrap();
        let form = [("wish", wish.as_str()), ("account", "bob"), ("decision", decision)];
        let url = provider.url("/authorize/decide");
        let back = browser.post_until(&url, &form, CALLBACK).await.unwrap();
        assert!(back.parameter(parameter).is_some(), "{}", back.url);
        if let Some(code) = back.parameter("code") {
            let (_, tokens) = token(&provider, &code_form(&code)).await;
            assert_eq!(provider.account_of(text(&tokens, "access_token")).as_deref(), Some("bob"));
        }
        let again = browser.post(&url, &form).await.unwrap();
        assert_eq!(again.status.unwrap(), 400, "the buttons work once");
    }
}

#[tokio::test]
async fn what_the_client_is_called_is_shown_as_text() {
    let (provider, _) = provider();
    provider.behave(|manners| manners.consent = Consent::Ask);
    provider.register(Client::confidential("<script>", "hush", CALLBACK));
    let url = authorize_url(&provider, "").replace("client_id=me", "client_id=%3Cscript%3E");
    let page = Browser::new().get(&url).await.unwrap();
    assert!(page.body.contains("&lt;script&gt;") && !page.body.contains("<script>"));
}

#[tokio::test]
async fn nobody_is_sent_to_an_address_that_is_not_registered() {
    let (provider, _) = provider();
    let good = authorize_url(&provider, "");
    for bad in [
        good.replace("client_id=me", "client_id=you"),
        good.replace("/callback", "/callback/"),
        good.replace("127.0.0.1:9/", "localhost:9/"),
    ] {
        let page = Browser::new().get_until(&bad, CALLBACK).await.unwrap();
        assert_eq!(page.status.unwrap(), 400, "{bad}");
    }
}

#[tokio::test]
async fn other_mistakes_are_sent_back() {
    let (provider, _) = provider();
    let good = authorize_url(&provider, "");
    for (bad, error) in [
        (good.replace("response_type=code", "response_type=token"), "unsupported_response_type"),
        (good.replace("method=S256", "method=plain"), "invalid_request"),
        (good.replace("code_challenge=", "ignored="), "invalid_request"),
        (format!("{good}&state=s2"), "invalid_request"),
        (format!("{good}&auto=deny"), "access_denied"),
    ] {
        let page = Browser::new().get_until(&bad, CALLBACK).await.unwrap();
        assert_eq!(page.parameter("error").as_deref(), Some(error), "{bad}");
        assert_eq!(page.parameter("iss"), Some(provider.issuer()));
        assert!(page.parameter("code").is_none());
    }
}

#[tokio::test]
async fn a_code_that_comes_again_takes_its_tokens_with_it() {
    let (provider, _) = provider();
    let code = callback(&provider, "").await.parameter("code").unwrap();
    let (_, tokens) = token(&provider, &code_form(&code)).await;
    assert!(provider.account_of(text(&tokens, "access_token")).is_some());
    let (status, error) = token(&provider, &code_form(&code)).await;
    assert_eq!((status, text(&error, "error")), (400, "invalid_grant"));
    assert_eq!(provider.account_of(text(&tokens, "access_token")), None);
    assert_eq!(refresh(&provider, text(&tokens, "refresh_token")).await.0, 400);
    assert_eq!(provider.counts().code_replays, 1);
}

#[tokio::test]
async fn a_code_is_good_for_its_client_its_address_its_verifier_and_its_time() {
    let (provider, hand) = provider();
    provider.register(Client::confidential("you", "hush", CALLBACK));
    let wrong: [&[(&str, &str)]; 4] = [
        &[("redirect_uri", "http://127.0.0.1:9/other"), ("code_verifier", VERIFIER)],
        &[("code_verifier", VERIFIER)],
        &[("redirect_uri", CALLBACK), ("code_verifier", "another")],
        &[("redirect_uri", CALLBACK)],
    ];
    for wrong in wrong {
        let code = callback(&provider, "").await.parameter("code").unwrap();
        let form = [&[("grant_type", "authorization_code"), ("code", &code)], wrong].concat();
        assert_eq!(text(&token(&provider, &form).await.1, "error"), "invalid_grant", "{wrong:?}");
    }
    let code = callback(&provider, "").await.parameter("code").unwrap();
    let stranger = [&code_form(&code)[..], &[("client_id", "you"), ("client_secret", "hush")]].concat();
    assert_eq!(text(&post(&provider, "/token", &stranger).await.unwrap().1, "error"), "invalid_grant");
    hand.forward(Duration::from_secs(60));
    assert_eq!(text(&token(&provider, &code_form(&code)).await.1, "error"), "invalid_grant", "too late");
}

#[tokio::test]
async fn the_redirect_can_be_bent() {
    let (provider, _) = provider();
    provider.behave(|manners| {
        manners.issuer = Issuer::Wrong("https://other.example".into());
        manners.redirect_extra = vec![("realmId".into(), "42".into())];
        manners.redirect_twice = vec!["state".into(), "code".into()];
    });
    let page = callback(&provider, "").await;
    assert_eq!(page.parameter("iss").as_deref(), Some("https://other.example"));
    assert_eq!(page.parameter("realmId").as_deref(), Some("42"));
    let count = |name: &str| page.url.query_pairs().filter(|(key, _)| key == name).count();
    assert_eq!((count("state"), count("code"), count("iss")), (2, 2, 1));
    provider.behave(|manners| {
        *manners = Manners { consent: Consent::Deny, issuer: Issuer::Missing, ..Manners::default() };
        manners.state = Some("other".into());
        manners.error_description = Some(hostile::HTML.into());
    });
    let page = callback(&provider, "").await;
    assert_eq!(page.parameter("error").as_deref(), Some("access_denied"));
    assert_eq!(page.parameter("error_description").as_deref(), Some(hostile::HTML));
    assert_eq!((page.parameter("state").as_deref(), page.parameter("iss")), (Some("other"), None));
}
