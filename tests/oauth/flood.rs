//! Strangers at the pages: whatever they bring costs a look and nothing else.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use keyholder_proto::v1::AuthorizationState;
use keyholder_testkit::browser::Browser;
use tokio::net::TcpSocket;

use super::world::{OAuth, browser_with, free_port, text, with_parameters};
use crate::harness::eventually;

/// How many strange requests come.
const FLOOD: usize = 100_000;

/// From how many connections at once.
const STRANGERS: usize = 8;

/// How many requests a stranger sends before they look at the answers.
const AT_ONCE: usize = 25;

/// How much memory a server may keep after the flood that it did not have before, in KiB.
const MEMORY: u64 = 48 * 1024;

/// The number of the next transaction that writes anything at all: a transaction that only reads gets none.
fn next_write(oauth: &OAuth) -> String {
    oauth.world.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())")
}

fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Sends requests for targets, `AT_ONCE` at a time, and returns the statuses of the answers, each once.
fn ask(address: SocketAddr, targets: impl Iterator<Item = String>) -> Vec<u16> {
    let targets: Vec<String> = targets.collect();
    let mut statuses = Vec::new();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        (stream.try_clone().unwrap(), BufReader::new(stream))
    };
    let (mut to, mut from) = connect();
    for batch in targets.chunks(AT_ONCE) {
        let head = |target: &String| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut left: Vec<String> = batch.iter().map(head).collect();
        while !left.is_empty() {
            // A connection takes no more requests after a while: then another one is opened.
            to.write_all(left.concat().as_bytes()).ok();
            while !left.is_empty() {
                let Some(status) = answer(&mut from) else { break };
                left.remove(0);
                statuses.push(status);
            }
            if !left.is_empty() {
                (to, from) = connect();
            }
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn answer(from: &mut impl std::io::BufRead) -> Option<u16> {
    let mut line = String::new();
    if from.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    Some(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_a_hundred_thousand_strange_callbacks_write_nothing_and_leave_nothing_behind() {
    let oauth = OAuth::start();
    // What Postgres tidies up by itself counts as writing, too.
    oauth.world.sql("ALTER SYSTEM SET autovacuum = off");
    oauth.world.sql("SELECT pg_reload_conf()");
    // And so does the refresher, which notes now and then how far the database has come, unless it is frozen.
    oauth
        .world
        .sql("UPDATE installation SET frozen_time = clock_timestamp(), frozen_reason = 'DATABASE_MOVED'");
    let listen = format!("127.0.0.1:{}", free_port());
    // Of its own: it writes less into its log than others in tests.
    let flooded = oauth
        .world
        .server_with("flooded", &[("KEYHOLDER_WEB__LISTEN", &listen), ("KEYHOLDER_LOG__LEVEL", "info")]);
    let address: SocketAddr = listen.parse().unwrap();
    let state_of = async |owner: &str| {
        let begun = oauth.begin(owner).await;
        let url = oauth.answer_for(&mut Browser::new(), &begun).await;
        (begun, url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned())
    };
    let (expired, expired_state) = state_of("user:eve").await;
    oauth.world.sql("UPDATE authorizations SET expire_time = clock_timestamp()");
    oauth.failure(&expired).await;
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    browser.get(url.as_str()).await.unwrap();
    let used = url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let (waiting, waiting_state) = state_of("user:bob").await;

    let target = move |number: usize| match number % 8 {
        0 => format!("/oauth/callback/demo?code=c&state={used}"),
        1 => format!("/oauth/callback/demo?code=c&state={expired_state}"),
        2 => format!("/oauth/callback/demo?code=c&state={waiting_state}"),
        3 => format!("/oauth/callback/other?error=access_denied&state={waiting_state}"),
        4 => format!("/oauth/callback/demo?code={number}"),
        5 => format!("/connect/{number:043}"),
        _ => format!("/oauth/callback/demo?code=c&state={number:043}&iss=x"),
    };
    let flood = |from: usize, many: usize| {
        let threads: Vec<_> = (0..STRANGERS)
            .map(|stranger| {
                let target = target.clone();
                let numbers = (from + stranger..from + many).step_by(STRANGERS);
                std::thread::spawn(move || ask(address, numbers.map(target)))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<std::collections::BTreeSet<u16>>()
    };
    flood(0, FLOOD / 10);
    let before = next_write(&oauth);
    let memory_before = memory(flooded.child.id());
    let statuses = flood(FLOOD, FLOOD);
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [400, 403, 404]);
    let memory_after = memory(flooded.child.id());
    assert!(memory_after < memory_before + MEMORY, "{memory_before} {memory_after}");
    assert_eq!(next_write(&oauth), before, "nothing was written");
    assert_eq!(oauth.authorization(&waiting).await.state(), AuthorizationState::Pending);
    let begun = oauth.begin("user:ada").await;
    let path = begun.authorization_url.strip_prefix(&oauth.web).unwrap();
    let page = Browser::new().get_once(&format!("http://{listen}{path}")).await.unwrap();
    assert_eq!(page.status.unwrap().as_u16(), 303, "it still answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_no_story_tells_a_stranger_what_there_is() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let done = oauth.begin("user:bob").await;
    let mut other = Browser::new();
    let used = oauth.answer_for(&mut other, &done).await;
    other.get(used.as_str()).await.unwrap();
    // Nobody guesses 256 bits; whoever has them without the browser hears the same of every flow.
    let mut stories = std::collections::BTreeSet::new();
    for url in [&url, &used] {
        let page = Browser::new().get(url.as_str()).await.unwrap();
        stories.insert((page.status.unwrap().as_u16(), text(&page)));
    }
    assert_eq!(stories.len(), 1, "{stories:?}");
    let mut unknown = std::collections::BTreeSet::new();
    for state in ["x", &"y".repeat(43), &"z".repeat(16_000), "é\u{0}\r\n"] {
        let forged = with_parameters(&url, |pairs| {
            pairs
                .iter_mut()
                .filter(|(name, _)| name == "state")
                .for_each(|(_, value)| *value = state.to_owned());
        });
        let page = browser_with(&oauth.cookie(&browser)).get(&forged).await.unwrap();
        unknown.insert((page.status.unwrap().as_u16(), text(&page)));
    }
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    oauth.assert_no_token_call_for(1);
}

impl OAuth {
    fn assert_no_token_call_for(&self, flows: u64) {
        assert_eq!(self.provider.counts().token_calls, flows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_parameters_that_are_too_long_are_not_read() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let long = format!("{url}&x={}", "x".repeat(32 * 1024));
    assert_eq!(browser.get(&long).await.unwrap().status.unwrap().as_u16(), 400);
    let address: SocketAddr = oauth.web.trim_start_matches("http://").parse().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {}&x={} HTTP/1.1\r\nHost: x\r\n\r\n", url.path(), "x".repeat(1024 * 1024));
    // It may be cut off before it has sent, or read, everything.
    stream.write_all(head.as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    let pairs: String = (0..5_000).map(|number| format!("&p{number}=1")).collect();
    assert_eq!(browser.get(&format!("{url}{pairs}")).await.unwrap().status.unwrap().as_u16(), 400);
    oauth.assert_no_token_call();
    assert_eq!(browser.get(url.as_str()).await.unwrap().status.unwrap().as_u16(), 200, "nothing was used up");
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_slow_strangers_leave_room_for_others() {
    let oauth = OAuth::start();
    let address: SocketAddr = oauth.web.trim_start_matches("http://").parse().unwrap();
    let mut slow = Vec::new();
    for _ in 0..700 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let stream = socket.connect(address).await.unwrap();
        stream.try_write(b"GET /connect/x HTTP/1.1\r\nHost: ").ok();
        slow.push(stream);
    }
    let closed = || {
        let is_closed = |stream: &tokio::net::TcpStream| match stream.try_read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        };
        slow.iter().filter(|stream| is_closed(stream)).count()
    };
    eventually("strangers who are turned away", || (closed() >= 700 - 512).then_some(()));
    oauth.connect("user:ada").await;
}
