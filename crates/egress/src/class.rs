//! What an address is for, by IANA's registries of special-purpose addresses and by what clouds do with
//! theirs.

use std::net::{IpAddr, Ipv6Addr};

use crate::{Cidr, Refusal};

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Reachable from anywhere. The only class that is called without anyone's permission.
    Global,
    /// The machine itself.
    Loopback,
    /// This network, or no address at all.
    Unspecified,
    /// The link that the machine is on.
    LinkLocal,
    /// A cloud's service for its own machines.
    CloudMetadata,
    /// Private, IPv4 (RFC 1918).
    Private,
    /// Shared by a carrier's customers (RFC 6598).
    Shared,
    /// Private, IPv6 (RFC 4193).
    UniqueLocal,
    /// For benchmarks (RFC 2544).
    Benchmarking,
    /// For documents (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// For the internet's own protocols.
    SpecialPurpose,
    /// For groups.
    Multicast,
    /// Reserved, or not given out.
    Reserved,
    /// IPv6 that carries an IPv4 address.
    EmbedsIpv4,
}

impl AddressClass {
    /// The class of an address.
    ///
    /// IPv6 outside `2000::/3` is never [`Self::Global`], whatever it will be used for in future.
    pub fn of(address: IpAddr) -> Self {
        let listed = RANGES.iter().find(|(range, _)| range.contains(address));
        match (listed, address) {
            (Some((_, class)), _) => *class,
            (None, IpAddr::V6(address)) if is_isatap(address) => Self::EmbedsIpv4,
            (None, IpAddr::V6(address)) if !GLOBAL_IPV6.contains(address.into()) => Self::Reserved,
            (None, _) => Self::Global,
        }
    }

    /// The class as logs and the command line have it: the refusal's label, or `global`.
    pub const fn label(self) -> &'static str {
        match self.refusal() {
            Some(refusal) => refusal.reason(),
            None => "global",
        }
    }

    /// Why such an address is not called; `None` for a global one.
    pub const fn refusal(self) -> Option<Refusal> {
        Some(match self {
            Self::Global => return None,
            Self::Loopback => Refusal::Loopback,
            Self::Unspecified => Refusal::Unspecified,
            Self::LinkLocal => Refusal::LinkLocal,
            Self::CloudMetadata => Refusal::CloudMetadata,
            Self::Private => Refusal::Private,
            Self::Shared => Refusal::Shared,
            Self::UniqueLocal => Refusal::UniqueLocal,
            Self::Benchmarking => Refusal::Benchmarking,
            Self::Documentation => Refusal::Documentation,
            Self::SpecialPurpose => Refusal::SpecialPurpose,
            Self::Multicast => Refusal::Multicast,
            Self::Reserved => Refusal::Reserved,
            Self::EmbedsIpv4 => Refusal::EmbedsIpv4,
        })
    }

    /// Whether an operator may open a range with such addresses. What serves the machine itself, its link or
    /// its cloud stays closed whatever the settings say.
    pub(crate) const fn may_be_opened(self) -> bool {
        match self {
            Self::Global | Self::Private | Self::Shared | Self::UniqueLocal | Self::Benchmarking => true,
            Self::Loopback
            | Self::Unspecified
            | Self::LinkLocal
            | Self::CloudMetadata
            | Self::Documentation
            | Self::SpecialPurpose
            | Self::Multicast
            | Self::Reserved
            | Self::EmbedsIpv4 => false,
        }
    }
}

/// What IANA gives out for hosts anywhere; the rest of IPv6 is not global.
const GLOBAL_IPV6: Cidr = Cidr::v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// The ranges that are not global. The first that has an address decides, so that a service comes before the
/// range that it lies in.
pub(crate) const RANGES: &[(Cidr, AddressClass)] = {
    use AddressClass::*;
    &[
        // Azure's host, reachable from inside only although its number is public.
        (Cidr::v4([168, 63, 129, 16], 32), CloudMetadata),
        // Alibaba Cloud.
        (Cidr::v4([100, 100, 100, 200], 32), CloudMetadata),
        // Oracle Cloud's older machines.
        (Cidr::v4([192, 0, 0, 192], 32), CloudMetadata),
        // AWS: instance metadata, pod identity, resolver, time.
        (Cidr::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), CloudMetadata),
        // Google Cloud.
        (Cidr::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), CloudMetadata),
        // Oracle Cloud.
        (Cidr::v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128), CloudMetadata),
        // Scaleway.
        (Cidr::v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), CloudMetadata),
        (Cidr::v4([0, 0, 0, 0], 8), Unspecified),
        (Cidr::v4([10, 0, 0, 0], 8), Private),
        (Cidr::v4([100, 64, 0, 0], 10), Shared),
        (Cidr::v4([127, 0, 0, 0], 8), Loopback),
        (Cidr::v4([169, 254, 0, 0], 16), LinkLocal),
        (Cidr::v4([172, 16, 0, 0], 12), Private),
        (Cidr::v4([192, 0, 0, 0], 24), SpecialPurpose),
        (Cidr::v4([192, 0, 2, 0], 24), Documentation),
        (Cidr::v4([192, 88, 99, 0], 24), SpecialPurpose),
        (Cidr::v4([192, 168, 0, 0], 16), Private),
        (Cidr::v4([198, 18, 0, 0], 15), Benchmarking),
        (Cidr::v4([198, 51, 100, 0], 24), Documentation),
        (Cidr::v4([203, 0, 113, 0], 24), Documentation),
        (Cidr::v4([224, 0, 0, 0], 4), Multicast),
        (Cidr::v4([240, 0, 0, 0], 4), Reserved),
        (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Unspecified),
        (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Loopback),
        // Compatible, mapped and translated forms; NAT64 (RFC 6052, RFC 8215); Teredo; 6to4.
        (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 0], 96), EmbedsIpv4),
        (Cidr::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), EmbedsIpv4),
        (Cidr::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), EmbedsIpv4),
        (Cidr::v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), EmbedsIpv4),
        (Cidr::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), EmbedsIpv4),
        (Cidr::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), EmbedsIpv4),
        (Cidr::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), EmbedsIpv4),
        (Cidr::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), SpecialPurpose),
        (Cidr::v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Documentation),
        (Cidr::v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Documentation),
        // Discard-only (RFC 6666), segment identifiers (RFC 9602), site-local (RFC 3879).
        (Cidr::v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), Reserved),
        (Cidr::v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), Reserved),
        (Cidr::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Reserved),
        (Cidr::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), UniqueLocal),
        (Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), LinkLocal),
        (Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Multicast),
    ]
};

/// Whether the last 64 bits are an ISATAP interface, which carries an IPv4 address (RFC 5214, section 6.1).
fn is_isatap(address: Ipv6Addr) -> bool {
    let [_, _, _, _, flags, kind, _, _] = address.segments();
    kind == 0x5efe && (flags == 0 || flags == 0x200)
}

#[cfg(test)]
mod tests;
