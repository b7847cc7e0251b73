//! A server that trusts what a test gives it, clients that show what a test gives them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use keyholder_domain::{Clock, Timestamp, TrustDomain};
use keyholder_identity::{
    CaBundle, HandshakeLimits, Incoming, MtlsStream, Policy, ServerCertificate, TrustStore, accept, incoming,
    server_config,
};
use keyholder_testkit::pki::{Authority, Issued, LeafRequest};
use rcgen::SanType;
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tempfile::TempDir;
use time::macros::datetime;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tracing::subscriber::DefaultGuard;

/// When every test begins.
pub(crate) const NOW: Timestamp = datetime!(2026-11-22 12:00 UTC);

/// A clock that a test moves.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn set(&self, now: Timestamp) {
        self.0.store(now.unix_timestamp(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_timestamp(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// A clock that stands at [`NOW`].
pub(crate) fn fixed_clock() -> Arc<TestClock> {
    Arc::new(TestClock(AtomicI64::new(NOW.unix_timestamp())))
}

/// Clients live in the tests' time, too.
#[derive(Debug)]
pub(crate) struct ClientTime;

impl TimeProvider for ClientTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(NOW.unix_timestamp().try_into().unwrap())))
    }
}

/// What the server is to trust.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    pub(crate) domains: Vec<(&'a str, &'a [&'a Authority])>,
    /// A bundle for the trust domain `td` that no authority of ours wrote.
    pub(crate) pem: Option<&'a str>,
    pub(crate) dns: Option<&'a Authority>,
    pub(crate) policy: &'a str,
    pub(crate) limits: HandshakeLimits,
}

/// A listening server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) incoming: Incoming,
    pub(crate) clock: Arc<TestClock>,
    /// The authority of the server's own certificate.
    pub(crate) own_root: Authority,
    log: Log,
    /// How much of the log [`Server::logged_reason`] has read.
    read: usize,
    _logging: DefaultGuard,
    _files: TempDir,
}

impl Server {
    /// A server that trusts one authority for the trust domain `td`.
    pub(crate) async fn trusting(authority: &Authority) -> Self {
        Self::start(Setup { domains: vec![("td", &[authority])], ..Setup::default() }).await
    }

    pub(crate) async fn trusting_pem(pem: &str) -> Self {
        Self::start(Setup { pem: Some(pem), ..Setup::default() }).await
    }

    pub(crate) async fn start(setup: Setup<'_>) -> Self {
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = files.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let own_root = Authority::root("server root", NOW).unwrap();
        let names = ["localhost", "elsewhere.example"];
        let names = names.map(|name| SanType::DnsName(name.try_into().unwrap())).to_vec();
        let own = own_root.issue(LeafRequest::new(names, NOW)).unwrap();
        let certificate =
            ServerCertificate::load(&write("server.pem", &own.pem()), &write("key.pem", &own.key_pem()))
                .unwrap();
        let mut trust = TrustStore::new();
        let bundles = setup.domains.into_iter().map(|(domain, authorities)| {
            (domain, authorities.iter().map(|authority| authority.pem()).collect::<String>())
        });
        for (domain, pem) in bundles.chain(setup.pem.map(|pem| ("td", pem.to_owned()))) {
            let bundle = CaBundle::load(&[write("bundle.pem", &pem)]).unwrap();
            trust.add_domain(TrustDomain::parse(domain).unwrap(), bundle).unwrap();
        }
        if let Some(authority) = setup.dns {
            trust.set_dns(CaBundle::load(&[write("dns.pem", authority.pem())]).unwrap());
        }
        let clock = fixed_clock();
        let config =
            server_config(certificate, trust, &policy(setup.policy), Arc::clone(&clock) as Arc<dyn Clock>)
                .unwrap();
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = incoming(accept(listener, 1).remove(0), config, setup.limits);
        Self { address, incoming, clock, own_root, log, read: 0, _logging: logging, _files: files }
    }

    /// A client that shows a certificate.
    pub(crate) fn client(&self, shown: &Issued) -> ClientConfig {
        self.client_with(shown.chain(), shown.key())
    }

    /// A client that shows any chain and signs with any key, whether they belong together or not.
    pub(crate) fn client_with(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> ClientConfig {
        let key = ring::default_provider().key_provider.load_private_key(key).unwrap();
        let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        h2(self.client_builder().with_client_cert_resolver(Arc::new(shown)))
    }

    /// A client that shows nothing.
    pub(crate) fn anonymous_client(&self) -> ClientConfig {
        h2(self.client_builder().with_no_client_auth())
    }

    fn client_builder(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.own_root.certificate().clone()).unwrap();
        ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(ClientTime))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
    }

    /// Connects with a certificate, and expects to be let in.
    pub(crate) async fn accept(&mut self, shown: &Issued) -> (MtlsStream, TlsStream<TcpStream>) {
        let client = self.client(shown);
        self.accept_client(Arc::new(client)).await
    }

    pub(crate) async fn accept_client(
        &mut self,
        client: Arc<ClientConfig>,
    ) -> (MtlsStream, TlsStream<TcpStream>) {
        let connecting = tokio::spawn(connect(self.address, client));
        tokio::select! {
            accepted = self.incoming.next() => (accepted.unwrap().unwrap(), connecting.await.unwrap().unwrap()),
            reason = next_reason(&self.log, &mut self.read) => panic!("refused: {reason}"),
        }
    }

    /// Connects with a certificate, expects to be refused, and returns the reason that the log has.
    pub(crate) async fn refuse(&mut self, shown: &Issued) -> String {
        let client = self.client(shown);
        self.refuse_client(client).await
    }

    pub(crate) async fn refuse_client(&mut self, client: ClientConfig) -> String {
        let trying = async {
            if let Ok(mut stream) = connect(self.address, Arc::new(client)).await {
                assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "the server sent data");
            }
            next_reason(&self.log, &mut self.read).await
        };
        tokio::select! {
            reason = trying => reason,
            _ = self.incoming.next() => panic!("accepted"),
        }
    }

    /// Waits for the next line that has a reason.
    pub(crate) async fn logged_reason(&mut self) -> String {
        next_reason(&self.log, &mut self.read).await
    }

    /// The whole log.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }
}

async fn next_reason(log: &Log, read: &mut usize) -> String {
    const REASON: &str = "\"reason\":\"";
    loop {
        let text = log.text();
        if let Some(found) = text[*read..].find(REASON) {
            let rest = &text[*read + found + REASON.len()..];
            *read = text.len();
            return rest.split('"').next().unwrap().to_owned();
        }
        tokio::task::yield_now().await;
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) async fn connect(
    address: SocketAddr,
    client: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    TlsConnector::from(client).connect("localhost".try_into().unwrap(), socket).await
}

fn h2(mut client: ClientConfig) -> ClientConfig {
    client.alpn_protocols = vec![b"h2".to_vec()];
    client
}

/// The policy of a configuration file.
pub(crate) fn policy(toml: &str) -> Policy {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        workload: Policy,
    }
    Figment::from(Toml::string(toml)).extract::<File>().unwrap().workload
}

/// An authority for the tests' time.
pub(crate) fn root(name: &str) -> Authority {
    Authority::root(name, NOW).unwrap()
}

/// A good leaf's request.
pub(crate) fn svid(id: &str) -> LeafRequest {
    LeafRequest::spiffe(id, NOW).unwrap()
}
