//! Every handshake is a full one: M37 to M39.
//!
//! Our own listener gives no tickets, so these clients bring one from another listener that looks the same:
//! the strongest attempt there is.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use keyholder_testkit::pki::{Authority, LeafRequest};
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;

use crate::support::{ClientTime, NOW, Server, connect, root, svid};

/// Another listener, such as one for callbacks: same name, same protocol, no client certificate asked for;
/// it gives tickets and allows early data. Answers each connection with one byte.
async fn other_listener(own_root: &Authority) -> SocketAddr {
    let own = own_root.issue(LeafRequest::dns("localhost", NOW).unwrap()).unwrap();
    let mut config =
        ServerConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(ClientTime))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(own.chain(), own.key())
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.max_early_data_size = 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((socket, _)) = listener.accept().await {
            let mut stream = acceptor.accept(socket).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    address
}

/// Connects to the other listener, and keeps the tickets that it gives.
async fn visit(other: SocketAddr, client: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let mut stream = connect(other, Arc::clone(client)).await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    stream.get_ref().1.handshake_kind()
}

#[tokio::test]
async fn m38_the_workload_port_gives_no_tickets() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let client = Arc::new(server.client(&ca.issue(svid("spiffe://td/a")).unwrap()));
    for _ in 0..2 {
        let (mut accepted, mut stream) = server.accept_client(Arc::clone(&client)).await;
        accepted.write_all(b"x").await.unwrap();
        accepted.flush().await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn m38_m39_a_ticket_of_another_listener_brings_a_full_handshake() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let other = other_listener(&server.own_root).await;
    let client = Arc::new(server.client(&ca.issue(svid("spiffe://td/a")).unwrap()));
    assert_eq!(visit(other, &client).await, Some(HandshakeKind::Full));
    assert_eq!(visit(other, &client).await, Some(HandshakeKind::Resumed));
    let (_accepted, stream) = server.accept_client(client).await;
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
}

#[tokio::test]
async fn m38_m39_a_ticket_does_not_bring_back_an_expired_certificate() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let other = other_listener(&server.own_root).await;
    let end = NOW + Duration::minutes(1);
    let shown = ca.issue(svid("spiffe://td/a").valid(NOW, end)).unwrap();
    let client = Arc::new(server.client(&shown));
    server.accept_client(Arc::clone(&client)).await;
    visit(other, &client).await;
    server.clock.set(end + Duration::SECOND);
    assert_eq!(server.refuse_client((*client).clone()).await, "certificate_expired");
}

#[tokio::test]
async fn m37_early_data_is_never_accepted() {
    let ca = root("ca");
    let mut server = Server::trusting(&ca).await;
    let other = other_listener(&server.own_root).await;
    let mut client = server.client(&ca.issue(svid("spiffe://td/a")).unwrap());
    client.enable_early_data = true;
    let client = Arc::new(client);
    visit(other, &client).await;

    let address = server.address;
    let early = tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        let mut connection = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
        let mut early_data = connection.early_data().expect("the ticket allows early data");
        early_data.write_all(b"early").unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap();
        }
        connection.writer().write_all(b"late").unwrap();
        connection.complete_io(&mut socket).unwrap();
        (connection.is_early_data_accepted(), connection.handshake_kind())
    });
    let (accepted, early) = tokio::join!(server.incoming.next(), early);
    assert_eq!(early.unwrap(), (false, Some(HandshakeKind::Full)));
    let mut received = Vec::new();
    accepted.unwrap().unwrap().take(4).read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"late");
}
