//! One browser's connection, bounded in everything: it reads slowly, sends slowly or says nothing at its own cost.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long things may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// A request's head, from the end of the answer before it.
    pub(super) head: Duration,
    /// All requests together. A browser simply opens another connection.
    pub(super) requests: Duration,
    /// The last answer after that.
    pub(super) answer: Duration,
}

/// The longest head of a request, in bytes.
const MAX_HEAD_LEN: usize = 64 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve<I>(stream: I, pages: Router, patience: Patience)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(pages);
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.head).max_buf_size(MAX_HEAD_LEN);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = match tokio::time::timeout(patience.requests, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            // What it does not take by then, it does not want.
            tokio::time::timeout(patience.answer, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a browser's connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    fn line(buffer: usize) -> (DuplexStream, JoinHandle<()>) {
        let (browser, ours) = duplex(buffer);
        let pages = Router::new().fallback(async || "x".repeat(8 * 1024));
        let soon = Duration::from_millis(200);
        let patience = Patience { head: soon, requests: 2 * soon, answer: soon };
        (browser, tokio::spawn(serve(ours, pages, patience)))
    }

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[tokio::test]
    async fn a_browser_that_says_nothing_is_let_go() {
        let (_browser, served) = line(64 * 1024);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_browser_that_says_nothing_more_is_let_go() {
        let (mut browser, served) = line(64 * 1024);
        browser.write_all(ASK).await.unwrap();
        served.await.unwrap();
        let mut answer = String::new();
        browser.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "it was answered first");
    }

    #[tokio::test]
    async fn a_browser_that_does_not_finish_its_request_is_let_go() {
        let (mut browser, served) = line(64 * 1024);
        browser.write_all(b"GET / HTTP/1.1\r\nHost: x").await.unwrap();
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_browser_that_never_reads_is_let_go() {
        let (mut browser, served) = line(1024);
        // It asks and asks, and takes no answer.
        let asking = tokio::spawn(async move { while browser.write_all(ASK).await.is_ok() {} });
        served.await.unwrap();
        asking.await.unwrap();
    }

    #[tokio::test]
    async fn a_head_of_more_than_64_kib_is_not_read() {
        let (mut browser, served) = line(256 * 1024);
        let head = format!("GET /?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70 * 1024));
        browser.write_all(head.as_bytes()).await.unwrap();
        served.await.unwrap();
        let mut answer = String::new();
        browser.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}
