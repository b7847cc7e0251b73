//! The main job: connect, grant, resolve, revoke, refused.

use keyholder_proto::v1::{self, credential::Kind};
use tonic::Code;

use crate::harness::{ACME, World, assert_refused, resolve_request};

#[tokio::test]
async fn a_grant_releases_a_credential_until_it_is_revoked() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut gateway = world.grants("gateway");
    let refused = gateway.resolve_credential(resolve_request("agent:roadie", &connection_id)).await;
    assert_refused(refused, Code::PermissionDenied, "GRANT_MISSING");

    let grant_id = world.grant("agent:roadie", &connection_id).await;
    let released = gateway
        .resolve_credential(resolve_request("agent:roadie", &connection_id))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (released.connection_id.as_str(), released.grant_id.as_str()),
        (connection_id.as_str(), grant_id.as_str())
    );
    assert!(matches!(released.credential.unwrap().kind, Some(Kind::ApiKey(key)) if key.api_key == "sk-ada"));
    let http = released.http.unwrap();
    assert_eq!(http.headers["Authorization"], "Bearer sk-ada");
    assert_eq!(http.base_url, "https://api.openai.com/v1");

    let revoke = v1::RevokeGrantRequest { organization_id: ACME.into(), grant_id, etag: String::new() };
    world.grants("console").revoke_grant(revoke).await.unwrap();
    let refused = gateway.resolve_credential(resolve_request("agent:roadie", &connection_id)).await;
    assert_refused(refused, Code::PermissionDenied, "GRANT_REVOKED");

    let events = world
        .audit()
        .list_audit_events(v1::ListAuditEventsRequest {
            organization_id: ACME.into(),
            connection_id,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .audit_events;
    let kinds: Vec<v1::AuditEventKind> =
        events.iter().rev().map(|event| v1::AuditEventKind::try_from(event.kind).unwrap()).collect();
    use v1::AuditEventKind::{
        ConnectionCreated, CredentialDenied, CredentialReleased, GrantCreated, GrantRevoked,
    };
    assert_eq!(
        kinds,
        [
            ConnectionCreated,
            CredentialDenied,
            GrantCreated,
            CredentialReleased,
            GrantRevoked,
            CredentialDenied
        ]
    );
    let release = &events[2];
    assert_eq!(release.audit_event_id, released.audit_event_id);
    assert_eq!(
        (release.actor.as_str(), release.workload.as_str()),
        ("agent:roadie", "spiffe://test.example/gateway")
    );
}
