//! The baseline: a bare tonic server that does nothing but answer, over the same TLS as ours.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tower::Service;

use crate::Outcome;
use crate::report::say;

/// Prints its address, and serves until the standard input ends: whoever started it has gone.
pub(crate) async fn serve(dir: &Path) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&listener.local_addr()?.to_string());
    let (gone, parent_gone) = oneshot::channel();
    std::thread::spawn(move || {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        gone.send(()).ok();
    });
    tokio::select! {
        served = answer(listener, dir) => served,
        _ = parent_gone => Ok(()),
    }
}

async fn answer(listener: TcpListener, dir: &Path) -> Outcome<()> {
    let (accepted, incoming) = mpsc::channel(16);
    tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls(dir)?)), accepted));
    Server::builder()
        .max_concurrent_streams(1_024)
        .add_service(Echo { answer: fs::read(dir.join("answer"))?.into() })
        .serve_with_incoming(ReceiverStream::new(incoming))
        .await?;
    Ok(())
}

type Accepted = io::Result<TlsStream<TcpStream>>;

async fn accept(listener: TcpListener, tls: TlsAcceptor, accepted: mpsc::Sender<Accepted>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            tcp.set_nodelay(true).ok();
            if let Ok(stream) = tls.accept(tcp).await {
                accepted.send(Ok(stream)).await.ok();
            }
        });
    }
}

/// As `keyholder_identity::server_config` has it, with the library's own verifier: TLS 1.3, a client certificate
/// always, no resumption.
fn tls(dir: &Path) -> Outcome<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(dir.join("ca.pem"))? {
        roots.add(root?)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = CertificateDer::pem_file_iter(dir.join("server.pem"))?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(dir.join("server-key.pem"))?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Answers every call with the same message.
#[derive(Clone)]
struct Echo {
    answer: Bytes,
}

impl NamedService for Echo {
    const NAME: &'static str = "keyholder.v1.GrantService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move { Ok(Grpc::new(Plain).unary(method, request).await) })
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.answer.clone())))
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use keyholder_domain::{Clock as _, SystemClock};
    use keyholder_proto::v1::ResolveCredentialResponse;
    use keyholder_testkit::pki::DevPki;

    use super::*;
    use crate::wire::{Connection, PREFIX, framed};

    #[tokio::test]
    async fn the_baseline_answers_with_the_bytes_it_was_given_and_only_over_mtls() {
        let dir = tempfile::tempdir().unwrap();
        let pki = DevPki::ensure(dir.path(), SystemClock.now()).unwrap();
        // More than one frame of HTTP/2.
        let message = ResolveCredentialResponse { provider_id: "demo".repeat(10_000), ..Default::default() };
        let wanted = framed(&message);
        fs::write(dir.path().join("answer"), &wanted[PREFIX..]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = dir.path().to_owned();
        tokio::spawn(async move { answer(listener, &folder).await });
        for connection in Connection::open(address, &pki, "gateway", 2).await.unwrap() {
            assert_eq!(connection.call(framed(&message)).await.unwrap(), wanted);
        }
        let stranger = tempfile::tempdir().unwrap();
        let other = DevPki::ensure(stranger.path(), SystemClock.now()).unwrap();
        assert!(Connection::open(address, &other, "gateway", 1).await.is_err());
    }
}
