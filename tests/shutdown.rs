//! The end of a server that is told to stop while somebody holds on to it.

use std::io::Read as _;
use std::net::TcpStream;

use keyholder_proto::v1;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{ACME, World, eventually, log_lines, resolve_request};

#[tokio::test]
async fn a_use_of_a_grant_just_before_the_end_is_written_down() {
    let mut world = World::start();
    let id = world.connect("user:ada", "sk-1").await;
    let grant_id = world.grant("agent:roadie", &id).await;
    // Uses are gathered for a second: the end comes before.
    world.grants("gateway").resolve_credential(resolve_request("agent:roadie", &id)).await.unwrap();
    world.server.signal("TERM");
    let status = eventually("the end of the server", || world.server.child.try_wait().unwrap());
    assert!(status.success());
    let used = format!(
        "SELECT count(*) FROM grant_uses WHERE 'grant_' || replace(grant_id::text, '-', '') = '{grant_id}'"
    );
    assert_eq!(world.sql(&used), "1");
}

#[tokio::test]
async fn neither_an_idle_connection_nor_a_stream_without_end_holds_up_the_end() {
    let world = World::start();
    // One that never says anything, one that has called and is silent, one stream that ends by itself, and one that
    // does not.
    let mut silent = TcpStream::connect(world.server.grpc).unwrap();
    let mut idle = world.providers();
    idle.list_providers(v1::ListProvidersRequest::default()).await.unwrap();
    let request = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feed = world.connections().watch_connections(request).await.unwrap().into_inner();
    feed.message().await.unwrap().unwrap();
    let mut health = HealthClient::new(world.channel("auditor"));
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    world.server.signal("TERM");
    let mut server = world.server;
    let status = eventually("the end of the server", || server.child.try_wait().unwrap());
    assert!(status.success());
    let said = |message: &str| log_lines(&server.log).iter().any(|line| line["message"] == message);
    assert!(said("calls were still in flight when the time to drain was over"), "nothing held it up");
    assert!(said("stopped"));
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
}
