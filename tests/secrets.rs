//! A secret is in no log, error, audit event, metric or dump.

use std::fs;
use std::process::Command;

use keyholder_proto::v1;
use prost::Message as _;

use crate::harness::{ACME, DATABASE, World, grant_request, http_get, openai, resolve_request};

/// Found nowhere by chance, and a word of it would be found too.
const CANARY: &str = "kanarienvogel7f3a91";

#[tokio::test]
async fn secrets_never_logged() {
    let world = World::start();
    let mut told = Vec::new();

    let create = openai("user:ada", &format!("sk-{CANARY}-one"));
    told.push(format!("{create:?}"));
    let connection = world.connections().create_connection(create).await.unwrap().into_inner();
    told.push(format!("{connection:?}"));
    let connection_id = connection.connection.unwrap().connection_id;

    let replace = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: connection_id.clone(),
        credentials: [("api_key".to_owned(), format!("sk-{CANARY}-two"))].into(),
        ..Default::default()
    };
    told.push(format!("{replace:?}"));
    told.push(format!("{:?}", world.connections().replace_credentials(replace).await.unwrap()));
    world.grants("console").create_grant(grant_request("agent:roadie", &connection_id)).await.unwrap();
    let released = world
        .grants("gateway")
        .resolve_credential(resolve_request("agent:roadie", &connection_id))
        .await
        .unwrap();
    assert!(
        released.get_ref().http.as_ref().unwrap().headers["Authorization"].contains(CANARY),
        "it was released"
    );
    told.push(format!("{released:?}"));

    told.extend(wrong_requests(&world, &connection_id).await);
    for text in listings(&world).await {
        told.push(text);
    }
    told.push(http_get(world.server.admin, "/metrics").1);
    for text in &told {
        assert!(!text.contains(CANARY), "told: {text}");
    }
    let log = fs::read_to_string(&world.server.log).unwrap();
    assert!(log.contains("ResolveCredential"), "the log is that of these calls");
    let logged: Vec<&str> = log.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(logged.is_empty(), "logged: {logged:?}");
    let postgres_log = fs::read_to_string(world.postgres.log_path()).unwrap();
    assert!(!postgres_log.contains(CANARY), "logged by Postgres");
    let dump = dump(&world);
    assert!(
        dump.contains("enc:v1:") && dump.contains(connection_id.trim_start_matches("conn_").split_at(8).0)
    );
    assert!(!dump.contains(CANARY), "stored in the clear");
}

/// Requests that are refused, each with a secret somewhere; what is told of each.
async fn wrong_requests(world: &World, connection_id: &str) -> Vec<String> {
    let mut told = Vec::new();
    let secret = || format!("sk-{CANARY} \n");
    let base = || openai("user:bob", &format!("sk-{CANARY}"));
    let requests = [
        openai("user:bob", &secret()),
        v1::CreateConnectionRequest { owner: format!("sk-{CANARY}"), ..base() },
        v1::CreateConnectionRequest { provider_id: format!("sk-{CANARY}"), ..base() },
        v1::CreateConnectionRequest {
            credentials: [(format!("sk-{CANARY}"), "x".to_owned())].into(),
            ..base()
        },
        v1::CreateConnectionRequest { credentials: [(CANARY.to_owned(), "x".to_owned())].into(), ..base() },
        v1::CreateConnectionRequest {
            config: [("base_url".to_owned(), format!("http://{CANARY}"))].into(),
            ..base()
        },
        v1::CreateConnectionRequest { request_id: format!("{CANARY}\u{e9}"), ..base() },
        v1::CreateConnectionRequest { organization_id: format!("ACME {CANARY}"), ..base() },
        openai("user:ada", &format!("sk-{CANARY}-two")),
    ];
    for request in requests {
        let status = world.connections().create_connection(request).await.unwrap_err();
        told.push(format!("{status:?} {}", String::from_utf8_lossy(status.details())));
    }
    let mut resolve = resolve_request("agent:roadie", connection_id);
    resolve.actor = format!("sk-{CANARY}");
    let status = world.grants("gateway").resolve_credential(resolve).await.unwrap_err();
    told.push(format!("{status:?} {}", String::from_utf8_lossy(status.details())));
    told
}

async fn listings(world: &World) -> Vec<String> {
    let organization_id = ACME.to_owned();
    let connections =
        v1::ListConnectionsRequest { organization_id: organization_id.clone(), ..Default::default() };
    let audit = v1::ListAuditEventsRequest { organization_id, ..Default::default() };
    let encoded = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    vec![
        encoded(
            world.connections().list_connections(connections).await.unwrap().into_inner().encode_to_vec(),
        ),
        encoded(world.audit().list_audit_events(audit).await.unwrap().into_inner().encode_to_vec()),
    ]
}

fn dump(world: &World) -> String {
    let dump = Command::new(world.postgres.bin_dir().join("pg_dump"))
        .arg(world.postgres.url(DATABASE))
        .output()
        .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    String::from_utf8(dump.stdout).unwrap()
}
