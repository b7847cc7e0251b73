use keyholder_domain::{ConnectionState, GrantTarget};
use keyholder_store::{NewConnection, StoreError};

use crate::fixtures::{World, connection, grant, organization, sealed};

#[tokio::test]
async fn a_connection_is_read_back_as_it_was_written() {
    let world = World::start().await;
    let written = connection("acme", 1);
    assert_eq!(world.insert(&written).await.connection, written);
}

#[tokio::test]
async fn a_row_that_contradicts_the_types_is_an_error_that_names_it() {
    let world = World::start().await;
    let written = connection("acme", 1);
    world.insert(&written).await;
    for (column, value) in [
        ("owner", "'nobody'"),
        ("provider_id", "'Not An Id'"),
        ("auth_method", "'magic'"),
        ("display_name", r"E'a\nb'"),
        ("scopes", "'{\"a b\"}'"),
        ("labels", r#"'{"UPPER": "x"}'"#),
    ] {
        let before = world.sql(&format!("SELECT {column} FROM connections"));
        world.sql(&format!("UPDATE connections SET {column} = {value}"));
        match world.store.connection(&written.organization_id, written.id).await {
            Err(StoreError::Corrupt { table, column: named, row, .. }) => {
                assert_eq!((table, named, row), ("connections", column, written.id.to_string()));
            }
            other => panic!("{column}: {other:?}"),
        }
        world.sql(&format!("UPDATE connections SET {column} = '{}'", before.replace('\'', "''")));
    }
}

#[tokio::test]
async fn the_schema_refuses_what_would_make_no_sense() {
    let world = World::start().await;
    let written = connection("acme", 1);
    world.insert(&written).await;
    for (change, constraint) in [
        ("state = 'WAITING'", "state_check"),
        ("sealed_generation = NULL", "sealed_whole"),
        (
            "sealed_credential = NULL, sealed_generation = NULL, credential_fingerprint = NULL",
            "active_has_credential",
        ),
        ("state = 'DELETED'", "deleted_is_erased"),
        ("sealed_generation = 2", "sealed_whole"),
        ("generation = 0", "generation_check"),
    ] {
        let error =
            world.postgres.psql("keyholder", &format!("UPDATE connections SET {change}")).unwrap_err();
        assert!(
            error.to_string().contains(constraint) || format!("{error:?}").contains(constraint),
            "{error:?}"
        );
    }
    let both = "INSERT INTO grants (organization_id, grant_id, grantee, connection_id, selector_owner, provider_id, scopes,
                    workloads, reason, created_by, generation, create_time)
                SELECT organization_id, connection_id, 'agent:a', connection_id, owner, provider_id, '{}', '{}', '', '', 1,
                       now() FROM connections";
    let error = world.postgres.psql("keyholder", both).unwrap_err();
    assert!(format!("{error:?}").contains("grants_one_target"), "{error:?}");
}

#[tokio::test]
async fn a_write_on_what_has_changed_meanwhile_fails_and_changes_nothing() {
    let world = World::start().await;
    let mut stored = world.insert(&connection("acme", 1)).await;
    // Two generations ahead: as if somebody else had written the one between.
    stored.connection.generation = stored.connection.generation.next().next();
    stored.connection.state = ConnectionState::Disabled;
    let mut change = world.store.change(&organization("acme")).await.unwrap();
    let result = change.update_connection(&stored).await;
    assert!(
        matches!(result, Err(StoreError::RowsAffected { table: "connections", affected: 0 })),
        "{result:?}"
    );
    drop(change);
    assert_eq!(world.sql("SELECT state FROM connections"), "ACTIVE");
}

#[tokio::test]
async fn a_change_that_is_dropped_changes_nothing() {
    let world = World::start().await;
    let new = connection("acme", 1);
    let mut change = world.store.change(&new.organization_id).await.unwrap();
    change
        .insert_connection(&NewConnection { connection: &new, sealed: Some(&sealed()), request: None })
        .await
        .unwrap();
    drop(change);
    assert_eq!(world.store.connection(&new.organization_id, new.id).await.unwrap(), None);
    assert_eq!(world.store.last_change(&new.organization_id).await.unwrap(), 0);
}

#[tokio::test]
async fn change_numbers_become_visible_in_their_own_order() {
    let world = World::start().await;
    let acme = organization("acme");
    let writers = (1..=8).map(|number| {
        let store = world.store.clone();
        tokio::spawn(async move {
            let new = connection("acme", number);
            let mut change = store.change(&new.organization_id).await.unwrap();
            let row = NewConnection { connection: &new, sealed: Some(&sealed()), request: None };
            change.insert_connection(&row).await.unwrap();
            change.commit().await.unwrap();
        })
    });
    let mut writers: Vec<_> = writers.collect();
    let (mut place, mut seen) = (0, 0);
    while seen < 8 {
        for stored in world.store.changes(&acme, &Default::default(), place, 100).await.unwrap() {
            // Nothing ever appears behind a place that was read already.
            assert_eq!(stored.change, place + 1);
            place = stored.change;
            seen += 1;
        }
    }
    for writer in writers.drain(..) {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn a_grant_is_read_back_as_it_was_written() {
    let world = World::start().await;
    let target = world.insert(&connection("acme", 1)).await.connection;
    let written = grant("acme", GrantTarget::Connection(target.id));
    world.give(&written).await;
    assert_eq!(world.store.grant(&written.organization_id, written.id).await.unwrap(), Some(written));
}
