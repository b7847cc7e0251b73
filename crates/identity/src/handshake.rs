use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{InvalidMessage, PeerIncompatible};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::corked::Corked;
use crate::tls::ALPN;
use crate::{MtlsStream, Peer, Refusal};

/// Does one handshake, and reads who the peer is.
pub(crate) async fn accept(
    tls: &TlsAcceptor,
    socket: TcpStream,
    address: SocketAddr,
) -> Result<MtlsStream, HandshakeError> {
    // Answers are small and awaited; without this each could wait for the client's delayed ACK.
    socket.set_nodelay(true).map_err(|_| HandshakeError::ConnectionLost)?;
    let stream = tls.accept(Corked::new(socket)).await.map_err(HandshakeError::from_io)?;
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::Alpn);
    }
    let leaf = connection.peer_certificates().and_then(<[_]>::first).ok_or(HandshakeError::NoCertificate)?;
    let peer = Peer::read(leaf, address).map_err(HandshakeError::Refused)?;
    Ok(MtlsStream::new(stream, Arc::new(peer)))
}

/// Why a connection did not come about.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// It took too long.
    TimedOut,
    /// The connection broke.
    ConnectionLost,
    /// The client sent more than the TLS library keeps for one handshake message, 64 KiB.
    FlightTooLarge,
    /// Not HTTP/2.
    Alpn,
    /// No client certificate.
    NoCertificate,
    /// A client certificate that is not accepted.
    Refused(Refusal),
    /// Not TLS as we speak it.
    Tls(rustls::Error),
}

impl HandshakeError {
    fn from_io(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            Ok(rustls::Error::NoApplicationProtocol) => Self::Alpn,
            Ok(rustls::Error::InvalidMessage(
                InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge,
            )) => Self::FlightTooLarge,
            Ok(error) => Refusal::find(&error).map_or(Self::Tls(error), Self::Refused),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Self::FlightTooLarge,
            Err(_) => Self::ConnectionLost,
        }
    }

    /// The reason as the log has it. Stable, and never a word of the peer's.
    fn reason(&self) -> &'static str {
        use rustls::Error;
        match self {
            Self::TimedOut => "timed_out",
            Self::ConnectionLost => "connection_lost",
            Self::FlightTooLarge => "flight_too_large",
            Self::Alpn => "alpn_not_h2",
            Self::NoCertificate => "no_certificate",
            Self::Refused(refusal) => refusal.reason(),
            Self::Tls(Error::AlertReceived(_)) => "client_gave_up",
            Self::Tls(Error::PeerIncompatible(why)) => match why {
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired => "tls_version",
                _ => "tls_incompatible",
            },
            Self::Tls(Error::InvalidCertificate(_)) => "proof_of_key_wrong",
            Self::Tls(_) => "not_tls",
        }
    }

    /// A refused certificate is news for the operator; the rest is the noise of any open port.
    pub(crate) fn log(&self, address: SocketAddr) {
        let reason = self.reason();
        match self {
            Self::NoCertificate | Self::Refused(_) => {
                tracing::info!(peer_address = %address, reason, "workload refused");
            }
            _ => tracing::debug!(peer_address = %address, reason, "handshake failed"),
        }
    }
}
