//! The audit by weeks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyholder_domain::{AuditEventId, Connection, Timestamp};
use keyholder_store::{AuditFilter, Release};

use crate::fixtures::{World, connection, now, release};

const DAY: Duration = Duration::from_secs(86_400);

/// The tables of the audit, by the day that each ends before.
fn weeks(world: &World) -> Vec<String> {
    let names = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = 'audit_events'::regclass ORDER BY 1";
    let prefix = |name: &str| name.strip_prefix("audit_events_until_").map(str::to_owned);
    world.sql(names).lines().filter_map(prefix).collect()
}

/// A release whose event is of a moment.
async fn release_at(world: &World, connection: &Connection, moment: Timestamp, number: u8) {
    let audit_event_id = AuditEventId::new(moment, [number; 10]);
    let release = Release { audit_event_id, ..release(world, connection, number).await };
    assert!(world.lane.release(release).await.unwrap());
}

async fn connected(world: &World) -> Connection {
    world.insert(&connection("acme", 1)).await.connection
}

#[tokio::test]
async fn what_was_on_record_before_there_were_weeks_stays_and_so_does_what_is_ahead_of_the_clock() {
    let world = World::unmigrated().await;
    let migrations = [
        include_str!("../../migrations/0001_first_release.sql"),
        include_str!("../../migrations/0002_last_test.sql"),
        include_str!("../../migrations/0003_oauth.sql"),
        include_str!("../../migrations/0004_refreshes.sql"),
    ];
    migrations.iter().for_each(|migration| drop(world.sql(migration)));
    let grant = "018f0000-0000-7000-8000-000000000009";
    for (number, moment) in [now() - 700 * DAY, now(), now() + 20 * DAY].into_iter().enumerate() {
        let id = AuditEventId::new(moment, [u8::try_from(number).unwrap(); 10]).as_uuid();
        world.sql(&format!(
            "INSERT INTO audit_events (organization_id, audit_event_id, kind, workload, grant_id)
             VALUES ('acme', '{id}', 'CREDENTIAL_RELEASED', 'w', '{grant}')"
        ));
    }
    world.sql(include_str!("../../migrations/0005_cheap_releases.sql"));
    assert_eq!(world.sql("SELECT count(*) FROM audit_events"), "3");
    assert_eq!(world.sql("SELECT grant_id FROM grant_uses"), grant);
    // The old table reaches three weeks further; the coming ones begin behind it.
    world.store.tend_audit(None).await.unwrap();
    let later = AuditEventId::new(now() + 25 * DAY, [9; 10]).as_uuid();
    world.sql(&format!(
        "INSERT INTO audit_events (organization_id, audit_event_id, kind, workload)
         VALUES ('acme', '{later}', 'CREDENTIAL_RELEASED', 'w')"
    ));
    assert_eq!(world.sql("SELECT count(*) FROM audit_events_other"), "0");
    let (_, dropped) = world.store.tend_audit(Some(28 * DAY)).await.unwrap();
    assert!(dropped.is_empty(), "{dropped:?}");
}

#[tokio::test]
async fn a_list_from_the_beginning_of_time_has_everything() {
    let world = World::start().await;
    let connection = connected(&world).await;
    release_at(&world, &connection, now(), 1).await;
    for start in [Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH - 10_000 * DAY] {
        let filter = AuditFilter { start: Some(start), limit: 10, ..AuditFilter::default() };
        let listed = world.store.audit_events(&connection.organization_id, &filter).await.unwrap();
        assert_eq!(listed.len(), 1, "{start}");
    }
    let filter = AuditFilter { end: Some(now() - DAY), limit: 10, ..AuditFilter::default() };
    assert!(world.store.audit_events(&connection.organization_id, &filter).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_weeks_to_come_are_there_and_made_again_when_they_are_missing() {
    let world = World::start().await;
    let there = weeks(&world);
    assert_eq!(there.len(), 5);
    world.sql(&format!("DROP TABLE audit_events_until_{}", there[4]));
    assert_eq!(world.store.tend_audit(None).await.unwrap(), (1, Vec::new()));
    assert_eq!(weeks(&world), there);
    assert_eq!(world.store.tend_audit(None).await.unwrap(), (0, Vec::new()));
}

#[tokio::test]
async fn an_event_of_a_week_that_is_not_there_is_kept_and_moves_when_its_week_is_made() {
    let world = World::start().await;
    let connection = connected(&world).await;
    let there = weeks(&world);
    world.sql(&format!("DROP TABLE audit_events_until_{}", there[2]));
    release_at(&world, &connection, now() + 14 * DAY, 1).await;
    release_at(&world, &connection, Timestamp::UNIX_EPOCH + 365 * DAY, 2).await;
    let other = "SELECT count(*) FROM audit_events_other";
    assert_eq!(world.sql(other), "2");
    world.store.tend_audit(None).await.unwrap();
    assert_eq!(world.sql(other), "1", "what is of no week stays");
    assert_eq!(world.sql("SELECT count(*) FROM audit_events"), "2");
    assert_eq!(world.sql(&format!("SELECT count(*) FROM audit_events_until_{}", there[2])), "1");
}

#[tokio::test]
async fn weeks_that_are_older_than_the_retention_are_dropped_and_no_others() {
    let world = World::start().await;
    let connection = connected(&world).await;
    for weeks_ago in 1..=8 {
        world.sql(&format!(
            "SELECT make_audit_week(date_trunc('week', now() AT TIME ZONE 'UTC')::date - 7 * {weeks_ago})"
        ));
    }
    release_at(&world, &connection, now() - 15 * DAY, 1).await;
    release_at(&world, &connection, now() - 50 * DAY, 2).await;
    let before = weeks(&world);
    assert_eq!(before.len(), 13);
    let (_, dropped) = world.store.tend_audit(Some(28 * DAY)).await.unwrap();
    // The week of 28 days ago has days that are younger, and those since.
    let left = weeks(&world);
    assert_eq!(left, before[before.len() - left.len()..], "the oldest have gone");
    assert_eq!(dropped.len() + left.len(), 13);
    // Four whole weeks, the week that is under way, a day of slack, and the four to come.
    assert!(left.len() == 9 || left.len() == 10, "{left:?}");
    assert_eq!(world.sql("SELECT count(*) FROM audit_events"), "1");
}

#[tokio::test]
async fn whoever_reads_the_audit_holds_up_its_tending_and_not_those_who_release() {
    let world = World::start().await;
    let connection = connected(&world).await;
    world.sql("SELECT make_audit_week(date_trunc('week', now() AT TIME ZONE 'UTC')::date - 70)");
    let reader = world.hold("SELECT count(*) FROM audit_events");
    let refused = world.store.tend_audit(Some(28 * DAY)).await;
    assert!(refused.is_err(), "{refused:?}");
    release_at(&world, &connection, now(), 1).await;
    reader.end();
    let (_, dropped) = world.store.tend_audit(Some(28 * DAY)).await.unwrap();
    assert_eq!(dropped.len(), 1);
}

#[tokio::test]
async fn a_week_is_made_while_releases_go_on_and_none_is_refused_or_lost() {
    let world = World::start().await;
    let connection = connected(&world).await;
    let there = weeks(&world);
    world.sql(&format!("DROP TABLE audit_events_until_{}", there[0]));
    let (made, released) = (AtomicBool::new(false), AtomicU64::new(0));
    let one = release(&world, &connection, 1).await;
    let releasing = async || {
        while !made.load(Ordering::Relaxed) {
            let number = released.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            let mut random = [0; 10];
            random[2..].copy_from_slice(&number);
            let next = Release { audit_event_id: AuditEventId::new(now(), random), ..one.clone() };
            assert!(world.lane.release(next).await.unwrap());
        }
    };
    let making = async {
        while released.load(Ordering::Relaxed) < 200 {
            tokio::task::yield_now().await;
        }
        // One that has to wait too long for those who release lets go, and is tried again.
        while weeks(&world) != there {
            world.store.tend_audit(None).await.ok();
        }
        made.store(true, Ordering::Relaxed);
    };
    tokio::join!(releasing(), releasing(), releasing(), releasing(), making);
    let number = released.into_inner().to_string();
    assert_eq!(world.sql("SELECT count(*) FROM audit_events"), number);
    assert_eq!(world.sql(&format!("SELECT count(*) FROM audit_events_until_{}", there[0])), number);
}

#[tokio::test]
async fn events_that_are_too_many_to_move_stay_where_they_are_and_are_found() {
    let world = World::start().await;
    let connection = connected(&world).await;
    let there = weeks(&world);
    world.sql(&format!("DROP TABLE audit_events_until_{}", there[0]));
    world.sql(
        "INSERT INTO audit_events (organization_id, audit_event_id, kind, workload)
         SELECT 'acme', overlay(audit_bound(now())::text placing lpad(to_hex(n), 12, '0') from 25)::uuid,
                'CREDENTIAL_RELEASED', 'w'
         FROM generate_series(1, 100001) n",
    );
    assert_eq!(world.store.tend_audit(None).await.unwrap(), (0, Vec::new()));
    release_at(&world, &connection, now(), 1).await;
    assert_eq!(world.sql("SELECT count(*) FROM audit_events_other"), "100002");
    let filter = AuditFilter { connection_id: Some(connection.id), limit: 10, ..AuditFilter::default() };
    let listed = world.store.audit_events(&connection.organization_id, &filter).await.unwrap();
    assert!(!listed.is_empty());
}

#[tokio::test]
async fn what_is_of_no_week_goes_when_it_is_older_than_the_retention() {
    let world = World::start().await;
    let connection = connected(&world).await;
    release_at(&world, &connection, Timestamp::UNIX_EPOCH + 365 * DAY, 1).await;
    release_at(&world, &connection, now() - 30 * DAY, 2).await;
    release_at(&world, &connection, now() - 27 * DAY, 3).await;
    let other = "SELECT count(*) FROM audit_events_other";
    assert_eq!(world.sql(other), "3");
    // By the clock of the database they are of today.
    world.store.tend_audit(Some(28 * DAY)).await.unwrap();
    assert_eq!(world.sql(other), "3");
    world.sql("UPDATE audit_events_other SET create_time = create_time - interval '30 days'");
    world.store.tend_audit(None).await.unwrap();
    assert_eq!(world.sql(other), "3");
    world.store.tend_audit(Some(28 * DAY)).await.unwrap();
    assert_eq!(world.sql(other), "1");
}
