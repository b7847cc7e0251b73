//! Too much, too slow, too many.

use super::*;

// === Too much ===

#[tokio::test]
async fn a_body_may_have_a_mebibyte_and_not_a_byte_more() {
    let by_length = |length: usize| {
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        answer
    };
    let in_chunks = |length: usize| {
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        answer.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        answer.resize(answer.len() + length, b'x');
        answer.extend_from_slice(b"\r\n0\r\n\r\n");
        answer
    };
    assert_eq!(outcome_of(by_length(MIB)).await.unwrap().body.len(), MIB);
    assert_eq!(outcome_of(in_chunks(MIB)).await.unwrap().body.len(), MIB);
    assert_eq!(outcome_of(by_length(MIB + 1)).await.unwrap_err(), EgressError::BodyTooLarge);
    assert_eq!(outcome_of(in_chunks(MIB + 1)).await.unwrap_err(), EgressError::BodyTooLarge);
}

#[tokio::test]
async fn an_endless_body_is_read_to_the_limit() {
    let kilobytes = vec![b'x'; 64 * 1024];
    let chunk = [&b"10000\r\n"[..], &kilobytes, b"\r\n"].concat();
    let heads = [
        ("HTTP/1.1 200 OK\r\n\r\n", kilobytes.clone()),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunk),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n", kilobytes),
    ];
    for (head, again) in heads {
        let (error, sent) = endless(Settings::default(), head, again).await;
        assert_eq!(error, EgressError::BodyTooLarge, "{head}");
        assert!(sent < PLENTY, "{sent} bytes after {head}");
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_before_it_is_read() {
    for coding in ["gzip", "br", "zstd", "deflate", "x-gzip", "gzip, br", "identity, gzip", "unheard-of"] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\n\r\n");
        let (error, sent) = endless(Settings::default(), head.leak(), vec![0; 64 * 1024]).await;
        assert_eq!(error, EgressError::Encoded, "{coding}");
        assert!(sent < PLENTY, "{sent} bytes of {coding}");
    }
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    assert_eq!(outcome_of(answer).await.unwrap_err(), EgressError::Encoded);
}

#[tokio::test]
async fn endless_headers_are_read_to_the_limit() {
    for (first, again) in [
        ("HTTP/1.1 200 OK\r\n", b"a: b\r\n".repeat(4096)),
        ("HTTP/1.1 200 OK\r\na: ", vec![b'b'; 64 * 1024]),
        ("HTTP/1.1 200 ", vec![b'K'; 64 * 1024]),
        ("HTTP/1.1 200 OK\r\n", vec![b'n'; 64 * 1024]),
    ] {
        let (error, sent) = endless(Settings::default(), first, again).await;
        assert_eq!(error, EgressError::HeadersTooLarge, "{first}");
        assert!(sent < PLENTY, "{sent} bytes after {first}");
    }
}

#[tokio::test]
async fn a_million_headers_are_too_many_and_so_are_a_hundred_and_one() {
    let with = |count: usize| {
        let headers = "a: b\r\n".repeat(count - 1);
        format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n")
    };
    assert_eq!(outcome_of(with(1_000_000)).await.unwrap_err(), EgressError::HeadersTooLarge);
    assert_eq!(outcome_of(with(101)).await.unwrap_err(), EgressError::HeadersTooLarge);
    assert_eq!(outcome_of(with(100)).await.unwrap().headers.len(), 100);
}

#[tokio::test]
async fn a_storm_of_interim_answers_ends() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"] {
        let (error, sent) = endless(Settings::default(), "", interim.as_bytes().repeat(64)).await;
        assert_eq!(error, EgressError::HeadersTooLarge, "{interim}");
        assert!(sent < PLENTY, "{sent} bytes of {interim}");
    }
}

#[tokio::test]
async fn endless_chunk_extensions_and_trailers_end() {
    for first in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\na: ",
    ] {
        let (error, sent) = endless(Settings::default(), first, vec![b'x'; 64 * 1024]).await;
        assert!(matches!(error, EgressError::NotHttp | EgressError::HeadersTooLarge), "{error:?}");
        assert!(sent < PLENTY, "{sent} bytes after {first}");
    }
}

// === Too slow ===

#[tokio::test]
async fn headers_that_do_not_come_end_the_call() {
    let root = Root::new();
    for first in ["", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let server = stalling(&root, first).await;
        let deadlines = short(|deadlines| deadlines.first_byte = Duration::from_millis(100));
        let error = call(Settings { deadlines, ..root.settings() }, &server, "https").await.unwrap_err();
        assert_eq!(error, EgressError::FirstByteTimedOut);
        assert!(error.may_have_been_sent() && error.is_retryable());
    }
}

/// One byte, then silence: the deadline is on the whole, so each further byte would buy nothing.
#[tokio::test]
async fn a_body_that_does_not_end_ends_the_call() {
    let root = Root::new();
    for first in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
    ] {
        let server = stalling(&root, first).await;
        let deadlines = short(|deadlines| deadlines.total = Duration::from_millis(500));
        let error = call(Settings { deadlines, ..root.settings() }, &server, "https").await.unwrap_err();
        assert_eq!(error, EgressError::TimedOut);
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_ends_the_call() {
    let root = Root::new();
    let server = Server::start(None, |mut peer: Peer| async move {
        read_request(&mut peer).await;
    })
    .await;
    let deadlines = short(|deadlines| deadlines.connect = Duration::from_millis(100));
    let error = call(Settings { deadlines, ..root.settings() }, &server, "https").await.unwrap_err();
    assert_eq!(error, EgressError::ConnectTimedOut);
    assert!(!error.may_have_been_sent());
}

// === Too many ===

#[tokio::test]
async fn one_call_too_many_is_turned_away() {
    let root = Root::new();
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(None, move |mut peer: Peer| {
        let arrived = arrived.clone();
        async move {
            read_request(&mut peer).await;
            arrived.send(()).unwrap();
            read_request(&mut peer).await;
        }
    })
    .await;
    let mut settings = Settings { danger: server.danger(), ..root.settings() };
    settings.limits.calls_per_host = 2;
    let egress = Egress::new(&settings).unwrap();
    let target = Target::parse(&server.url("http", "/"), egress.rules()).unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (egress, request) = (egress.clone(), Request::new(Method::GET, target.clone()));
        calls.spawn(async move { egress.send(request).await });
        arrivals.recv().await.unwrap();
    }
    let refused = egress.send(Request::new(Method::GET, target.clone())).await.unwrap_err();
    assert_eq!(refused, EgressError::Busy);
    assert!(refused.is_retryable() && !refused.may_have_been_sent());
    calls.shutdown().await;
    calls.spawn(async move { egress.send(Request::new(Method::GET, target)).await });
    arrivals.recv().await.unwrap();
}

#[tokio::test]
async fn a_small_limit_is_a_limit_too() {
    let root = Root::new();
    let server = Server::answering(None, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").await;
    for (body_bytes, expected) in [(2, Err(EgressError::BodyTooLarge)), (3, Ok(3))] {
        let mut settings = root.settings();
        settings.limits.body_bytes = body_bytes;
        let outcome = call(settings, &server, "http").await;
        assert_eq!(outcome.map(|response| response.body.len()), expected);
    }
}

#[test]
fn settings_that_let_nothing_through_are_refused() {
    let root = Root::new();
    let spoil: [fn(&mut Settings); 8] = [
        |settings| settings.deadlines.total = Duration::ZERO,
        |settings| settings.deadlines.resolve = Duration::ZERO,
        |settings| settings.deadlines.connect = Duration::ZERO,
        |settings| settings.deadlines.first_byte = Duration::ZERO,
        |settings| settings.limits.body_bytes = 0,
        |settings| settings.limits.calls = 0,
        |settings| settings.limits.calls_per_host = 0,
        |settings| settings.extra_ports = vec![0],
    ];
    for spoil in spoil {
        let mut settings = root.settings();
        spoil(&mut settings);
        let outcome = Egress::new(&settings);
        assert!(matches!(outcome, Err(SettingsError::Zero(_) | SettingsError::Port)), "{settings:?}");
    }
}
