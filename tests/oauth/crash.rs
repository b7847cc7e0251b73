//! A process that dies in the middle of a flow: the code goes out once, and what was kept is not lost.

use keyholder_proto::v1::{self, AuthorizationState, ConnectionState};
use keyholder_testkit::browser::Browser;
use keyholder_testkit::provider::{Effect, Endpoint, Stage};

use super::world::{OAuth, Setup, browser_with, text};
use crate::harness::{Locked, eventually};

/// Lets the lease of whoever was working end now, and not in a minute.
const END_LEASES: &str = "UPDATE authorizations SET lease_expire_time = clock_timestamp() - interval '1 second' \
                          WHERE lease_expire_time IS NOT NULL";

impl OAuth {
    /// Kills the server as a power cut would, and puts another one in its place. Returns where its pages are.
    fn kill_and_replace(&mut self) -> String {
        self.kill();
        let (second, web) = self.replica("second");
        self.world.server = second;
        web
    }

    fn kill(&mut self) {
        self.world.server.child.kill().unwrap();
        self.world.server.child.wait().unwrap();
    }

    /// Sends a browser into the exchange and leaves it there. Returns its cookie and where it went.
    async fn send_in(&self, begun: &v1::StartAuthorizationResponse) -> (String, String) {
        let mut browser = Browser::new();
        let url = self.answer_for(&mut browser, begun).await;
        let cookie = self.cookie(&browser);
        let to = url.to_string();
        tokio::spawn(async move { browser.get(&to).await.map(drop) });
        (cookie, url.into())
    }

    /// Begins a flow whose server dies with the answer kept and nothing made of it. Returns the lock that kept it there.
    async fn die_with_the_answer(&mut self) -> (v1::StartAuthorizationResponse, Locked) {
        let begun = self.begin("user:ada").await;
        let lock = self.world.lock("SELECT 1 FROM organizations FOR UPDATE");
        self.send_in(&begun).await;
        eventually("an answer that is kept, and a server that cannot go on", || {
            let kept = "SELECT count(*) FROM authorizations WHERE sealed_answer IS NOT NULL";
            let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            (self.world.sql(kept) == "1" && self.world.sql(blocked) != "0").then_some(())
        });
        self.kill();
        (begun, lock)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f4_a_flow_whose_process_died_before_the_answer_was_kept_ends_and_sends_its_code_once() {
    let mut oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let gate = oauth.provider.hold(Stage::After);
    let (cookie, url) = oauth.send_in(&begun).await;
    gate.held().await;
    let before = oauth.web.clone();
    let web = oauth.kill_and_replace();
    gate.release();
    let again = url.replace(&before, &web);
    let told = browser_with(&cookie).get(&again).await.unwrap();
    assert_eq!(told.status.unwrap().as_u16(), 410, "somebody may still be at it: {}", text(&told));
    oauth.world.sql(END_LEASES);
    assert_eq!(oauth.failure(&begun).await, "INTERRUPTED");
    let told = browser_with(&cookie).get(&again).await.unwrap();
    assert_eq!(told.status.unwrap().as_u16(), 500, "{}", text(&told));
    let counts = oauth.provider.counts();
    assert_eq!((counts.token_calls, counts.code_replays), (1, 0));
    assert_eq!(oauth.world.sql("SELECT count(*) FROM connections"), "0");
    let left =
        "SELECT count(*) FROM authorizations WHERE sealed_flow IS NOT NULL OR sealed_answer IS NOT NULL";
    assert_eq!(oauth.world.sql(left), "0");
    let events = oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'AUTHORIZATION_FAILED'");
    assert_eq!(events, "INTERRUPTED", "it is reported");
}

#[tokio::test(flavor = "multi_thread")]
async fn f4_a_flow_whose_process_died_before_the_provider_was_asked_ends_too() {
    let mut oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let gate = oauth.provider.hold(Stage::Before);
    oauth.send_in(&begun).await;
    gate.held().await;
    oauth.kill_and_replace();
    gate.release();
    oauth.world.sql(END_LEASES);
    assert_eq!(oauth.failure(&begun).await, "INTERRUPTED");
    assert_eq!(oauth.calls(Endpoint::Token).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f4_a_kept_answer_is_finished_by_another_replica_without_another_question() {
    let mut oauth = OAuth::start();
    let (begun, mut lock) = oauth.die_with_the_answer().await;
    lock.release();
    let (second, _) = oauth.replica("second");
    oauth.world.server = second;
    oauth.world.sql(END_LEASES);
    let done = oauth.until(&begun, AuthorizationState::Completed).await;
    let made = oauth.connection(&done.connection_id).await;
    assert_eq!((made.state(), made.account.unwrap().id.as_str()), (ConnectionState::Active, "user-ada"));
    let counts = oauth.provider.counts();
    assert_eq!((counts.token_calls, counts.code_replays), (1, 0));
    let answered = oauth.calls(Endpoint::Token)[0].answered.unwrap().unix_timestamp();
    let ends = made.tokens.unwrap().expire_time.unwrap().seconds;
    assert!(ends <= answered + 3_600 + 1, "its time ran on meanwhile");
    assert_eq!(oauth.world.sql("SELECT count(*) FROM connections"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f4_a_kept_answer_that_nobody_finished_in_time_is_given_back() {
    let mut oauth = OAuth::start();
    let (begun, mut lock) = oauth.die_with_the_answer().await;
    lock.release();
    oauth.world.sql("UPDATE authorizations SET expire_time = clock_timestamp() - interval '1 second'");
    oauth.world.sql(END_LEASES);
    let (second, _) = oauth.replica("second");
    oauth.world.server = second;
    assert_eq!(oauth.failure(&begun).await, "PROVIDER_UNAVAILABLE");
    eventually("tokens that are given back", || (oauth.provider.counts().revocations >= 1).then_some(()));
    assert_eq!(oauth.calls(Endpoint::Token).len(), 1);
    assert_eq!(oauth.world.sql("SELECT count(*) FROM connections"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_finished_once_the_provider_says_whose_it_is() {
    let oauth = OAuth::start_with(&Setup::default());
    oauth.provider.spoil_at(Endpoint::UserInfo, 1, Stage::Before, Effect::Status(503));
    let begun = oauth.begin("user:ada").await;
    oauth.consent(&begun).await;
    assert_eq!(oauth.authorization(&begun).await.state(), AuthorizationState::Exchanging);
    oauth.world.sql(END_LEASES);
    oauth.until(&begun, AuthorizationState::Completed).await;
    assert_eq!(oauth.calls(Endpoint::Token).len(), 1);
}
