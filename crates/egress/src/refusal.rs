/// Declares [`Refusal`]: each variant with its label and its sentence, so that none can lack one.
macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $reason:literal: $sentence:literal,)+) => {
        /// Why an address is not called. The address is at fault, or what its owner answered; never the
        /// network.
        ///
        /// Holds nothing that came from outside, so that it can be shown and logged as it is. Its text is a
        /// sentence for the person who typed the address, without a capital and a full stop.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Refusal {
            $($(#[doc = $doc])+ #[error($sentence)] $variant,)+
        }

        impl Refusal {
            /// Every reason there is, in the order in which `docs/egress.md` lists them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The reason as logs and metrics have it. Stable: dashboards and alarms rely on it.
            pub const fn reason(self) -> &'static str {
                match self {
                    $(Self::$variant => $reason,)+
                }
            }

            /// The sentence for the person who typed the address.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => $sentence,)+
                }
            }
        }
    };
}

refusals! {
    // === The text ===
    /// Longer than 2048 bytes.
    TooLong = "too_long": "the URL is longer than 2048 bytes",
    /// A control character, a space, or anything outside ASCII.
    Characters = "characters":
        "the URL may have visible ASCII characters only; write an international name in its xn-- form",
    /// A backslash, which parsers read in different ways.
    Backslash = "backslash": "the URL has a backslash; use forward slashes",
    /// A `%` that is not followed by two hexadecimal digits, or that stands for a control character.
    Escape = "escape": "the URL has a % that is not followed by two hexadecimal digits of a printable character",

    // === The form ===
    /// Not `scheme://host…`.
    NotAbsolute = "not_absolute": "the URL must be complete: https://, a host, then the path",
    /// A scheme other than `https`, or `http` where no `[danger]` entry permits it.
    Scheme = "scheme": "the URL must begin with https://",
    /// `user:password@`, even an empty one.
    UserInfo = "user_info": "the URL has an @ before its host; put credentials into their own fields",
    /// A `#` and what follows it (RFC 6749, section 3.2).
    Fragment = "fragment": "the URL has a #fragment; remove it",
    /// The path has a character that RFC 3986 does not permit there, a `.` or `..` segment, or is missing
    /// before a query.
    Path = "path":
        "the path or query has a character that must be percent-encoded, a . or .. segment, or a ? without a path",

    // === The host ===
    /// Not letters, digits and hyphens in labels of 1 to 63 characters, or longer than 253.
    HostName = "host_name": "the host is not a valid name of letters, digits, hyphens and dots",
    /// A label that begins with `xn--` and is not the canonical form of a name.
    InternationalName = "international_name": "the host has an xn-- label that does not decode to a valid name",
    /// An address in any spelling but the canonical one: octal, hexadecimal, short, padded, zoned.
    AddressSpelling = "address_spelling":
        "the host looks like an IP address in an unusual spelling; write it in its usual form",
    /// A name without a dot.
    SingleLabel = "single_label": "the host is a single word; write the complete name",
    /// A name of a private or local zone, such as `localhost`, `.internal` or `.svc`; also as the target of an
    /// alias.
    LocalName = "local_name": "the host, or a name that it is an alias of, belongs to a private or local zone",
    /// Not a plain decimal port from 1 to 65535.
    PortSyntax = "port_syntax": "the port must be a plain number from 1 to 65535",
    /// A port that is neither 443 nor 8443 nor one that the operator added.
    Port = "port": "the port is not permitted; use 443 or 8443, or ask the operator to add it",

    // === The address ===
    /// The name exists and has no address, or does not exist.
    NoAddress = "no_address": "the host has no address; check the spelling",
    /// More addresses than an honest host has, or a longer chain of aliases.
    TooManyAddresses = "too_many_addresses": "the host has more addresses or aliases than are checked",
    /// `127.0.0.0/8`, `::1`.
    Loopback = "loopback": "the host's address is the machine's own",
    /// `0.0.0.0/8`, `::`.
    Unspecified = "unspecified": "the host's address means this network, not a host",
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal = "link_local": "the host's address is link-local",
    /// The addresses at which clouds serve their machines' credentials.
    CloudMetadata = "cloud_metadata": "the host's address is that of a cloud's metadata service",
    /// `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16`.
    Private = "private": "the host's address is private; the operator can open its range",
    /// `100.64.0.0/10` (RFC 6598).
    Shared = "shared": "the host's address is a carrier's shared one; the operator can open its range",
    /// `fc00::/7`.
    UniqueLocal = "unique_local": "the host's address is a private IPv6 one; the operator can open its range",
    /// `198.18.0.0/15`.
    Benchmarking = "benchmarking": "the host's address is reserved for benchmarks; the operator can open its range",
    /// `192.0.2.0/24`, `198.51.100.0/24`, `203.0.113.0/24`, `2001:db8::/32`, `3fff::/20`.
    Documentation = "documentation": "the host's address is reserved for documentation",
    /// `192.0.0.0/24`, `192.88.99.0/24`, what is left of `2001::/23`.
    SpecialPurpose = "special_purpose": "the host's address serves a special purpose of the internet's protocols",
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast = "multicast": "the host's address is that of a group, not of a host",
    /// `240.0.0.0/4`, and IPv6 outside `2000::/3` that has no name of its own here.
    Reserved = "reserved": "the host's address is reserved",
    /// An IPv6 address that carries an IPv4 address: mapped, compatible, translated, NAT64, 6to4, Teredo,
    /// ISATAP.
    EmbedsIpv4 = "embeds_ipv4": "the host's IPv6 address carries an IPv4 address; use the IPv4 address",
    /// An address in a range that the operator closed.
    Closed = "closed": "the operator has closed the range of the host's address",
    /// An address at which Keyholder itself listens.
    OwnAddress = "own_address": "the host's address is Keyholder's own",

    // === The call ===
    /// The socket is connected to another address than the one that was checked.
    PeerChanged = "peer_changed": "the connection went to another address than the one that was checked",
    /// A redirect in answer to a request with a secret. None is ever followed.
    Redirect = "redirect": "the host answers with a redirect; enter the URL that it redirects to",
}

impl Refusal {
    /// Whether the same URL may be accepted later without anyone changing it. Only a name without an address
    /// may: it can be new.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::NoAddress)
    }
}
