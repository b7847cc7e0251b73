use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

use crate::SettingsError;

/// A range of addresses, such as `10.20.0.0/16` or `fd12:3456::/32`.
///
/// Made only by parsing, which wants the network's own address: `10.20.1.2/16` is a slip, and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    pub(crate) const fn v4(network: [u8; 4], prefix: u8) -> Self {
        let [a, b, c, d] = network;
        Self { network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    pub(crate) const fn v6(network: [u16; 8], prefix: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = network;
        Self { network: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
    }

    /// Whether the range has the address. An IPv6 range never has an IPv4 address, nor the other way round.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4()
            && prefix_of(address, self.prefix) == prefix_of(self.network, self.prefix)
    }

    /// The first and the last address.
    #[cfg(test)]
    pub(crate) fn ends(&self) -> (IpAddr, IpAddr) {
        let last = match self.network {
            IpAddr::V4(first) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | host))
            }
            IpAddr::V6(first) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | host))
            }
        };
        (self.network, last)
    }
}

/// The first `prefix` bits of an address.
fn prefix_of(address: IpAddr, prefix: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    bits.checked_shr(width - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let wrong = || SettingsError::Range(text.to_owned());
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: IpAddr = network.parse().map_err(|_| wrong())?;
        let width = if network.is_ipv4() { 32 } else { 128 };
        if prefix.starts_with('+') || (prefix.len() > 1 && prefix.starts_with('0')) {
            return Err(wrong());
        }
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= width).ok_or_else(wrong)?;
        let host_bits = u32::from(width - prefix);
        let bits = prefix_of(network, width);
        if bits.checked_shr(host_bits).unwrap_or(0).checked_shl(host_bits).unwrap_or(0) != bits {
            return Err(wrong());
        }
        Ok(Self { network, prefix })
    }
}

impl TryFrom<String> for Cidr {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        text.parse()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_its_first_and_last_address_and_no_other() {
        let range: Cidr = "10.20.0.0/16".parse().unwrap();
        let inside = ["10.20.0.0", "10.20.255.255"];
        let outside = ["10.19.255.255", "10.21.0.0", "::ffff:10.20.0.1", "::a14:1"];
        assert!(inside.iter().all(|address| range.contains(address.parse().unwrap())));
        assert!(!outside.iter().any(|address| range.contains(address.parse().unwrap())));
    }

    #[test]
    fn knows_the_widest_and_the_narrowest() {
        for (text, address, other) in [
            ("0.0.0.0/0", "255.1.2.3", "::"),
            ("::/0", "ffff::1", "0.0.0.0"),
            ("1.2.3.4/32", "1.2.3.4", "1.2.3.5"),
            ("fd00::1/128", "fd00::1", "fd00::2"),
        ] {
            let range: Cidr = text.parse().unwrap();
            assert!(range.contains(address.parse().unwrap()), "{text}");
            assert!(!range.contains(other.parse().unwrap()), "{text}");
            assert_eq!(range.to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_a_range() {
        for text in [
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.1/8",
            "::/129",
            "fd00::1/8",
            "010.0.0.0/8",
            "10/8",
            "a/8",
            "",
            "/",
            "1.0.0.0/0",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
