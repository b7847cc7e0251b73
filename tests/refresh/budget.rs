//! A provider is asked as often as it likes, by all replicas together, and those who wait come first.

use std::sync::Arc;
use std::time::Duration;

use keyholder_domain::SystemClock;
use keyholder_proto::v1::{self, ConnectionState};
use keyholder_testkit::provider::{Call, Effect, Endpoint, Limit, Provider, Reuse, Stage};

use super::*;
use crate::oauth::world::Setup;

/// A world with so many connections, each of another account, whose refresh tokens stay good.
async fn many(setup: Setup<'_>, number: usize) -> (OAuth, Vec<v1::Connection>) {
    let oauth = OAuth::start_with(&Setup { recipe: STATIC, ..setup });
    oauth.provider.behave(|manners| manners.reuse = Reuse::Static);
    let made = import(&oauth, &oauth.provider, "demo", number).await;
    (oauth, made)
}

/// How many connections of a provider have been refreshed.
fn refreshed(oauth: &OAuth, provider_id: &str) -> usize {
    let done = "SELECT count(*) FROM refreshes WHERE done_attempt_id IS NOT NULL";
    oauth.world.sql(&format!("{done} AND provider_id = '{provider_id}'")).parse().unwrap()
}

fn refreshes(oauth: &OAuth) -> Vec<Call> {
    oauth.calls(Endpoint::Token).into_iter().filter(Call::is_refresh).collect()
}

/// A column of the row of the installation's client at `demo`.
fn client(oauth: &OAuth, column: &str) -> String {
    oauth.world.sql(&format!("SELECT {column} FROM provider_clients WHERE provider_id = 'demo'"))
}

fn limit(oauth: &OAuth, per_second: u32) {
    let limit = Limit { per_second, retry_after: true };
    oauth.provider.behave(|manners| manners.limit = Some(limit));
}

// === As often as it likes ===

#[tokio::test(flavor = "multi_thread")]
async fn f14_f33_a_herd_at_a_provider_with_a_limit_gets_through_and_the_limit_is_learned() {
    const HERD: usize = 150;
    let elsewhere = Provider::start(Arc::new(SystemClock)).unwrap();
    let (oauth, made) = many(Setup { other: Some(&elsewhere), ..Setup::default() }, HERD).await;
    let (_second, _) = oauth.replica("second");
    let others = import(&oauth, &elsewhere, "other", 5).await;
    limit(&oauth, 8);
    make_due_where(&oauth, "true");
    // Another provider's do not queue behind them.
    eventually("the other provider's", || (refreshed(&oauth, "other") == others.len()).then_some(()));
    assert!(refreshed(&oauth, "demo") < HERD, "the herd is still at it");
    eventually("a limit that is about right", || {
        let learned: f64 = client(&oauth, "rate").parse().ok()?;
        (2.0..=12.0).contains(&learned).then_some(())
    });
    eventually("the herd", || (refreshed(&oauth, "demo") == HERD).then_some(()));

    let counts = oauth.provider.counts();
    assert_eq!((counts.refreshes, counts.replays), (HERD as u64, 0), "each of them once");
    assert!(counts.limited < HERD as u64 / 4, "{} calls were too many", counts.limited);
    let other = oauth.world.sql("SELECT rate IS NULL FROM provider_clients WHERE provider_id = 'other'");
    assert_eq!(other, "t");
    let active = "SELECT count(*) FROM connections WHERE state = 'ACTIVE'";
    assert_eq!(oauth.world.sql(active), (made.len() + others.len()).to_string());
    assert_eq!(oauth.world.sql("SELECT count(*) FROM refreshes WHERE failures > 0"), "0");
    assert_good(&oauth, &made[HERD - 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_the_time_that_a_provider_wants_is_obeyed_within_bounds_however_it_is_said() {
    let (oauth, made) = many(Setup::default(), 1).await;
    let made = &made[0];
    // An HTTP date is of whole seconds.
    let soon = oauth.world.sql(
        "SELECT to_char((now() + interval '40 seconds') AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS') \
             || ' GMT'",
    );
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    let table = [
        ("30", 25.0..=30.0),
        ("0", -60.0..=0.1),
        ("31536000", 3_500.0..=3_600.0),
        ("99999999999999999999", 0.0..=1.0),
        (soon.as_str(), 25.0..=40.0),
        (past, -60.0..=0.1),
        ("in a while", -60.0..=1.0),
        ("-5", -60.0..=1.0),
        ("", -60.0..=1.0),
    ];
    for (text, expected) in table {
        let failed = || oauth.provider.history().iter().filter(|call| call.fault.is_some()).count();
        let before = failed();
        oauth.world.sql("UPDATE provider_clients SET pause_time = NULL, rate = NULL, failures = 0");
        oauth.provider.spoil(1, Stage::Before, Effect::RetryAfter(429, text.into()));
        make_due(&oauth, made);
        eventually("a call", || (failed() > before).then_some(()));
        let pause = eventually("its end", || {
            let left = client(&oauth, "coalesce(extract(epoch FROM pause_time - clock_timestamp()), -60)");
            (row(&oauth, made, "attempt_id IS NULL") == "t").then_some(left)
        });
        let pause: f64 = pause.parse().unwrap();
        let expected = *expected.start() - 5.0..=*expected.end();
        assert!(expected.contains(&pause), "{text:?}: {pause} s, and not {expected:?}");
        assert_eq!(oauth.connection(&made.connection_id).await.state(), ConnectionState::Active);
        oauth.world.sql("UPDATE provider_clients SET pause_time = NULL");
        eventually("the end of the pause", || {
            (row(&oauth, made, "failures = 0 AND NOT ready AND attempt_id IS NULL AND last_error IS NULL")
                == "t")
                .then_some(())
        });
    }
    assert_good(&oauth, made).await;
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_who_waits_for_a_token_does_not_queue_behind_those_who_are_only_due() {
    const BACKLOG: usize = 120;
    let (oauth, made) = many(Setup::default(), BACKLOG).await;
    limit(&oauth, 4);
    let wanted = &made[BACKLOG - 1];
    make_due_where(&oauth, "true");
    eventually("a limit that is known", || (!client(&oauth, "rate").is_empty()).then_some(()));
    let it = format!("connection_id = '{}'", id(wanted));
    let ended = format!(
        "UPDATE connections SET token_expire_time = clock_timestamp() - interval '1 second' WHERE {it}"
    );
    oauth.world.sql(&ended);
    let resolved = resolve(&oauth, wanted).await.unwrap();
    assert!(oauth.provider.account_of(token_in(&resolved)).is_some());
    let done = refreshed(&oauth, "demo");
    assert!(done < BACKLOG, "the backlog is not done: {done}");
    assert!(oauth.provider.counts().limited > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_with_one_place_those_whose_token_ends_first_come_first_after_those_who_wait() {
    let setup = Setup { settings: "[refresher]\nworkers = 1\n", ..Setup::default() };
    let (oauth, made) = many(setup, 7).await;
    let gate = oauth.provider.hold(Stage::Before);
    make_due(&oauth, &made[0]);
    gate.held().await;
    // The order of their ends is another one than that of their making; the last of all is waited for.
    let order = [3, 1, 5, 2, 4];
    for (place, number) in order.into_iter().enumerate() {
        oauth.world.sql(&format!(
            "UPDATE refreshes SET deadline = clock_timestamp() + interval '{} minutes' \
             WHERE connection_id = '{}'",
            10 * (place + 1),
            id(&made[number])
        ));
    }
    oauth.world.sql(&format!(
        "UPDATE refreshes SET deadline = clock_timestamp() + interval '1 day', \
             demand_time = clock_timestamp() \
         WHERE connection_id = '{}'",
        id(&made[6])
    ));
    make_due_where(&oauth, "true");
    gate.release();
    eventually("all of them", || (refreshed(&oauth, "demo") == made.len()).then_some(()));
    let asked: Vec<String> = oauth
        .world
        .sql("SELECT connection_id FROM refreshes ORDER BY last_attempt_time")
        .lines()
        .map(str::to_owned)
        .collect();
    let expected: Vec<&str> =
        [0, 6].into_iter().chain(order).map(|number: usize| id(&made[number])).collect();
    let asked: Vec<String> = asked.iter().map(|id| id.replace('-', "")).collect();
    assert_eq!(asked, expected);
    assert_eq!(most_at_once(&refreshes(&oauth)), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_what_came_together_is_not_due_together() {
    let (oauth, made) = many(Setup::default(), 60).await;
    assert_eq!(made.len(), 60);
    let spread = oauth.world.sql(
        "SELECT count(DISTINCT due_time) = 60, max(due_time) - min(due_time) > interval '2 minutes', \
             max(due_time - deadline) <= interval '-10 minutes', min(due_time) > clock_timestamp() \
         FROM refreshes",
    );
    assert_eq!(spread, "t|t|t|t", "apart, in time, and none at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_provider_that_is_down_is_tried_with_one_call_however_many_connections_are_due() {
    const MANY: usize = 80;
    let (oauth, made) = many(Setup::default(), MANY).await;
    oauth.provider.spoil(10_000, Stage::Before, Effect::Status(502));
    make_due_where(&oauth, "true");
    let resting = || {
        let rests = "failures >= 5 AND pause_time > clock_timestamp() + interval '200 milliseconds'";
        let open = oauth.world.sql("SELECT count(attempt_id) FROM refreshes");
        (client(&oauth, rests) == "t" && open == "0").then_some(())
    };
    eventually("a client that is left alone", resting);
    let first = refreshes(&oauth).len();
    assert!(first <= 64, "{first} calls before anybody noticed");
    for probes in 1..=3 {
        oauth.world.sql("UPDATE provider_clients SET pause_time = clock_timestamp() + interval '30 seconds'");
        let before = refreshes(&oauth).len();
        oauth.world.sql("UPDATE provider_clients SET pause_time = clock_timestamp()");
        eventually("a probe", || (refreshes(&oauth).len() > before).then_some(()));
        eventually("its end", resting);
        assert!(refreshes(&oauth).len() <= before + 2, "the probe {probes}: one, and not all");
    }
    for one in [&made[0], &made[MANY - 1]] {
        assert_good(&oauth, one).await;
    }
    oauth.provider.forgive();
    oauth.world.sql("UPDATE provider_clients SET pause_time = NULL");
    make_due_where(&oauth, "true");
    eventually("all of them", || (refreshed(&oauth, "demo") == MANY).then_some(()));
    assert_eq!(client(&oauth, "failures"), "0");
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_no_more_calls_are_made_at_once_for_a_client_than_are_allowed_by_all_replicas_together() {
    let setup = Setup { settings: "[refresher]\nper_client = 3\n", ..Setup::default() };
    let (oauth, made) = many(setup, 24).await;
    let (_second, _) = oauth.replica("second");
    oauth.provider.spoil(made.len(), Stage::Before, Effect::Delay(Duration::from_millis(150)));
    make_due_where(&oauth, "true");
    eventually("all of them", || (refreshed(&oauth, "demo") == made.len()).then_some(()));
    let most = most_at_once(&refreshes(&oauth));
    assert!((2..=3).contains(&most), "{most} at once");
    assert_eq!(oauth.provider.counts().refreshes, made.len() as u64);
}

/// How many of these calls were open at one moment, at the most.
fn most_at_once(calls: &[Call]) -> usize {
    let open = |moment| calls.iter().filter(move |call| call.at <= moment && call.answered.unwrap() > moment);
    calls.iter().map(|call| open(call.at).count()).max().unwrap_or_default()
}

// === What is shown of it ===

#[tokio::test(flavor = "multi_thread")]
async fn how_connections_stand_is_shown_by_get_and_by_list_alike() {
    let (oauth, made) = many(Setup::default(), 2).await;
    let key = oauth.world.connect("user:ada", "sk-ada").await;
    refresh_now(&oauth, &made[0]).await.unwrap();
    oauth.provider.spoil(1, Stage::Before, Effect::Status(503));
    refresh_now(&oauth, &made[1]).await.unwrap_err();
    oauth.world.sql("UPDATE refreshes SET due_time = due_time + interval '1 hour' WHERE failures > 0");
    let request = v1::ListConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let listed = oauth.world.connections().list_connections(request).await.unwrap().into_inner().connections;
    assert_eq!(listed.len(), 3);
    for one in &listed {
        assert_eq!(oauth.connection(&one.connection_id).await.refresh, one.refresh);
    }
    let of = |id: &str| listed.iter().find(|one| one.connection_id == id).unwrap().refresh.clone();
    assert_eq!(of(&key), None, "there is nothing to refresh");
    let good = of(&made[0].connection_id).unwrap();
    assert_eq!((good.state(), good.error.as_str(), good.failures), (v1::RefreshState::Scheduled, "", 0));
    assert!(good.last_success_time.unwrap().seconds >= good.last_attempt_time.unwrap().seconds);
    assert!(good.next_attempt_time.unwrap().seconds > good.last_success_time.unwrap().seconds);
    let failing = of(&made[1].connection_id).unwrap();
    assert_eq!(failing.state(), v1::RefreshState::Failing);
    assert_eq!((failing.error.as_str(), failing.failures), ("PROVIDER_UNAVAILABLE", 1));
    assert!(failing.last_attempt_time.is_some() && failing.next_attempt_time.is_some());
}
