//! A gRPC handler learns who called.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use keyholder_identity::{Peer, peer_of};
use tokio::sync::{mpsc, oneshot};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Endpoint, Server as Grpc};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;

use crate::support::{Server, connect, root, svid};

#[tokio::test]
async fn every_request_carries_its_peer() {
    let ca = root("ca");
    let server = Server::trusting(&ca).await;
    let address = server.address;
    let client = Arc::new(server.client(&ca.issue(svid("spiffe://td/gateway")).unwrap()));

    let (seen, mut peers) = mpsc::unbounded_channel::<Arc<Peer>>();
    let (_, health) = tonic_health::server::health_reporter();
    let health: HealthServer<_> = health;
    let service = InterceptedService::new(health, move |request: tonic::Request<()>| {
        seen.send(Arc::clone(peer_of(request.extensions()).unwrap())).unwrap();
        Ok(request)
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(Grpc::builder().add_service(service).serve_with_incoming_shutdown(
        server.incoming,
        async {
            let _ = stopped.await;
        },
    ));

    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let client = Arc::clone(&client);
            async move { connect(address, client).await.map(TokioIo::new) }
        }))
        .await
        .unwrap();
    let mut calls = HealthClient::new(channel);
    for _ in 0..2 {
        calls.check(HealthCheckRequest::default()).await.unwrap();
    }
    let (first, second) = (peers.recv().await.unwrap(), peers.recv().await.unwrap());
    assert_eq!(first.workload().to_string(), "spiffe://td/gateway");
    assert!(Arc::ptr_eq(&first, &second));

    drop(calls);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[test]
fn without_a_connection_of_ours_there_is_no_peer() {
    assert!(peer_of(tonic::Request::new(()).extensions()).is_none());
}
