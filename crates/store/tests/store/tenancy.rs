use std::path::Path;

use keyholder_domain::GrantTarget;
use keyholder_store::{ConnectionFilter, Target};

use crate::fixtures::{World, connection, grant, organization, principal};

#[tokio::test]
async fn another_organizations_rows_are_not_there() {
    let world = World::start().await;
    let ours = world.insert(&connection("acme", 1)).await.connection;
    let given = grant("acme", GrantTarget::Connection(ours.id));
    world.give(&given).await;
    let other = organization("other");
    assert_eq!(world.store.connection(&other, ours.id).await.unwrap(), None);
    assert_eq!(world.store.grant(&other, given.id).await.unwrap(), None);
    let all = ConnectionFilter {
        states: keyholder_domain::ConnectionState::ALL.to_vec(),
        limit: 100,
        ..Default::default()
    };
    assert!(world.store.connections(&other, &all).await.unwrap().is_empty());
    assert!(world.store.changes(&other, &Default::default(), 0, 100).await.unwrap().is_empty());
    let found = world.store.find(&other, &principal("user:ada"), &Target::Connection(ours.id)).await.unwrap();
    assert!(found.candidates.is_empty());
}

#[test]
fn every_query_names_the_organization() {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let mut seen = 0;
    for file in std::fs::read_dir(cache).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let query: serde_json::Value = serde_json::from_str(&text).unwrap();
        let query = query["query"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        seen += 1;
        if query.starts_with("SELECT DISTINCT split_part(wrapped") {
            // Which key-encryption keys are in use at all, for the operator.
            continue;
        }
        if query.ends_with("FROM authorizations WHERE ticket_hash = $1 OR state_hash = $2") {
            // A browser names no organization: the hash of its secret finds the flow, and so the organization.
            continue;
        }
        let whole = ["installation", "provider_clients", "SELECT (SELECT count(*) FROM refreshes"];
        if whole.iter().any(|table| query.contains(table)) {
            // The installation, and OAuth clients, which organizations may share.
            continue;
        }
        if query.contains("FROM late_answers l")
            || query.starts_with("WITH due AS")
            || query.contains("WITH abandoned AS")
            || query.contains("FROM refreshes WHERE notice_time")
        {
            // What the refresher takes up, of any organization.
            continue;
        }
        if ["make_audit_week", "pg_inherits", "pg_try_advisory", "DELETE FROM audit_events_other"]
            .iter()
            .any(|part| query.contains(part))
        {
            // The tables of the audit, which hold whole weeks.
            continue;
        }
        let names = query.contains("organization_id = $1")
            || query.contains("organization_id = ANY($1)")
            || query.contains("( organization_id")
            || query.contains("(organization_id")
            || query.contains("pg_notify");
        assert!(names, "{query}");
    }
    assert!(seen > 15, "only {seen} queries in .sqlx");
}

#[test]
fn what_is_due_is_found_by_an_index() {
    // `clock_timestamp()` may change from row to row, so Postgres looks at every row.
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let indexed = ["due_time", "lease_expire_time", "notice_time", "next_attempt_time", "poll_time"];
    for file in std::fs::read_dir(cache).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let query: serde_json::Value = serde_json::from_str(&text).unwrap();
        let query = query["query"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        for column in indexed {
            for comparison in ["<", "<="] {
                let slow = format!("WHERE {column} {comparison} clock_timestamp()");
                let also = format!("AND {column} {comparison} clock_timestamp()");
                assert!(!query.contains(&slow) && !query.contains(&also), "{query}");
            }
        }
    }
}
