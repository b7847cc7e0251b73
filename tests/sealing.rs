//! A sealed credential opens in its own place only, and what does not open is reported.

use std::fs;
use std::process::Command;

use keyholder_proto::v1::ListAuditEventsRequest;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use tonic::Code;

use crate::harness::{ACME, DATABASE, World, assert_refused, binary, log_lines, openai, resolve_request};

#[tokio::test]
async fn a_credential_that_was_swapped_moved_cut_or_replayed_is_refused_and_reported() {
    let world = World::start();
    let ada = world.connect("user:ada", "sk-ada").await;
    let bob = world.connect("user:bob", "sk-bob").await;
    let foreign = {
        let request = keyholder_proto::v1::CreateConnectionRequest {
            organization_id: "other".into(),
            ..openai("user:eve", "sk-eve")
        };
        world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap()
    };
    let mut gateway = world.grants("gateway");
    let row = |id: &str| id.trim_start_matches("conn_").to_owned();
    let sealed = |id: &str| {
        world.sql(&format!("SELECT sealed_credential FROM connections WHERE connection_id = '{}'", row(id)))
    };
    let good = sealed(&ada);
    let replaced = {
        let request = keyholder_proto::v1::ReplaceCredentialsRequest {
            organization_id: ACME.into(),
            connection_id: ada.clone(),
            credentials: [("api_key".to_owned(), "sk-ada-2".to_owned())].into(),
            ..Default::default()
        };
        world.connections().replace_credentials(request).await.unwrap();
        sealed(&ada)
    };
    assert_ne!(good, replaced);
    let forgeries = [
        ("another row's", sealed(&bob)),
        ("another organization's", sealed(&foreign.connection_id)),
        ("an older one", good),
        ("cut short", replaced[..replaced.len() - 2].to_owned()),
        ("no sealed value", "enc:v1:nonsense".to_owned()),
        ("plain text", "sk-forged".to_owned()),
    ];
    for (what, forged) in &forgeries {
        world.sql(&format!(
            "UPDATE connections SET sealed_credential = '{forged}', generation = generation + 1
             WHERE connection_id = '{}'",
            row(&ada)
        ));
        let refused = gateway.resolve_credential(resolve_request("user:ada", &ada)).await;
        let status = assert_refused(refused, Code::DataLoss, "CREDENTIAL_UNREADABLE");
        assert!(!status.message().contains("enc:"), "{what}");
        gateway.resolve_credential(resolve_request("user:bob", &bob)).await.unwrap();
    }
    let reported = log_lines(&world.server.log)
        .iter()
        .filter(|line| {
            line["level"] == "ERROR" && line["error"].as_str().is_some_and(|error| error.contains(&ada))
        })
        .count();
    assert_eq!(reported, forgeries.len(), "each is in the log, with the row's id");
    let request =
        ListAuditEventsRequest { organization_id: ACME.into(), connection_id: ada, ..Default::default() };
    let events = world.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    let denied = events.iter().filter(|event| event.reason == "CREDENTIAL_UNREADABLE").count();
    assert_eq!(denied, forgeries.len(), "each is in the audit");
    assert!(
        !events.iter().any(|event| event.kind() == keyholder_proto::v1::AuditEventKind::CredentialReleased)
    );
}

#[tokio::test]
async fn an_old_key_opens_and_only_the_primary_wraps() {
    let mut world = World::start();
    let before = world.connect("user:ada", "sk-ada").await;
    let wrapped_by = |world: &World, organization: &str| {
        world.sql(&format!(
            "SELECT split_part(wrapped, ':', 3) FROM data_keys WHERE organization_id = '{organization}'"
        ))
    };
    let old_key = wrapped_by(&world, ACME);
    let config = world.dir.path().join("keyholder.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(world.dir.path().join("new.key"), "bmV3IGtleSBmb3IgdGhlIHRlc3QsIDMyIGJ5dGVzISE=").unwrap();
    fs::copy(world.dir.path().join("encryption.key"), world.dir.path().join("old.key")).unwrap();
    let permissions = fs::metadata(world.dir.path().join("encryption.key")).unwrap().permissions();
    fs::set_permissions(world.dir.path().join("new.key"), permissions).unwrap();
    fs::write(
        &config,
        text.replace(r#"primary = "encryption.key""#, "primary = \"new.key\"\nold = [\"old.key\"]"),
    )
    .unwrap();
    world.server = world.server("rotated");

    let mut gateway = world.grants("gateway");
    gateway.resolve_credential(resolve_request("user:ada", &before)).await.unwrap();
    let request = keyholder_proto::v1::CreateConnectionRequest {
        organization_id: "new".into(),
        ..openai("user:ada", "sk")
    };
    world.connections().create_connection(request).await.unwrap();
    assert_eq!(wrapped_by(&world, ACME), old_key);
    assert_ne!(wrapped_by(&world, "new"), old_key);

    // A server that lacks the old key does not start, and says which key it is.
    fs::write(&config, text.replace(r#"primary = "encryption.key""#, r#"primary = "new.key""#)).unwrap();
    let output = Command::new(binary())
        .arg("serve")
        .current_dir(world.dir.path())
        .env("DATABASE_URL", world.postgres.url(DATABASE))
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.lines().count() == 1 && error.contains(&old_key), "{error}");
}

#[tokio::test]
async fn a_data_key_that_does_not_open_is_reported_with_the_key_that_is_missing() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    // As if a replica with another key ring had wrapped it. The server has not opened it yet.
    let second = world.server("second");
    world.sql(
        "UPDATE data_keys SET wrapped = regexp_replace(wrapped, 'kek-[0-9a-f]+', 'kek-0123456789abcdef')",
    );
    let mut gateway = GrantServiceClient::new(world.channel_to(&second, "gateway"));
    let refused = gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await;
    assert_refused(refused, Code::DataLoss, "CREDENTIAL_UNREADABLE");
    let mut console = ConnectionServiceClient::new(world.channel_to(&second, "console"));
    assert_refused(
        console.create_connection(openai("user:bob", "sk")).await,
        Code::DataLoss,
        "CREDENTIAL_UNREADABLE",
    );
    let named = log_lines(&second.log)
        .iter()
        .any(|line| line["error"].as_str().is_some_and(|error| error.contains("kek-0123456789abcdef")));
    assert!(named, "the log names the key that is missing");
    assert_eq!(world.sql("SELECT count(*) FROM connections"), "1");
}

#[tokio::test]
async fn what_was_mended_opens_at_once() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let second = world.server("second");
    let mut gateway = GrantServiceClient::new(world.channel_to(&second, "gateway"));
    world.sql("CREATE TABLE saved AS SELECT * FROM data_keys; DELETE FROM data_keys");
    let refused = gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await;
    assert_refused(refused, Code::DataLoss, "CREDENTIAL_UNREADABLE");
    world.sql("INSERT INTO data_keys SELECT * FROM saved");
    gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await.unwrap();
}
