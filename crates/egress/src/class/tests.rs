use std::collections::HashSet;

use super::*;

fn class(text: &str) -> AddressClass {
    AddressClass::of(text.parse().unwrap())
}

/// Just inside and just outside each range of the policy: first, last, the one before, the one after.
#[test]
fn every_range_begins_and_ends_where_it_should() {
    use AddressClass::*;
    type Edge<'a> = Option<(&'a str, AddressClass)>;
    let table: &[(&str, &str, AddressClass, Edge<'_>, Edge<'_>)] = &[
        ("0.0.0.0", "0.255.255.255", Unspecified, None, Some(("1.0.0.0", Global))),
        ("10.0.0.0", "10.255.255.255", Private, Some(("9.255.255.255", Global)), Some(("11.0.0.0", Global))),
        (
            "100.64.0.0",
            "100.127.255.255",
            Shared,
            Some(("100.63.255.255", Global)),
            Some(("100.128.0.0", Global)),
        ),
        (
            "100.100.100.200",
            "100.100.100.200",
            CloudMetadata,
            Some(("100.100.100.199", Shared)),
            Some(("100.100.100.201", Shared)),
        ),
        (
            "127.0.0.0",
            "127.255.255.255",
            Loopback,
            Some(("126.255.255.255", Global)),
            Some(("128.0.0.0", Global)),
        ),
        (
            "168.63.129.16",
            "168.63.129.16",
            CloudMetadata,
            Some(("168.63.129.15", Global)),
            Some(("168.63.129.17", Global)),
        ),
        (
            "169.254.0.0",
            "169.254.255.255",
            LinkLocal,
            Some(("169.253.255.255", Global)),
            Some(("169.255.0.0", Global)),
        ),
        (
            "172.16.0.0",
            "172.31.255.255",
            Private,
            Some(("172.15.255.255", Global)),
            Some(("172.32.0.0", Global)),
        ),
        (
            "192.0.0.0",
            "192.0.0.255",
            SpecialPurpose,
            Some(("191.255.255.255", Global)),
            Some(("192.0.1.0", Global)),
        ),
        (
            "192.0.0.192",
            "192.0.0.192",
            CloudMetadata,
            Some(("192.0.0.191", SpecialPurpose)),
            Some(("192.0.0.193", SpecialPurpose)),
        ),
        (
            "192.0.2.0",
            "192.0.2.255",
            Documentation,
            Some(("192.0.1.255", Global)),
            Some(("192.0.3.0", Global)),
        ),
        (
            "192.88.99.0",
            "192.88.99.255",
            SpecialPurpose,
            Some(("192.88.98.255", Global)),
            Some(("192.88.100.0", Global)),
        ),
        (
            "192.168.0.0",
            "192.168.255.255",
            Private,
            Some(("192.167.255.255", Global)),
            Some(("192.169.0.0", Global)),
        ),
        (
            "198.18.0.0",
            "198.19.255.255",
            Benchmarking,
            Some(("198.17.255.255", Global)),
            Some(("198.20.0.0", Global)),
        ),
        (
            "198.51.100.0",
            "198.51.100.255",
            Documentation,
            Some(("198.51.99.255", Global)),
            Some(("198.51.101.0", Global)),
        ),
        (
            "203.0.113.0",
            "203.0.113.255",
            Documentation,
            Some(("203.0.112.255", Global)),
            Some(("203.0.114.0", Global)),
        ),
        (
            "224.0.0.0",
            "239.255.255.255",
            Multicast,
            Some(("223.255.255.255", Global)),
            Some(("240.0.0.0", Reserved)),
        ),
        ("240.0.0.0", "255.255.255.255", Reserved, Some(("239.255.255.255", Multicast)), None),
        ("::", "::", Unspecified, None, Some(("::1", Loopback))),
        ("::1", "::1", Loopback, Some(("::", Unspecified)), Some(("::2", EmbedsIpv4))),
        ("::2", "::ffff:ffff", EmbedsIpv4, Some(("::1", Loopback)), Some(("::1:0:0", Reserved))),
        (
            "::ffff:0:0",
            "::ffff:ffff:ffff",
            EmbedsIpv4,
            Some(("::fffe:ffff:ffff", Reserved)),
            Some(("::1:0:0:0", Reserved)),
        ),
        (
            "::ffff:0:0:0",
            "::ffff:0:ffff:ffff",
            EmbedsIpv4,
            Some(("::fffe:ffff:ffff:ffff", Reserved)),
            Some(("::ffff:1:0:0", Reserved)),
        ),
        (
            "64:ff9b::",
            "64:ff9b::ffff:ffff",
            EmbedsIpv4,
            Some(("64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", Reserved)),
            Some(("64:ff9b::1:0:0", Reserved)),
        ),
        (
            "64:ff9b:1::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            EmbedsIpv4,
            Some(("64:ff9b:0:ffff:ffff:ffff:ffff:ffff", Reserved)),
            Some(("64:ff9b:2::", Reserved)),
        ),
        (
            "100::",
            "100::ffff:ffff:ffff:ffff",
            Reserved,
            Some(("ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved)),
            Some(("100:0:0:1::", Reserved)),
        ),
        (
            "2001::",
            "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
            EmbedsIpv4,
            Some(("2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Global)),
            Some(("2001:1::", SpecialPurpose)),
        ),
        (
            "2001:1::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            SpecialPurpose,
            Some(("2001:0:ffff:ffff:ffff:ffff:ffff:ffff", EmbedsIpv4)),
            Some(("2001:200::", Global)),
        ),
        (
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            Documentation,
            Some(("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", Global)),
            Some(("2001:db9::", Global)),
        ),
        (
            "2002::",
            "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            EmbedsIpv4,
            Some(("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Global)),
            Some(("2003::", Global)),
        ),
        (
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            Documentation,
            Some(("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Global)),
            Some(("3fff:1000::", Global)),
        ),
        (
            "2000::",
            "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Global,
            Some(("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved)),
            Some(("2001::", EmbedsIpv4)),
        ),
        (
            "3fff:1000::",
            "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Global,
            Some(("3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Documentation)),
            Some(("4000::", Reserved)),
        ),
        (
            "5f00::",
            "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Reserved,
            Some(("5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved)),
            Some(("5f01::", Reserved)),
        ),
        (
            "fc00::",
            "fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            UniqueLocal,
            Some(("fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved)),
            Some(("fd00::", UniqueLocal)),
        ),
        (
            "fd00:ec2::",
            "fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff",
            CloudMetadata,
            Some(("fd00:ec1:ffff:ffff:ffff:ffff:ffff:ffff", UniqueLocal)),
            Some(("fd00:ec3::", UniqueLocal)),
        ),
        (
            "fd20:ce::254",
            "fd20:ce::254",
            CloudMetadata,
            Some(("fd20:ce::253", UniqueLocal)),
            Some(("fd20:ce::255", UniqueLocal)),
        ),
        (
            "fd00:c1::a9fe:a9fe",
            "fd00:c1::a9fe:a9fe",
            CloudMetadata,
            Some(("fd00:c1::a9fe:a9fd", UniqueLocal)),
            Some(("fd00:c1::a9fe:a9ff", UniqueLocal)),
        ),
        (
            "fd00:42::42",
            "fd00:42::42",
            CloudMetadata,
            Some(("fd00:42::41", UniqueLocal)),
            Some(("fd00:42::43", UniqueLocal)),
        ),
        (
            "fdff::",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            UniqueLocal,
            Some(("fdfe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", UniqueLocal)),
            Some(("fe00::", Reserved)),
        ),
        (
            "fe80::",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            LinkLocal,
            Some(("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved)),
            Some(("fec0::", Reserved)),
        ),
        (
            "fec0::",
            "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Reserved,
            Some(("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", LinkLocal)),
            Some(("ff00::", Multicast)),
        ),
        (
            "ff00::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Multicast,
            Some(("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Reserved)),
            None,
        ),
    ];
    for (first, last, inside, before, after) in table {
        assert_eq!((class(first), class(last)), (*inside, *inside), "{first} to {last}");
        for (address, outside) in [before, after].into_iter().flatten() {
            assert_eq!(class(address), *outside, "{address}, beside {first} to {last}");
        }
    }
    let edges = table.iter().flat_map(|(first, last, ..)| [first, last]);
    let edges: HashSet<IpAddr> = edges.map(|edge| edge.parse().unwrap()).collect();
    for (range, _) in RANGES {
        let (first, last) = range.ends();
        assert!(edges.contains(&first) || edges.contains(&last), "{range} is not in the table");
    }
}

#[test]
fn isatap_carries_an_ipv4_address_under_any_prefix() {
    for address in ["2606:4700::5efe:a00:1", "2606:4700::200:5efe:808:808"] {
        assert_eq!(class(address), AddressClass::EmbedsIpv4, "{address}");
    }
    for address in ["2606:4700::100:5efe:a00:1", "2606:4700::5eff:a00:1", "2606:4700:4700::1111"] {
        assert_eq!(class(address), AddressClass::Global, "{address}");
    }
}

#[test]
fn labels_are_those_of_the_refusals() {
    assert_eq!(class("1.1.1.1").label(), "global");
    assert_eq!(class("10.0.0.1").label(), "private");
    assert_eq!(class("fd00:ec2::254").label(), "cloud_metadata");
}
