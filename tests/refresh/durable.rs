//! A refresh that is cut off at any point: the tokens are here, or it is known and said that they may not be.

use std::time::Duration;

use keyholder_proto::v1::{ConnectionState, RefreshState};
use keyholder_testkit::provider::{Effect, Gate, Reuse, Stage};

use super::staged::{Class, NONE, STATIC, Staged, UNTIL_USED, WINDOW, number, outcomes, times_logged};
use crate::fault_proxy::FaultProxy;
use crate::harness::{DATABASE, Locked, eventually};
use crate::oauth::world::Setup;

/// Holds every COMMIT that brings new tokens, until the lock 4711 is free.
const HELD_AT_COMMIT: &str = "
    CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER held AFTER UPDATE ON refreshes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        WHEN (NEW.done_attempt_id IS DISTINCT FROM OLD.done_attempt_id) EXECUTE FUNCTION held()";

/// How many wait for a lock, and how many of them have sent COMMIT.
const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
const COMMITTING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE 'COMMIT%'";

/// Ends everybody who waits for a lock: a server that died must not get what it asked for.
const END_BLOCKED: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";

/// How often new tokens were written.
const WRITTEN: &str = "SELECT count(*) FROM audit_events WHERE kind = 'CONNECTION_REFRESHED'";

/// A connection whose server died while the provider was at it, another server, and the call, still held.
async fn cut_off_at(class: Class, stage: Stage) -> (Staged, Gate) {
    let mut staged = Staged::start(class).await;
    let gate = staged.hold(stage);
    staged.power_cut();
    staged.end_leases();
    staged.succeed_with("second", &[]);
    (staged, gate)
}

/// That a question which was cut off is asked once more, and all is well.
async fn assert_asked_again(class: Class, stage: Stage) {
    let (staged, _gate) = cut_off_at(class, stage).await;
    staged.assert_refreshed().await;
    let asked = staged.oauth.provider.refreshes();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0].presented, asked[1].presented, "the same token, as its class allows");
    let doubts = outcomes(&staged.oauth.world.server, "AMBIGUOUS");
    assert_eq!(doubts, 1.0, "nobody knew what the provider did");
}

/// A connection whose server died with an answer that it could not keep, and has written to a file.
async fn dies_with_the_answer_in_a_file(class: Class) -> Staged {
    let mut staged = Staged::start(class).await;
    let gate = staged.hold(Stage::After);
    let mut lock = staged.oauth.world.lock("SELECT 1 FROM refreshes FOR UPDATE");
    gate.release();
    eventually("a spooled answer", || (staged.spooled().len() == 1).then_some(()));
    staged.power_cut();
    staged.oauth.world.sql(END_BLOCKED);
    lock.release();
    assert_eq!(
        staged.row("sealed_answer IS NULL AND attempt_id IS NOT NULL"),
        "t",
        "it is in the file alone"
    );
    staged
}

/// A server that has sent COMMIT and waits there, and what keeps it there.
fn held_at_commit(staged: &Staged) -> Locked {
    staged.oauth.world.sql(HELD_AT_COMMIT);
    let lock = staged.oauth.world.lock("SELECT pg_advisory_lock(4711)");
    staged.make_due();
    eventually("a COMMIT that is held", || (staged.oauth.world.sql(COMMITTING) == "1").then_some(()));
    lock
}

// === Before the provider's work, and after it ===

#[tokio::test(flavor = "multi_thread")]
async fn f3_killed_before_the_providers_work_where_a_token_stays_good() {
    assert_asked_again(STATIC, Stage::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_killed_before_the_providers_work_where_a_token_stays_good_for_a_while() {
    assert_asked_again(WINDOW, Stage::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_killed_before_the_providers_work_where_a_token_stays_good_until_the_next_is_used() {
    assert_asked_again(UNTIL_USED, Stage::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_killed_after_the_providers_work_where_a_token_stays_good() {
    assert_asked_again(STATIC, Stage::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_killed_after_the_providers_work_where_a_token_stays_good_for_a_while() {
    assert_asked_again(WINDOW, Stage::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_killed_after_the_providers_work_where_a_token_stays_good_until_the_next_is_used() {
    assert_asked_again(UNTIL_USED, Stage::After).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_i2_i3_where_a_replaced_token_is_dead_it_is_shown_once_more_when_there_is_nothing_left_to_lose() {
    let mut staged = Staged::start(NONE).await;
    let before = staged.token().await;
    let _gate = staged.hold(Stage::After);
    staged.power_cut();
    staged.end_leases();
    staged.succeed_with("second", &[]);
    staged.until_ambiguous();

    let now = staged.now().await;
    let (refresh, tokens) = (now.refresh.clone().unwrap(), now.tokens.clone().unwrap());
    assert_eq!((now.state(), refresh.state()), (ConnectionState::Active, RefreshState::Ambiguous));
    assert_eq!((refresh.error.as_str(), refresh.failures), ("INTERRUPTED", 1));
    assert_eq!(refresh.next_attempt_time, tokens.expire_time, "not before the access token has ended");
    let server = &staged.oauth.world.server;
    assert_eq!(number(server, "keyholder_refreshes_ambiguous"), 1.0);
    assert_eq!(staged.token().await, before, "until then it is the one that is released");
    assert_eq!(staged.asked(), 1);

    staged.end_access_token();
    staged.until_row("refused_time IS NOT NULL");
    assert_eq!(staged.asked(), 2, "one attempt");
    assert_eq!(staged.now().await.state(), ConnectionState::Active, "one word is not believed at once");
    staged.end_doubt();
    let lost = staged.until_lost().await;
    assert_eq!(lost.state_reason, "LOST_ROTATION");
    assert_eq!(lost.generation, staged.made.generation + 1, "whoever watches sees it");
    assert_eq!(staged.asked(), 2);
    let events = "SELECT kind, reason FROM audit_events WHERE kind = 'REAUTHORIZATION_REQUIRED'";
    assert_eq!(staged.oauth.world.sql(events), "REAUTHORIZATION_REQUIRED|LOST_ROTATION");
    assert_eq!(outcomes(server, "LOST_ROTATION"), 1.0);
    assert_eq!(number(server, "keyholder_refreshes_ambiguous"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_where_a_replaced_token_is_dead_all_is_well_if_it_was_not_replaced() {
    let (staged, _gate) = cut_off_at(NONE, Stage::Before).await;
    staged.until_ambiguous();
    assert_eq!(staged.asked(), 1);
    staged.end_access_token();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_outside_of_its_window_a_token_is_never_shown_again() {
    let mut staged = Staged::start(WINDOW).await;
    let before = staged.token().await;
    let _gate = staged.hold(Stage::After);
    staged.power_cut();
    // The power was away for an hour.
    staged.oauth.world.sql("UPDATE refreshes SET attempt_time = attempt_time - interval '1 hour'");
    staged.end_leases();
    staged.succeed_with("second", &[]);
    staged.until_ambiguous();
    assert_eq!(staged.now().await.refresh.unwrap().state(), RefreshState::Ambiguous);
    assert_eq!(staged.token().await, before, "it is good until it ends");
    // Somebody who wants a new one at once does not get the old refresh token shown either.
    staged.make_due();
    staged.until_row("last_error = 'LOST_ROTATION' AND attempt_id IS NULL");
    assert_eq!(staged.token().await, before);
    staged.end_access_token();
    assert_eq!(staged.until_lost().await.state_reason, "LOST_ROTATION");
    assert_eq!((staged.asked(), staged.oauth.provider.counts().replays), (1, 0));
}

// === No answer, and nobody died ===

#[tokio::test(flavor = "multi_thread")]
async fn f3_a_connection_that_breaks_after_the_question_leaves_the_same_doubt_as_a_death() {
    let staged = Staged::start(NONE).await;
    staged.oauth.provider.spoil(1, Stage::After, Effect::Reset);
    staged.make_due();
    staged.until_ambiguous();
    let refresh = staged.now().await.refresh.unwrap();
    assert_eq!((refresh.state(), refresh.error.as_str()), (RefreshState::Ambiguous, "NO_ANSWER"));
    assert_eq!(staged.row("due_time = deadline"), "t");
    assert_eq!(number(&staged.oauth.world.server, "keyholder_refreshes_ambiguous"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_an_answer_that_breaks_off_in_its_body_is_asked_for_again_where_that_is_harmless() {
    for class in [STATIC, WINDOW, UNTIL_USED] {
        let staged = Staged::start(class).await;
        staged.oauth.provider.spoil(1, Stage::After, Effect::Cut(200));
        staged.make_due();
        staged.assert_refreshed().await;
        assert_eq!(staged.asked(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_provider_that_does_not_answer_in_time_is_asked_again_inside_the_window() {
    let window =
        Class { recipe: "reuse: window, reuse_seconds: 12", reuse: Reuse::Window(Duration::from_secs(12)) };
    let staged = Staged::start(window).await;
    staged.oauth.provider.spoil(1, Stage::After, Effect::Hang);
    staged.make_due();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 2);
}

// === Answered, not kept ===

#[tokio::test(flavor = "multi_thread")]
async fn f1_i3_an_answer_that_was_not_kept_is_in_the_spool_and_counts_while_its_attempt_does() {
    let mut staged = dies_with_the_answer_in_a_file(NONE).await;
    staged.succeed_with("second", &[]);
    staged.until_row("sealed_answer IS NOT NULL");
    staged.end_leases();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_eq!(staged.spooled().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_i3_an_answer_that_was_not_kept_is_in_the_spool_and_counts_when_its_attempt_was_given_up() {
    let mut staged = dies_with_the_answer_in_a_file(NONE).await;
    // First somebody who cannot see the folder gives the attempt up, and then it is found.
    staged.end_leases();
    staged.succeed_with("elsewhere", &[("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "elsewhere")]);
    staged.until_ambiguous();
    staged.succeed_with("second", &[]);
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_eq!(staged.spooled().len(), 0);
    assert_eq!(staged.oauth.world.sql("SELECT count(*) FROM late_answers"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_without_the_spool_an_answer_that_was_not_kept_is_asked_for_again_where_that_is_harmless() {
    for class in [STATIC, WINDOW, UNTIL_USED] {
        let mut staged = dies_with_the_answer_in_a_file(class).await;
        staged.end_leases();
        staged.succeed_with("elsewhere", &[("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "elsewhere")]);
        staged.assert_refreshed().await;
        assert_eq!(staged.asked(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_without_the_spool_an_answer_that_was_not_kept_is_lost_where_a_replaced_token_is_dead() {
    let mut staged = dies_with_the_answer_in_a_file(NONE).await;
    staged.end_leases();
    staged.succeed_with("elsewhere", &[("KEYHOLDER_REFRESHER__STATE_DIRECTORY", "elsewhere")]);
    staged.until_ambiguous();
    staged.end_access_token();
    staged.until_row("refused_time IS NOT NULL");
    staged.end_doubt();
    assert_eq!(staged.until_lost().await.state_reason, "LOST_ROTATION");
    assert_eq!(staged.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_an_answer_that_cannot_be_spooled_either_is_held_until_the_database_takes_it() {
    let staged = Staged::start(NONE).await;
    let gate = staged.hold(Stage::After);
    std::fs::remove_dir(staged.spool()).unwrap();
    let mut lock = staged.oauth.world.lock("SELECT 1 FROM refreshes FOR UPDATE");
    gate.release();
    let said = "an answer cannot be spooled; it is in memory only";
    eventually(said, || (times_logged(&staged.oauth.world.server, said) > 0).then_some(()));
    lock.release();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
}

// === Kept, not committed ===

#[tokio::test(flavor = "multi_thread")]
async fn f1_i2_a_kept_answer_is_finished_by_another_replica_without_another_question() {
    for class in [STATIC, NONE] {
        let mut staged = Staged::start(class).await;
        let mut lock = staged.oauth.world.lock("SELECT 1 FROM organizations FOR UPDATE");
        staged.make_due();
        staged.until_row("sealed_answer IS NOT NULL");
        eventually("a server that cannot go on", || (staged.oauth.world.sql(BLOCKED) != "0").then_some(()));
        staged.power_cut();
        lock.release();
        staged.end_leases();
        staged.succeed_with("second", &[]);
        let now = staged.assert_refreshed().await;
        let asked = staged.oauth.provider.refreshes();
        assert_eq!(asked.len(), 1);
        let answered = asked[0].answered.unwrap().unix_timestamp();
        let ends = now.tokens.unwrap().expire_time.unwrap().seconds;
        assert!(ends <= answered + 3_600 + 1, "its time ran on meanwhile");
    }
}

// === COMMIT is sent ===

#[tokio::test(flavor = "multi_thread")]
async fn f2_killed_at_a_commit_that_goes_through_there_is_no_second_question() {
    let mut staged = Staged::start(NONE).await;
    staged.oauth.provider.behave(|manners| manners.refresh_ends_access = true);
    let mut lock = held_at_commit(&staged);
    staged.power_cut();
    lock.release();
    staged.end_leases();
    staged.until_row("done_attempt_id IS NOT NULL");
    staged.succeed_with("second", &[]);
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_eq!(staged.oauth.world.sql(WRITTEN), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_killed_at_a_commit_that_does_not_go_through_there_is_no_second_question() {
    let mut staged = Staged::start(NONE).await;
    staged.oauth.provider.behave(|manners| manners.refresh_ends_access = true);
    let mut lock = held_at_commit(&staged);
    staged.power_cut();
    staged.oauth.world.sql(END_BLOCKED);
    lock.release();
    assert_eq!(staged.row("done_attempt_id IS NULL AND sealed_answer IS NOT NULL"), "t");
    staged.end_leases();
    staged.succeed_with("second", &[]);
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_eq!(staged.oauth.world.sql(WRITTEN), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_a_commit_whose_answer_is_lost_is_looked_after_and_counts_once() {
    let mut staged = Staged::start(NONE).await;
    staged.oauth.provider.behave(|manners| manners.refresh_ends_access = true);
    staged.power_cut();
    let url = staged.oauth.world.postgres.url(DATABASE);
    let proxy = FaultProxy::start(&url);
    staged.oauth.world.server = staged.oauth.world.spawn("through-the-proxy", &proxy.url(&url));
    staged.oauth.world.server.wait_for_log("serving");
    let mut lock = held_at_commit(&staged);
    proxy.silence();
    lock.release();
    staged.assert_refreshed().await;
    let server = &staged.oauth.world.server;
    eventually("a refresh that counts", || (outcomes(server, "REFRESHED") == 1.0).then_some(()));
    // Once for each connection that had gone silent.
    assert!(times_logged(server, "new tokens could not be written; trying again") >= 1);
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_eq!(staged.oauth.world.sql(WRITTEN), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_a_commit_that_fails_is_tried_again_until_it_goes_through() {
    let staged = Staged::start(NONE).await;
    staged.oauth.provider.behave(|manners| manners.refresh_ends_access = true);
    let mut lock = held_at_commit(&staged);
    staged.oauth.world.sql(END_BLOCKED);
    lock.release();
    staged.assert_refreshed().await;
    assert_eq!(staged.asked(), 1);
    assert_eq!(staged.oauth.world.sql(WRITTEN), "1");
    assert_eq!(staged.spooled().len(), 0);
}

// === Late answers ===

#[tokio::test(flavor = "multi_thread")]
async fn f10_an_answer_that_comes_after_its_lease_is_used_where_nothing_newer_came() {
    for class in [NONE, WINDOW] {
        let staged = Staged::start(class).await;
        let gate = staged.hold(Stage::After);
        if class.reuse != Reuse::None {
            // Too late to ask again: the late answer is all that there is.
            staged.oauth.world.sql("UPDATE refreshes SET attempt_time = attempt_time - interval '1 hour'");
        }
        staged.end_leases();
        staged.until_ambiguous();
        gate.release();
        staged.assert_refreshed().await;
        assert_eq!(staged.asked(), 1);
        assert_eq!(staged.oauth.world.sql("SELECT count(*) FROM late_answers"), "0");
        assert_eq!(number(&staged.oauth.world.server, "keyholder_refreshes_ambiguous"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_f27_an_answer_that_comes_after_its_lease_changes_nothing_where_something_newer_came() {
    for class in [STATIC, WINDOW, UNTIL_USED] {
        let staged = Staged::start(class).await;
        let gate = staged.hold(Stage::After);
        staged.end_leases();
        let refreshed = staged.assert_refreshed().await;
        let token = staged.token().await;
        gate.release();
        let server = &staged.oauth.world.server;
        let said = "an answer came when its attempt counted no more; it is kept in case it is needed";
        eventually(said, || (times_logged(server, said) > 0).then_some(()));
        assert_eq!(number(server, "keyholder_refresh_late_answers"), 1.0);
        // Whoever looks at late answers has looked.
        staged.make_due();
        staged.until_row("attempt_id IS NULL AND fence > 3");
        let now = staged.now().await;
        assert_eq!(now.generation, refreshed.generation + 1, "only the refresh that was due");
        assert_eq!(staged.oauth.provider.account_of(&token).as_deref(), Some("ada"), "{token}");
        assert_eq!(staged.oauth.provider.counts().replays, 0);
        assert_eq!(now.refresh.unwrap().state(), RefreshState::Scheduled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_an_answer_that_comes_after_a_new_consent_is_not_used() {
    let staged = Staged::start_with(NONE, Setup::default()).await;
    let gate = staged.hold(Stage::After);
    staged.end_leases();
    staged.until_ambiguous();
    let mut request = crate::oauth::world::start("user:ada");
    request.connection_id.clone_from(&staged.made.connection_id);
    let begun = staged.oauth.begin_as(request).await;
    staged.oauth.consent(&begun).await;
    let consented = staged.now().await;
    assert_eq!(consented.refresh.as_ref().unwrap().state(), RefreshState::Scheduled, "{consented:?}");
    let token = staged.token().await;
    gate.release();
    let server = &staged.oauth.world.server;
    let said = "an answer came when its attempt counted no more; it is kept in case it is needed";
    eventually(said, || (times_logged(server, said) > 0).then_some(()));
    staged.make_due();
    staged.until_row("done_attempt_id IS NOT NULL AND attempt_id IS NULL");
    assert_ne!(staged.token().await, token);
    assert_eq!(staged.oauth.provider.counts().replays, 0, "the new consent's own refresh token was shown");
    assert_eq!(staged.now().await.state(), ConnectionState::Active);
}
