//! Access tokens are replaced before they end, with nobody asking.

use std::time::Duration;

use keyholder_proto::v1;
use keyholder_testkit::provider::Reuse;

use crate::harness::eventually;
use crate::oauth::world::{OAuth, Setup};

/// A recipe with a reuse class.
fn recipe(reuse: &str) -> String {
    format!("  refresh: {{ {reuse} }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_before_it_ends_again_and_again() {
    let recipe = recipe("reuse: none");
    let oauth = OAuth::start_with(&Setup { recipe: &recipe, ..Setup::default() });
    oauth.provider.behave(|manners| {
        manners.access_lifetime = Duration::from_secs(6);
        manners.reuse = Reuse::None;
    });
    let made = oauth.connect("user:ada").await;
    for refreshes in 1..=3 {
        eventually("one more refresh", || (oauth.provider.counts().refreshes >= refreshes).then_some(()));
        let token = oauth.token(&made).await;
        assert_eq!(oauth.provider.account_of(&token).as_deref(), Some("ada"), "what is released is good");
    }
    let counts = oauth.provider.counts();
    assert_eq!((counts.replays, counts.most_refreshes_at_once), (0, 1));
    let now = oauth.connection(&made.connection_id).await;
    assert_eq!(now.state(), v1::ConnectionState::Active);
    assert!(now.generation > made.generation);
    let refresh = now.refresh.unwrap();
    assert_eq!((refresh.error.as_str(), refresh.failures), ("", 0));
    assert!(refresh.last_success_time.is_some() && refresh.last_attempt_time.is_some());
}
