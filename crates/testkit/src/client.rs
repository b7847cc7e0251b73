//! A gRPC channel over mutual TLS, as a workload would open it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint, Uri};

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A PEM file cannot be read.
    #[error("a PEM file cannot be read")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// A certificate or key cannot be used.
    #[error("a certificate or key cannot be used")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The server cannot be reached.
    #[error("the server cannot be reached")]
    Connect(#[from] tonic::transport::Error),
}

/// Opens a channel to a server on this machine. The first call connects it, so the server may yet be starting.
///
/// The server must show a certificate of `authority` for `localhost`; we show `certificate`.
pub fn channel(
    server: SocketAddr,
    authority: &Path,
    certificate: &Path,
    key: &Path,
) -> Result<Channel, ClientError> {
    Ok(channel_with(server, config(authority, certificate, key)?))
}

/// TLS as [`channel`] speaks it.
pub fn config(authority: &Path, certificate: &Path, key: &Path) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(authority)? {
        roots.add(root?)?;
    }
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Opens a channel with a TLS configuration of the caller's making.
pub fn channel_with(server: SocketAddr, config: ClientConfig) -> Channel {
    let connector = TlsConnector::from(Arc::new(config));
    // The scheme is http because the TLS is ours: the library would refuse https without its own.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(server).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").expect("a host name");
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    }))
}
