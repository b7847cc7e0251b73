use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyholder_domain::{AuditEventId, Connection, Grant, GrantTarget, Text, Timestamp};
use keyholder_store::{Commit, Release, ReleaseLane, Store, StoreError, StoreSettings, Target};

use crate::fixtures::{World, connection, grant, now, organization, principal, provider, release};

async fn granted(world: &World) -> (Connection, Grant) {
    let connection = world.insert(&connection("acme", 1)).await.connection;
    let grant = grant("acme", GrantTarget::Connection(connection.id));
    world.give(&grant).await;
    (connection, grant)
}

fn events(world: &World) -> String {
    world.sql("SELECT count(*) FROM audit_events WHERE kind = 'CREDENTIAL_RELEASED'")
}

/// A number for each event id.
fn numbered(release: &Release, number: u8) -> Release {
    Release { audit_event_id: AuditEventId::new(now(), [number; 10]), ..release.clone() }
}

/// The same with an id that no other has.
fn another(release: &Release) -> Release {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut random = [255; 10];
    random[2..].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Release { audit_event_id: AuditEventId::new(now(), random), ..release.clone() }
}

/// Whether it is released: the same alone and in a statement with another.
async fn released(world: &World, release: &Release) -> bool {
    let before = world.store.release_statements();
    let alone = world.lane.release(another(release)).await.unwrap();
    let both =
        futures::future::join(world.lane.release(another(release)), world.lane.release(another(release)));
    let (one, other) = both.await;
    assert_eq!((one.unwrap(), other.unwrap()), (alone, alone));
    assert_eq!(world.store.release_statements() - before, 2);
    alone
}

#[tokio::test]
async fn a_release_is_recorded_while_everything_stands() {
    let world = World::start().await;
    let (connection, grant) = granted(&world).await;
    let one = release(&world, &connection, 1).await;
    assert!(world.lane.release(one).await.unwrap());
    let recorded = "SELECT organization_id, kind, workload, actor, generation, provider_id FROM audit_events";
    assert_eq!(
        world.sql(recorded),
        "acme|CREDENTIAL_RELEASED|spiffe://test.example/gateway|agent:roadie|1|openai"
    );
    let ids = world.sql("SELECT connection_id, grant_id FROM audit_events");
    assert_eq!(ids, format!("{}|{}", connection.id.as_uuid(), grant.id.as_uuid()));
}

#[tokio::test]
async fn nothing_is_recorded_once_anything_has_changed_even_if_it_was_changed_back() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    for (table, change, back) in [
        ("connections", "generation = 2", "generation = 1"),
        (
            "connections",
            "update_time = update_time + interval '1 s'",
            "update_time = update_time - interval '1 s'",
        ),
        ("connections", "state = 'DISABLED'", "state = 'ACTIVE'"),
        ("connections", "state = 'REAUTHORIZATION_REQUIRED'", "state = 'ACTIVE'"),
        ("connections", "owner = 'user:eve'", "owner = 'user:ada'"),
        ("grants", "generation = 2", "generation = 1"),
        ("grants", "revoke_time = now()", "revoke_time = NULL"),
        ("grants", "expire_time = now()", "expire_time = NULL"),
        ("grants", "grantee = 'agent:other'", "grantee = 'agent:roadie'"),
    ] {
        let decided = release(&world, &connection, 1).await;
        world.sql(&format!("UPDATE {table} SET {change}"));
        assert!(!released(&world, &decided).await, "{table}: {change}");
        world.sql(&format!("UPDATE {table} SET {back}"));
        assert!(!released(&world, &decided).await, "{table}: {back}");
    }
    let decided = release(&world, &connection, 1).await;
    world.sql("DELETE FROM grants");
    assert!(!released(&world, &decided).await);
    assert_eq!(events(&world), "0");
    let decided = release(&world, &connection, 1).await;
    assert!(released(&world, &decided).await);
}

#[tokio::test]
async fn a_selector_that_changes_is_a_change_of_each_connection_that_it_is_about_and_of_no_other() {
    let world = World::start().await;
    let about = world.insert(&connection("acme", 1)).await.connection;
    let other = Connection { owner: principal("user:bob"), ..connection("acme", 2) };
    let other = world.insert(&other).await.connection;
    let target = GrantTarget::Selector { owner: about.owner.clone(), provider_id: provider("openai") };
    world.give(&grant("acme", target)).await;
    let later = Connection { account: Default::default(), ..connection("acme", 3) };
    let later = world.insert(&later).await.connection;
    let decided = [&about, &later, &other].map(|connection| release(&world, connection, 1));
    let decided = futures::future::join_all(decided).await;
    world.sql("UPDATE grants SET revoke_time = now()");
    let mut released = Vec::new();
    for (number, decided) in (1..).zip(&decided) {
        released.push(world.lane.release(numbered(decided, number)).await.unwrap());
    }
    assert_eq!(released, [false, false, true]);
}

#[tokio::test]
async fn what_ends_ends_by_the_databases_clock() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    // A replica whose clock is far behind would have decided that there is time left.
    let decided = release(&world, &connection, 1).await;
    let ended = Release { before: Some(Timestamp::UNIX_EPOCH), ..decided.clone() };
    assert!(!released(&world, &ended).await);
    let in_time = Release { before: Some(now() + Duration::from_secs(3_600)), ..decided };
    assert!(released(&world, &in_time).await);
}

#[tokio::test]
async fn a_provider_target_is_refused_once_its_set_has_grown() {
    let world = World::start().await;
    let (found, _) = granted(&world).await;
    let target = Target::Provider { provider_id: provider("openai"), owner: None, account_id: None };
    let actor = principal("agent:roadie");
    let before = world.store.find(&found.organization_id, &actor, &target).await.unwrap();
    assert_eq!(before.candidates.len(), 1);
    let decided =
        Release { provider_generation: before.provider_generation, ..release(&world, &found, 1).await };
    assert!(released(&world, &decided).await);
    world.insert(&connection("other", 3)).await;
    assert!(released(&world, &decided).await, "another organization's set is another set");
    world.insert(&connection("acme", 2)).await;
    assert!(!released(&world, &decided).await);
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_recorded_once() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let decided = release(&world, &connection, 1).await;
    for number in 1..=10 {
        // Every pooled connection is dead when the statement is sent.
        world.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyholder'",
        );
        assert!(world.lane.release(numbered(&decided, number)).await.unwrap());
        assert_eq!(events(&world), number.to_string());
    }
}

#[tokio::test]
async fn a_release_waits_for_the_disk_unless_it_is_told_not_to() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    world.sql(
        "CREATE TABLE waited (value text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO waited VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION note()",
    );
    let decided = release(&world, &connection, 1).await;
    assert!(world.lane.release(decided.clone()).await.unwrap());
    let settings = StoreSettings {
        release_commit: Commit::Async,
        ..StoreSettings::new(world.postgres.url(crate::fixtures::DATABASE))
    };
    let (lane, _) = Store::connect(&settings).await.unwrap().release_lane();
    assert!(lane.release(numbered(&decided, 2)).await.unwrap());
    assert_eq!(world.sql("SELECT value FROM waited"), "on\noff");
}

// === Many at once ===

#[tokio::test]
async fn of_those_that_share_a_statement_each_is_judged_by_itself() {
    let world = World::start().await;
    let (good, _) = granted(&world).await;
    let changed = world.insert(&connection("acme", 2)).await.connection;
    let (good, stale) = (release(&world, &good, 1).await, release(&world, &changed, 1).await);
    world.sql(&format!(
        "UPDATE connections SET generation = 2 WHERE connection_id = '{}'",
        changed.id.as_uuid()
    ));
    let all = (0..=255_u8).map(|number| {
        let decided = if number % 3 == 0 { &stale } else { &good };
        world.lane.release(numbered(decided, number))
    });
    let released = futures::future::join_all(all).await;
    for (number, released) in released.into_iter().enumerate() {
        assert_eq!(released.unwrap(), number % 3 != 0, "{number}");
    }
    let statements = world.sql("SELECT count(DISTINCT xmin::text) FROM audit_events").parse::<u32>().unwrap();
    assert!(statements < 10, "{statements} statements for 256 releases");
    assert_eq!(events(&world), "170");
}

#[tokio::test]
async fn what_only_one_of_those_that_share_a_statement_has_is_that_ones() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let decided = release(&world, &connection, 1).await;
    let soon = now() + Duration::from_secs(3_600);
    let past = now() - Duration::from_secs(3_600);
    let purpose = Text::parse("nightly import").unwrap();
    let all = [
        numbered(&decided, 1),
        Release { purpose: purpose.clone(), ..numbered(&decided, 2) },
        Release { before: Some(soon), ..numbered(&decided, 3) },
        Release { before: Some(past), purpose, ..numbered(&decided, 4) },
        Release { provider_generation: Some(1_000), ..numbered(&decided, 5) },
        numbered(&decided, 6),
    ];
    let answers = futures::future::join_all(all.map(|one| world.lane.release(one))).await;
    let released: Vec<bool> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(released, [true, true, true, false, false, true]);
    assert_eq!(world.store.release_statements(), 1);
    let purposes = "SELECT string_agg(purpose, ',' ORDER BY audit_event_id) FROM audit_events";
    assert_eq!(world.sql(purposes), ",nightly import,,");
}

#[tokio::test]
async fn what_is_on_record_of_one_that_comes_alone_is_what_is_of_those_that_share_a_statement() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let target = Target::Provider { provider_id: provider("openai"), owner: None, account_id: None };
    let actor = principal("agent:roadie");
    let found = world.store.find(&connection.organization_id, &actor, &target).await.unwrap();
    let decided = release(&world, &connection, 1).await;
    let decided = Release {
        provider_generation: found.provider_generation,
        before: Some(now() + Duration::from_secs(3_600)),
        purpose: Text::parse("nightly import").unwrap(),
        ..decided
    };
    assert!(decided.grant_id.is_some() && decided.provider_generation.is_some());
    assert!(released(&world, &decided).await);
    let recorded =
        "SELECT count(*), count(DISTINCT (organization_id, kind, workload, actor, connection_id, generation,
                        grant_id, provider_id, reason, purpose)), min(purpose) FROM audit_events";
    assert_eq!(world.sql(recorded), "3|1|nightly import");
}

#[tokio::test]
async fn those_who_ask_again_as_soon_as_they_are_answered_share_a_statement() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let decided = release(&world, &connection, 1).await;
    let callers = (0..8_u8).map(|caller| {
        let (lane, decided) = (world.lane.clone(), decided.clone());
        tokio::spawn(async move {
            for round in 0..20 {
                assert!(lane.release(numbered(&decided, caller * 20 + round)).await.unwrap());
                // Half of them have something else to do first.
                if caller % 2 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    futures::future::join_all(callers).await.into_iter().for_each(Result::unwrap);
    assert_eq!(events(&world), "160");
    assert_eq!(world.store.release_statements(), 20, "one for each round");
}

#[tokio::test]
async fn two_who_ask_again_as_soon_as_they_are_answered_meet_in_a_statement_though_they_began_apart() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let decided = release(&world, &connection, 1).await;
    // So that no statement of these has to connect first, and is late.
    assert!(world.lane.release(another(&decided)).await.unwrap());
    let callers = [false, true].map(|second| {
        let (lane, store, decided) = (world.lane.clone(), world.store.clone(), decided.clone());
        tokio::spawn(async move {
            while second && store.release_statements() == 1 {
                tokio::task::yield_now().await;
            }
            for _ in 0..20 {
                assert!(lane.release(another(&decided)).await.unwrap());
            }
        })
    });
    futures::future::join_all(callers).await.into_iter().for_each(Result::unwrap);
    // The first alone, and then both in each; 40, if they did not meet.
    let statements = world.store.release_statements() - 1;
    assert!(statements < 30, "{statements} statements");
}

#[tokio::test]
async fn whoever_comes_while_a_statement_is_late_does_not_wait_for_it() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let decided = release(&world, &connection, 1).await;
    for _ in 0..2 {
        let held = world.hold("LOCK TABLE audit_events_other IN ACCESS EXCLUSIVE MODE");
        // Its time is none that there is a week for.
        let id = AuditEventId::new(Timestamp::from_unix_timestamp(0).unwrap(), [0; 10]);
        let late = tokio::spawn({
            let (lane, late) = (world.lane.clone(), Release { audit_event_id: id, ..decided.clone() });
            async move { lane.release(late).await }
        });
        let before = world.store.release_statements();
        while world.store.release_statements() == before {
            tokio::task::yield_now().await;
        }
        assert!(world.lane.release(another(&decided)).await.unwrap());
        assert!(!late.is_finished());
        held.end();
        assert!(late.await.unwrap().unwrap());
        world.sql("DELETE FROM audit_events_other");
    }
}

#[tokio::test]
async fn an_event_that_the_database_does_not_take_costs_nobody_else_theirs() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let good = release(&world, &connection, 1).await;
    assert!(world.lane.release(good.clone()).await.unwrap());
    // Its id is taken, which nobody can bring about.
    let all = [&good, &numbered(&good, 2), &numbered(&good, 3)].map(|one| world.lane.release(one.clone()));
    let [taken, second, third] = futures::future::join_all(all).await.try_into().unwrap();
    assert!(matches!(taken, Err(StoreError::Query(_))), "{taken:?}");
    assert!(second.unwrap() && third.unwrap());
    assert_eq!(events(&world), "3");
}

#[tokio::test]
async fn whoever_does_not_wait_any_more_is_not_on_record() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let decided = release(&world, &connection, 1).await;
    // The first takes the lane, the second waits behind it and gives up.
    let first = world.lane.release(decided.clone());
    let second = world.lane.release(numbered(&decided, 2));
    tokio::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    {
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
    }
    assert!(first.await.unwrap());
    assert!(world.lane.release(numbered(&decided, 3)).await.unwrap());
    assert_eq!(events(&world), "2");
}

#[tokio::test]
async fn more_than_may_wait_are_refused_at_once_and_the_rest_go_through() {
    let world = World::start().await;
    let (connection, _) = granted(&world).await;
    let decided = release(&world, &connection, 1).await;
    // They are sent before the lane has looked once.
    let waiting = ReleaseLane::WAITING;
    let asked: Vec<_> = (0..waiting + 1_000)
        .map(|number| {
            let mut random = [0; 10];
            random[..8].copy_from_slice(&number.to_be_bytes());
            world
                .lane
                .release(Release { audit_event_id: AuditEventId::new(now(), random), ..decided.clone() })
        })
        .collect();
    let answers = futures::future::join_all(asked).await;
    let busy = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Busy))).count();
    let released = answers.iter().filter(|answer| matches!(answer, Ok(true))).count();
    assert_eq!((busy, released), (1_000, waiting));
    assert_eq!(events(&world), waiting.to_string());
}

#[tokio::test]
async fn what_a_provider_target_finds_is_what_the_actor_owns_or_was_given() {
    let world = World::start().await;
    let own = Connection { owner: principal("agent:roadie"), ..connection("acme", 1) };
    world.insert(&own).await;
    let given = world.insert(&connection("acme", 2)).await.connection;
    world.give(&grant("acme", GrantTarget::Connection(given.id))).await;
    let by_selector = Connection { owner: principal("site:blog"), ..connection("acme", 3) };
    let selector = GrantTarget::Selector { owner: principal("site:blog"), provider_id: provider("openai") };
    world
        .give(&Grant { id: keyholder_domain::GrantId::new(now(), [8; 10]), ..grant("acme", selector) })
        .await;
    world.insert(&by_selector).await;
    world.insert(&Connection { owner: principal("user:bob"), ..connection("acme", 4) }).await;
    world
        .insert(&Connection {
            provider_id: provider("stripe"),
            owner: principal("agent:roadie"),
            ..connection("acme", 5)
        })
        .await;
    world.insert(&Connection { owner: principal("agent:roadie"), ..connection("other", 6) }).await;
    let target = Target::Provider { provider_id: provider("openai"), owner: None, account_id: None };
    let found = world.store.find(&organization("acme"), &principal("agent:roadie"), &target).await.unwrap();
    let mut ids: Vec<_> = found.candidates.iter().map(|candidate| candidate.stored.connection.id).collect();
    ids.sort();
    let mut expected = vec![own.id, given.id, by_selector.id];
    expected.sort();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn however_many_grants_there_have_been_the_live_ones_are_found_and_the_newest_of_the_others() {
    let world = World::start().await;
    let connection = world.insert(&connection("acme", 1)).await.connection;
    let granted = grant("acme", GrantTarget::Connection(connection.id));
    world.give(&granted).await;
    world.sql(
        "INSERT INTO grants SELECT (g).* FROM (
             SELECT jsonb_populate_record(g, jsonb_build_object('grant_id', gen_random_uuid(), 'request_id', NULL,
                 'request_fingerprint', NULL, 'revoke_time', now(), 'create_time', now() + n * interval '1 second')) AS g
             FROM grants g, generate_series(1, 3000) n
         ) many",
    );
    let (organization, actor) = (&connection.organization_id, principal("agent:roadie"));
    let found = world.store.find(organization, &actor, &Target::Connection(connection.id)).await.unwrap();
    let grants = &found.candidates[0].grants;
    assert_eq!(grants.len(), 101);
    assert!(grants.iter().any(|one| one.id == granted.id), "the one that is live, although it is the oldest");
}
