//! What the rows of the refresher make of what happens: budgets, pauses, quarantine and reports.

use keyholder_domain::{Connection, Generation, Text, Timestamp};
use keyholder_store::{Attempt, ClientKey, Only, Pace, Quarantine, Reached, Schedule};
use tokio::time::timeout;

use crate::fixtures::{World, connection, now, organization, provider};

fn key() -> ClientKey {
    ClientKey {
        organization_id: None,
        provider_id: provider("openai"),
        client_id: Text::parse("client").unwrap(),
    }
}

/// The schedule of a connection that is due in an hour.
fn schedule(connection: &Connection) -> Schedule {
    let soon = now() + std::time::Duration::from_secs(3_600);
    Schedule {
        connection_id: connection.id,
        client: key(),
        due_time: Some(soon),
        earliest_time: now(),
        deadline: Some(soon),
        call_seconds: 10,
        notice_time: None,
    }
}

/// A database with so many connections of one client.
async fn refreshing(number: u8) -> (World, Vec<Connection>) {
    let world = World::start().await;
    let mut made = Vec::new();
    for number in 1..=number {
        let connection = world.insert(&connection("acme", number)).await.connection;
        let mut change = world.store.change(&connection.organization_id).await.unwrap();
        change.schedule_refresh(&schedule(&connection)).await.unwrap();
        change.commit().await.unwrap();
        made.push(connection);
    }
    (world, made)
}

impl World {
    /// What SQL says about the only client.
    fn client(&self, expression: &str) -> String {
        self.sql(&format!("SELECT {expression} FROM provider_clients"))
    }

    fn set_client(&self, columns: &str) {
        self.sql(&format!("UPDATE provider_clients SET {columns}"));
    }

    fn make_ready(&self) {
        self.sql("UPDATE refreshes SET ready = true");
    }

    async fn claim(&self, limit: i64, per_client: i64) -> Vec<Attempt> {
        let beginning = Reached { era: 0, epoch: 0 };
        self.store.claim_refreshes(limit, per_client, beginning, &[]).await.unwrap()
    }

    async fn limited(&self, seconds: f64, asked: Timestamp) -> bool {
        self.store.client_limited(&key(), seconds, asked).await.unwrap().known
    }
}

// === Pauses ===

const PAUSE: &str = "round(extract(epoch FROM pause_time - limited_time))";

#[tokio::test]
async fn a_pause_doubles_up_to_a_minute_while_nothing_goes_well() {
    let (world, _) = refreshing(1).await;
    // The first time nobody knows a pace, and the pause is what the provider asks for.
    assert!(!world.limited(1.0, now()).await);
    assert_eq!(world.client(PAUSE), "1");
    let pace = Pace { rate: 10.0, good: None, bad: None };
    world.store.set_pace(&key(), None, pace).await.unwrap();
    for seconds in ["2", "4", "8", "16", "32", "60", "60"] {
        assert!(world.limited(1.0, now()).await, "it says nothing about the pace");
        assert_eq!(world.client(PAUSE), seconds);
    }
    // One that was on its way all the while adds nothing.
    assert!(world.limited(1.0, now() - std::time::Duration::from_secs(60)).await);
    let left = "pause_time - clock_timestamp() BETWEEN interval '30 seconds' AND interval '60 seconds'";
    assert_eq!(world.client(left), "t");
    // A provider that asks for more gets it.
    world.limited(90.0, now()).await;
    assert_eq!(world.client(PAUSE), "90");
}

#[tokio::test]
async fn a_pause_is_what_the_provider_asks_for_once_a_call_went_well_at_the_pace() {
    let (world, _) = refreshing(1).await;
    let pace = Pace { rate: 10.0, good: None, bad: None };
    world.store.set_pace(&key(), None, pace).await.unwrap();
    world.limited(1.0, now()).await;
    world.limited(1.0, now()).await;
    assert_eq!(world.client(PAUSE), "2");
    world.store.client_worked(&key(), now()).await.unwrap();
    assert!(!world.limited(3.0, now()).await, "the pace is too fast");
    assert_eq!(world.client(PAUSE), "3");
}

#[tokio::test]
async fn a_call_that_was_on_its_way_when_there_were_too_many_does_not_end_the_pause() {
    let (world, _) = refreshing(1).await;
    let asked = now();
    world.limited(30.0, asked).await;
    world.store.client_worked(&key(), asked).await.unwrap();
    assert_eq!(world.client(PAUSE), "30");
    world.store.client_worked(&key(), now()).await.unwrap();
    assert_eq!(world.client("pause_time IS NULL"), "t");
}

// === Budgets ===

#[tokio::test]
async fn calls_within_a_pace_are_claimed_for_a_twentieth_of_a_second_and_begin_one_after_the_other() {
    let (world, _) = refreshing(12).await;
    world.make_ready();
    // What was not used before counts for a fiftieth of a second.
    for (rate, claimed) in [(9.0, 1), (50.0, 4), (0.001, 1)] {
        world.set_client(&format!("rate = {rate}, paid_time = '1970-01-01'"));
        let mut delays: Vec<f64> =
            world.claim(100, 100).await.iter().map(|attempt| attempt.delay.as_secs_f64()).collect();
        delays.sort_by(f64::total_cmp);
        let expected: Vec<f64> = (0..claimed).map(|call| (f64::from(call) / rate - 0.02).max(0.0)).collect();
        assert_eq!(delays.len(), expected.len(), "at {rate}");
        assert!(
            delays.iter().zip(&expected).all(|(delay, expected)| (delay - expected).abs() < 1e-6),
            "{delays:?}"
        );
    }
    // Paid for: the next one is in a quarter of an hour.
    assert_eq!(world.client("paid_time > clock_timestamp()"), "t");
    assert!(world.claim(100, 100).await.is_empty());
    // Whoever is waited for is the first.
    let demanded = world.sql("SELECT max(connection_id::text) FROM refreshes WHERE ready");
    world.sql(&format!(
        "UPDATE refreshes SET demand_time = clock_timestamp(), deadline = '9999-01-01' WHERE connection_id = '{demanded}'"
    ));
    world.set_client("rate = 100, paid_time = '1970-01-01'");
    let attempts = world.claim(100, 100).await;
    assert_eq!(attempts.len(), 6, "one for each that is left");
    let first =
        attempts.iter().find(|attempt| attempt.connection_id.as_uuid().to_string() == demanded).unwrap();
    assert!(first.delay.is_zero() && attempts.iter().filter(|attempt| attempt.delay.is_zero()).count() == 3);
}

#[tokio::test]
async fn calls_of_a_client_without_a_pace_begin_at_once() {
    let (world, _) = refreshing(3).await;
    world.make_ready();
    let attempts = world.claim(100, 100).await;
    assert_eq!(attempts.len(), 3);
    assert!(attempts.iter().all(|attempt| attempt.delay.is_zero()));
}

#[tokio::test]
async fn a_pace_beyond_all_measure_claims_what_there_is_room_for() {
    let (world, _) = refreshing(12).await;
    for (limit, per_client, claimed) in [(5, 100, 5), (100, 4, 4), (i64::MAX, i64::MAX, 12)] {
        world.sql(
            "UPDATE refreshes SET ready = true, attempt_id = NULL, attempt_time = NULL, \
                   attempt_generation = NULL, lease_expire_time = NULL",
        );
        world.set_client("rate = 1e18, paid_time = '1970-01-01'");
        assert_eq!(world.claim(limit, per_client).await.len(), claimed);
    }
}

#[tokio::test]
async fn a_pace_may_grow_only_where_it_was_used_to_the_full_by_a_call_that_was_claimed_under_it() {
    let (world, _) = refreshing(2).await;
    let settled = "rate = 10, rate_time = clock_timestamp() - interval '10 seconds', \
                   paid_time = clock_timestamp() + interval '1 hour'";
    let worked = async |asked| world.store.client_worked(&key(), asked).await.unwrap().settled;
    world.set_client(settled);
    assert!(!worked(now()).await, "nothing waits");
    world.make_ready();
    assert!(worked(now()).await);
    assert!(!worked(now() - std::time::Duration::from_secs(60)).await, "claimed under another pace");
    world.set_client("rate_time = clock_timestamp() - interval '1 second'");
    assert!(!worked(now()).await, "too short a while");
    world.set_client(settled);
    // As a claim of a single call leaves it.
    world.set_client("paid_time = clock_timestamp() + interval '10 milliseconds'");
    assert!(!worked(now()).await, "there was room for more");
}

#[tokio::test]
async fn of_two_who_set_a_pace_at_once_the_second_changes_nothing() {
    let (world, _) = refreshing(1).await;
    let pace = |rate| Pace { rate, good: None, bad: None };
    world.store.set_pace(&key(), None, pace(10.0)).await.unwrap();
    world.store.set_pace(&key(), None, pace(20.0)).await.unwrap();
    assert_eq!(world.client("rate"), "10");
    let known = world.store.client_worked(&key(), now()).await.unwrap().pace_time;
    world.store.set_pace(&key(), known, pace(30.0)).await.unwrap();
    assert_eq!(world.client("rate"), "30");
}

// === Quarantine ===

#[tokio::test]
async fn a_quarantine_that_goes_on_is_probed_when_it_was_to_be() {
    let (world, _) = refreshing(3).await;
    let put = async |why, seconds| world.store.quarantine_client(&key(), why, Some(seconds)).await.unwrap();
    assert_eq!(put(Quarantine::ManyGrantsRefused, 600.0).await, Some(3), "so many wait");
    let probe_time = world.client("probe_time");
    assert_eq!(put(Quarantine::ManyGrantsRefused, 600.0).await, None);
    assert_eq!(world.client("probe_time"), probe_time);
    assert_eq!(put(Quarantine::ClientRefused, 60.0).await, Some(3), "for another reason");
    assert_ne!(world.client("probe_time"), probe_time);
}

// === Reports ===

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_waits_for_a_refresh_to_end_is_of_what_was_replaced() {
    let (world, made) = refreshing(1).await;
    world.make_ready();
    let [attempt] = world.claim(1, 1).await.try_into().unwrap();
    let acme = organization("acme");
    let mut refresh = world.store.change(&acme).await.unwrap();
    let store = world.store.clone();
    let (id, organization_id) = (made[0].id, acme.clone());
    let report = tokio::spawn(async move {
        let mut change = store.change(&organization_id).await.unwrap();
        let news = change.reject_generation(id, Generation::FIRST, 60.0).await.unwrap();
        change.commit().await.unwrap();
        news
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let waiting = async {
        while world.sql(waits) != "1" {
            tokio::task::yield_now().await;
        }
    };
    timeout(std::time::Duration::from_secs(30), waiting).await.unwrap();
    assert!(refresh.finish_refresh(&attempt, &schedule(&made[0])).await.unwrap());
    let mut stored = world.store.connection(&acme, id).await.unwrap().unwrap();
    stored.connection.generation = stored.connection.generation.next();
    stored.sealed.as_mut().unwrap().generation = stored.connection.generation;
    refresh.update_connection(&stored).await.unwrap();
    refresh.commit().await.unwrap();
    assert!(!report.await.unwrap(), "it is no news");
    assert_eq!(
        world.sql("SELECT ready, demand_time IS NULL, rejected_generation IS NULL FROM refreshes"),
        "f|t|t"
    );
}

#[tokio::test]
async fn a_report_is_news_once_and_has_the_connection_refreshed_even_if_it_comes_during_an_attempt() {
    let (world, made) = refreshing(1).await;
    world.make_ready();
    let [attempt] = world.claim(1, 1).await.try_into().unwrap();
    for news in [true, false] {
        let mut change = world.store.change(&organization("acme")).await.unwrap();
        let said = change.reject_generation(made[0].id, Generation::FIRST, 60.0).await.unwrap();
        assert_eq!(said, news);
        change.commit().await.unwrap();
    }
    // The attempt goes on, and is what was asked for.
    let state =
        "SELECT ready, due_time IS NULL, attempt_id IS NOT NULL, demand_time IS NOT NULL FROM refreshes";
    assert_eq!(world.sql(state), "f|t|t|t");
    let acme = organization("acme");
    let only = Only { organization_id: &acme, connection_id: made[0].id };
    let row = world.store.refresh(only).await.unwrap().unwrap();
    assert_eq!((row.fence, row.rejected_generation), (attempt.fence, Some(1)));
}
