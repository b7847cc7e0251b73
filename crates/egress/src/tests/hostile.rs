//! Servers that mean harm, or are broken: every one is answered by type, and takes no more memory and time
//! than it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, header};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::server::{Peer, Root, Server, read_request, self_signed};
use crate::{
    Deadlines, Egress, EgressError, Refusal, Request, Response, Settings, SettingsError, Target, TlsFault,
};

mod bounds;

/// More than any buffer on the way holds: what a server got rid of beyond this was read without end.
const PLENTY: usize = 16 * 1024 * 1024;

const MIB: usize = 1024 * 1024;

async fn call(settings: Settings, server: &Server, scheme: &str) -> Result<Response, EgressError> {
    let egress = Egress::new(&Settings { danger: server.danger(), ..settings }).unwrap();
    let target = Target::parse(&server.url(scheme, "/token"), egress.rules()).unwrap();
    egress.send(Request::new(Method::POST, target)).await
}

/// The answer to a request over TLS, to a server that sends these bytes and closes.
async fn outcome_of(answer: impl Into<Vec<u8>>) -> Result<Response, EgressError> {
    let root = Root::new();
    let answer = Arc::new(answer.into());
    let server = Server::start(Some(root.server(["127.0.0.1"])), move |mut peer| {
        let answer = answer.clone();
        async move {
            read_request(&mut peer).await;
            let _ = peer.write_all(&answer).await;
            let _ = peer.shutdown().await;
        }
    })
    .await;
    call(root.settings(), &server, "https").await
}

/// The error of a call to a server that sends a beginning and then one thing over and over, and how many
/// bytes it got rid of.
async fn endless(settings: Settings, first: &'static str, again: Vec<u8>) -> (EgressError, usize) {
    let root = Root::new();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let server = Server::start(Some(root.server(["127.0.0.1"])), move |mut peer| {
        let (again, counter) = (again.clone(), counter.clone());
        async move {
            read_request(&mut peer).await;
            let _ = peer.write_all(first.as_bytes()).await;
            while peer.write_all(&again).await.is_ok() {
                counter.fetch_add(again.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let settings = Settings { roots: root.settings().roots, ..settings };
    let error = call(settings, &server, "https").await.unwrap_err();
    (error, sent.load(Ordering::SeqCst))
}

/// A server that sends a beginning, and then nothing while the connection is open.
async fn stalling(root: &Root, first: &'static str) -> Server {
    Server::start(Some(root.server(["127.0.0.1"])), move |mut peer: Peer| async move {
        read_request(&mut peer).await;
        let _ = peer.write_all(first.as_bytes()).await;
        let _ = peer.flush().await;
        read_request(&mut peer).await;
    })
    .await
}

fn short(pick: impl FnOnce(&mut Deadlines)) -> Deadlines {
    let long = Duration::from_secs(60);
    let mut deadlines = Deadlines { total: long, resolve: long, connect: long, first_byte: long };
    pick(&mut deadlines);
    deadlines
}

// === What a good answer is ===

#[tokio::test]
async fn reads_a_body_by_length_in_chunks_and_to_the_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nt: v\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let response = outcome_of(answer).await.unwrap();
        assert_eq!((response.status.as_u16(), &response.body[..]), (200, &b"hello"[..]), "{answer}");
    }
}

#[tokio::test]
async fn every_status_but_a_redirect_is_an_answer() {
    for status in [200, 201, 204, 304, 400, 401, 403, 404, 429, 500, 502, 503, 599] {
        let response = outcome_of(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n")).await.unwrap();
        assert_eq!(response.status.as_u16(), status);
    }
}

#[tokio::test]
async fn a_request_is_what_the_caller_made_it_and_what_the_rules_add() {
    let (sender, receiver) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let server = Server::start(None, move |mut peer| {
        let sender = sender.lock().unwrap().take().unwrap();
        async move {
            sender.send(read_request(&mut peer).await.unwrap()).unwrap();
            let _ = peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let root = Root::new();
    let egress = Egress::new(&Settings { danger: server.danger(), ..root.settings() }).unwrap();
    let target = Target::parse(&server.url("http", "/a%20b?c=d"), egress.rules()).unwrap();
    let request = Request::new(Method::POST, target)
        .header(header::ACCEPT, HeaderValue::from_static("application/json"))
        .secret_header(header::AUTHORIZATION, Zeroizing::new(b"Bearer hush".to_vec()))
        .unwrap()
        .body(Zeroizing::new(b"grant".to_vec()));
    assert!(!format!("{request:?}").contains("hush") && !format!("{request:?}").contains("a%20b"));
    egress.send(request).await.unwrap();
    let head = receiver.await.unwrap();
    let mut lines: Vec<_> = head.trim_end().lines().collect();
    lines.sort_unstable();
    let host = format!("host: {}", server.address);
    let agent = format!("user-agent: keyholder/{}", env!("CARGO_PKG_VERSION"));
    let mut expected = [
        "POST /a%20b?c=d HTTP/1.1",
        "accept: application/json",
        "authorization: Bearer hush",
        "content-length: 5",
        "accept-encoding: identity",
        &host,
        &agent,
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn framing_and_connection_are_not_the_callers_to_set() {
    let root = Root::new();
    let server = Server::answering(None, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let egress = Egress::new(&Settings { danger: server.danger(), ..root.settings() }).unwrap();
    let target = Target::parse(&server.url("http", "/"), egress.rules()).unwrap();
    for name in ["host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect"] {
        let request = Request::new(Method::GET, target.clone())
            .header(name.parse().unwrap(), HeaderValue::from_static("1"));
        assert_eq!(egress.send(request).await.unwrap_err(), EgressError::Request, "{name}");
    }
    for method in [Method::CONNECT, Method::TRACE] {
        let request = Request::new(method, target.clone());
        assert_eq!(egress.send(request).await.unwrap_err(), EgressError::Request);
    }
    let newline = Zeroizing::new(b"a\r\nb: c".to_vec());
    let request = Request::new(Method::GET, target).secret_header(header::AUTHORIZATION, newline);
    assert_eq!(request.unwrap_err(), EgressError::Request);
    assert_eq!(server.connections(), 0);
}

// === Redirects ===

#[tokio::test]
async fn no_redirect_is_followed() {
    let root = Root::new();
    for status in [300, 301, 302, 303, 305, 306, 307, 308] {
        for location in
            ["/elsewhere", "http://169.254.169.254/", "https://127.0.0.1/", "https://example.com/"]
        {
            let answer = format!("HTTP/1.1 {status} x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            let server = Server::answering(Some(root.server(["127.0.0.1"])), answer).await;
            let settings = Settings { danger: server.danger(), ..root.settings() };
            let egress = Egress::new(&settings).unwrap();
            let target = Target::parse(&server.url("https", "/token"), egress.rules()).unwrap();
            let error = egress.send(Request::new(Method::POST, target.clone())).await.unwrap_err();
            assert_eq!(error, EgressError::Refused(Refusal::Redirect));
            assert!(error.may_have_been_sent() && !error.is_retryable());
            let public = Request::new(Method::GET, target).without_secret();
            assert_eq!(egress.send(public).await.unwrap().status.as_u16(), status);
            assert_eq!(server.connections(), 2, "each answered on its own connection, and no third");
        }
    }
}

// === Broken ===

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_an_answer() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let error = outcome_of(answer).await.unwrap_err();
        assert_eq!(error, EgressError::ConnectionLost, "{answer}");
        assert!(error.may_have_been_sent());
    }
}

#[tokio::test]
async fn a_reset_in_the_body_is_not_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        reset_in_the_body(socket).await;
    });
    let root = Root::new();
    let danger = vec![address.to_string().parse().unwrap()];
    let egress = Egress::new(&Settings { danger, ..root.settings() }).unwrap();
    let target = Target::parse(&format!("http://{address}/"), egress.rules()).unwrap();
    let error = egress.send(Request::new(Method::POST, target)).await.unwrap_err();
    assert_eq!(error, EgressError::ConnectionLost);
    task.await.unwrap();
}

async fn reset_in_the_body(socket: TcpStream) {
    socket.set_zero_linger().unwrap();
    let mut peer: Peer = Box::new(socket);
    read_request(&mut peer).await;
    peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
}

#[tokio::test]
async fn what_is_not_http_is_not_an_answer() {
    for answer in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "<html>\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 99999 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        assert_eq!(outcome_of(answer).await.unwrap_err(), EgressError::NotHttp, "{answer}");
    }
}

// === TLS ===

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_by_name() {
    let (root, stranger) = (Root::new(), Root::new());
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for (tls, fault) in [
        (root.server(["other.example.com"]), TlsFault::Name),
        (root.server(["127.0.0.2"]), TlsFault::Name),
        (root.expired(), TlsFault::Expired),
        (stranger.server(["127.0.0.1"]), TlsFault::Issuer),
        (self_signed(), TlsFault::Issuer),
    ] {
        let server = Server::answering(Some(tls), answer).await;
        let error = call(root.settings(), &server, "https").await.unwrap_err();
        assert_eq!(error, EgressError::Tls(fault));
        assert!(!error.may_have_been_sent() && !error.is_retryable());
        assert_eq!(server.connections(), 1, "it is not tried again");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_called_over_https() {
    let root = Root::new();
    let server = Server::start(None, |mut peer: Peer| async move {
        let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        read_request(&mut peer).await;
    })
    .await;
    let error = call(root.settings(), &server, "https").await.unwrap_err();
    assert_eq!(error, EgressError::Tls(TlsFault::Handshake));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unreachable() {
    let root = Root::new();
    let server = Server::answering(None, "").await;
    let (danger, url) = (server.danger(), server.url("https", "/"));
    drop(server);
    let egress = Egress::new(&Settings { danger, ..root.settings() }).unwrap();
    let target = Target::parse(&url, egress.rules()).unwrap();
    let error = egress.send(Request::new(Method::GET, target)).await.unwrap_err();
    assert_eq!(error, EgressError::Unreachable);
    assert!(error.is_retryable() && !error.may_have_been_sent());
}

#[test]
fn roots_that_are_none_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |path: &std::path::Path| Settings { roots: Some(path.to_owned()), ..Settings::default() };
    for settings in [with(file.path()), with(&file.path().join("nothing"))] {
        assert!(matches!(Egress::new(&settings), Err(SettingsError::Roots { .. })));
    }
}
