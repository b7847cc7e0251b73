use std::fmt;
use std::sync::Arc;

use crate::Invalid;

/// The name of a trust domain: 1 to 255 characters of a-z, 0-9, `.`, `-`, `_` (SPIFFE-ID, section 2.1).
///
/// Compared byte for byte; nothing is normalised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a trust domain's name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if (1..=255).contains(&text.len()) && text.bytes().all(inside) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid("a trust domain must be 1 to 255 characters of a-z, 0-9 and .-_"))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload, `spiffe://<trust domain>/<path>` (SPIFFE-ID, section 2).
///
/// Stricter than RFC 3986 wherever the two could differ: no percent-encoding, no empty or dot segment,
/// scheme and trust domain in lower case, and always a path, since the bare trust domain names no workload.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// The longest id, in bytes (SPIFFE-ID, section 2.3).
    pub const MAX_LEN: usize = 2048;

    /// Reads a SPIFFE ID.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (trust_domain, path) = split_spiffe(text)?;
        if path.split('/').all(is_segment) {
            Ok(Self { text: text.into(), trust_domain: TrustDomain::parse(trust_domain)? })
        } else {
            Err(Invalid(
                "every path segment of a SPIFFE ID must be characters of A-Z, a-z, 0-9 and .-_, and not . or ..",
            ))
        }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain whose authority must have signed it.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits into trust domain and path, the path without its first slash.
fn split_spiffe(text: &str) -> Result<(&str, &str), Invalid> {
    if text.len() > SpiffeId::MAX_LEN {
        return Err(Invalid("a SPIFFE ID must be at most 2048 bytes"));
    }
    let rest = text.strip_prefix("spiffe://").ok_or(Invalid("a SPIFFE ID must begin with spiffe://"))?;
    rest.split_once('/').ok_or(Invalid("a SPIFFE ID must have a path that names the workload"))
}

fn is_segment(segment: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(inside)
}

/// The process on the other end of mTLS, as its certificate names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadId {
    /// Named by the one URI SAN of its certificate.
    Spiffe(SpiffeId),
    /// Named by a DNS SAN that the policy lists; written `dns:<name>`.
    Dns(Arc<str>),
}

impl WorkloadId {
    /// Reads a workload's identity: a SPIFFE ID, or `dns:` and a host name in lower case.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text.strip_prefix("dns:") {
            None => SpiffeId::parse(text).map(Self::Spiffe),
            Some(name) if is_dns_name(name) => Ok(Self::Dns(name.into())),
            Some(_) => {
                Err(Invalid("must be dns: and a host name in lower case, such as dns:gateway.example.com"))
            }
        }
    }
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => f.write_str(id.as_str()),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

impl fmt::Debug for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which workloads: an identity in which `*` stands for exactly one whole path segment.
///
/// `spiffe://td/ns/*` covers `spiffe://td/ns/a`, but neither `spiffe://td/ns` nor `spiffe://td/ns/a/b`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadPattern(Arc<str>);

impl WorkloadPattern {
    /// Reads a pattern: a workload's identity whose path segments may be `*`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.starts_with("dns:") {
            WorkloadId::parse(text)?;
            return Ok(Self(text.into()));
        }
        let (trust_domain, path) = split_spiffe(text)?;
        TrustDomain::parse(trust_domain)?;
        if path.split('/').all(|segment| segment == "*" || is_segment(segment)) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid(
                "must be a SPIFFE ID whose path segments are names or a single *, such as spiffe://td/ns/*",
            ))
        }
    }

    /// Whether the pattern covers a workload.
    pub fn covers(&self, workload: &WorkloadId) -> bool {
        let id = match workload {
            WorkloadId::Spiffe(id) => id,
            WorkloadId::Dns(name) => return self.0.strip_prefix("dns:") == Some(name),
        };
        let mut pattern = self.0.split('/');
        let mut actual = id.as_str().split('/');
        loop {
            match (pattern.next(), actual.next()) {
                (None, None) => return true,
                (Some(expected), Some(found)) if expected == "*" || expected == found => {}
                _ => return false,
            }
        }
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WorkloadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
