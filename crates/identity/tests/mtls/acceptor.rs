//! The door itself: crowds, idlers, and what it does to the good ones.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use keyholder_identity::HandshakeLimits;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;

use crate::support::{Server, Setup, connect, root, svid};

#[tokio::test]
async fn m48_half_open_connections_give_way_to_new_ones() {
    let ca = root("ca");
    let limits = HandshakeLimits { concurrent: NonZeroUsize::MIN, timeout: Duration::from_secs(600) };
    let mut server = Server::start(Setup { domains: vec![("td", &[&ca])], limits, ..Setup::default() }).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.logged_reason().await, "crowded_out");
    assert!(matches!(first.read(&mut [0]).await, Ok(0) | Err(_)));

    let client = server.client(&ca.issue(svid("spiffe://td/a")).unwrap());
    let (accepted, connected) = tokio::join!(server.incoming.next(), connect(server.address, client.into()));
    accepted.unwrap().unwrap();
    connected.unwrap();
    assert_eq!(server.logged_reason().await, "crowded_out");
    assert!(matches!(second.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn m48_a_handshake_that_is_never_finished_is_dropped() {
    let ca = root("ca");
    let limits = HandshakeLimits { timeout: Duration::from_millis(1), ..HandshakeLimits::default() };
    let mut server = Server::start(Setup { domains: vec![("td", &[&ca])], limits, ..Setup::default() }).await;
    let mut idler = TcpStream::connect(server.address).await.unwrap();
    assert!(matches!(idler.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(server.logged_reason().await, "timed_out");
}

#[tokio::test]
async fn many_at_once_all_get_in() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let client = Arc::new(server.client(&ca.issue(svid("spiffe://td/a")).unwrap()));
    let clients: Vec<_> =
        (0..32).map(|_| tokio::spawn(connect(server.address, Arc::clone(&client)))).collect();
    for _ in &clients {
        server.incoming.next().await.unwrap().unwrap();
    }
    for client in clients {
        client.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn dropping_the_stream_stops_listening() {
    let Server { address, incoming, .. } = Server::trusting(&root("ca")).await;
    drop(incoming);
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
