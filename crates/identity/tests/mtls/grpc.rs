//! A gRPC handler learns who called.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::TryStreamExt as _;
use hyper_util::rt::TokioIo;
use keyholder_identity::{MtlsStream, Peer, peer_of};
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server as Grpc};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

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

    let mut calls = HealthClient::new(channel(address, client).await);
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

async fn channel(address: SocketAddr, client: Arc<ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let client = Arc::clone(&client);
        async move { connect(address, client).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// Answers everything with so many bytes, at once.
#[derive(Clone)]
struct Large(usize);

impl NamedService for Large {
    const NAME: &'static str = "test.Large";
}

impl Service<http::Request<Body>> for Large {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let bytes = Bytes::from(vec![7; self.0]);
        ready(Ok(http::Response::new(Body::new(http_body_util::Full::new(bytes)))))
    }
}

#[tokio::test]
async fn corked_a_large_answer_arrives_whole_though_its_client_reads_late_and_a_small_one_on_a_silent_connection()
 {
    const LARGE: usize = 32 << 20;
    let ca = root("ca");
    let server = Server::trusting(&ca).await;
    let client = Arc::new(server.client(&ca.issue(svid("spiffe://td/gateway")).unwrap()));
    let address = server.address;
    let (reporter, health) = tonic_health::server::health_reporter();
    let (stop, stopped) = oneshot::channel::<()>();
    let connections = server.incoming.map_ok(MtlsStream::corked);
    let serving = tokio::spawn(
        Grpc::builder().add_service(Large(LARGE)).add_service(health).serve_with_incoming_shutdown(
            connections,
            async {
                let _ = stopped.await;
            },
        ),
    );

    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(LARGE as u32 * 2).initial_connection_window_size(LARGE as u32 * 2);
    let stream = connect(address, Arc::clone(&client)).await.unwrap();
    let (mut sender, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    let mut connection = Box::pin(connection);
    let request = http::Request::post("http://localhost/test.Large/Get").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    // The request leaves, and then nothing is read until the server can write no more.
    poll_fn(|cx| {
        assert!(connection.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    let connection = tokio::spawn(connection);
    let mut body = answer.await.unwrap().into_body();
    let mut received = 0;
    while let Some(piece) = body.data().await {
        received += piece.unwrap().len();
    }
    assert_eq!(received, LARGE);

    let mut calls = HealthClient::new(channel(address, client).await);
    let mut watched = calls.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let told = watched.message().await.unwrap().unwrap();
    assert_eq!(told.status, ServingStatus::NotServing as i32);

    drop((sender, body, calls, watched));
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    connection.await.unwrap().unwrap();
}

#[test]
fn without_a_connection_of_ours_there_is_no_peer() {
    assert!(peer_of(tonic::Request::new(()).extensions()).is_none());
}
