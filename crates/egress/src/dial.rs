//! Opening connections: to vetted addresses, and to nothing else. No other module opens a socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::vet::Vetted;
use crate::{EgressError, Refusal, Rules, Settings, SettingsError, Target, tls};

/// How many of a host's addresses are tried.
const TRIES: usize = 4;

/// Bytes in and out, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections.
pub(crate) struct Dialer {
    tls: TlsConnector,
    deadline: Duration,
    #[cfg(test)]
    pub(crate) tap: crate::tests::tap::Tap,
}

impl Dialer {
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls::client_config(settings)?)),
            deadline: settings.deadlines.connect,
            #[cfg(test)]
            tap: crate::tests::tap::Tap::default(),
        })
    }

    /// Connects to one of the vetted addresses, and does the TLS handshake under the target's own name.
    pub(crate) async fn dial(
        &self,
        rules: &Rules,
        target: &Target,
        vetted: &Vetted,
    ) -> Result<(Box<dyn Stream>, SocketAddr), EgressError> {
        let deadline = Instant::now() + self.deadline;
        let (socket, peer) = self.connect(rules, vetted, deadline).await?;
        if !target.is_encrypted() {
            return Ok((Box::new(socket), peer));
        }
        let name = tls::server_name(target.host())?;
        match timeout_at(deadline, self.tls.connect(name, socket)).await {
            Ok(Ok(stream)) => Ok((Box::new(stream), peer)),
            Ok(Err(error)) => Err(tls::fault(&error)),
            Err(_) => Err(EgressError::ConnectTimedOut),
        }
    }

    /// Tries the addresses one after the other, each for its share of the time that is left.
    async fn connect(
        &self,
        rules: &Rules,
        vetted: &Vetted,
        deadline: Instant,
    ) -> Result<(TcpStream, SocketAddr), EgressError> {
        let candidates = order(vetted.addresses());
        let mut outcome = EgressError::Unreachable;
        for (tried, address) in candidates.iter().enumerate() {
            if rules.listens_everywhere_at(address.port()) && is_own(*address) {
                return Err(Refusal::OwnAddress.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(candidates.len() - tried).unwrap_or(1);
            match timeout(share, self.open(*address)).await {
                Ok(Ok((socket, peer))) if peer == *address => return Ok((socket, peer)),
                Ok(Ok(_)) => return Err(Refusal::PeerChanged.into()),
                Ok(Err(_)) => outcome = EgressError::Unreachable,
                Err(_) => outcome = EgressError::ConnectTimedOut,
            }
        }
        Err(outcome)
    }

    /// Opens a socket, and says whom it is connected to.
    async fn open(&self, address: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
        #[cfg(test)]
        let (address, tap) = (self.tap.reroute(address), address);
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let peer = socket.peer_addr()?;
        #[cfg(test)]
        let peer = self.tap.peer(peer, tap);
        Ok((socket, peer))
    }
}

/// Alternates between the families, IPv4 first, so that a host is found although one of them leads nowhere.
fn order(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(SocketAddr::is_ipv4);
    let longest = v4.len().max(v6.len());
    (0..longest).flat_map(|at| [v4.get(at), v6.get(at)]).flatten().copied().take(TRIES).collect()
}

/// Whether an address is one of this machine's: then a packet to it would come from it. None is sent.
fn is_own(address: SocketAddr) -> bool {
    let local = |unspecified: &str| {
        let socket = UdpSocket::bind((unspecified, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    local(if address.is_ipv4() { "0.0.0.0" } else { "::" }).is_ok_and(|local| local.ip() == address.ip())
}
