//! What happens when Postgres is away, restarts, or is not migrated.

use keyholder_proto::v1;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::provider_service_client::ProviderServiceClient;
use time::Duration;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::fault_proxy::FaultProxy;
use crate::harness::{
    ACME, World, assert_refused, binary, eventually, http_get, openai, resolve_request, run,
};

#[tokio::test]
async fn nothing_is_released_while_postgres_is_away_and_everything_is_when_it_is_back() {
    let mut world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut gateway = world.grants("gateway");
    gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await.unwrap();

    world.postgres.kill_hard().unwrap();
    let refused = gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await;
    assert_refused(refused, Code::Unavailable, "STORE_UNAVAILABLE");
    let refused = world.connections().create_connection(openai("user:bob", "sk-bob")).await;
    assert_refused(refused, Code::Unavailable, "STORE_UNAVAILABLE");
    assert_eq!(http_get(world.server.admin, "/livez").0, 200, "alive all the same");
    assert_eq!(http_get(world.server.admin, "/readyz").0, 503);

    world.postgres.restart().unwrap();
    eventually("readiness", || (http_get(world.server.admin, "/readyz").0 == 200).then_some(()));
    gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await.unwrap();
    world.connections().create_connection(openai("user:bob", "sk-bob")).await.unwrap();
}

#[tokio::test]
async fn no_call_fails_because_idle_database_connections_died() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut gateway = world.grants("gateway");
    for _ in 0..5 {
        gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await.unwrap();
        world.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyholder'",
        );
        gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await.unwrap();
        world.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyholder'",
        );
        let request = v1::DisableConnectionRequest {
            organization_id: ACME.into(),
            connection_id: connection_id.clone(),
            ..Default::default()
        };
        world.connections().disable_connection(request).await.unwrap();
        let request = v1::EnableConnectionRequest {
            organization_id: ACME.into(),
            connection_id: connection_id.clone(),
            etag: String::new(),
        };
        world.connections().enable_connection(request).await.unwrap();
    }
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE kind = 'CREDENTIAL_RELEASED'"), "10");
}

#[tokio::test]
async fn health_is_not_serving_until_the_database_is_migrated() {
    let world = World::start();
    world.postgres.create_database("fresh").unwrap();
    let url = world.postgres.url("fresh");
    let mut server = world.spawn("unmigrated", &url);
    server.wait_for_log("the database is not migrated; run keyholder migrate");
    let mut health = HealthClient::new(world.channel_to(&server, "console"));
    let mut status = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.unwrap().into_inner().status()
    };
    let services = [
        "",
        "keyholder.v1.ProviderService",
        "keyholder.v1.ConnectionService",
        "keyholder.v1.GrantService",
        "keyholder.v1.AuditService",
    ];
    for service in services {
        assert_eq!(status(service).await, ServingStatus::NotServing, "{service}");
    }
    assert_eq!(http_get(server.admin, "/readyz").0, 503);
    run(&binary(), &["migrate"], world.dir.path(), &url);
    server.wait_for_log("serving");
    for service in services {
        assert_eq!(status(service).await, ServingStatus::Serving, "{service}");
    }
    assert_eq!(http_get(server.admin, "/readyz").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_is_finished_when_the_server_is_told_to_stop() {
    let mut world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut gateway = world.grants("gateway");
    gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await.unwrap();
    // Hold the row that a change needs, so that it is in flight when the signal comes.
    let mut locked = world.lock("SELECT 1 FROM organizations FOR UPDATE");
    let connecting = tokio::spawn({
        let mut connections = world.connections();
        async move { connections.create_connection(openai("user:bob", "sk-bob")).await }
    });
    eventually("the call that waits", || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        (world.sql(waiting) == "1").then_some(())
    });
    world.server.signal("TERM");
    world.server.wait_for_log("draining");
    locked.release();
    connecting.await.unwrap().unwrap();
    let status = eventually("the end", || world.server.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert_eq!(world.sql("SELECT count(*) FROM connections"), "2");
}

#[tokio::test]
async fn metrics_count_calls_releases_and_denials_without_naming_anybody() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut gateway = world.grants("gateway");
    gateway.resolve_credential(resolve_request("user:ada", &connection_id)).await.unwrap();
    gateway.resolve_credential(resolve_request("user:bob", &connection_id)).await.unwrap_err();
    let (code, text) = http_get(world.server.admin, "/metrics");
    assert_eq!(code, 200);
    for line in [
        "keyholder_releases_total 1",
        r#"keyholder_denials_total{reason="GRANT_MISSING"} 1"#,
        r#"keyholder_calls_total{method="/keyholder.v1.GrantService/ResolveCredential",code="Ok"} 1"#,
        r#"keyholder_calls_total{method="/keyholder.v1.GrantService/ResolveCredential",code="PermissionDenied"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("keyholder_certificate_not_after_seconds"), "{text}");
    for name in ["user:", ACME, connection_id.as_str()] {
        assert!(!text.contains(name), "{name}");
    }
}

#[tokio::test]
async fn m40_a_call_on_an_open_connection_is_refused_once_its_certificate_has_expired() {
    let world = World::start();
    let mut short_lived =
        ProviderServiceClient::new(world.short_lived_channel("console", Duration::seconds(2)));
    short_lived.list_providers(v1::ListProvidersRequest::default()).await.unwrap();
    let refused = loop {
        match short_lived.list_providers(v1::ListProvidersRequest::default()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
    };
    assert_refused(Err::<(), _>(refused), Code::Unauthenticated, "CERTIFICATE_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_up_organization_holds_up_no_release() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut locked = world.lock("SELECT 1 FROM organizations WHERE organization_id = 'acme' FOR UPDATE");
    let waiting: Vec<_> = (0..20)
        .map(|number| {
            let mut connections = world.connections();
            let request = openai("user:bob", &format!("sk-{number}"));
            tokio::spawn(async move { connections.create_connection(request).await })
        })
        .collect();
    eventually("changes that wait", || {
        let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        (world.sql(waiting) == "t").then_some(())
    });
    for _ in 0..20 {
        world
            .grants("gateway")
            .resolve_credential(resolve_request("user:ada", &connection_id))
            .await
            .unwrap();
    }
    locked.release();
    for change in waiting {
        // Some may have given up waiting; none may hang.
        change.await.unwrap().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lacks_a_key_does_not_serve_once_the_database_is_migrated() {
    let world = World::start();
    world.connect("user:ada", "sk-ada").await;
    world.sql(
        "UPDATE data_keys SET wrapped = regexp_replace(wrapped, 'kek-[0-9a-f]+', 'kek-0123456789abcdef')",
    );
    world.sql("CREATE TABLE applied AS SELECT * FROM _sqlx_migrations; DELETE FROM _sqlx_migrations");
    let mut server = world.spawn("late", &world.postgres.url(crate::harness::DATABASE));
    server.wait_for_log("the database is not migrated; run keyholder migrate");
    world.sql("INSERT INTO _sqlx_migrations SELECT * FROM applied");
    let line = server.wait_for_log("not serving");
    assert!(line["error"].as_str().unwrap().contains("kek-0123456789abcdef"), "{line}");
    let mut health = HealthClient::new(world.channel_to(&server, "console"));
    let status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
}

#[tokio::test]
async fn a_watch_ends_when_the_certificate_it_was_opened_with_does() {
    let world = World::start();
    let mut short_lived =
        ConnectionServiceClient::new(world.short_lived_channel("console", Duration::seconds(2)));
    let request = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut stream = short_lived.watch_connections(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some(), "the end of the first pass");
    assert!(stream.message().await.unwrap().is_none(), "the end of the stream");
}

#[tokio::test]
async fn a_request_with_a_million_faults_is_told_of_a_few() {
    let world = World::start();
    let request = v1::ListAuditEventsRequest {
        organization_id: ACME.into(),
        kinds: vec![99; 1_000_000],
        ..Default::default()
    };
    let status = assert_refused(
        world.audit().list_audit_events(request).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    assert!(status.details().len() < 6_000, "{} bytes", status.details().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn database_connections_that_went_silent_are_given_up_and_replaced() {
    let world = World::start();
    let url = world.postgres.url(crate::harness::DATABASE);
    let proxy = FaultProxy::start(&url);
    let mut server = world.spawn("behind-a-proxy", &proxy.url(&url));
    server.wait_for_log("serving");
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut gateway = GrantServiceClient::new(world.channel_to(&server, "gateway"));
    let resolve = || resolve_request("user:ada", &connection_id);
    gateway.resolve_credential(resolve()).await.unwrap();

    // Again and again, as one that was not given up would be missing in the end.
    for round in 0..3 {
        proxy.silence();
        // Each call gives up on what it finds silent; nothing is released without an answer.
        let mut tries = 0;
        while let Err(status) = gateway.resolve_credential(resolve()).await {
            assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
            tries += 1;
            assert!(tries < 10, "round {round}: {status:?}");
        }
    }
    gateway.resolve_credential(resolve()).await.unwrap();
    // Those that nothing was asked on meanwhile are found out by the probes.
    eventually("a server that is ready", || (http_get(server.admin, "/readyz").0 == 200).then_some(()));
}
