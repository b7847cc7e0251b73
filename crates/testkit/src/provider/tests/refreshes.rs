use super::*;

/// A provider and the first refresh token of its one grant.
fn issued() -> (Provider, Hand, String) {
    let (provider, hand) = provider();
    let token = provider.issue("me", "ada", &[]).refresh.unwrap();
    (provider, hand, token)
}

fn tokens_of(access: &str, refresh: &str) -> Outcome {
    Outcome::Issued { access: access.into(), refresh: Some(refresh.into()) }
}

#[tokio::test]
async fn a_refresh_is_logged_with_what_it_presented_and_got() {
    let (provider, hand, token) = issued();
    callback(&provider, "").await;
    let now = hand.now();
    refresh(&provider, &token).await;
    refresh(&provider, "nonsense").await;
    let expected = Refreshed {
        number: 2,
        at: now,
        answered: Some(now),
        grant: 0,
        presented: "rt-1".into(),
        superseded: None,
        outcome: tokens_of("at-5", "rt-4"),
    };
    assert_eq!(provider.refreshes(), [expected]);
}

#[tokio::test]
async fn the_log_of_refreshes_is_never_cut() {
    let (provider, _, token) = issued();
    provider.remember(1);
    provider.behave(|manners| manners.refresh_tokens = RefreshTokens::Same);
    for _ in 0..3 {
        refresh(&provider, &token).await;
    }
    let numbers = provider.refreshes().iter().map(|refreshed| refreshed.number).collect::<Vec<_>>();
    assert_eq!((numbers, provider.history().len()), (vec![1, 2, 3], 1));
    assert!(provider.refreshes().iter().all(|refreshed| refreshed.superseded.is_none()));
}

#[tokio::test]
async fn the_log_holds_no_token() {
    let (provider, _, token) = issued();
    refresh(&provider, &token).await;
    refresh(&provider, &token).await;
    let log = format!("{:?}", provider.refreshes());
    assert!(log.contains("rt-1") && provider.secrets().iter().all(|secret| !log.contains(secret)));
}

#[tokio::test]
async fn a_token_that_was_replaced_is_logged_with_what_became_of_it() {
    let (provider, hand, first) = issued();
    provider.behave(|manners| manners.reuse = Reuse::Window(Duration::from_secs(30)));
    let since = hand.now();
    let second = text(&refresh(&provider, &first).await.1, "refresh_token").to_owned();
    hand.forward(Duration::from_secs(5));
    refresh(&provider, &first).await;
    refresh(&provider, &second).await;
    refresh(&provider, &first).await;
    let log = provider.refreshes();
    let seen: Vec<_> = log.iter().map(|refreshed| (&*refreshed.presented, refreshed.superseded)).collect();
    let replaced = |replacement_used| Some(Superseded { since, replacement_used });
    assert_eq!(seen, [("rt-1", None), ("rt-1", replaced(false)), ("rt-3", None), ("rt-1", replaced(true))]);
    assert_eq!(log[1].outcome, tokens_of("at-5", "rt-3"));
    assert_eq!(log[3].outcome, Outcome::Refused("invalid_grant"));
    assert_eq!(provider.counts().replays, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_refresh_is_logged_as_the_provider_finds_its_token_when_it_works() {
    let (provider, hand, token) = issued();
    let provider = Arc::new(provider);
    let gate = provider.hold(Stage::Before);
    let (there, held) = (Arc::clone(&provider), token.clone());
    let call = tokio::spawn(async move { refresh(&there, &held).await });
    gate.held().await;
    let refreshed = provider.refreshes().remove(0);
    assert_eq!((refreshed.answered, refreshed.superseded), (None, None));
    assert_eq!(refreshed.outcome, Outcome::Nothing);
    assert_eq!(refresh(&provider, &token).await.0, 200);
    gate.release();
    assert_eq!(call.await.unwrap().0, 400);
    let refreshed = provider.refreshes().remove(0);
    let superseded = Superseded { since: hand.now(), replacement_used: false };
    assert_eq!((refreshed.number, refreshed.superseded), (1, Some(superseded)));
    assert_eq!(refreshed.outcome, Outcome::Refused("invalid_grant"));
    assert!(refreshed.answered.is_some());
}

#[tokio::test]
async fn an_answer_that_was_lost_is_logged_as_never_given() {
    for (stage, effect) in [(Stage::Before, Effect::Reset), (Stage::After, Effect::Cut(10))] {
        let (provider, _, token) = issued();
        provider.spoil(1, stage, effect);
        let form = [("grant_type", "refresh_token"), ("refresh_token", &token)];
        assert!(try_token(&provider, &form).await.is_err());
        let refreshed = provider.refreshes().remove(0);
        assert_eq!(refreshed.answered, None);
        assert_eq!(matches!(refreshed.outcome, Outcome::Issued { .. }), stage == Stage::After);
        // What came before it is known also if the provider did nothing.
        provider.spoil(1, Stage::Before, Effect::Status(503));
        refresh(&provider, &token).await;
        assert_eq!(provider.refreshes()[1].superseded.is_some(), stage == Stage::After);
    }
}
