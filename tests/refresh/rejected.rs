//! What a provider did not take: said by many, replaced once.

use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::{self, ConnectionState, RejectionOutcome};
use keyholder_testkit::provider::Stage;
use tokio::task::JoinSet;
use tonic::Code;

use super::*;
use crate::harness::{Server, assert_refused, fields};

fn report(made: &v1::Connection, generation: i64) -> v1::ReportRejectedRequest {
    v1::ReportRejectedRequest {
        organization_id: ACME.into(),
        actor: made.owner.clone(),
        connection_id: made.connection_id.clone(),
        generation,
    }
}

async fn say(
    oauth: &OAuth,
    caller: &str,
    request: v1::ReportRejectedRequest,
) -> Result<RejectionOutcome, Status> {
    Ok(oauth.world.grants(caller).report_rejected(request).await?.into_inner().outcome())
}

/// The same report so often at once, through each of these servers.
async fn all_say(
    oauth: &OAuth,
    servers: &[&Server],
    request: &v1::ReportRejectedRequest,
    each: usize,
) -> Vec<RejectionOutcome> {
    let mut saying = JoinSet::new();
    for server in servers {
        let channel = oauth.world.channel_to(server, "gateway");
        for _ in 0..each {
            let (mut grants, request) = (GrantServiceClient::new(channel.clone()), request.clone());
            saying
                .spawn(async move { grants.report_rejected(request).await.unwrap().into_inner().outcome() });
        }
    }
    saying.join_all().await
}

/// Lets what was replaced last have been replaced long ago.
fn age(oauth: &OAuth) {
    oauth.world.sql(
        "UPDATE refreshes SET last_success_time = last_success_time - interval '1 hour', \
         earliest_time = clock_timestamp()",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_reports_at_once_of_one_generation_are_one_refresh_and_all_hear_of_it() {
    let oauth = OAuth::start();
    let (second, _) = oauth.replica("second");
    let mut made = oauth.connect("user:ada").await;
    for round in 1..=5 {
        age(&oauth);
        let token = oauth.token(&made).await;
        let servers = [&oauth.world.server, &second];
        let outcomes = all_say(&oauth, &servers, &report(&made, made.generation), 10).await;
        assert_eq!(outcomes, [RejectionOutcome::Replaced; 20], "round {round}");
        assert_eq!(oauth.provider.counts().refreshes, round);
        assert_eq!(events_of(&oauth, "CREDENTIAL_REJECTED"), round.to_string());
        assert_ne!(oauth.token(&made).await, token);
        made = oauth.connection(&made.connection_id).await;
    }
    assert_eq!(oauth.provider.counts().replays, 0);
    assert_good(&oauth, &made).await;
    assert_silent(&oauth, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_generation_has_been_replaced_already_and_a_future_one_is_nobodys() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    refresh_now(&oauth, &made).await.unwrap();
    age(&oauth);
    let old = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
    assert_eq!(old, RejectionOutcome::Replaced);
    for wrong in [0, -1, made.generation + 100] {
        let refused = say(&oauth, "gateway", report(&made, wrong)).await;
        let refused = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(fields(&refused), ["generation"], "{wrong}");
    }
    assert_eq!(oauth.provider.counts().refreshes, 1, "nothing was refreshed for any of them");
    assert_eq!(events_of(&oauth, "CREDENTIAL_REJECTED"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_rejected_again_a_moment_after_it_was_replaced_is_left_alone() {
    let oauth = OAuth::start();
    let mut made = oauth.connect("user:ada").await;
    refresh_now(&oauth, &made).await.unwrap();
    for _ in 0..5 {
        made = oauth.connection(&made.connection_id).await;
        let outcome = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
        assert_eq!(outcome, RejectionOutcome::Pending);
    }
    assert_eq!(oauth.provider.counts().refreshes, 1, "another would not help");
    // Not forgotten, but for later.
    let planned = "due_time - last_success_time BETWEEN interval '59 seconds' AND interval '61 seconds'";
    assert_eq!(row(&oauth, &made, planned), "t");
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_came_a_moment_ago_are_replaced_all_the_same_however_many_say_so() {
    let oauth = OAuth::start();
    for (number, reports) in [2, 3, 20].into_iter().enumerate() {
        let made = oauth.connect(&format!("user:{number}")).await;
        let outcomes =
            all_say(&oauth, &[&oauth.world.server], &report(&made, made.generation), reports).await;
        assert_eq!(outcomes, vec![RejectionOutcome::Replaced; reports]);
        assert_eq!(oauth.provider.counts().refreshes, number as u64 + 1);
        assert_eq!(events_of(&oauth, "CREDENTIAL_REJECTED"), (number + 1).to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_nobody_waited_for_is_either_on_record_and_acted_on_or_can_be_made_again() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    // It is given up while it is being written down.
    let mut lock = oauth.world.lock("SELECT 1 FROM refreshes FOR UPDATE");
    let mut hasty = tonic::Request::new(report(&made, made.generation));
    hasty.set_timeout(std::time::Duration::from_millis(500));
    oauth.world.grants("gateway").report_rejected(hasty).await.unwrap_err();
    assert_eq!(events_of(&oauth, "CREDENTIAL_REJECTED"), "0");
    lock.release();
    let outcome = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
    assert_eq!(outcome, RejectionOutcome::Replaced);
    assert_eq!(oauth.provider.counts().refreshes, 1);
    assert_eq!(events_of(&oauth, "CREDENTIAL_REJECTED"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_disabled_is_not_gone_and_is_replaced() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let disable = v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        ..Default::default()
    };
    oauth.world.connections().disable_connection(disable).await.unwrap();
    let outcome = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
    assert_eq!(outcome, RejectionOutcome::Replaced);
    assert_eq!(oauth.connection(&made.connection_id).await.state(), ConnectionState::Disabled);
    assert_eq!(oauth.provider.counts().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_needs_more_life_than_there_is_does_not_end_the_wait_of_who_wants_new_tokens_now() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let mut needing = JoinSet::new();
    for _ in 0..20 {
        let mut grants = oauth.world.grants("gateway");
        let request = v1::ResolveCredentialRequest {
            min_ttl: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
            ..resolve_request(&made.owner, &made.connection_id)
        };
        needing.spawn(async move { grants.resolve_credential(request).await.is_ok() });
    }
    refresh_now(&oauth, &made).await.unwrap();
    needing.join_all().await;
    assert_eq!(oauth.provider.counts().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_after_a_change_that_was_no_refresh_is_taken_seriously() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let renamed = v1::UpdateConnectionRequest {
        connection: Some(v1::Connection { display_name: "Ada's".into(), ..made.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
    };
    oauth.world.connections().update_connection(renamed).await.unwrap();
    let outcome = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
    assert_eq!(outcome, RejectionOutcome::Replaced);
    assert_eq!(oauth.provider.counts().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_that_is_rejected_can_be_replaced_by_its_owner_only_and_that_is_on_record_once() {
    let oauth = OAuth::start();
    let key = oauth.world.connect("user:ada", "sk-ada").await;
    let key = oauth.connection(&key).await;
    for _ in 0..3 {
        let outcome = say(&oauth, "gateway", report(&key, key.generation)).await.unwrap();
        assert_eq!(outcome, RejectionOutcome::NotRenewable);
    }
    assert_eq!(events_of(&oauth, "CREDENTIAL_REJECTED"), "1");
    assert_eq!(oauth.connection(&key.connection_id).await.state(), ConnectionState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_report_of_what_was_revoked_at_the_provider_ends_in_gone() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    oauth.provider.withdraw("ada");
    let first = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
    assert_eq!(first, RejectionOutcome::Pending, "not believed at once");
    let asked = oauth.provider.counts().token_calls;
    until_state(&oauth, &made, ConnectionState::ReauthorizationRequired).await;
    let gone = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
    assert_eq!(gone, RejectionOutcome::Gone);
    assert_eq!(oauth.provider.counts().token_calls, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_to_a_connection_cannot_have_it_refreshed() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let stranger =
        v1::ReportRejectedRequest { actor: "agent:roadie".into(), ..report(&made, made.generation) };
    let refused = say(&oauth, "gateway", stranger.clone()).await;
    assert_refused(refused, Code::PermissionDenied, "GRANT_MISSING");
    for caller in ["console", "operator", "auditor"] {
        let refused = say(&oauth, caller, report(&made, made.generation)).await;
        assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
    }
    let other =
        v1::ReportRejectedRequest { organization_id: "other".into(), ..report(&made, made.generation) };
    assert_refused(say(&oauth, "gateway", other).await, Code::NotFound, "CONNECTION_NOT_FOUND");
    let not_its_actor = say(&oauth, "narrow", report(&made, made.generation)).await;
    assert_refused(not_its_actor, Code::PermissionDenied, "ACTOR_NOT_ALLOWED");
    assert_eq!(oauth.provider.counts().refreshes, 0);
    assert_eq!(events_of(&oauth, "CREDENTIAL_REJECTED"), "0");
    assert_eq!(row(&oauth, &made, "rejected_generation IS NULL"), "t");

    oauth.world.grant("agent:roadie", &made.connection_id).await;
    let outcome = say(&oauth, "gateway", stranger).await.unwrap();
    assert_eq!(outcome, RejectionOutcome::Replaced);
    assert_eq!(oauth.provider.counts().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_whose_refresh_is_not_over_in_time_says_so_and_the_refresh_goes_on() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let gate = oauth.provider.hold(Stage::After);
    let mut hasty = tonic::Request::new(report(&made, made.generation));
    hasty.set_timeout(std::time::Duration::from_secs(2));
    let answer = oauth.world.grants("gateway").report_rejected(hasty).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), RejectionOutcome::Pending);
    gate.release();
    eventually("new tokens", || (row(&oauth, &made, "done_attempt_id IS NOT NULL") == "t").then_some(()));
    let outcome = say(&oauth, "gateway", report(&made, made.generation)).await.unwrap();
    assert_eq!(outcome, RejectionOutcome::Replaced);
    assert_good(&oauth, &made).await;
}
