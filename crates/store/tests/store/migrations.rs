use keyholder_store::{SchemaState, Store, StoreError, StoreSettings};

use crate::fixtures::{DATABASE, World};

#[tokio::test]
async fn migrating_twice_is_the_same_as_once() {
    let world = World::unmigrated().await;
    assert_eq!(world.store.schema_state().await.unwrap(), SchemaState::Older);
    assert!(world.store.migrate().await.unwrap() > 0);
    assert_eq!(world.store.migrate().await.unwrap(), 0);
    assert_eq!(world.store.schema_state().await.unwrap(), SchemaState::Current);
}

#[tokio::test]
async fn several_processes_may_migrate_at_the_same_time() {
    let world = World::unmigrated().await;
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(Store::connect(&StoreSettings::new(world.postgres.url(DATABASE))).await.unwrap());
    }
    let (a, b, c, d) =
        tokio::join!(stores[0].migrate(), stores[1].migrate(), stores[2].migrate(), stores[3].migrate());
    for result in [a, b, c, d] {
        result.unwrap();
    }
    assert_eq!(world.store.schema_state().await.unwrap(), SchemaState::Current);
}

#[tokio::test]
async fn a_newer_and_a_forked_schema_are_told_apart_and_left_alone() {
    let world = World::start().await;
    world.sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
               VALUES (9999, 'from the future', true, '', 0)",
    );
    assert_eq!(world.store.schema_state().await.unwrap(), SchemaState::Newer);
    assert!(matches!(world.store.migrate().await, Err(StoreError::SchemaNewer)));
    world.sql("DELETE FROM _sqlx_migrations WHERE version = 9999");
    world.sql(r"UPDATE _sqlx_migrations SET checksum = '\x00' WHERE version = 1");
    assert!(matches!(world.store.migrate().await, Err(StoreError::SchemaForked(1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_added_while_versions_come_to_be_has_one() {
    let world = World::unmigrated().await;
    let before = [
        include_str!("../../migrations/0001_first_release.sql"),
        include_str!("../../migrations/0002_last_test.sql"),
        include_str!("../../migrations/0003_oauth.sql"),
        include_str!("../../migrations/0004_refreshes.sql"),
    ];
    before.iter().for_each(|migration| drop(world.sql(migration)));
    let adding = world.hold(
        "INSERT INTO organizations (organization_id) VALUES ('acme');
         INSERT INTO connections (organization_id, connection_id, owner, provider_id, auth_method, display_name,
             account_id, account_name, account_email, scopes, state, state_reason, credential_fields, config, labels,
             change, generation, create_time, update_time)
         VALUES ('acme', gen_random_uuid(), 'user:ada', 'openai', 'API_KEY', '', '', '', '', '{}', 'PENDING', '', '{}',
             '{}', '{}', 1, 1, now(), now())",
    );
    std::thread::scope(|scope| {
        let migrating = scope.spawn(|| world.sql(include_str!("../../migrations/0005_cheap_releases.sql")));
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        while world.sql(waits) != "1" {
            assert!(!migrating.is_finished(), "it does not wait for whoever adds connections");
        }
        adding.commit();
        migrating.join().unwrap();
    });
    assert_eq!(world.sql("SELECT count(*) FROM connection_versions"), "1");
}
