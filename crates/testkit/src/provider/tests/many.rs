use super::*;

/// What is linear in the tokens for each of them would not end here.
#[test]
fn has_thousands_of_grants_without_a_browser() {
    let (provider, _) = provider();
    let accounts = (0..20_000).map(|number| format!("account-{number}")).collect::<Vec<_>>();
    for account in &accounts {
        provider.issue("me", account, &[]);
    }
    for account in &accounts {
        let id = provider.current_refresh(account).unwrap();
        assert!(provider.text_of(&id).unwrap().starts_with(&format!("{id}.")));
        assert!(provider.grant_is_alive(account));
        assert_eq!(provider.withdraw(account), 1);
        assert!(!provider.grant_is_alive(account));
    }
    assert_eq!((provider.counts().grants, provider.secrets().len()), (20_000, 40_000));
}

#[tokio::test]
async fn issued_tokens_follow_the_manners() {
    let (provider, hand) = provider();
    provider.behave(|manners| manners.access_lifetime = Duration::from_secs(10));
    let tokens = provider.issue("me", "bob", &["mail.read"]);
    assert_eq!(tokens.ends, hand.now() + Duration::from_secs(10));
    assert_eq!(provider.account_of(&tokens.access).as_deref(), Some("bob"));
    let (status, next) = refresh(&provider, tokens.refresh.as_deref().unwrap()).await;
    assert_eq!((status, text(&next, "scope")), (200, "mail.read"));
    hand.forward(Duration::from_secs(10));
    assert_eq!(provider.account_of(&tokens.access), None);
    provider.behave(|manners| manners.refresh_tokens = RefreshTokens::Never);
    assert!(provider.issue("me", "bob", &[]).refresh.is_none());
}

#[test]
fn issued_tokens_are_not_printed() {
    let (provider, _) = provider();
    let tokens = provider.issue("me", "ada", &[]);
    let printed = format!("{tokens:?}");
    assert!(printed.contains("Tokens") && !printed.contains(&tokens.access));
    assert!(!printed.contains(tokens.refresh.as_deref().unwrap()));
}

#[tokio::test]
async fn a_grant_lives_until_it_ends_or_is_ended() {
    let (provider, hand) = provider();
    assert!(!provider.grant_is_alive("ada"), "there is none");
    provider.behave(|manners| manners.grant_lifetime = Some(Duration::from_secs(100)));
    provider.issue("me", "ada", &[]);
    hand.forward(Duration::from_secs(99));
    assert!(provider.grant_is_alive("ada"));
    hand.forward(Duration::from_secs(1));
    assert!(!provider.grant_is_alive("ada"));
    let first = provider.issue("me", "ada", &[]).refresh.unwrap();
    assert!(provider.grant_is_alive("ada"), "the latest counts");
    refresh(&provider, &first).await;
    refresh(&provider, &first).await;
    assert!(!provider.grant_is_alive("ada"), "a replay ends it");
}

#[tokio::test]
async fn the_current_refresh_token_is_the_newest_of_the_latest_grant() {
    let (provider, _) = provider();
    assert_eq!(provider.current_refresh("ada"), None);
    provider.issue("me", "ada", &[]);
    let tokens = provider.issue("me", "ada", &[]);
    assert_eq!(provider.current_refresh("ada").as_deref(), Some("rt-3"));
    provider.spoil(1, Stage::After, Effect::Status(500));
    refresh(&provider, tokens.refresh.as_deref().unwrap()).await;
    assert_eq!(provider.current_refresh("ada").as_deref(), Some("rt-5"), "whether it arrived or not");
    provider.behave(|manners| manners.account_after_refresh = Some("eve".into()));
    refresh(&provider, &provider.text_of("rt-5").unwrap()).await;
    assert_eq!(provider.current_refresh("ada").as_deref(), Some("rt-1"), "the other one is eve's now");
    assert_eq!(provider.current_refresh("eve").as_deref(), Some("rt-7"));
    callback(&provider, "").await;
    assert_eq!(provider.current_refresh("ada"), None, "its code was not exchanged yet");
    assert!(provider.grant_is_alive("ada"));
}

#[tokio::test]
async fn a_refresh_ends_the_access_tokens_before_it_alone() {
    let (provider, _) = provider();
    let (ada, bob) = (provider.issue("me", "ada", &[]), provider.issue("me", "bob", &[]));
    provider.behave(|manners| manners.refresh_ends_access = true);
    let (_, next) = refresh(&provider, ada.refresh.as_deref().unwrap()).await;
    let good = |token: &str| provider.account_of(token).is_some();
    assert!(!good(&ada.access) && good(text(&next, "access_token")) && good(&bob.access));
    for (token, alive) in [(ada.access.as_str(), 0), (text(&next, "access_token"), 1)] {
        let form = [("token", token), ("client_id", "me"), ("client_secret", "hush")];
        assert_eq!(post(&provider, "/revoke", &form).await.unwrap().0, 200);
        assert_eq!(provider.counts().revocations, alive);
    }
}

#[tokio::test]
async fn keeps_as_many_calls_as_it_is_told_to() {
    let (provider, _) = provider();
    let numbers = || provider.history().iter().map(|call| call.number).collect::<Vec<_>>();
    for _ in 0..4 {
        refresh(&provider, "nonsense").await;
    }
    provider.remember(3);
    assert_eq!(numbers(), [2, 3, 4]);
    refresh(&provider, "nonsense").await;
    assert_eq!(numbers(), [3, 4, 5]);
    assert!(provider.history().iter().all(|call| call.outcome == Outcome::Refused("invalid_grant")));
    provider.remember(4);
    refresh(&provider, "nonsense").await;
    assert_eq!(numbers(), [3, 4, 5, 6]);
    provider.remember(0);
    assert_eq!(refresh(&provider, "nonsense").await.0, 400);
    assert_eq!(provider.history().len(), 0);
}
