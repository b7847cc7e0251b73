//! Whoever needs a token that has ended waits for a new one, with everybody else who does.

use std::time::Duration;

use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::{self, ConnectionState};
use keyholder_testkit::provider::{Effect, Endpoint, Reuse, Stage};
use tokio::task::JoinSet;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::*;
use crate::harness::{Server, assert_refused, openai};
use crate::oauth::world::Setup;

fn ask(made: &v1::Connection, min_ttl: i64) -> v1::ResolveCredentialRequest {
    v1::ResolveCredentialRequest {
        min_ttl: Some(prost_types::Duration { seconds: min_ttl, nanos: 0 }),
        ..resolve_request(&made.owner, &made.connection_id)
    }
}

fn steady() -> OAuth {
    let oauth = OAuth::start_with(&Setup { recipe: STATIC, ..Setup::default() });
    oauth.provider.behave(|manners| manners.reuse = Reuse::Static);
    oauth
}

/// Many resolves of one connection at once, through each of these servers.
async fn resolve_through(
    oauth: &OAuth,
    servers: &[&Server],
    made: &v1::Connection,
    each: usize,
) -> Vec<Result<v1::ResolveCredentialResponse, Status>> {
    let mut asking = JoinSet::new();
    for server in servers {
        let channel = oauth.world.channel_to(server, "gateway");
        for _ in 0..each {
            let mut grants = GrantServiceClient::new(channel.clone());
            let request = resolve_request(&made.owner, &made.connection_id);
            asking.spawn(async move { Ok(grants.resolve_credential(request).await?.into_inner()) });
        }
    }
    asking.join_all().await
}

// === Waiting ===

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_ended_is_waited_for_and_what_comes_says_when_it_ends() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let old = oauth.token(&made).await;
    expire(&oauth, &made);
    let resolved = resolve(&oauth, &made).await.unwrap();
    assert_ne!(token_in(&resolved), old);
    assert_eq!(oauth.provider.account_of(token_in(&resolved)).as_deref(), Some("ada"));
    let now = oauth.connection(&made.connection_id).await;
    assert_eq!(resolved.valid_until, now.tokens.unwrap().expire_time);
    assert_eq!(resolved.generation, now.generation);
    assert!(resolved.generation > made.generation);
    assert_eq!(oauth.provider.counts().refreshes, 1);
    assert_eq!(events_of(&oauth, "CREDENTIAL_DENIED"), "0");
    assert_silent(&oauth, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_everybody_who_waits_on_any_replica_shares_one_refresh() {
    let oauth = OAuth::start();
    let (second, _) = oauth.replica("second");
    let made = oauth.connect("user:ada").await;
    let gate = oauth.provider.hold(Stage::Before);
    expire(&oauth, &made);
    let servers = [&oauth.world.server, &second];
    let (answers, ()) = tokio::join!(resolve_through(&oauth, &servers, &made, 20), async {
        gate.held().await;
        eventually("somebody who waits", || {
            (row(&oauth, &made, "attempt_id IS NOT NULL") == "t").then_some(())
        });
        gate.release();
    });
    assert_eq!(answers.len(), 40);
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| token_in(answer) == token_in(&answers[0])));
    assert!(oauth.provider.account_of(token_in(&answers[0])).is_some());
    let counts = oauth.provider.counts();
    assert_eq!((counts.refreshes, counts.replays, counts.most_refreshes_at_once), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_life_than_is_left_is_got_and_more_than_any_token_has_is_refused_without_a_storm() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.access_lifetime = Duration::from_secs(600));
    let made = oauth.connect("user:ada").await;
    let old = oauth.token(&made).await;
    let soon = "clock_timestamp() + interval '2 minutes'";
    oauth.world.sql(&format!(
        "UPDATE connections SET token_expire_time = {soon}; \
         UPDATE refreshes SET deadline = {soon}, earliest_time = clock_timestamp()"
    ));
    let mut gateway = oauth.world.grants("gateway");
    let resolved = gateway.resolve_credential(ask(&made, 60)).await.unwrap().into_inner();
    assert_eq!((token_in(&resolved), oauth.provider.counts().refreshes), (old.as_str(), 0));
    let resolved = gateway.resolve_credential(ask(&made, 300)).await.unwrap().into_inner();
    assert_ne!(token_in(&resolved), old);
    assert_eq!(oauth.provider.counts().refreshes, 1);
    // A token lives for ten minutes.
    for _ in 0..5 {
        let refused = gateway.resolve_credential(ask(&made, 3_000)).await;
        assert_refused(refused, Code::FailedPrecondition, "TOKEN_EXPIRED");
    }
    assert_eq!(oauth.provider.counts().refreshes, 1, "a newer one would not do either");
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_good_is_served_while_it_is_being_replaced() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let old = oauth.token(&made).await;
    let gate = oauth.provider.hold(Stage::After);
    make_due(&oauth, &made);
    gate.held().await;
    assert_eq!(oauth.token(&made).await, old);
    assert_eq!(row(&oauth, &made, "attempt_id IS NOT NULL"), "t", "it is under way all the while");
    gate.release();
    eventually("the new one", || (row(&oauth, &made, "done_attempt_id IS NOT NULL") == "t").then_some(()));
    assert_ne!(oauth.token(&made).await, old);
    assert_eq!(oauth.provider.counts().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_i10_whoever_cannot_wait_is_told_before_its_deadline_and_the_refresh_is_stored_all_the_same() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let gate = oauth.provider.hold(Stage::After);
    expire(&oauth, &made);
    let mut hasty = Request::new(resolve_request(&made.owner, &made.connection_id));
    hasty.set_timeout(Duration::from_secs(2));
    let refused = oauth.world.grants("gateway").resolve_credential(hasty).await;
    let refused = assert_refused(refused, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    assert!(refused.get_details_retry_info().is_some());
    // And one that goes away without a word.
    let mut grants = oauth.world.grants("gateway");
    let request = resolve_request(&made.owner, &made.connection_id);
    let gone = tokio::spawn(async move { grants.resolve_credential(request).await });
    eventually("one that waits", || gate.is_held().then_some(()));
    gone.abort();
    gate.release();
    eventually("new tokens", || (row(&oauth, &made, "done_attempt_id IS NOT NULL") == "t").then_some(()));
    assert_good(&oauth, &made).await;
    assert_eq!(oauth.provider.counts().refreshes, 1);
    assert_eq!(events_of(&oauth, "CREDENTIAL_RELEASED"), "1", "only to the one who got it");
}

// === In vain ===

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_provider_that_is_down_is_not_hammered_by_those_who_wait() {
    let oauth = steady();
    let made = oauth.connect("user:ada").await;
    let old = oauth.token(&made).await;
    oauth.provider.spoil(1_000, Stage::Before, Effect::Status(503));
    expire(&oauth, &made);
    for round in 1..=3 {
        for answer in resolve_through(&oauth, &[&oauth.world.server], &made, 20).await {
            let refused = assert_refused(answer, Code::Unavailable, "PROVIDER_UNAVAILABLE");
            assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
        }
        let calls = oauth.calls(Endpoint::Token).iter().filter(|call| call.is_refresh()).count();
        assert!(calls <= 2 * round, "{calls} calls for {round} rounds of 20");
    }
    let now = oauth.connection(&made.connection_id).await;
    assert_eq!(now.state(), ConnectionState::Active);
    assert_eq!(events_of(&oauth, "CREDENTIAL_RELEASED"), "1", "nothing that has ended is ever released");
    oauth.provider.forgive();
    eventually("a refresh", || (row(&oauth, &made, "done_attempt_id IS NOT NULL") == "t").then_some(()));
    assert_ne!(oauth.token(&made).await, old);
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_has_ended_is_released_however_refreshes_fail() {
    let oauth = steady();
    oauth.provider.behave(|manners| manners.access_lifetime = Duration::from_secs(3));
    let made = oauth.connect("user:ada").await;
    let effects = [Effect::Status(500), Effect::Html(200), Effect::Reset];
    for effect in effects.iter().cycle().take(60) {
        oauth.provider.spoil(1, Stage::Before, effect.clone());
    }
    let of_it = format!("token_expire_time < clock_timestamp() AND connection_id = '{}'", id(&made));
    eventually("the end of the token", || {
        (oauth.world.sql(&format!("SELECT count(*) FROM connections WHERE {of_it}")) == "1").then_some(())
    });
    let released = events_of(&oauth, "CREDENTIAL_RELEASED");
    for _ in 0..3 {
        let refused = resolve(&oauth, &made).await;
        assert_refused(refused, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    }
    assert_eq!(events_of(&oauth, "CREDENTIAL_RELEASED"), released);
    assert_eq!(oauth.connection(&made.connection_id).await.state(), ConnectionState::Active);
    assert!(oauth.provider.forgive() > 0);
    oauth.provider.behave(|manners| manners.access_lifetime = Duration::from_secs(3_600));
    eventually("a refresh", || (row(&oauth, &made, "done_attempt_id IS NOT NULL") == "t").then_some(()));
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_that_a_refresh_would_restore_is_allowed_and_one_that_nothing_restores_is_not() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let check = || {
        let request = v1::CheckAccessRequest {
            organization_id: ACME.into(),
            actor: made.owner.clone(),
            target: Some(v1::check_access_request::Target::ConnectionId(made.connection_id.clone())),
            ..Default::default()
        };
        let mut grants = oauth.world.grants("gateway");
        async move { grants.check_access(request).await.unwrap().into_inner() }
    };
    assert!(check().await.allowed);
    expire(&oauth, &made);
    let expired = check().await;
    assert!(expired.allowed, "{}", expired.reason);
    assert_eq!(oauth.provider.counts().refreshes, 0, "nothing was refreshed for the question");
    oauth.provider.withdraw("ada");
    resolve(&oauth, &made).await.unwrap_err();
    until_state(&oauth, &made, ConnectionState::ReauthorizationRequired).await;
    assert_eq!(check().await.reason, "REAUTHORIZATION_REQUIRED");
}

// === RefreshConnection ===

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_a_connection_refreshed_and_nobody_else_does() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let key = oauth.world.connect("user:ada", "sk-ada").await;
    let elsewhere =
        v1::CreateConnectionRequest { organization_id: "other".into(), ..openai("user:ada", "sk-o") };
    let elsewhere = oauth.world.connections().create_connection(elsewhere).await.unwrap().into_inner();
    let elsewhere = elsewhere.connection.unwrap().connection_id;
    let refresh = |caller: &str, connection_id: &str| {
        let channel = oauth.world.channel(caller);
        let mut client = v1::connection_service_client::ConnectionServiceClient::new(channel);
        let request = v1::RefreshConnectionRequest {
            organization_id: ACME.into(),
            connection_id: connection_id.to_owned(),
        };
        async move { Ok(client.refresh_connection(request).await?.into_inner().connection.unwrap()) }
    };
    let mut generation = made.generation;
    for caller in ["console", "operator", "acme-console"] {
        let refreshed: Result<v1::Connection, Status> = refresh(caller, &made.connection_id).await;
        let refreshed = refreshed.unwrap();
        assert!(refreshed.generation > generation, "{caller}");
        assert_eq!(refreshed.refresh.unwrap().state(), v1::RefreshState::Scheduled);
        generation = refreshed.generation;
    }
    assert_eq!(events_of(&oauth, "REFRESH_REQUESTED"), "3");
    for caller in ["gateway", "auditor"] {
        let refused = refresh(caller, &made.connection_id).await;
        assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
    }
    let refused = refresh("openai-console", &made.connection_id).await;
    assert_refused(refused, Code::PermissionDenied, "PROVIDER_NOT_ALLOWED");
    assert_refused(refresh("console", &key).await, Code::FailedPrecondition, "NOT_RENEWABLE");
    for unknown in [elsewhere.as_str(), &format!("conn_{}", "0".repeat(32))] {
        let refused = refresh("console", unknown).await;
        assert!(matches!(reason(&refused.unwrap_err()).as_str(), "CONNECTION_NOT_FOUND" | "INVALID_FIELD"));
    }
    assert_refused(refresh("console", &elsewhere).await, Code::NotFound, "CONNECTION_NOT_FOUND");
    assert_eq!(events_of(&oauth, "REFRESH_REQUESTED"), "3", "nothing else came of the others");
    oauth.delete(&made).await;
    let deleted = refresh("console", &made.connection_id).await;
    assert_refused(deleted, Code::FailedPrecondition, "CONNECTION_DELETED");
    assert_eq!(oauth.provider.counts().refreshes, 3);
}
