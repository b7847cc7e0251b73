//! The calls of a client that has a pace begin one after the other, as long as they still may.

use keyholder_domain::Timestamp;
use keyholder_proto::v1;
use keyholder_testkit::provider::{Call, Effect, Endpoint, Reuse, Stage};

use super::*;
use crate::oauth::world::Setup;

/// How many calls a second the client's pace allows. Of two that are due at once, both are claimed at once, and the second begins
/// a fifteenth of a second after the moment that the first counts for: 47 ms after the claim.
const RATE: f64 = 15.0;

/// What is tried may come too late on a machine that is busy; so often in a row it does not.
const TRIES: usize = 20;

/// A world with two connections of a client that keeps to its pace, and no other.
async fn two() -> (OAuth, Vec<v1::Connection>) {
    let oauth = OAuth::start_with(&Setup { recipe: STATIC, ..Setup::default() });
    oauth.provider.behave(|manners| manners.reuse = Reuse::Static);
    let made = import(&oauth, &oauth.provider, "demo", 2).await;
    (oauth, made)
}

/// Gives the client its pace, and makes both connections due at once. Returns the moment before.
fn begin(oauth: &OAuth) -> String {
    oauth.world.sql(&format!(
        "UPDATE provider_clients SET rate = {RATE}, good_rate = {RATE}, bad_rate = {RATE}, pause_time = NULL, \
             rate_time = clock_timestamp() + interval '1 hour', paid_time = clock_timestamp() - interval '1 hour'"
    ));
    let moment = oauth.world.sql("SELECT clock_timestamp()");
    make_due_where(oauth, "true");
    moment
}

/// How many were claimed since a moment.
fn claimed(oauth: &OAuth, since: &str) -> usize {
    let claimed = format!("SELECT count(*) FROM refreshes WHERE last_attempt_time > '{since}'");
    oauth.world.sql(&claimed).parse().unwrap()
}

fn calls(oauth: &OAuth) -> Vec<Call> {
    oauth.calls(Endpoint::Token).into_iter().filter(Call::is_refresh).collect()
}

/// Waits until both were refreshed once more.
fn until_refreshed(oauth: &OAuth, since: &str) {
    let done = format!(
        "SELECT count(*) = 2 FROM refreshes WHERE attempt_id IS NULL AND last_success_time > '{since}'"
    );
    eventually("both of them", || (oauth.world.sql(&done) == "t").then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_call_begins_no_sooner_than_its_pace_allows() {
    let (oauth, _) = two().await;
    for _ in 0..3 {
        let since = begin(&oauth);
        until_refreshed(&oauth, &since);
        let slot =
            "SELECT extract(epoch FROM paid_time - make_interval(secs => 1 / rate)) FROM provider_clients";
        let slot = oauth.world.sql(slot);
        let slot = Timestamp::UNIX_EPOCH + std::time::Duration::from_secs_f64(slot.parse().unwrap());
        let last = calls(&oauth).iter().map(|call| call.at).max().unwrap();
        // What SQL says of a moment is rounded to a microsecond.
        assert!(last >= slot - std::time::Duration::from_micros(2), "{} before its moment", slot - last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_what_was_claimed_for_a_moment_to_come_is_not_begun_after_a_call_was_too_many() {
    let (oauth, made) = two().await;
    let given_back = (0..TRIES).any(|_| {
        let before = calls(&oauth).len();
        oauth.provider.spoil(1, Stage::Before, Effect::RetryAfter(429, "600".into()));
        let since = begin(&oauth);
        let paused = "SELECT coalesce(bool_or(pause_time > clock_timestamp()), false) FROM provider_clients";
        eventually("a pause", || (oauth.world.sql(paused) == "t").then_some(()));
        let open = "SELECT count(attempt_id) FROM refreshes";
        eventually("the end of both", || (oauth.world.sql(open) == "0").then_some(()));
        let unbegun = claimed(&oauth, &since) > calls(&oauth).len() - before;
        if unbegun {
            let unharmed =
                "SELECT count(*) FROM refreshes WHERE failures = 0 AND last_error = 'RATE_LIMITED'";
            assert_eq!(oauth.world.sql(unharmed), "2", "nothing is held against them");
        }
        oauth.world.sql("UPDATE provider_clients SET pause_time = NULL, limited_time = NULL");
        until_refreshed(&oauth, &since);
        unbegun
    });
    assert!(given_back, "every call was made");
    for one in &made {
        assert_good(&oauth, one).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_what_was_claimed_for_a_moment_to_come_is_not_begun_after_a_process_was_told_to_stop() {
    let (mut oauth, made) = two().await;
    let mut given_back = false;
    for _ in 0..TRIES / 2 {
        // What a process does for the first time takes longer.
        let since = begin(&oauth);
        until_refreshed(&oauth, &since);
        let before = calls(&oauth).len();
        let gate = oauth.provider.hold(Stage::After);
        let since = begin(&oauth);
        gate.held().await;
        oauth.world.server.signal("TERM");
        oauth.world.server.wait_for_log("draining");
        gate.release();
        let status = eventually("the end", || oauth.world.server.child.try_wait().unwrap());
        assert!(status.success());
        assert_eq!(oauth.world.sql("SELECT count(attempt_id) FROM refreshes"), "0");
        given_back = claimed(&oauth, &since) > calls(&oauth).len() - before;
        oauth.world.server = oauth.world.server("keyholder");
        until_refreshed(&oauth, &since);
        assert_eq!(calls(&oauth).len(), before + 2, "each of them once");
        if given_back {
            break;
        }
    }
    assert!(given_back, "every call was made");
    for one in &made {
        assert_good(&oauth, one).await;
    }
}
