use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::Refusal;
use crate::target::split_port;

/// The longest name in its text form (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// The longest label.
const MAX_LABEL: usize = 63;

/// The host of a URL: a name in lower case, or an address in its canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, in lower case, without a final dot.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// Reads a host as a URL has it, an IPv6 address in brackets. Nothing is repaired but the case of letters.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.to_ascii_lowercase();
        if let Some(rest) = text.strip_prefix('[') {
            return rest.strip_suffix(']').ok_or(Refusal::AddressSpelling).and_then(parse_ipv6);
        }
        if text.len() > MAX_NAME || !text.split('.').all(is_label) {
            return Err(Refusal::HostName);
        }
        if text.rsplit('.').next().is_some_and(looks_numeric) {
            return parse_ipv4(&text);
        }
        judge_a_labels(&text)?;
        Ok(Self::Name(text))
    }

    /// The host of a URL that was refused, for the log: if it is plainly one, and nothing else of the URL. A single word
    /// is none: it may be anything that was pasted in the wrong place.
    pub fn of_refused(url: &str) -> Option<Self> {
        let (_, rest) = url.split_once("://")?;
        let authority =
            rest.split(['/', '?', '#', '\\']).next().filter(|authority| !authority.contains('@'))?;
        let host = Self::parse(split_port(authority).ok()?.0).ok()?;
        (!matches!(&host, Self::Name(name) if !name.contains('.'))).then_some(host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Letters, digits and hyphens, with no hyphen at either end (RFC 1123, section 2.1).
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether a last label makes parsers read the host as an IPv4 address (WHATWG URL, "ends in a number").
fn looks_numeric(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
        || label.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn parse_ipv4(text: &str) -> Result<Host, Refusal> {
    let address: Ipv4Addr = text.parse().map_err(|_| Refusal::AddressSpelling)?;
    if address.to_string() != text {
        return Err(Refusal::AddressSpelling);
    }
    Ok(Host::Address(address.into()))
}

fn parse_ipv6(text: &str) -> Result<Host, Refusal> {
    let address: Ipv6Addr = text.parse().map_err(|_| Refusal::AddressSpelling)?;
    if address.to_string() != text {
        return Err(Refusal::AddressSpelling);
    }
    Ok(Host::Address(address.into()))
}

/// Holds the `xn--` labels to the form that encoding their names would give (RFC 5891, section 5.4), each by
/// itself and all together: names that mix writing directions are valid or not as a whole (RFC 5893).
fn judge_a_labels(name: &str) -> Result<(), Refusal> {
    let mut a_labels = name.split('.').filter(|label| label.starts_with("xn--")).peekable();
    if a_labels.peek().is_none() {
        return Ok(());
    }
    let good =
        a_labels.all(|label| is_canonical(label, Hyphens::Check)) && is_canonical(name, Hyphens::Allow);
    good.then_some(()).ok_or(Refusal::InternationalName)
}

fn is_canonical(text: &str, hyphens: Hyphens) -> bool {
    let canonical = Uts46::new().to_ascii(text.as_bytes(), AsciiDenyList::STD3, hyphens, DnsLength::Verify);
    canonical.is_ok_and(|canonical| canonical == text)
}
