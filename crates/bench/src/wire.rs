//! A gRPC client that costs little: HTTP/2 over mutual TLS, with requests that are ready to be sent. The same one asks
//! the server and the baseline.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use keyholder_testkit::pki::DevPki;
use prost::Message;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Outcome;

/// The call that is measured.
const PATH: &str = "http://localhost/keyholder.v1.GrantService/ResolveCredential";

/// How much a connection takes before it says that it has: no answer waits for that.
const WINDOW: u32 = 16 << 20;

/// How a message begins on the wire: not compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// A connection to a server.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    uri: Uri,
    headers: HeaderMap,
}

impl Connection {
    /// Opens connections to a server, as a workload.
    pub(crate) async fn open(
        server: SocketAddr,
        pki: &DevPki,
        workload: &str,
        number: usize,
    ) -> Outcome<Vec<Self>> {
        let connector = TlsConnector::from(Arc::new(tls(pki, workload)?));
        let mut opened = Vec::new();
        for _ in 0..number {
            let tcp = TcpStream::connect(server).await?;
            tcp.set_nodelay(true)?;
            let stream = connector.connect(ServerName::try_from("localhost")?, tcp).await?;
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
            let (sender, connection) = builder.handshake(stream).await?;
            // Its end is seen by whoever calls next.
            tokio::spawn(async move { connection.await.ok() });
            let headers = [("content-type", "application/grpc"), ("te", "trailers")]
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
                .into_iter()
                .collect();
            opened.push(Self { sender, uri: Uri::from_static(PATH), headers });
        }
        Ok(opened)
    }

    /// Sends a request, made by [`framed`], and returns the answer, still framed.
    pub(crate) async fn call(&self, request: Bytes) -> Outcome<Bytes> {
        let mut sender = self.sender.clone().ready().await?;
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = self.uri.clone();
        *head.headers_mut() = self.headers.clone();
        let (answer, mut stream) = sender.send_request(head, false)?;
        stream.send_data(request, true)?;
        let answer = answer.await?;
        // A refusal has no body, and says why in the head.
        check(answer.headers())?;
        let mut body = answer.into_body();
        let mut received = Bytes::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            received = if received.is_empty() { piece } else { [received, piece].concat().into() };
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        check(&trailers)?;
        if trailers.get("grpc-status").is_none() || received.len() <= PREFIX {
            return Err("an answer that is none".into());
        }
        Ok(received)
    }
}

fn check(headers: &HeaderMap) -> Outcome<()> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            Err(format!("refused: {status:?} {:?}", headers.get("grpc-message")).into())
        }
        _ => Ok(()),
    }
}

/// A message as it goes on the wire.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a small message"));
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}

fn tls(pki: &DevPki, workload: &str) -> Outcome<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(pki.certificate("ca"))? {
        roots.add(root?)?;
    }
    let chain = CertificateDer::pem_file_iter(pki.certificate(workload))?.collect::<Result<_, _>>()?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(pki.key(workload))?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use keyholder_proto::v1::ResolveCredentialRequest;

    use super::*;

    #[test]
    fn a_message_goes_behind_its_length() {
        let request = ResolveCredentialRequest { organization_id: "acme".to_owned(), ..Default::default() };
        let bytes = framed(&request);
        assert_eq!(bytes[..PREFIX], [0, 0, 0, 0, 6]);
        assert_eq!(ResolveCredentialRequest::decode(&bytes[PREFIX..]).unwrap(), request);
    }

    #[test]
    fn a_status_that_is_not_good_is_a_failure() {
        let status = |status| HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status)]);
        assert!(check(&status(HeaderValue::from_static("0"))).is_ok());
        assert!(check(&status(HeaderValue::from_static("14"))).is_err());
        assert!(check(&HeaderMap::new()).is_ok());
    }
}
