//! What one caller may take of the server.

use std::sync::Arc;

use keyholder_proto::v1;
use keyholder_testkit::client;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;

use crate::callers::raw;
use crate::harness::{ACME, World, assert_refused, eventually};

/// How many bytes the health and the reflection service read.
const QUESTION: usize = 8 * 1024;

/// How many watchers one process feeds.
const WATCHERS: usize = 512;

/// A request of health or reflection, padded with an unknown field to a number of bytes.
fn padded(mut message: Vec<u8>, length: usize) -> Vec<u8> {
    // Field 100, length-delimited, the length in two bytes.
    message.extend([0xa2, 0x06]);
    let rest = length - message.len() - 2;
    prost::encoding::encode_varint(rest as u64, &mut message);
    message.resize(length, b'x');
    message
}

#[tokio::test]
async fn health_and_reflection_read_no_question_beyond_8_kib() {
    let world = World::start();
    let channel = world.channel("auditor");
    let check = HealthCheckRequest::default().encode_to_vec();
    let watch = check.clone();
    // list_services of server reflection: field 7.
    let list = vec![0x3a, 0x01, b'*'];
    for (path, message) in [
        ("/grpc.health.v1.Health/Check", check),
        ("/grpc.health.v1.Health/Watch", watch),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", list.clone()),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", list),
    ] {
        let answer = raw::call(&channel, path, padded(message.clone(), QUESTION)).await;
        assert!(answer.is_ok_and(|answer| !answer.is_empty()), "{path} at the limit");
        let beyond = raw::call(&channel, path, padded(message, QUESTION + 1)).await;
        if path.contains("Reflection") {
            // The library under it ends the stream without a word.
            assert!(beyond.is_ok_and(|answer| answer.is_empty()), "{path} beyond the limit");
        } else {
            assert_refused(beyond, Code::InvalidArgument, "REQUEST_TOO_LARGE");
        }
    }
}

#[tokio::test]
async fn one_watcher_more_than_a_process_feeds_is_refused_until_another_has_gone() {
    let world = World::start();
    let mut console = world.connections();
    let request = || v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feeds = Vec::new();
    for _ in 0..WATCHERS {
        feeds.push(console.watch_connections(request()).await.unwrap());
    }
    let refused: Result<_, Status> = console.watch_connections(request()).await;
    let refused = assert_refused(refused.map(drop), Code::ResourceExhausted, "RATE_LIMITED");
    let delay = tonic_types::StatusExt::get_details_retry_info(&refused).unwrap().retry_delay;
    assert!(delay.is_some_and(|delay| !delay.is_zero()));
    // Others are not held up.
    let list = v1::ListConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    console.list_connections(list).await.unwrap();

    feeds.pop();
    let runtime = tokio::runtime::Handle::current();
    let again = tokio::task::spawn_blocking(move || {
        eventually("a free place", || runtime.block_on(console.watch_connections(request())).ok())
    });
    drop(again.await.unwrap());
    drop(feeds);
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn many_calls_that_are_cancelled_at_once_do_not_end_the_connection_of_all_others() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let world = World::start();
    let (certificate, key) = world.certificate("gateway");
    let config = client::config(&world.dir.path().join("ca.pem"), &certificate, &key).unwrap();
    let tcp = TcpStream::connect(world.server.grpc).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    // POST and https are in the static table (RFC 7541, appendix A), where 4 is the path and 1 the authority.
    let literal =
        |start: &[u8], text: &str| [start, &[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let path = literal(&[0x04], "/keyholder.v1.GrantService/ResolveCredential");
    let headers = [&[0x83, 0x87][..], &path, &literal(&[0x01], "localhost")].concat();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &[]));
    for number in 0..200 {
        sent.extend(frame(HEADERS, 4, 2 * number + 1, &headers));
        sent.extend(frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    sent.extend(frame(PING, 0, 0, b"alive?  "));
    stream.write_all(&sent).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("the connection is there");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], GOAWAY, "{}", String::from_utf8_lossy(&payload));
        if head[3] == PING && head[4] == 1 {
            break;
        }
    }
}
