//! What one caller may take of the server.

use keyholder_proto::v1;
use prost::Message as _;
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
