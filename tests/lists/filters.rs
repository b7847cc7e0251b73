use keyholder_proto::v1::{self, AuditEventKind, ConnectionState, GrantState};
use prost_types::Timestamp;

use super::{account, bearer, create, delete, disable, give, revoke, selector_grant};
use crate::harness::{ACME, World, grant_request, openai, resolve_request};

#[tokio::test]
async fn connections_are_listed_by_owner_provider_account_and_state() {
    let world = World::start();
    let requests = [
        account("user:ada", "acct_1", "sk-1"),
        bearer("user:ada", "t-1"),
        account("user:bob", "acct_1", "sk-1"),
        bearer("user:bob", "t-2"),
        openai("user:carol", "sk-2"),
        openai("user:carol", "sk-3"),
    ];
    let mut made = Vec::new();
    for request in requests {
        made.push(create(&world, request).await.unwrap().connection_id);
    }
    disable(&world, &made[4], "", "").await.unwrap();
    delete(&world, &made[5], "").await.unwrap();
    let list = || v1::ListConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let states = |states: &[ConnectionState]| states.iter().map(|state| (*state).into()).collect();
    type Request = v1::ListConnectionsRequest;
    use ConnectionState::{Active, Deleted, Disabled, Pending, ReauthorizationRequired};
    for (request, expected) in [
        (list(), &[0, 1, 2, 3, 4][..]),
        (Request { owner: "user:ada".into(), ..list() }, &[0, 1]),
        (Request { owner: "user:nobody".into(), ..list() }, &[]),
        (Request { owner: "session:s_9".into(), ..list() }, &[]),
        (Request { provider_id: "bearer".into(), ..list() }, &[1, 3]),
        (Request { provider_id: "nowhere".into(), ..list() }, &[]),
        (Request { account_id: "acct_1".into(), ..list() }, &[0, 2]),
        (Request { account_id: "acct_1".into(), owner: "user:bob".into(), ..list() }, &[2]),
        (Request { account_id: "acct_1".into(), provider_id: "bearer".into(), ..list() }, &[]),
        (Request { states: states(&[Active]), ..list() }, &[0, 1, 2, 3]),
        (Request { states: states(&[Disabled]), ..list() }, &[4]),
        (Request { states: states(&[Deleted]), ..list() }, &[5]),
        (Request { states: states(&[Deleted, Disabled, Deleted]), ..list() }, &[4, 5]),
        (Request { states: states(&[Pending, ReauthorizationRequired]), ..list() }, &[]),
        (Request { states: states(&[Deleted]), owner: "user:ada".into(), ..list() }, &[]),
    ] {
        let found = world.connections().list_connections(request.clone()).await.unwrap().into_inner();
        let mut found: Vec<_> = found.connections.into_iter().map(|found| found.connection_id).collect();
        found.sort_by_key(|id| made.iter().position(|made| made == id));
        let expected: Vec<_> = expected.iter().map(|number: &usize| made[*number].clone()).collect();
        assert_eq!(found, expected, "{request:?}");
    }
}

#[tokio::test]
async fn grants_are_listed_by_grantee_state_and_connection_also_those_by_selector() {
    let world = World::start();
    let adas = world.connect("user:ada", "sk-1").await;
    let bobs = world.connect("user:bob", "sk-2").await;
    let bearers = create(&world, bearer("user:ada", "t-1")).await.unwrap().connection_id;
    let ends = Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let mut made = Vec::new();
    for request in [
        grant_request("agent:roadie", &adas),
        selector_grant("agent:roadie", "user:ada", "openai"),
        selector_grant("agent:other", "user:ada", "bearer"),
        grant_request("agent:other", &bobs),
        v1::CreateGrantRequest { expire_time: Some(ends), ..grant_request("agent:roadie", &bobs) },
        grant_request("session:s_9", &adas),
    ] {
        made.push(give(&world, request).await.unwrap().grant_id);
    }
    revoke(&world, &made[3], "").await.unwrap();
    let uuid = made[4].trim_start_matches("grant_");
    world.sql(&format!("UPDATE grants SET expire_time = now() - interval '1 s' WHERE grant_id = '{uuid}'"));
    let list = || v1::ListGrantsRequest { organization_id: ACME.into(), ..Default::default() };
    let states = |states: &[GrantState]| states.iter().map(|state| (*state).into()).collect();
    type Request = v1::ListGrantsRequest;
    use GrantState::{Active, Expired, Revoked};
    for (request, expected) in [
        (list(), &[0, 1, 2, 3, 4, 5][..]),
        (Request { grantee: "agent:roadie".into(), ..list() }, &[0, 1, 4]),
        (Request { grantee: "session:s_9".into(), ..list() }, &[5]),
        (Request { grantee: "user:ada".into(), ..list() }, &[]),
        (Request { connection_id: adas.clone(), ..list() }, &[0, 1, 5]),
        (Request { connection_id: bearers.clone(), ..list() }, &[2]),
        (Request { connection_id: bobs.clone(), ..list() }, &[3, 4]),
        (Request { connection_id: adas.clone(), grantee: "agent:roadie".into(), ..list() }, &[0, 1]),
        (Request { states: states(&[Active]), ..list() }, &[0, 1, 2, 5]),
        (Request { states: states(&[Expired]), ..list() }, &[4]),
        (Request { states: states(&[Revoked]), ..list() }, &[3]),
        (Request { states: states(&[Revoked, Expired]), ..list() }, &[3, 4]),
        (Request { states: states(&[Revoked]), grantee: "agent:roadie".into(), ..list() }, &[]),
    ] {
        let found = world.grants("console").list_grants(request.clone()).await.unwrap().into_inner();
        for grant in &found.grants {
            let expected = match made.iter().position(|made| *made == grant.grant_id).unwrap() {
                3 => Revoked,
                4 => Expired,
                _ => Active,
            };
            assert_eq!(grant.state(), expected);
        }
        let mut found: Vec<_> = found.grants.into_iter().map(|found| found.grant_id).collect();
        found.sort_by_key(|id| made.iter().position(|made| made == id));
        let expected: Vec<_> = expected.iter().map(|number: &usize| made[*number].clone()).collect();
        assert_eq!(found, expected, "{request:?}");
    }
}

#[tokio::test]
async fn events_are_listed_by_connection_grant_actor_workload_kind_and_time() {
    use AuditEventKind::{
        ConnectionCreated, ConnectionDeleted, CredentialDenied, CredentialReleased, GrantCreated,
        GrantRevoked,
    };
    let world = World::start();
    let adas = world.connect("user:ada", "sk-1").await;
    let bobs = world.connect("user:bob", "sk-2").await;
    let grant_id = world.grant("agent:roadie", &adas).await;
    world.grants("gateway").resolve_credential(resolve_request("agent:roadie", &adas)).await.unwrap();
    world.grants("narrow").resolve_credential(resolve_request("agent:roadie", &adas)).await.unwrap();
    world.grants("gateway").resolve_credential(resolve_request("agent:roadie", &bobs)).await.unwrap_err();
    revoke(&world, &grant_id, "").await.unwrap();
    delete(&world, &bobs, "").await.unwrap();
    let list = || v1::ListAuditEventsRequest { organization_id: ACME.into(), ..Default::default() };
    let kinds = |kinds: &[AuditEventKind]| kinds.iter().map(|kind| (*kind).into()).collect();
    let workload = |name: &str| format!("spiffe://test.example/{name}");
    let (released, denied) = (CredentialReleased, CredentialDenied);
    type Request = v1::ListAuditEventsRequest;
    for (request, expected) in [
        (
            list(),
            &[
                ConnectionDeleted,
                GrantRevoked,
                denied,
                released,
                released,
                GrantCreated,
                ConnectionCreated,
                ConnectionCreated,
            ][..],
        ),
        (
            Request { connection_id: adas.clone(), ..list() },
            &[GrantRevoked, released, released, GrantCreated, ConnectionCreated],
        ),
        (Request { connection_id: bobs.clone(), ..list() }, &[ConnectionDeleted, denied, ConnectionCreated]),
        (Request { grant_id: grant_id.clone(), ..list() }, &[GrantRevoked, released, released, GrantCreated]),
        (Request { actor: "agent:roadie".into(), ..list() }, &[denied, released, released]),
        (Request { actor: "user:ada".into(), ..list() }, &[]),
        (Request { workload: workload("gateway"), ..list() }, &[denied, released]),
        (Request { workload: workload("narrow"), ..list() }, &[released]),
        (Request { workload: workload("nobody"), ..list() }, &[]),
        (Request { kinds: kinds(&[CredentialDenied]), ..list() }, &[denied]),
        (Request { kinds: kinds(&[GrantCreated, GrantRevoked]), ..list() }, &[GrantRevoked, GrantCreated]),
        (Request { kinds: kinds(&[GrantCreated]), connection_id: bobs.clone(), ..list() }, &[]),
    ] {
        let found = world.audit().list_audit_events(request.clone()).await.unwrap().into_inner();
        let mut found: Vec<_> = found.audit_events.iter().map(v1::AuditEvent::kind).collect();
        // Events of one millisecond have no order.
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(found, expected, "{request:?}");
    }

    // From the moment of an event on, it included; until the moment of an event, it excluded.
    let moment = |event: &v1::AuditEvent| event.create_time.map(|time| (time.seconds, time.nanos));
    let all = world.audit().list_audit_events(list()).await.unwrap().into_inner().audit_events;
    for (from, to) in [(Some(1), None), (None, Some(6)), (Some(5), Some(3))] {
        let [start, end] = [from, to].map(|number: Option<usize>| number.map(|number| &all[number]));
        let request = Request {
            start_time: start.and_then(|event| event.create_time),
            end_time: end.and_then(|event| event.create_time),
            ..list()
        };
        let found = world.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
        let inside = |event: &&v1::AuditEvent| {
            start.is_none_or(|start| moment(event) >= moment(start))
                && end.is_none_or(|end| moment(event) < moment(end))
        };
        assert!(!found.is_empty() && found.len() < all.len());
        assert_eq!(found, all.iter().filter(inside).cloned().collect::<Vec<_>>());
    }
}
