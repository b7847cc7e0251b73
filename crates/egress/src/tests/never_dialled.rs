//! Whatever the name servers say, nothing is dialled but what is global.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Method;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::dns::{NameServer, Reply};
use super::server::{Root, Server};
use super::tap::Tap;
use crate::class::RANGES;
use crate::{AddressClass, Cidr, Egress, Outcome, Request, Settings, Target};

/// What the standard library thinks, and what it has no word for: another author's view of the same registry.
fn looks_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_documentation()
                || address.is_multicast()
                || address.is_broadcast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19))
                || address == Ipv4Addr::new(168, 63, 129, 16))
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            (0x2000..0x4000).contains(&first)
                && first != 0x2002
                && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
                && !(first == 0x3fff && second < 0x1000)
                && address.to_ipv4().is_none()
                && !address.is_unique_local()
                && !address.is_unicast_link_local()
        }
    }
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let anywhere = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))),
        (0x2000_u128..0x4000, any::<u128>())
            .prop_map(|(first, rest)| IpAddr::from(Ipv6Addr::from_bits(first << 112 | rest >> 16))),
    ];
    let near_a_range = (proptest::sample::select(RANGES), any::<u128>(), 0..4_u8);
    prop_oneof![2 => anywhere, 1 => near_a_range.prop_map(|((range, _), bits, kind)| near(&range, bits, kind))]
}

/// An address of a range, one of its ends, or the neighbour of one.
fn near(range: &Cidr, bits: u128, kind: u8) -> IpAddr {
    let (first, last) = range.ends();
    let step = |address, up: bool| match address {
        IpAddr::V4(address) if up => Ipv4Addr::from_bits(address.to_bits().wrapping_add(1)).into(),
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().wrapping_sub(1)).into(),
        IpAddr::V6(address) if up => Ipv6Addr::from_bits(address.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().wrapping_sub(1)).into(),
    };
    match (kind, first, last) {
        (0, ..) => first,
        (1, ..) => last,
        (2, ..) if bits.is_multiple_of(2) => step(first, false),
        (2, ..) => step(last, true),
        (_, IpAddr::V4(first), IpAddr::V4(last)) => {
            let size = u128::from(last.to_bits() - first.to_bits()) + 1;
            Ipv4Addr::from_bits(first.to_bits() + u32::try_from(bits % size).unwrap()).into()
        }
        (_, IpAddr::V6(first), IpAddr::V6(last)) => {
            let size = last.to_bits() - first.to_bits();
            Ipv6Addr::from_bits(first.to_bits() + bits.checked_rem(size).unwrap_or(0)).into()
        }
        _ => first,
    }
}

/// Without a file of earlier failures: what once failed belongs into a table.
fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn every_global_class_looks_global_to_another_eye() {
    proptest!(config(20_000), |(address in any_address())| {
        if AddressClass::of(address) == AddressClass::Global {
            prop_assert!(looks_global(address), "{address}");
        }
    });
}

#[test]
fn no_address_is_dialled_that_is_not_global() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let root = Root::new();
    let (names, server) = runtime.block_on(async {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let server = Server::answering(Some(root.server(["*.example.com"])), answer).await;
        (NameServer::start().await, server)
    });
    let settings = Settings { nameservers: vec![names.address], ..root.settings() };
    let answers = prop::collection::vec(any_address(), 0..5);
    let mut runner = TestRunner::new(config(256));
    let count = std::cell::Cell::new(0);
    runner
        .run(&answers, |answers| {
            count.set(count.get() + 1);
            let name = format!("n{}.example.com", count.get());
            let records = answers.iter().map(ToString::to_string).collect();
            names.say(&name, Reply::Records(vec![records]));
            let tap = Tap::leading_to(server.address);
            let egress = Egress::tapped(&settings, tap.clone());
            let url = format!("https://{name}/");
            let target = Target::parse(&url, egress.rules()).unwrap();
            let (verdict, outcome) = runtime.block_on(async {
                (egress.judge(&url).await, egress.send(Request::new(Method::GET, target)).await)
            });
            let dialled = tap.dialled();
            for address in &dialled {
                prop_assert!(answers.contains(&address.ip()) && looks_global(address.ip()), "{address}");
            }
            let good = !answers.is_empty() && answers.iter().all(|address| looks_global(*address));
            prop_assert!(good || dialled.is_empty(), "{dialled:?} of {answers:?}");
            prop_assert_eq!(good, verdict.outcome == Outcome::Allowed, "{:?} of {:?}", verdict, answers);
            prop_assert_eq!(good, outcome.is_ok(), "{:?}", outcome);
            Ok(())
        })
        .unwrap();
}

/// Nor does any take a proxy, or anything else, from the environment.
#[test]
fn one_module_opens_sockets() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folders = ["", "class", "resolve", "target"].map(|folder| source.join(folder));
    for entry in folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("env::var"), "{}", path.display());
        let opens =
            ["TcpStream", "TcpSocket", "UdpSocket", "UnixStream"].iter().any(|word| text.contains(word));
        assert_eq!(opens, path.ends_with("dial.rs"), "{}", path.display());
    }
}
