//! F42: a panic in one task ends no other one, and the task begins anew. The points at which a task panics are in the code
//! (`fail_point!`), and in binaries for development only.

use keyholder_proto::v1;
use tonic::Code;

use crate::harness::{ACME, assert_refused, eventually, http_get, log_lines, resolve_request};
use crate::oauth::world::OAuth;
use crate::refresh::staged::{Class, NONE, STATIC, Staged, outcomes, times_logged};

/// A connection, and a server whose tasks panic where they are told to.
async fn panicking(class: Class, points: &str) -> Staged {
    let mut staged = Staged::start(class).await;
    staged.power_cut();
    let points = [("FAILPOINTS", points)];
    staged.oauth.world.server = staged.oauth.world.server_with("panicking", &points);
    staged
}

fn until_logged(staged: &Staged, message: &str) {
    let server = &staged.oauth.world.server;
    eventually(message, || (times_logged(server, message) == 1).then_some(()));
}

/// How many releases are on record.
fn recorded(oauth: &OAuth) -> usize {
    oauth.world.sql("SELECT count(*) FROM audit_events WHERE kind = 'CREDENTIAL_RELEASED'").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_refresh_that_panics_before_it_asks_costs_nothing_where_a_token_must_not_be_shown_twice() {
    let staged = panicking(NONE, "attempt-begun=1*panic").await;
    staged.make_due();
    until_logged(&staged, "a refresh panicked; it is taken up again");
    staged.until_row("last_error = 'INTERNAL' AND attempt_id IS NULL AND ambiguous_time IS NULL");
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_refresh_that_panics_with_the_answer_in_hand_is_taken_over_when_its_lease_ends() {
    let staged = panicking(STATIC, "attempt-answered=1*panic").await;
    staged.make_due();
    until_logged(&staged, "a refresh panicked; it is taken up again");
    assert_eq!(staged.row("attempt_id IS NOT NULL"), "t", "nobody knows what the provider did");
    staged.end_leases();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 2);
    assert_eq!(outcomes(&staged.oauth.world.server, "AMBIGUOUS"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_refresh_that_panics_once_the_answer_is_kept_is_finished_without_asking_again() {
    let staged = panicking(NONE, "attempt-kept=1*panic").await;
    staged.make_due();
    until_logged(&staged, "a refresh panicked; it is taken up again");
    staged.end_leases();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_wait_that_panics_does_not_fail_whoever_waits_next() {
    let staged = panicking(STATIC, "demanded=1*panic").await;
    staged.end_access_token();
    let ask = || resolve_request("user:ada", &staged.made.connection_id);
    let mut grants = staged.oauth.world.grants("gateway");
    grants.resolve_credential(ask()).await.unwrap_err();
    until_logged(&staged, "the wait for a refresh panicked");
    grants.resolve_credential(ask()).await.unwrap();
    assert_eq!(staged.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_lane_that_panics_releases_nothing_unrecorded_and_goes_on() {
    let staged = panicking(STATIC, "batch=1*panic").await;
    let oauth = &staged.oauth;
    let ask = || resolve_request("user:ada", &staged.made.connection_id);
    let mut grants = oauth.world.grants("gateway");
    let before = recorded(oauth);
    let refused = grants.resolve_credential(ask()).await;
    assert_refused(refused, Code::Unavailable, "STORE_UNAVAILABLE");
    assert_eq!(recorded(oauth), before);
    until_logged(&staged, "a lane of releases panicked; it begins anew");
    grants.resolve_credential(ask()).await.unwrap();
    assert_eq!(recorded(oauth), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_every_task_that_runs_as_long_as_the_process_begins_anew() {
    let tasks = [
        "changes",
        "flows",
        "revocation-runs",
        "audit",
        "uses",
        "caches",
        "claims",
        "interrupted-refreshes",
        "late-answers",
        "spool",
        "guard",
        "notices",
    ];
    let points = tasks.map(|task| format!("{task}=1*panic")).join(";");
    let staged = panicking(STATIC, &points).await;
    let oauth = &staged.oauth;
    // What is claimed when the task panics is taken over.
    staged.make_due();
    // A use of a grant.
    let grant_id = oauth.world.grant("agent:first", &staged.made.connection_id).await;
    use_grant(oauth, &staged.made, "agent:first").await;
    for task in tasks {
        eventually(task, || {
            let log = log_lines(&oauth.world.server.log);
            let begins = |line: &serde_json::Value| line["message"] == "a task panicked; it begins anew";
            log.iter().any(|line| begins(line) && line["task"] == task).then_some(())
        });
    }
    staged.end_leases();
    staged.assert_refreshed().await;
    assert_eq!(http_get(oauth.world.server.admin, "/readyz").0, 200);

    // A flow ends well, whoever watches hears of it, and the use of another grant is noted.
    let everything = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feed = oauth.world.connections().watch_connections(everything).await.unwrap().into_inner();
    while feed.message().await.unwrap().unwrap().connection.is_some() {}
    let second = oauth.connect("user:bob").await;
    let told = feed.message().await.unwrap().unwrap().connection.unwrap();
    assert_eq!(told.connection_id, second.connection_id);
    let other = oauth.world.grant("agent:second", &second.connection_id).await;
    use_grant(oauth, &second, "agent:second").await;
    eventually("a use that is noted", || {
        let noted = format!(
            "SELECT count(*) FROM grant_uses WHERE grant_id = '{}'",
            other.trim_start_matches("grant_")
        );
        (oauth.world.sql(&noted) == "1").then_some(())
    });
    assert_ne!(grant_id, other);
}

async fn use_grant(oauth: &OAuth, connection: &v1::Connection, actor: &str) {
    let request = resolve_request(actor, &connection.connection_id);
    oauth.world.grants("gateway").resolve_credential(request).await.unwrap();
}
