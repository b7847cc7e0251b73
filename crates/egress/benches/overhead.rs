//! What the gate costs: requests per second and latency of egress, against a bare hyper connection for each
//! worker, to the same local TLS server. The two take turns; the ratio of one turn is what to look at.
//!
//! `cargo bench -p keyholder-egress` prints a table. It asserts nothing: machines differ.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyholder_egress::{Egress, Request, Settings, Target};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const TURNS: usize = 5;
const TURN: Duration = Duration::from_secs(1);

/// The size of a token's answer.
const BODY: usize = 1024;

type Sender = http1::SendRequest<Empty<Bytes>>;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let stage = Stage::new().await;
        println!(
            "in flight | bare req/s | egress req/s | ratio (of each turn)          | bare p50 | egress p50"
        );
        for workers in [1, 16, 64] {
            stage.compare(workers).await;
        }
    });
}

struct Stage {
    address: SocketAddr,
    connector: TlsConnector,
    egress: Egress,
}

/// What a turn came to.
#[derive(Clone, Copy)]
struct Turn {
    per_second: f64,
    median: Duration,
}

impl Stage {
    async fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "root of a bench");
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
        let address = serve(&root).await;
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), root.pem()).expect("a file to write to");
        let settings = Settings {
            roots: Some(file.path().to_owned()),
            danger: vec![format!("localhost:{}", address.port()).parse().expect("a host and port")],
            ..Settings::default()
        };
        let egress = Egress::new(&settings).expect("good settings");
        Self { address, connector: connector(root.der()), egress }
    }

    async fn compare(&self, workers: usize) {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            bare.push(self.bare(workers).await);
            ours.push(self.ours(workers).await);
        }
        let ratios: Vec<_> =
            bare.iter().zip(&ours).map(|(bare, ours)| ours.per_second / bare.per_second).collect();
        let shown: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        let (bare, ours) = (middle(bare), middle(ours));
        println!(
            "{workers:9} | {:10.0} | {:12.0} | {:29} | {:8.0?} | {:8.0?}",
            bare.per_second,
            ours.per_second,
            shown.join(" "),
            bare.median,
            ours.median
        );
    }

    /// One connection for each worker, and nothing but hyper.
    async fn bare(&self, workers: usize) -> Turn {
        let mut senders = Vec::new();
        for _ in 0..workers {
            senders.push(self.connect().await);
        }
        let runs = senders.into_iter().map(|mut sender| {
            timed(async move || {
                sender.ready().await.expect("an open connection");
                ask(&mut sender).await;
            })
        });
        collect(runs).await
    }

    async fn ours(&self, workers: usize) -> Turn {
        let url = format!("https://localhost:{}/token", self.address.port());
        let target = Target::parse(&url, self.egress.rules()).expect("a good URL");
        let runs = (0..workers).map(|_| {
            let (egress, target) = (self.egress.clone(), target.clone());
            timed(async move || {
                let response =
                    egress.send(Request::new(Method::GET, target.clone())).await.expect("an answer");
                assert_eq!(response.body.len(), BODY);
            })
        });
        collect(runs).await
    }

    async fn connect(&self) -> Sender {
        let socket = TcpStream::connect(self.address).await.expect("a server");
        socket.set_nodelay(true).expect("an open socket");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = self.connector.connect(name, socket).await.expect("a good certificate");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender
    }
}

async fn ask(sender: &mut Sender) {
    let request =
        http::Request::get("/token").header("host", "localhost").body(Empty::new()).expect("a good request");
    let response = sender.send_request(request).await.expect("an answer");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body.len(), BODY);
}

/// Calls again and again for one turn, and returns how long each took.
async fn timed(mut call: impl AsyncFnMut()) -> Vec<Duration> {
    let (start, mut laps) = (Instant::now(), Vec::new());
    while start.elapsed() < TURN {
        let lap = Instant::now();
        call().await;
        laps.push(lap.elapsed());
    }
    laps
}

async fn collect(runs: impl IntoIterator<Item = impl Future<Output = Vec<Duration>>>) -> Turn {
    let start = Instant::now();
    let mut runs: Vec<_> = runs.into_iter().map(Box::pin).collect();
    let mut laps: Vec<Duration> = join(&mut runs).await;
    let per_second = laps.len() as f64 / start.elapsed().as_secs_f64();
    laps.sort_unstable();
    Turn { per_second, median: laps[laps.len() / 2] }
}

/// All workers on one task, for both sides alike.
async fn join<F: Future<Output = Vec<Duration>> + Unpin>(runs: &mut [F]) -> Vec<Duration> {
    futures::future::join_all(runs).await.concat()
}

fn middle(mut turns: Vec<Turn>) -> Turn {
    turns.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    turns[turns.len() / 2]
}

// === The server ===

async fn serve(root: &CertifiedIssuer<'static, KeyPair>) -> SocketAddr {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, root).expect("a certificate").der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            builder.with_no_client_auth().with_single_cert(vec![certificate], key)
        })
        .expect("a good configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { drop(answer(acceptor, socket).await) });
        }
    });
    address
}

async fn answer(acceptor: TlsAcceptor, socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut stream = acceptor.accept(socket).await?;
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    let mut buffer = Vec::with_capacity(4096);
    loop {
        buffer.clear();
        while !buffer.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        stream.write_all(&answer).await?;
        stream.flush().await?;
    }
}

fn connector(root: &CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
