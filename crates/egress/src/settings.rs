use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::target::{parse_port, split_port};
use crate::{Cidr, Host};

/// What the operator decides about calls to the outside: the table `[egress]`.
///
/// The default is for production: public addresses, ports 443 and 8443, the system's name servers and
/// root certificates. Whatever is set here can be wrong; [`crate::Egress::new`] says so.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Private ranges that may be called. Loopback, link-local, metadata, multicast and the like stay closed
    /// even if a range here has them.
    pub allow_cidrs: Vec<Cidr>,
    /// Ranges that may not be called although they are public, such as a NAT64 prefix of the site's own.
    /// They win over `allow_cidrs`.
    pub deny_cidrs: Vec<Cidr>,
    /// Ports that may be called, besides 443 and 8443.
    pub extra_ports: Vec<u16>,
    /// Name servers, as `ip:port`. None: those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// A PEM file of root certificates, in place of the system's.
    pub roots: Option<PathBuf>,
    /// Addresses at which Keyholder can be reached, such as a load balancer's. Never called. The server adds
    /// those that it listens at.
    pub self_addresses: Vec<SelfAddress>,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// How much may be sent back, and how much may go on at once.
    pub limits: Limits,
    /// The entries of `[danger]`. Not part of this table, so that nobody gets them by accident.
    #[serde(skip)]
    pub danger: Vec<HostPort>,
}

/// How long a call, and each part of it, may take. In the settings, milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// The whole call, from resolving to the last byte: 10 s.
    #[serde(rename = "total_ms", deserialize_with = "milliseconds")]
    pub total: Duration,
    /// Resolving the host's name: 3 s.
    #[serde(rename = "resolve_ms", deserialize_with = "milliseconds")]
    pub resolve: Duration,
    /// Connecting, TLS included: 3 s.
    #[serde(rename = "connect_ms", deserialize_with = "milliseconds")]
    pub connect: Duration,
    /// From the start of sending to the end of the answer's headers: 3 s.
    #[serde(rename = "first_byte_ms", deserialize_with = "milliseconds")]
    pub first_byte: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let [total, resolve, connect, first_byte] = [10, 3, 3, 3].map(Duration::from_secs);
        Self { total, resolve, connect, first_byte }
    }
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u32::deserialize(deserializer).map(|milliseconds| Duration::from_millis(milliseconds.into()))
}

/// How much an answer may hold, and how much may go on at once.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest body of an answer, in bytes: 1 MiB.
    pub body_bytes: usize,
    /// The calls that may be under way at once: 256. One more is turned away.
    pub calls: usize,
    /// The same, to one host and port: 64, so that a slow host leaves room for others.
    pub calls_per_host: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes: 1024 * 1024, calls: 256, calls_per_host: 64 }
    }
}

/// The table `[danger]`, as far as it is about calls: for development and tests.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Danger {
    /// Exact `host:port` pairs that may be called in the clear, at a local name, and on loopback.
    pub egress: Vec<HostPort>,
}

/// A host and its port, such as `127.0.0.1:9000`, `[::1]:9000` or `localhost:9000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    host: Host,
    port: u16,
}

impl HostPort {
    pub(crate) fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }
}

impl FromStr for HostPort {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let parse = || {
            let (host, port) = split_port(text).ok()?;
            Some(Self { host: Host::parse(host).ok()?, port: parse_port(port?).ok()? })
        };
        parse().ok_or_else(|| SettingsError::HostPort(text.to_owned()))
    }
}

impl TryFrom<String> for HostPort {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        text.parse()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An address at which Keyholder can be reached: all ports of it (`192.0.2.1`), or one (`192.0.2.1:443`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SelfAddress {
    ip: IpAddr,
    port: Option<u16>,
}

impl SelfAddress {
    pub(crate) fn is(&self, ip: IpAddr, port: u16) -> bool {
        self.ip == ip && self.port.is_none_or(|own| own == port)
    }

    /// Whether it stands for one port at every address of this machine, as a listener at `0.0.0.0` does.
    pub(crate) fn is_everywhere_at(&self, port: u16) -> bool {
        self.ip.is_unspecified() && self.port.is_none_or(|own| own == port)
    }
}

impl From<IpAddr> for SelfAddress {
    fn from(ip: IpAddr) -> Self {
        Self { ip, port: None }
    }
}

impl From<SocketAddr> for SelfAddress {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: Some(address.port()) }
    }
}

impl TryFrom<String> for SelfAddress {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        let ip = text.parse::<IpAddr>().map(Self::from);
        ip.or_else(|_| text.parse::<SocketAddr>().map(Self::from))
            .map_err(|_| SettingsError::SelfAddress(text))
    }
}

/// The settings are wrong. Nothing is called.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not a range of addresses.
    #[error("{0:?} is not a range of addresses such as 10.20.0.0/16, with the network's own address")]
    Range(String),
    /// Not a host and port.
    #[error("{0:?} is not an exact host and port such as 127.0.0.1:9000")]
    HostPort(String),
    /// Not an address.
    #[error("{0:?} is neither an IP address nor one with a port")]
    SelfAddress(String),
    /// Port 0.
    #[error("extra_ports: 0 is not a port")]
    Port,
    /// A deadline or a limit that lets nothing through.
    #[error("{0} must be greater than 0")]
    Zero(&'static str),
    /// The system's name servers cannot be read.
    #[error("the system's name servers cannot be read; set nameservers")]
    Nameservers(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file of root certificates cannot be read, or has none.
    #[error("{}: is not a PEM file of root certificates", file.display())]
    Roots {
        /// The file.
        file: PathBuf,
        /// Why not; nothing if it has none.
        source: Option<rustls_pki_types::pem::Error>,
    },
    /// The system has no root certificates.
    #[error("the system has no root certificates; install them, or set roots")]
    NoSystemRoots,
    /// The TLS library refuses its configuration.
    #[error("the TLS configuration is refused")]
    Tls(#[source] rustls::Error),
}
