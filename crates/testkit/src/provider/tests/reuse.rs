use super::*;

fn error(answer: &(u16, Value)) -> &str {
    text(&answer.1, "error")
}

/// A provider of a reuse class, and its first refresh token.
async fn of_class(reuse: Reuse) -> (Provider, Hand, String) {
    let (provider, hand) = provider();
    provider.behave(|manners| manners.reuse = reuse);
    let first = text(&connect(&provider).await, "refresh_token").to_owned();
    (provider, hand, first)
}

async fn must_refresh(provider: &Provider, token: &str) -> String {
    let (status, tokens) = refresh(provider, token).await;
    assert_eq!(status, 200, "{tokens}");
    text(&tokens, "refresh_token").to_owned()
}

#[tokio::test]
async fn none_kills_the_family_when_a_token_comes_again() {
    let (provider, _, first) = of_class(Reuse::None).await;
    let second = must_refresh(&provider, &first).await;
    let (_, tokens) = refresh(&provider, &second).await;
    assert_eq!(error(&refresh(&provider, &first).await), "invalid_grant");
    assert_eq!(provider.counts().replays, 1);
    assert_eq!(error(&refresh(&provider, text(&tokens, "refresh_token")).await), "invalid_grant");
    assert_eq!(provider.account_of(text(&tokens, "access_token")), None);
    assert_eq!(provider.counts().replays, 1, "the newest one was no replay");
}

#[tokio::test]
async fn static_takes_the_same_token_for_ever() {
    let (provider, hand, first) = of_class(Reuse::Static).await;
    for _ in 0..3 {
        let next = must_refresh(&provider, &first).await;
        assert_ne!(next, first);
        must_refresh(&provider, &next).await;
        hand.forward(Duration::from_secs(86400));
    }
    assert_eq!(provider.counts().replays, 0);
}

#[tokio::test]
async fn window_brings_the_same_replacement_for_its_time() {
    let (provider, hand, first) = of_class(Reuse::Window(Duration::from_secs(30))).await;
    let second = must_refresh(&provider, &first).await;
    hand.forward(Duration::from_secs(30));
    assert_eq!(must_refresh(&provider, &first).await, second);
    hand.forward(Duration::from_millis(1));
    assert_eq!(error(&refresh(&provider, &first).await), "invalid_grant");
    assert_eq!(error(&refresh(&provider, &second).await), "invalid_grant");
    assert_eq!(provider.counts().replays, 1);
}

#[tokio::test]
async fn window_is_over_when_the_replacement_was_used() {
    let (provider, _, first) = of_class(Reuse::Window(Duration::from_secs(30))).await;
    let second = must_refresh(&provider, &first).await;
    must_refresh(&provider, &second).await;
    assert_eq!(error(&refresh(&provider, &first).await), "invalid_grant");
    assert_eq!(provider.counts().replays, 1);
}

#[tokio::test]
async fn until_used_lasts_until_the_replacement_is_used() {
    let (provider, hand, first) = of_class(Reuse::UntilUsed(Duration::from_secs(30 * 86400))).await;
    let second = must_refresh(&provider, &first).await;
    hand.forward(Duration::from_secs(29 * 86400));
    assert_eq!(must_refresh(&provider, &first).await, second);
    let third = must_refresh(&provider, &second).await;
    assert_eq!(must_refresh(&provider, &second).await, third);
    assert_eq!(error(&refresh(&provider, &first).await), "invalid_grant");
    assert_eq!(error(&refresh(&provider, &third).await), "invalid_grant");
}

#[tokio::test]
async fn refresh_tokens_can_stay_come_once_or_never() {
    let (provider, _) = provider();
    for (kind, first, next) in [
        (RefreshTokens::Rotate, true, true),
        (RefreshTokens::Same, true, true),
        (RefreshTokens::FirstOnly, true, false),
        (RefreshTokens::Never, false, false),
    ] {
        provider.behave(|manners| manners.refresh_tokens = kind);
        let tokens = connect(&provider).await;
        assert_eq!(tokens.get("refresh_token").is_some(), first, "{kind:?}");
        if first {
            let token = text(&tokens, "refresh_token");
            let (_, again) = refresh(&provider, token).await;
            assert_eq!(again.get("refresh_token").is_some(), next, "{kind:?}");
            let same = again.get("refresh_token") == Some(&tokens["refresh_token"]);
            assert_eq!(same, kind == RefreshTokens::Same);
            let once_more = refresh(&provider, token).await.0;
            assert_eq!(once_more == 200, kind != RefreshTokens::Rotate, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn tokens_and_grants_end() {
    let (provider, hand) = provider();
    provider.behave(|manners| {
        manners.refresh_lifetime = Some(Duration::from_secs(100));
        manners.grant_lifetime = Some(Duration::from_secs(250));
        manners.access_lifetime = Duration::from_secs(10);
    });
    let tokens = connect(&provider).await;
    assert_eq!(tokens["refresh_token_expires_in"], 100);
    hand.forward(Duration::from_secs(10));
    assert_eq!(provider.account_of(text(&tokens, "access_token")), None);
    let mut token = text(&tokens, "refresh_token").to_owned();
    for _ in 0..2 {
        hand.forward(Duration::from_secs(89));
        token = must_refresh(&provider, &token).await;
    }
    hand.forward(Duration::from_secs(89));
    assert_eq!(error(&refresh(&provider, &token).await), "invalid_grant", "the grant is over");
    let tokens = connect(&provider).await;
    hand.forward(Duration::from_secs(100));
    assert_eq!(error(&refresh(&provider, text(&tokens, "refresh_token")).await), "invalid_grant");
    assert_eq!(provider.counts().replays, 0);
}

#[tokio::test]
async fn a_refresh_can_end_access_and_change_the_account() {
    let (provider, _) = provider();
    provider.behave(|manners| {
        manners.refresh_ends_access = true;
        manners.account_after_refresh = Some("eve".into());
    });
    let tokens = connect(&provider).await;
    let (_, next) = refresh(&provider, text(&tokens, "refresh_token")).await;
    assert_eq!(provider.account_of(text(&tokens, "access_token")), None);
    assert_eq!(provider.account_of(text(&next, "access_token")).as_deref(), Some("eve"));
}

#[tokio::test]
async fn a_refresh_asks_for_no_more_than_was_granted() {
    let (provider, _) = provider();
    let tokens = connect(&provider).await;
    let token_text = text(&tokens, "refresh_token");
    for (scope, status) in [("mail.read mail.delete", 400), ("mail.send", 200)] {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token_text), ("scope", scope)];
        assert_eq!(token(&provider, &form).await.0, status, "{scope}");
    }
}

#[tokio::test]
async fn a_grant_can_be_withdrawn_behind_the_clients_back() {
    let (provider, _) = provider();
    let tokens = connect(&provider).await;
    assert_eq!((provider.withdraw("bob"), provider.withdraw("ada")), (0, 1));
    assert_eq!(error(&refresh(&provider, text(&tokens, "refresh_token")).await), "invalid_grant");
    assert_eq!(provider.counts().replays, 0);
}
