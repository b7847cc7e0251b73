//! Opening connections: to vetted addresses, and to nothing else. No other module opens a socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::vet::Vetted;
use crate::{EgressError, Refusal, Settings, SettingsError, Target, tls};

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
        target: &Target,
        vetted: &Vetted,
    ) -> Result<(Box<dyn Stream>, SocketAddr), EgressError> {
        let deadline = Instant::now() + self.deadline;
        let (socket, peer) = self.connect(vetted, deadline).await?;
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
        vetted: &Vetted,
        deadline: Instant,
    ) -> Result<(TcpStream, SocketAddr), EgressError> {
        let candidates = order(vetted.addresses());
        let mut outcome = EgressError::Unreachable;
        for (tried, address) in candidates.iter().enumerate() {
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

/// Whether an address is one of this machine's: a second one of an interface and a whole local range too. Asks the
/// system alone; no packet is sent.
pub(crate) fn is_own(address: IpAddr) -> bool {
    // Only to an own address can a socket be bound, unless the system permits any (`ip_nonlocal_bind`).
    let stranger: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::new(203, 0, 113, 203).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let binds = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    (binds(address) && !binds(stranger)) || source_of(address).is_ok_and(|source| source == address)
}

/// From which address a packet to another would come. To an interface's first one, it comes from there.
fn source_of(address: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip())
}
