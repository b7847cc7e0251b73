use crate::{Refusal, ResolverFault};

/// A call did not come to an answer. See [`EgressError::reason`] for the labels.
///
/// Holds nothing that came from outside, so that it can be logged as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EgressError {
    /// The address may not be called, or the answer is one that is not accepted from it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The name servers' fault.
    #[error("{0}")]
    Resolver(#[from] ResolverFault),
    /// None of the host's addresses accepts a connection. The provider's fault, or the network's.
    #[error("the host does not accept the connection")]
    Unreachable,
    /// Connecting, or the TLS handshake, took too long.
    #[error("the host does not accept the connection in time")]
    ConnectTimedOut,
    /// The provider's certificate is not good.
    #[error("{0}")]
    Tls(#[from] TlsFault),
    /// The answer's headers did not come in time.
    #[error("the host does not begin to answer in time")]
    FirstByteTimedOut,
    /// The call as a whole took too long.
    #[error("the call takes too long")]
    TimedOut,
    /// The connection broke before the answer was complete.
    #[error("the connection broke before the answer was complete")]
    ConnectionLost,
    /// What came is not HTTP/1.1 as its standard has it.
    #[error("the answer is not valid HTTP/1.1")]
    NotHttp,
    /// Headers that are too large, too many, or preceded by too many interim answers.
    #[error("the answer's headers are too large")]
    HeadersTooLarge,
    /// A body beyond the limit.
    #[error("the answer is too large")]
    BodyTooLarge,
    /// A compressed body, which was not asked for, and is not unpacked.
    #[error("the answer is compressed, which was not asked for")]
    Encoded,
    /// As many calls are under way as may be, in all or to this host. Ours; try again.
    #[error("too many calls are under way")]
    Busy,
    /// A method or header that a caller may not set. Ours.
    #[error("the request has a method or header that is not the caller's to set")]
    Request,
}

/// What is wrong with a provider's side of TLS. Never retried without the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TlsFault {
    /// For another name.
    #[error("the host's certificate is for another name")]
    Name,
    /// Past its time, or not yet in it.
    #[error("the host's certificate has expired or is not valid yet")]
    Expired,
    /// Not signed by a root that is trusted here.
    #[error("the host's certificate is not signed by an authority that is trusted here")]
    Issuer,
    /// Wrong in another way.
    #[error("the host's certificate is not acceptable")]
    Certificate,
    /// No certificate came to be judged: no common version, or not TLS at all.
    #[error("the host does not speak TLS 1.2 or 1.3 as it should")]
    Handshake,
}

impl EgressError {
    /// Every error there is, in the order in which `docs/egress.md` lists them, after the refusals.
    pub const ALL: &[Self] = &[
        Self::Resolver(ResolverFault::Failed),
        Self::Resolver(ResolverFault::TimedOut),
        Self::Unreachable,
        Self::ConnectTimedOut,
        Self::Tls(TlsFault::Name),
        Self::Tls(TlsFault::Expired),
        Self::Tls(TlsFault::Issuer),
        Self::Tls(TlsFault::Certificate),
        Self::Tls(TlsFault::Handshake),
        Self::FirstByteTimedOut,
        Self::TimedOut,
        Self::ConnectionLost,
        Self::NotHttp,
        Self::HeadersTooLarge,
        Self::BodyTooLarge,
        Self::Encoded,
        Self::Busy,
        Self::Request,
    ];

    /// The reason as logs and metrics have it. Stable: dashboards and alarms rely on it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Resolver(fault) => fault.reason(),
            Self::Unreachable => "unreachable",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::Tls(TlsFault::Name) => "certificate_name",
            Self::Tls(TlsFault::Expired) => "certificate_expired",
            Self::Tls(TlsFault::Issuer) => "certificate_issuer",
            Self::Tls(TlsFault::Certificate) => "certificate_wrong",
            Self::Tls(TlsFault::Handshake) => "tls_handshake",
            Self::FirstByteTimedOut => "first_byte_timed_out",
            Self::TimedOut => "timed_out",
            Self::ConnectionLost => "connection_lost",
            Self::NotHttp => "not_http",
            Self::HeadersTooLarge => "headers_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::Encoded => "encoded",
            Self::Busy => "busy",
            Self::Request => "request",
        }
    }

    /// Whether the same call may succeed a little later without anyone changing anything. It does not say
    /// that sending it twice is harmless: see [`Self::may_have_been_sent`].
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Resolver(_)
            | Self::Unreachable
            | Self::ConnectTimedOut
            | Self::FirstByteTimedOut
            | Self::TimedOut
            | Self::ConnectionLost
            | Self::Busy => true,
            Self::Tls(_)
            | Self::NotHttp
            | Self::HeadersTooLarge
            | Self::BodyTooLarge
            | Self::Encoded
            | Self::Request => false,
        }
    }

    /// Whether the host may have acted on the request, such as by replacing a refresh token. Where nobody
    /// knows, it is `true`.
    pub const fn may_have_been_sent(self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal, Refusal::Redirect),
            Self::Resolver(_)
            | Self::Unreachable
            | Self::ConnectTimedOut
            | Self::Tls(_)
            | Self::Busy
            | Self::Request => false,
            Self::FirstByteTimedOut
            | Self::TimedOut
            | Self::ConnectionLost
            | Self::NotHttp
            | Self::HeadersTooLarge
            | Self::BodyTooLarge
            | Self::Encoded => true,
        }
    }
}
