//! Owners are told in time when their permission ends.

use keyholder_proto::v1;

use super::*;
use crate::harness::log_lines;
use crate::oauth::world::Setup;

const ENDS: &str = "  refresh: { reuse: static, absolute_days: 40 }";

/// Lets a connection's permission end after so many days, and lets that be said now.
fn ends_in(oauth: &OAuth, days: f64) {
    oauth.world.sql(&format!(
        "UPDATE connections SET token_absolute_expire_time = clock_timestamp() + {days} * interval '1 day'; \
         UPDATE refreshes SET notice_time = clock_timestamp()"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_permission_is_said_thirty_seven_and_one_day_before_and_no_more() {
    let oauth = OAuth::start_with(&Setup { recipe: ENDS, ..Setup::default() });
    let made = oauth.connect("user:ada").await;
    assert!(made.tokens.as_ref().unwrap().stop_time.is_some());
    let planned = "notice_time - clock_timestamp() BETWEEN interval '9 days' AND interval '10 days'";
    assert_eq!(row(&oauth, &made, planned), "t");
    let mut said = String::new();
    for (days, reason) in [(29.9, "30_DAYS"), (6.9, "7_DAYS"), (0.9, "1_DAY")] {
        ends_in(&oauth, days);
        said = format!("{said} {reason}").trim().to_owned();
        eventually(reason, || (events(&oauth, "CONNECTION_EXPIRING") == said).then_some(()));
    }
    assert_eq!(row(&oauth, &made, "notice_time IS NULL"), "t", "there is nothing more to say");
    let log = log_lines(&oauth.world.server.log);
    assert!(log.iter().any(|line| line["reason"] == "1_DAY"));
    // A refresh does not say it all over again.
    ends_in(&oauth, 6.5);
    oauth.world.sql("UPDATE refreshes SET notice_time = NULL");
    refresh_now(&oauth, &made).await.unwrap();
    let planned = "notice_time - clock_timestamp() BETWEEN interval '5 days' AND interval '6 days'";
    assert_eq!(row(&oauth, &made, planned), "t", "the next is the last day's");
    assert_good(&oauth, &made).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_hears_that_a_permission_ends() {
    let oauth = OAuth::start_with(&Setup { recipe: ENDS, ..Setup::default() });
    let made = oauth.connect("user:ada").await;
    oauth
        .world
        .sql("UPDATE connections SET token_absolute_expire_time = clock_timestamp() + interval '6.9 days'");
    let everything = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feed = oauth.world.connections().watch_connections(everything).await.unwrap().into_inner();
    while feed.message().await.unwrap().unwrap().connection.is_some() {}
    oauth.world.sql("UPDATE refreshes SET notice_time = clock_timestamp()");
    eventually("it is on record", || (events(&oauth, "CONNECTION_EXPIRING") == "7_DAYS").then_some(()));
    let patience = std::time::Duration::from_secs(20);
    let told = tokio::time::timeout(patience, feed.message()).await.expect("no message came");
    assert_eq!(told.unwrap().unwrap().connection.unwrap().connection_id, made.connection_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_say_it_once() {
    let oauth = OAuth::start_with(&Setup { recipe: ENDS, ..Setup::default() });
    let (_second, _) = oauth.replica("second");
    oauth.connect("user:ada").await;
    // Both have read that it is to be said before either can say it.
    let mut lock = oauth.world.lock("SELECT 1 FROM organizations FOR UPDATE");
    ends_in(&oauth, 6.9);
    eventually("two that want to say it", || {
        let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        (oauth.world.sql(blocked).parse::<u32>().unwrap() >= 2).then_some(())
    });
    lock.release();
    eventually("the end of both", || {
        // The second waits for the first, and neither is done before it has committed.
        let open = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                    AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
        let said = events(&oauth, "CONNECTION_EXPIRING");
        (!said.is_empty() && oauth.world.sql(open) == "0").then_some(())
    });
    assert_eq!(events(&oauth, "CONNECTION_EXPIRING"), "7_DAYS");
}
