//! URLs, as people type them and providers return them, and the addresses and settings that decide about them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyholder_egress::{AddressClass, Cidr, Host, HostPort, Rules, Settings, Target};

/// What is accepted was not repaired, is read the same by another parser, and leads to no address that is not
/// global; any address has a class.
pub fn check(input: &[u8]) {
    if let Ok(text) = str::from_utf8(input) {
        any_url(text);
        any_setting(text);
    }
    any_address(input);
}

/// Every port, so that the fuzzer need not find one that is permitted.
fn rules() -> Rules {
    let settings = Settings { extra_ports: (1..=u16::MAX).collect(), ..Settings::default() };
    Rules::new(&settings).expect("every port is a port but 0")
}

fn any_url(text: &str) {
    thread_local! {
        static RULES: Rules = rules();
    }
    let Ok(target) = RULES.with(|rules| Target::parse(text, rules)) else { return };
    let (url, host) = (target.to_url(), target.host().to_string());
    assert!(target.is_encrypted() && url.is_ascii());
    assert!(text.to_ascii_lowercase().starts_with(&format!("https://{host}")), "{url}");
    assert!(text.ends_with(target.path_and_query()) || target.path_and_query() == "/", "{url}");
    assert_eq!(RULES.with(|rules| Target::parse(&url, rules)).as_ref(), Ok(&target));
    if let Host::Address(address) = target.host() {
        assert_eq!(AddressClass::of(*address), AddressClass::Global, "{url}");
    }
    read_by_another_parser(&url, &target, &host);
}

fn read_by_another_parser(url: &str, target: &Target, host: &str) {
    let other = url::Url::parse(url).expect("an accepted URL is one");
    assert_eq!((other.scheme(), other.host_str()), ("https", Some(host)));
    assert_eq!(other.port_or_known_default(), Some(target.port()));
    assert!(other.username().is_empty() && other.password().is_none() && other.fragment().is_none());
    let path = target.path_and_query().split('?').next();
    assert_eq!(Some(other.path()), path);
}

/// A setting that is accepted is written back as it was read, but for the case of letters.
fn any_setting(text: &str) {
    if let Ok(entry) = text.parse::<HostPort>() {
        assert_eq!(entry.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(range) = text.parse::<Cidr>() {
        let again = range.to_string();
        assert_eq!(again.parse::<Cidr>().ok(), Some(range), "{again}");
    }
}

fn any_address(input: &[u8]) {
    if let Some(bytes) = input.first_chunk::<4>() {
        let address = Ipv4Addr::from(*bytes);
        let class = AddressClass::of(address.into());
        assert!(class != AddressClass::Global || !is_local(address), "{address}");
        for carrier in [address.to_ipv6_mapped(), address.to_ipv6_compatible()] {
            assert_ne!(AddressClass::of(carrier.into()), AddressClass::Global, "{carrier}");
        }
    }
    if let Some(bytes) = input.first_chunk::<16>() {
        let address = Ipv6Addr::from(*bytes);
        let class = AddressClass::of(IpAddr::V6(address));
        assert!(class != AddressClass::Global || address.segments()[0] >> 13 == 1, "{address}");
        assert_eq!(class.refusal().is_none(), class == AddressClass::Global);
    }
}

/// The standard library's word for it.
fn is_local(address: Ipv4Addr) -> bool {
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_unspecified()
}
