use std::collections::BTreeSet;

use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::{self, ConnectionState};
use tonic::Code;

use super::{create, delete, disable, enable, get, get_grant, give, replace, resolve, revoke, update};
use crate::harness::{ACME, World, assert_refused, grant_request, openai, resolve_request};

fn edited(connection: &v1::Connection) -> v1::Connection {
    v1::Connection {
        display_name: "new".into(),
        scopes: vec!["gist".into()],
        config: [("api_version".to_owned(), "2026-03-10".to_owned())].into(),
        labels: [("new".to_owned(), "1".to_owned())].into(),
        etag: String::new(),
        ..connection.clone()
    }
}

fn github(token: &str) -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest {
        provider_id: "github".into(),
        credentials: [("token".to_owned(), token.to_owned())].into(),
        config: [("api_version".to_owned(), "2022-11-28".to_owned())].into(),
        display_name: "old".into(),
        scopes: vec!["repo".into()],
        labels: [("old".to_owned(), "1".to_owned())].into(),
        ..openai("user:ada", "")
    }
}

#[tokio::test]
async fn every_change_gives_a_new_etag_and_needs_the_one_before_it() {
    let world = World::start();
    let made = create(&world, github("ghp_1")).await.unwrap();
    let id = made.connection_id.as_str();
    let mut seen = vec![made.etag.clone()];
    let named = |etag: &str| v1::Connection { etag: etag.into(), ..edited(&made) };
    seen.push(update(&world, named(&seen[0]), &["display_name"]).await.unwrap().etag);
    seen.push(update(&world, named(&seen[1]), &["labels"]).await.unwrap().etag);
    seen.push(replace(&world, id, &[("token", "ghp_2")], &seen[2]).await.unwrap().etag);
    seen.push(disable(&world, id, "lost", &seen[3]).await.unwrap().etag);
    seen.push(enable(&world, id, &seen[4]).await.unwrap().etag);
    for etag in &seen[..5] {
        let (code, reason) = (Code::FailedPrecondition, "ETAG_MISMATCH");
        assert_refused(update(&world, named(etag), &["display_name"]).await, code, reason);
        assert_refused(replace(&world, id, &[("token", "ghp_3")], etag).await, code, reason);
        assert_refused(disable(&world, id, "", etag).await, code, reason);
        assert_refused(enable(&world, id, etag).await, code, reason);
        assert_refused(delete(&world, id, etag).await, code, reason);
    }
    assert_eq!(get(&world, id).await.etag, seen[5]);
    seen.push(delete(&world, id, &seen[5]).await.unwrap().etag);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 7, "{seen:?}");
    assert_eq!(get(&world, id).await.generation, 7);

    let connection_id = world.connect("user:ada", "sk-1").await;
    let grant = give(&world, grant_request("agent:roadie", &connection_id)).await.unwrap();
    let revoked = revoke(&world, &grant.grant_id, &grant.etag).await.unwrap();
    assert_ne!(revoked.etag, grant.etag);
    assert_eq!(revoked.state(), v1::GrantState::Revoked);
    let stale = revoke(&world, &grant.grant_id, &grant.etag).await;
    assert_refused(stale, Code::FailedPrecondition, "ETAG_MISMATCH");
    assert_eq!(revoke(&world, &grant.grant_id, &revoked.etag).await.unwrap(), revoked);
}

#[tokio::test]
async fn an_update_that_changes_nothing_leaves_no_trace() {
    let world = World::start();
    let made = create(&world, github("ghp_1")).await.unwrap();
    let trace = || {
        world.sql(
            "SELECT (SELECT count(*) FROM audit_events), (SELECT change FROM organizations),
                    (SELECT md5(c::text) FROM connections c)",
        )
    };
    let before = trace();
    let all = &["display_name", "scopes", "config", "labels"];
    for mask in [&all[..], &all[..1], &all[1..2], &all[2..3], &all[3..]] {
        assert_eq!(update(&world, made.clone(), mask).await.unwrap(), made, "{mask:?}");
    }
    assert_eq!(trace(), before);

    let changed = update(&world, edited(&made), &["labels"]).await.unwrap();
    assert_ne!(changed.etag, made.etag);
    // A stale etag is stale, whether or not there is anything to change.
    let stale = v1::Connection { etag: made.etag.clone(), ..changed };
    let refused = update(&world, stale, all).await;
    assert_refused(refused, Code::FailedPrecondition, "ETAG_MISMATCH");
}

#[tokio::test]
async fn of_two_changes_at_once_with_one_etag_one_is_done() {
    let world = World::start();
    let second = world.server("second");
    let made = create(&world, github("ghp_1")).await.unwrap();
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let server = if number % 2 == 0 { &world.server } else { &second };
        let mut client =
            v1::connection_service_client::ConnectionServiceClient::new(world.channel_to(server, "console"));
        let connection = v1::Connection { etag: made.etag.clone(), ..edited(&made) };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".into()] });
        let request = v1::UpdateConnectionRequest { connection: Some(connection), update_mask };
        answers.spawn(async move { client.update_connection(request).await });
    }
    let (done, refused): (Vec<_>, Vec<_>) = answers.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 7));
    for refused in refused {
        assert_refused(refused, Code::FailedPrecondition, "ETAG_MISMATCH");
    }
    assert_eq!(get(&world, &made.connection_id).await.generation, 2);
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let world = World::start();
    for (number, mask) in [
        &["display_name"][..],
        &["scopes"],
        &["config"],
        &["labels"],
        &["labels", "display_name"],
        &["display_name", "labels", "config", "scopes"],
        &["labels", "labels"],
    ]
    .into_iter()
    .enumerate()
    {
        let before = create(&world, github(&format!("ghp_{number}"))).await.unwrap();
        let wanted = edited(&before);
        let after = update(&world, wanted.clone(), mask).await.unwrap();
        let mut expected = v1::Connection {
            generation: 2,
            etag: after.etag.clone(),
            update_time: after.update_time,
            ..before.clone()
        };
        for path in mask {
            match *path {
                "display_name" => expected.display_name.clone_from(&wanted.display_name),
                "scopes" => expected.scopes.clone_from(&wanted.scopes),
                "config" => expected.config.clone_from(&wanted.config),
                _ => expected.labels.clone_from(&wanted.labels),
            }
        }
        assert_eq!(after, expected, "{mask:?}");
        assert_eq!(get(&world, &before.connection_id).await, after);
    }
    // Nothing is a value too.
    let before = create(&world, github("ghp_empty")).await.unwrap();
    let empty = v1::Connection {
        organization_id: ACME.into(),
        connection_id: before.connection_id.clone(),
        ..Default::default()
    };
    let after = update(&world, empty, &["display_name", "labels", "config", "scopes"]).await.unwrap();
    assert!(after.display_name.is_empty() && after.labels.is_empty());
    assert!(after.config.is_empty() && after.scopes.is_empty());
}

#[tokio::test]
async fn replaced_credentials_are_released_by_the_grants_of_before() {
    let world = World::start();
    let before = create(&world, github("ghp_1")).await.unwrap();
    let id = before.connection_id.as_str();
    let grant_id = world.grant("agent:roadie", id).await;
    let ask = || resolve_request("agent:roadie", id);
    // Twice: the second is answered from what the first has read.
    for _ in 0..2 {
        assert_eq!(resolve(&world, ask()).await.unwrap(), "Bearer ghp_1");
    }
    let after = replace(&world, id, &[("token", "ghp_2")], "").await.unwrap();
    let expected = v1::Connection {
        generation: 2,
        etag: after.etag.clone(),
        update_time: after.update_time,
        ..before.clone()
    };
    assert_eq!(after, expected);
    for _ in 0..2 {
        assert_eq!(resolve(&world, ask()).await.unwrap(), "Bearer ghp_2");
    }
    assert_eq!(get_grant(&world, &grant_id).await.state(), v1::GrantState::Active);

    // One that is switched off stays off.
    disable(&world, id, "", "").await.unwrap();
    assert_eq!(
        replace(&world, id, &[("token", "ghp_3")], "").await.unwrap().state(),
        ConnectionState::Disabled
    );
    let refused = resolve(&world, ask()).await;
    assert_refused(refused, Code::FailedPrecondition, "CONNECTION_DISABLED");
    enable(&world, id, "").await.unwrap();
    assert_eq!(resolve(&world, ask()).await.unwrap(), "Bearer ghp_3");
}

#[tokio::test]
async fn replaced_credentials_are_the_way_back_from_a_needed_reauthorization() {
    let world = World::start();
    let id = world.connect("user:ada", "sk-1").await;
    let ask = || resolve_request("user:ada", &id);
    let uuid = id.trim_start_matches("conn_");
    world.sql(&format!(
        "UPDATE connections SET state = 'REAUTHORIZATION_REQUIRED', state_reason = 'refused', generation = 2
         WHERE connection_id = '{uuid}'"
    ));
    let refused = resolve(&world, ask()).await;
    assert_refused(refused, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
    let (code, reason) = (Code::FailedPrecondition, "STATE_NOT_ALLOWED");
    assert_refused(enable(&world, &id, "").await, code, reason);
    assert_refused(disable(&world, &id, "", "").await, code, reason);
    let after = replace(&world, &id, &[("api_key", "sk-2")], "").await.unwrap();
    assert_eq!((after.state(), after.state_reason.as_str()), (ConnectionState::Active, ""));
    assert_eq!(resolve(&world, ask()).await.unwrap(), "Bearer sk-2");
}

#[tokio::test]
async fn a_disabled_connection_releases_nothing_until_it_is_enabled() {
    let world = World::start();
    let id = world.connect("user:ada", "sk-1").await;
    let ask = || resolve_request("user:ada", &id);
    assert_eq!(enable(&world, &id, "").await.unwrap().generation, 1, "it is on");
    resolve(&world, ask()).await.unwrap();

    let disabled = disable(&world, &id, "lost laptop", "").await.unwrap();
    assert_eq!(
        (disabled.state(), disabled.state_reason.as_str()),
        (ConnectionState::Disabled, "lost laptop")
    );
    assert_refused(resolve(&world, ask()).await, Code::FailedPrecondition, "CONNECTION_DISABLED");
    assert_eq!(disable(&world, &id, "lost laptop", "").await.unwrap(), disabled, "twice is once");
    assert_eq!(disable(&world, &id, "found laptop", "").await.unwrap().state_reason, "found laptop");

    let enabled = enable(&world, &id, "").await.unwrap();
    assert_eq!((enabled.state(), enabled.state_reason.as_str()), (ConnectionState::Active, ""));
    assert_eq!(enable(&world, &id, "").await.unwrap(), enabled, "twice is once");
    resolve(&world, ask()).await.unwrap();
}

#[tokio::test]
async fn a_deleted_connection_is_a_tombstone_without_its_credential() {
    let world = World::start();
    let made = create(&world, github("ghp_1")).await.unwrap();
    let id = made.connection_id.as_str();
    world.grant("agent:roadie", id).await;
    resolve(&world, resolve_request("agent:roadie", id)).await.unwrap();
    let deleted = delete(&world, id, "").await.unwrap();
    assert_eq!(deleted.state(), ConnectionState::Deleted);
    assert!(deleted.credential_summary.is_empty());
    assert_eq!((&deleted.owner, &deleted.display_name), (&made.owner, &made.display_name));
    assert_eq!(get(&world, id).await, deleted);
    assert_eq!(delete(&world, id, "").await.unwrap(), deleted, "twice is once");
    assert_eq!(
        world.sql("SELECT count(sealed_credential) + count(credential_fingerprint) FROM connections"),
        "0"
    );

    for actor in ["agent:roadie", "user:ada", "user:nobody"] {
        let refused = resolve(&world, resolve_request(actor, id)).await;
        assert_refused(refused, Code::NotFound, "CONNECTION_NOT_FOUND");
    }
    let gone = (Code::FailedPrecondition, "CONNECTION_DELETED");
    assert_refused(update(&world, edited(&made), &["labels"]).await, gone.0, gone.1);
    assert_refused(replace(&world, id, &[("token", "ghp_2")], "").await, gone.0, gone.1);
    let never = (Code::FailedPrecondition, "STATE_NOT_ALLOWED");
    assert_refused(enable(&world, id, "").await, never.0, never.1);
    assert_refused(disable(&world, id, "", "").await, never.0, never.1);
    let granted = give(&world, grant_request("agent:b", id)).await;
    assert_refused(granted, Code::NotFound, "CONNECTION_NOT_FOUND");
}

/// Waits until a grant was used after a moment, and returns when.
async fn until_used(
    world: &World,
    grant_id: &str,
    after: Option<prost_types::Timestamp>,
) -> prost_types::Timestamp {
    let newer = |time: &prost_types::Timestamp| {
        after.is_none_or(|after| (time.seconds, time.nanos) > (after.seconds, after.nanos))
    };
    for _ in 0..600 {
        if let Some(time) = get_grant(world, grant_id).await.last_used_time.filter(newer) {
            return time;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the use was not noted");
}

#[tokio::test]
async fn a_grant_knows_to_the_minute_when_it_was_last_used() {
    let world = World::start();
    let id = world.connect("user:ada", "sk-1").await;
    let grant_id = world.grant("agent:roadie", &id).await;
    let unused = world.grant("agent:other", &id).await;
    assert_eq!(get_grant(&world, &grant_id).await.last_used_time, None);
    // The owner needs no grant, and one who is refused uses none.
    resolve(&world, resolve_request("user:ada", &id)).await.unwrap();
    resolve(&world, resolve_request("agent:nobody", &id)).await.unwrap_err();
    assert_eq!(get_grant(&world, &grant_id).await.last_used_time, None);

    resolve(&world, resolve_request("agent:roadie", &id)).await.unwrap();
    let first = until_used(&world, &grant_id, None).await;
    // A use within the minute is told by the audit alone.
    resolve(&world, resolve_request("agent:roadie", &id)).await.unwrap();
    let list = v1::ListAuditEventsRequest {
        organization_id: ACME.into(),
        grant_id: grant_id.clone(),
        ..Default::default()
    };
    let events = world.audit().list_audit_events(list).await.unwrap().into_inner().audit_events;
    let [latest, earliest, _given] = &events[..] else { panic!("{events:?}") };
    let seconds = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
    assert!(seconds(earliest.create_time) <= first.seconds);
    assert!(seconds(latest.create_time) - first.seconds < 60);
    let grant = get_grant(&world, &grant_id).await;
    assert_eq!(grant.etag, "g1", "being used is no change");
    // In place of a minute: another replica has not noted the first use.
    let replica = world.server("replica");
    let mut grants = GrantServiceClient::new(world.channel_to(&replica, "gateway"));
    grants.resolve_credential(resolve_request("agent:roadie", &id)).await.unwrap();
    let second = until_used(&world, &grant_id, Some(first)).await;
    let revoked = revoke(&world, &grant_id, "").await.unwrap();
    assert_eq!(revoked.last_used_time, Some(second));
    let list = v1::ListGrantsRequest { organization_id: ACME.into(), ..Default::default() };
    let listed = world.grants("console").list_grants(list).await.unwrap().into_inner().grants;
    let used: Vec<_> = listed.iter().map(|grant| (&grant.grant_id, grant.last_used_time.is_some())).collect();
    assert!(used.contains(&(&grant_id, true)) && used.contains(&(&unused, false)));
}
