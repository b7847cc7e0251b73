use keyholder_domain::access::Right;
use keyholder_domain::{AuditEventId, Connection, Grant, GrantTarget, Timestamp};
use keyholder_store::{Release, Target};

use crate::fixtures::{World, connection, grant, now, organization, principal, provider, release, workload};

async fn granted(world: &World) -> (Connection, Grant) {
    let connection = world.insert(&connection("acme", 1)).await.connection;
    let grant = grant("acme", GrantTarget::Connection(connection.id));
    world.give(&grant).await;
    (connection, grant)
}

fn events(world: &World) -> String {
    world.sql("SELECT count(*) FROM audit_events WHERE kind = 'CREDENTIAL_RELEASED'")
}

#[tokio::test]
async fn a_release_is_recorded_while_everything_stands() {
    let world = World::start().await;
    let (connection, grant) = granted(&world).await;
    let right = Right::Grant(grant.id, grant.generation);
    let (actor, workload) = (principal("agent:roadie"), workload());
    assert!(world.store.release(&release(&connection, &right, &actor, &workload, 1)).await.unwrap());
    let owner = principal("user:ada");
    assert!(
        world.store.release(&release(&connection, &Right::Ownership, &owner, &workload, 2)).await.unwrap()
    );
    assert_eq!(events(&world), "2");
}

#[tokio::test]
async fn nothing_is_recorded_once_anything_has_changed() {
    let world = World::start().await;
    let (connection, grant) = granted(&world).await;
    let right = Right::Grant(grant.id, grant.generation);
    let (actor, workload) = (principal("agent:roadie"), workload());
    let owned = Right::Ownership;
    for (table, change, back) in [
        ("connections", "generation = 2", "generation = 1"),
        (
            "connections",
            "update_time = update_time + interval '1 second'",
            "update_time = update_time - interval '1 second'",
        ),
        ("connections", "state = 'DISABLED'", "state = 'ACTIVE'"),
        ("connections", "state = 'REAUTHORIZATION_REQUIRED'", "state = 'ACTIVE'"),
        ("grants", "generation = 2", "generation = 1"),
        ("grants", "revoke_time = now()", "revoke_time = NULL"),
        ("grants", "expire_time = now()", "expire_time = NULL"),
        ("grants", "grantee = 'agent:other'", "grantee = 'agent:roadie'"),
    ] {
        world.sql(&format!("UPDATE {table} SET {change}"));
        let released =
            world.store.release(&release(&connection, &right, &actor, &workload, 1)).await.unwrap();
        assert!(!released, "{table}: {change}");
        world.sql(&format!("UPDATE {table} SET {back}"));
    }
    let not_the_owner = release(&connection, &owned, &actor, &workload, 1);
    assert!(!world.store.release(&not_the_owner).await.unwrap());
    let elsewhere = organization("other");
    let foreign =
        Release { organization_id: &elsewhere, ..release(&connection, &right, &actor, &workload, 1) };
    assert!(!world.store.release(&foreign).await.unwrap());
    assert_eq!(events(&world), "0");
    assert!(world.store.release(&release(&connection, &right, &actor, &workload, 1)).await.unwrap());
}

#[tokio::test]
async fn a_grant_ends_by_the_databases_clock() {
    let world = World::start().await;
    let connection = world.insert(&connection("acme", 1)).await.connection;
    let target = GrantTarget::Connection(connection.id);
    let grant = Grant { expire_time: Some(Timestamp::UNIX_EPOCH), ..grant("acme", target) };
    world.give(&grant).await;
    // A replica whose clock is far behind would have decided that the grant is live.
    let right = Right::Grant(grant.id, grant.generation);
    let (actor, workload) = (principal("agent:roadie"), workload());
    assert!(!world.store.release(&release(&connection, &right, &actor, &workload, 1)).await.unwrap());
}

#[tokio::test]
async fn a_provider_target_is_refused_once_its_set_has_grown() {
    let world = World::start().await;
    let (found, _) = granted(&world).await;
    let (actor, workload) = (principal("agent:roadie"), workload());
    let target = Target::Provider { provider_id: provider("openai"), owner: None, account_id: None };
    let before = world.store.find(&found.organization_id, &actor, &target).await.unwrap();
    assert_eq!(before.candidates.len(), 1);
    let grant = before.candidates[0].grants[0].clone();
    let right = Right::Grant(grant.id, grant.generation);
    let decided = |number| Release {
        provider_generation: before.provider_generation,
        ..release(&found, &right, &actor, &workload, number)
    };
    assert!(world.store.release(&decided(1)).await.unwrap());
    world.insert(&connection("other", 3)).await;
    assert!(world.store.release(&decided(2)).await.unwrap(), "another organization's set is another set");
    world.insert(&connection("acme", 2)).await;
    assert!(!world.store.release(&decided(3)).await.unwrap());
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_recorded_once() {
    let world = World::start().await;
    let (connection, grant) = granted(&world).await;
    let right = Right::Grant(grant.id, grant.generation);
    let (actor, workload) = (principal("agent:roadie"), workload());
    for number in 1..=10 {
        let one = Release {
            audit_event_id: AuditEventId::new(now(), [number; 10]),
            ..release(&connection, &right, &actor, &workload, number)
        };
        // Every pooled connection is dead when the statement is sent.
        world.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyholder'",
        );
        assert!(world.store.release(&one).await.unwrap());
        assert_eq!(events(&world), number.to_string());
    }
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
