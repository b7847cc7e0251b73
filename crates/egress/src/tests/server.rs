//! An HTTPS server on loopback that does what a test tells it, down to the bytes, and the certificates it
//! needs.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::dial::Stream;
use crate::{HostPort, Settings};

pub(super) type Peer = Box<dyn Stream>;
type Done = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A root, and its file.
pub(super) struct Root {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Root {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "root of a test");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// Settings that trust this root.
    pub(super) fn settings(&self) -> Settings {
        Settings { roots: Some(self.file.path().to_owned()), ..Settings::default() }
    }

    /// A server's configuration, with a certificate for these names and addresses.
    pub(super) fn server<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) -> Arc<ServerConfig> {
        self.sign(CertificateParams::new(names.into_iter().map(Into::into).collect::<Vec<_>>()).unwrap())
    }

    pub(super) fn expired(&self) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        server_config(certificate.der().clone(), &key)
    }
}

pub(super) fn self_signed() -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    server_config(params.self_signed(&key).unwrap().der().clone(), &key)
}

fn server_config(certificate: rustls_pki_types::CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

/// A server that lives as long as this does.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server; `None` is one without TLS.
    pub(super) async fn start<F, D>(tls: Option<Arc<ServerConfig>>, behave: F) -> Self
    where
        F: Fn(Peer) -> D + Send + Sync + 'static,
        D: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let behave: Arc<dyn Fn(Peer) -> Done + Send + Sync> = Arc::new(move |peer| Box::pin(behave(peer)));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, tls.map(TlsAcceptor::from), behave, connections.clone()));
        Self { address, connections, _tasks: tasks }
    }

    /// A server that answers every request with the same bytes.
    pub(super) async fn answering(tls: Option<Arc<ServerConfig>>, answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<Vec<u8>> = Arc::new(answer.into());
        Self::start(tls, move |mut peer| {
            let answer = answer.clone();
            async move {
                while read_request(&mut peer).await.is_some() {
                    if peer.write_all(&answer).await.is_err() || peer.flush().await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// How many connections it has seen.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The `[danger]` entry that lets it be called.
    pub(super) fn danger(&self) -> Vec<HostPort> {
        vec![self.address.to_string().parse().unwrap()]
    }

    pub(super) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.address)
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    behave: Arc<dyn Fn(Peer) -> Done + Send + Sync>,
    connections: Arc<AtomicUsize>,
) {
    let mut tasks = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        connections.fetch_add(1, Ordering::SeqCst);
        let (tls, behave) = (tls.clone(), behave.clone());
        tasks.spawn(async move {
            match tls {
                None => behave(Box::new(socket)).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        behave(Box::new(stream)).await;
                    }
                }
            }
        });
    }
}

/// Reads a request, its body too, and returns its head; nothing if the peer is gone.
pub(super) async fn read_request(peer: &mut Peer) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    peer.read_exact(&mut body).await.ok()?;
    Some(head)
}
