//! What others see of a flow: who watches, and who reads the audit.

use std::time::Duration;

use keyholder_proto::v1::{self, AuditEventKind, ConnectionState};
use tokio::time::timeout;
use tonic::Streaming;

use super::world::OAuth;
use crate::harness::{ACME, resolve_request};

async fn next(feed: &mut Streaming<v1::WatchConnectionsResponse>) -> Option<v1::Connection> {
    let message = timeout(Duration::from_secs(60), feed.message()).await.expect("no message came");
    message.unwrap().unwrap().connection
}

fn anew(connection_id: &str) -> v1::StartAuthorizationRequest {
    v1::StartAuthorizationRequest {
        organization_id: ACME.into(),
        connection_id: connection_id.into(),
        ..Default::default()
    }
}

impl OAuth {
    /// Every event of a flow's provider, the oldest first: its kind, who, about which connection, why.
    async fn events(&self) -> Vec<(AuditEventKind, String, String, String)> {
        let request = v1::ListAuditEventsRequest { organization_id: ACME.into(), ..Default::default() };
        let events = self.world.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
        let event = |event: v1::AuditEvent| {
            let workload = event.workload.trim_start_matches("spiffe://test.example/").to_owned();
            (event.kind(), workload, event.connection_id, event.reason)
        };
        events.into_iter().rev().map(event).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_the_connection_of_a_flow_and_that_it_was_authorized_anew() {
    let oauth = OAuth::start();
    let mut client = oauth.world.connections();
    let watch = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feed = client.watch_connections(watch).await.unwrap().into_inner();
    assert_eq!(next(&mut feed).await, None);

    // A flow that waits for its owner is nothing to watch: what comes next is the connection.
    let begun = oauth.begin("user:ada").await;
    oauth.consent(&begun).await;
    let done = oauth.authorization(&begun).await;
    let mut seen = next(&mut feed).await.unwrap();
    while seen.state() == ConnectionState::Pending {
        seen = next(&mut feed).await.unwrap();
    }
    assert_eq!(
        (seen.connection_id.as_str(), seen.state()),
        (done.connection_id.as_str(), ConnectionState::Active)
    );
    assert_eq!(seen, as_watched(oauth.connection(&done.connection_id).await));
    assert_eq!(seen.tokens.as_ref().unwrap().client_id, "keyholder");

    let begun = oauth.begin_as(anew(&seen.connection_id)).await;
    oauth.consent(&begun).await;
    let again = next(&mut feed).await.unwrap();
    assert_eq!(again.connection_id, seen.connection_id);
    assert!(again.generation > seen.generation);
    assert_eq!(again, as_watched(oauth.connection(&seen.connection_id).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_every_step_of_a_flow_in_its_order() {
    use AuditEventKind::{
        AuthorizationFailed, AuthorizationStarted, ConnectionCreated, ConnectionDeleted,
        ConnectionReauthorized, CredentialReleased, TokenRevoked,
    };
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let id = made.connection_id.clone();
    oauth.world.grants("gateway").resolve_credential(resolve_request("user:ada", &id)).await.unwrap();
    let begun = oauth.begin_as(anew(&id)).await;
    oauth.consent(&begun).await;
    oauth.provider.behave(|manners| manners.account = "mallory".into());
    let begun = oauth.begin_as(anew(&id)).await;
    oauth.consent(&begun).await;
    let delete = v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: id.clone(),
        ..Default::default()
    };
    oauth.world.connections().delete_connection(delete).await.unwrap();
    crate::harness::eventually("the tokens are given back", || {
        let given = oauth.world.sql("SELECT count(*) FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
        (given == "1").then_some(())
    });

    let events = oauth.events().await;
    let kinds: Vec<_> = events.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(
        kinds,
        [
            AuthorizationStarted,
            ConnectionCreated,
            CredentialReleased,
            AuthorizationStarted,
            ConnectionReauthorized,
            AuthorizationStarted,
            // The tokens of another account are not given back: that could end what somebody else has.
            AuthorizationFailed,
            ConnectionDeleted,
            TokenRevoked,
        ],
        "{events:#?}"
    );
    // Whoever began a flow is who did what came of it.
    assert!(events.iter().all(|(kind, workload, ..)| {
        workload == if *kind == CredentialReleased { "gateway" } else { "console" }
    }));
    for (number, (kind, _, connection_id, reason)) in events.iter().enumerate() {
        let expected = match kind {
            AuthorizationFailed => "ACCOUNT_MISMATCH",
            TokenRevoked => "REVOKED",
            _ => "",
        };
        assert_eq!(reason, expected, "{number}");
        if matches!(kind, ConnectionCreated | ConnectionReauthorized | ConnectionDeleted | CredentialReleased)
        {
            assert_eq!(*connection_id, id, "{number}");
        }
    }
}

/// A connection as the feed has it: without how it stands with the refresher.
fn as_watched(connection: v1::Connection) -> v1::Connection {
    v1::Connection { refresh: None, ..connection }
}
