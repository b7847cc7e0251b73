//! A provider on this machine: HTTPS, and an answer for each key.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyholder_domain::{Clock as _, SystemClock};
use keyholder_testkit::pki::{Authority, LeafRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use crate::harness::eventually;

/// A provider that runs until it is dropped.
pub(crate) struct Provider {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How many requests came.
    requests: Arc<AtomicUsize>,
    /// The head of the last one.
    last: Arc<Mutex<String>>,
    /// Whether answers to requests that come now are held, and whether those that are go on being held.
    held: watch::Sender<(bool, bool)>,
    stop: tokio::task::JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.abort();
    }
}

impl Provider {
    /// Starts a provider whose certificate is for `localhost`.
    pub(crate) fn start(authority: &Authority) -> Self {
        let leaf = LeafRequest::dns("localhost", SystemClock.now()).unwrap();
        let issued = authority.issue(leaf).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(issued.chain(), issued.key())
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let held = watch::Sender::new((false, false));
        let (requests, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let stop = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(tls)),
            Arc::clone(&requests),
            Arc::clone(&last),
            held.clone(),
        ));
        Self { address, requests, last, held, stop }
    }

    /// Holds the answers to requests with a key that has `held` in it.
    pub(crate) fn hold(&self) {
        self.held.send_replace((true, true));
    }

    /// Answers requests that come from now on; what is held stays so.
    pub(crate) fn hold_no_more(&self) {
        self.held.send_replace((false, true));
    }

    /// Lets all answers go.
    pub(crate) fn release(&self) {
        self.held.send_replace((false, false));
    }

    /// Waits until so many requests have come.
    pub(crate) fn wait_for_requests(&self, number: usize) {
        eventually("the requests", || (self.requests() >= number).then_some(()));
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The head of the last request.
    pub(crate) fn last_request(&self) -> String {
        self.last.lock().unwrap().clone()
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    requests: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
    held: watch::Sender<(bool, bool)>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, requests, last) = (tls.clone(), Arc::clone(&requests), Arc::clone(&last));
        let mut held = held.subscribe();
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(tcp).await else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    return;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let answer = answer(&head);
            let waits = head.contains("held") && held.borrow().0;
            *last.lock().unwrap() = head;
            requests.fetch_add(1, Ordering::SeqCst);
            if waits && held.wait_for(|(_, held)| !held).await.is_err() {
                return;
            }
            // The client may be gone; that is its test's business.
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        });
    }
}

fn answer(head: &str) -> String {
    let (status, headers, body) = match () {
        () if head.contains("sk-good") => {
            ("200 OK", "", r#"{"id":"account-7","name":"Ada","email":"ada@example.org"}"#)
        }
        () if head.contains("sk-echo") => {
            ("200 OK", "", r#"{"id":"sk-echo-7","name":"the key sk-echo-7","email":"ada@example.org"}"#)
        }
        () if head.contains("sk-dead") => ("401 Unauthorized", "", r#"{"error":"PROVIDER-TEXT sk-dead"}"#),
        () if head.contains("sk-forbidden") => ("403 Forbidden", "", "PROVIDER-TEXT"),
        () if head.contains("sk-limited") => ("429 Too Many Requests", "Retry-After: 7\r\n", "PROVIDER-TEXT"),
        () if head.contains("sk-broken") => ("500 Internal Server Error", "", "PROVIDER-TEXT"),
        () if head.contains("sk-redirect") => {
            ("302 Found", "Location: https://127.0.0.1/\r\n", "PROVIDER-TEXT")
        }
        () => ("418 I'm a teapot", "", "PROVIDER-TEXT"),
    };
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
