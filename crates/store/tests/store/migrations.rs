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
