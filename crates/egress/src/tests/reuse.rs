//! A connection is used again, where the vetting allows it.

use http::Method;
use tokio::io::AsyncWriteExt as _;

use super::dns::{NameServer, Reply};
use super::server::{Root, Server, read_request};
use super::tap::Tap;
use crate::{Egress, EgressError, Refusal, Request, Settings, Target};

struct Stage {
    names: NameServer,
    server: Server,
    egress: Egress,
    tap: Tap,
}

impl Stage {
    async fn new(answer: &str) -> Self {
        let root = Root::new();
        let names = NameServer::start().await;
        let server = Server::answering(Some(root.server(["a.example.com", "b.example.com"])), answer).await;
        let settings = Settings { nameservers: vec![names.address], ..root.settings() };
        let tap = Tap::leading_to(server.address);
        let egress = Egress::tapped(&settings, tap.clone());
        Self { names, server, egress, tap }
    }

    async fn call(&self, url: &str) -> Result<u16, EgressError> {
        let target = Target::parse(url, self.egress.rules()).unwrap();
        Ok(self.egress.send(Request::new(Method::GET, target)).await?.status.as_u16())
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let stage = Stage::new(OK).await;
    stage.names.say_otherwise(Reply::records(["93.184.216.34"]));
    for _ in 0..5 {
        assert_eq!(stage.call("https://a.example.com/").await, Ok(200));
    }
    assert_eq!((stage.server.connections(), stage.tap.dialled().len()), (1, 1));
    assert_eq!(stage.names.asked("a.example.com"), 5, "each request is vetted");
}

#[tokio::test]
async fn a_connection_to_an_address_that_was_not_vetted_for_this_request_stays_unused() {
    let stage = Stage::new(OK).await;
    let turns =
        [&["93.184.216.34"][..], &["93.184.216.35"], &["10.0.0.1", "93.184.216.34"], &["93.184.216.34"]];
    let turns = turns.map(|turn| turn.iter().map(|address| (*address).to_owned()).collect());
    stage.names.say("a.example.com", Reply::Records(turns.to_vec()));
    assert_eq!(stage.call("https://a.example.com/").await, Ok(200));
    assert_eq!(stage.call("https://a.example.com/").await, Ok(200));
    assert_eq!(stage.server.connections(), 2, "it moved");
    assert_eq!(stage.call("https://a.example.com/").await, Err(Refusal::Private.into()));
    assert_eq!(stage.server.connections(), 2, "an open connection does not excuse it");
    assert_eq!(stage.call("https://a.example.com/").await, Ok(200));
    assert_eq!(stage.server.connections(), 2, "it came back, and so did its connection");
}

#[tokio::test]
async fn a_connection_serves_no_other_host_and_port() {
    let stage = Stage::new(OK).await;
    stage.names.say_otherwise(Reply::records(["93.184.216.34"]));
    for url in ["https://a.example.com/", "https://b.example.com/", "https://a.example.com:8443/"] {
        assert_eq!(stage.call(url).await, Ok(200));
    }
    assert_eq!(stage.server.connections(), 3);
}

#[tokio::test]
async fn a_connection_that_the_host_closes_is_not_kept() {
    let stage = Stage::new("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").await;
    stage.names.say_otherwise(Reply::records(["93.184.216.34"]));
    for _ in 0..3 {
        assert_eq!(stage.call("https://a.example.com/").await, Ok(200));
    }
    assert_eq!((stage.server.connections(), stage.egress.inner().pool.waiting()), (3, 0));
}

#[tokio::test]
async fn an_answer_that_is_not_read_to_its_end_leaves_no_connection() {
    let stage = Stage::new("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 2\r\n\r\n{}").await;
    stage.names.say_otherwise(Reply::records(["93.184.216.34"]));
    assert_eq!(stage.call("https://a.example.com/").await, Err(Refusal::Redirect.into()));
    assert_eq!(stage.egress.inner().pool.waiting(), 0);
}

/// The host closes without a word: the next request is vetted and sent anew, and nobody notices.
#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let root = Root::new();
    let names = NameServer::start().await;
    names.say_otherwise(Reply::records(["93.184.216.34"]));
    let (closed, mut closings) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(Some(root.server(["a.example.com"])), move |mut peer| {
        let closed = closed.clone();
        async move {
            read_request(&mut peer).await;
            peer.write_all(OK.as_bytes()).await.unwrap();
            peer.shutdown().await.unwrap();
            drop(peer);
            closed.send(()).unwrap();
        }
    })
    .await;
    let settings = Settings { nameservers: vec![names.address], ..root.settings() };
    let egress = Egress::tapped(&settings, Tap::leading_to(server.address));
    let target = Target::parse("https://a.example.com/", egress.rules()).unwrap();
    for _ in 0..3 {
        let response = egress.send(Request::new(Method::GET, target.clone())).await.unwrap();
        assert_eq!(response.status, 200);
        closings.recv().await.unwrap();
    }
    assert_eq!(server.connections(), 3);
}
