//! What is spoken: M9, M34 to M36.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use keyholder_testkit::pki::Authority;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;

use crate::support::{Server, root, svid};

const ALERT: u8 = 21;
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

async fn server_and_ca() -> (Server, Authority) {
    let ca = root("ca");
    (Server::trusting(&ca).await, ca)
}

#[tokio::test]
async fn m9_no_certificate_is_refused_in_the_handshake() {
    let (mut server, _ca) = server_and_ca().await;
    let client = server.anonymous_client();
    assert_eq!(server.refuse_client(client).await, "no_certificate");
}

/// A ClientHello (RFC 8446, section 4.1.2), as far as the server reads it before it refuses.
fn client_hello(version: [u8; 2], suites: &[[u8; 2]], extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &sized(content)].concat())
        .collect();
    let body =
        [&version[..], &[7; 32], &[0], &sized(&suites.concat()), &[1, 0], &sized(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [&[22, 3, 1], &sized(&message)[..]].concat()
}

const SUPPORTED_GROUPS: (u16, &[u8]) = (10, &[0, 2, 0, 29]);
const SIGNATURE_ALGORITHMS: (u16, &[u8]) = (13, &[0, 2, 4, 3]);
const TLS13_ONLY: (u16, &[u8]) = (43, &[2, 3, 4]);

/// Sends a hello and returns the fatal alert that answers it.
async fn alert_for(server: &mut Server, hello: &[u8]) -> u8 {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(hello).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let [ALERT, _, _, 0, 2, 2, alert] = *answer else { panic!("no fatal alert alone: {answer:?}") };
    alert
}

#[tokio::test]
async fn m34_refuses_everything_before_tls_1_3() {
    let (mut server, _ca) = server_and_ca().await;
    // ECDHE with AES-128-GCM and, for the oldest, AES-128-CBC.
    let suites = [[0xc0, 0x2b], [0xc0, 0x09], [0x00, 0x2f]];
    for version in [[3, 3], [3, 2], [3, 1], [3, 0]] {
        let hello = client_hello(version, &suites, &[SUPPORTED_GROUPS, SIGNATURE_ALGORITHMS]);
        assert_eq!(alert_for(&mut server, &hello).await, PROTOCOL_VERSION, "{version:?}");
        assert_eq!(server.logged_reason().await, "tls_version");
    }
    let only_tls12 = client_hello(
        [3, 3],
        &[[0xc0, 0x2b], [0x13, 0x01]],
        &[SUPPORTED_GROUPS, SIGNATURE_ALGORITHMS, (43, &[2, 3, 3])],
    );
    assert_eq!(alert_for(&mut server, &only_tls12).await, PROTOCOL_VERSION);
}

#[tokio::test]
async fn m35_refuses_weak_suites() {
    let (mut server, _ca) = server_and_ca().await;
    // TLS_AES_128_CCM_SHA256, TLS_AES_128_CCM_8_SHA256, and a suite of TLS 1.2.
    for suite in [[0x13, 0x04], [0x13, 0x05], [0xc0, 0x2b]] {
        let hello = client_hello(
            [3, 3],
            &[suite],
            &[SUPPORTED_GROUPS, SIGNATURE_ALGORITHMS, TLS13_ONLY, (51, &[0, 0])],
        );
        assert_eq!(alert_for(&mut server, &hello).await, HANDSHAKE_FAILURE, "{suite:?}");
    }
}

#[tokio::test]
async fn m35_the_server_name_is_ignored() {
    let (mut server, ca) = server_and_ca().await;
    let mut client = server.client(&ca.issue(svid("spiffe://td/a")).unwrap());
    client.enable_sni = false;
    server.accept_client(Arc::new(client.clone())).await;

    client.enable_sni = true;
    let connector = TlsConnector::from(Arc::new(client));
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (accepted, connected) = tokio::join!(
        server.incoming.next(),
        connector.connect("elsewhere.example".try_into().unwrap(), socket)
    );
    connected.unwrap();
    assert_eq!(accepted.unwrap().unwrap().peer().workload().to_string(), "spiffe://td/a");
}

#[tokio::test]
async fn m35_refuses_a_client_that_does_not_speak_http_2() {
    let (mut server, ca) = server_and_ca().await;
    for protocols in [vec![], vec![b"http/1.1".to_vec()], vec![b"h2c".to_vec(), b"H2".to_vec()]] {
        let mut client = server.client(&ca.issue(svid("spiffe://td/a")).unwrap());
        client.alpn_protocols = protocols;
        assert_eq!(server.refuse_client(client).await, "alpn_not_h2");
    }
}

#[tokio::test]
async fn m36_refuses_a_client_without_the_private_key() {
    let (mut server, ca) = server_and_ca().await;
    let [victim, thief] = ["spiffe://td/a", "spiffe://td/b"].map(|id| ca.issue(svid(id)).unwrap());
    let client = server.client_with(victim.chain(), thief.key());
    assert_eq!(server.refuse_client(client).await, "proof_of_key_wrong");
}

/// A socket that keeps a copy of what is sent through it.
struct Recorder(TcpStream, Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(cx, buf);
        if let Poll::Ready(Ok(length)) = written {
            self.1.lock().unwrap().extend(&buf[..length]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn m36_a_replayed_handshake_is_worth_nothing() {
    let (mut server, ca) = server_and_ca().await;
    let client = server.client(&ca.issue(svid("spiffe://td/a")).unwrap());
    let sent = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder(TcpStream::connect(server.address).await.unwrap(), Arc::clone(&sent));
    let connector = TlsConnector::from(Arc::new(client));
    let (accepted, connected) =
        tokio::join!(server.incoming.next(), connector.connect("localhost".try_into().unwrap(), recorder));
    accepted.unwrap().unwrap();
    connected.unwrap();

    let replay = sent.lock().unwrap().clone();
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(&replay).await.unwrap();
    assert_eq!(server.logged_reason().await, "not_tls");
}
