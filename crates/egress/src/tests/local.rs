//! What is on this machine: loopback for exact `[danger]` entries only, and never Keyholder itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Method;

use super::dns::{NameServer, Reply};
use super::server::{Root, Server};
use super::tap::Tap;
use crate::dial::is_own;
use crate::{Egress, EgressError, HostPort, Outcome, Refusal, Request, Settings, Target};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn refusal(outcome: Result<Target, Refusal>) -> Refusal {
    outcome.unwrap_err()
}

#[tokio::test]
async fn a_danger_entry_opens_exactly_its_host_and_port() {
    let root = Root::new();
    let (server, other) = (Server::answering(None, OK).await, Server::answering(None, OK).await);
    let port = server.address.port();
    let settings = Settings { danger: server.danger(), extra_ports: vec![port], ..root.settings() };
    let egress = Egress::new(&settings).unwrap();
    let target = Target::parse(&server.url("http", "/"), egress.rules()).unwrap();
    assert_eq!(egress.send(Request::new(Method::GET, target)).await.unwrap().status, 200);
    for (url, expected) in [
        (other.url("http", "/"), Refusal::Scheme),
        (other.url("https", "/"), Refusal::Port),
        (format!("http://localhost:{port}/"), Refusal::Scheme),
        (format!("https://localhost:{port}/"), Refusal::LocalName),
        (format!("https://127.0.0.2:{port}/"), Refusal::Loopback),
        (format!("https://[::1]:{port}/"), Refusal::Loopback),
        ("http://example.com/".to_owned(), Refusal::Scheme),
        ("https://127.0.0.1/".to_owned(), Refusal::Loopback),
    ] {
        assert_eq!(refusal(Target::parse(&url, egress.rules())), expected, "{url}");
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn a_target_is_judged_by_the_rules_of_who_calls_it() {
    let root = Root::new();
    let server = Server::answering(None, OK).await;
    let lenient = Egress::new(&Settings { danger: server.danger(), ..root.settings() }).unwrap();
    let strict = Egress::new(&root.settings()).unwrap();
    let target = Target::parse(&server.url("http", "/"), lenient.rules()).unwrap();
    let outcome = strict.send(Request::new(Method::GET, target)).await;
    assert_eq!(outcome.unwrap_err(), EgressError::Refused(Refusal::Scheme));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_danger_entry_for_localhost_asks_no_name_server() {
    let root = Root::new();
    let names = NameServer::start().await;
    names.say_otherwise(Reply::records(["93.184.216.34"]));
    let server = Server::answering(Some(root.server(["localhost"])), OK).await;
    let port = server.address.port();
    let settings = Settings {
        nameservers: vec![names.address],
        danger: vec![format!("localhost:{port}").parse().unwrap()],
        ..root.settings()
    };
    let egress = Egress::new(&settings).unwrap();
    let target = Target::parse(&format!("https://localhost:{port}/"), egress.rules()).unwrap();
    assert_eq!(egress.send(Request::new(Method::GET, target)).await.unwrap().status, 200);
    assert_eq!(names.asked("localhost"), 0);
}

#[tokio::test]
async fn a_danger_entry_for_a_name_opens_loopback_and_not_the_rest() {
    let root = Root::new();
    let names = NameServer::start().await;
    let server = Server::answering(Some(root.server(["provider.test"])), OK).await;
    let port = server.address.port();
    let settings = Settings {
        nameservers: vec![names.address],
        danger: vec![format!("provider.test:{port}").parse().unwrap()],
        ..root.settings()
    };
    let egress = Egress::new(&settings).unwrap();
    let url = format!("https://provider.test:{port}/");
    names.say("provider.test", Reply::records(["127.0.0.1"]));
    let target = Target::parse(&url, egress.rules()).unwrap();
    assert_eq!(egress.send(Request::new(Method::GET, target)).await.unwrap().status, 200);
    for (address, expected) in [
        ("10.0.0.1", Refusal::Private),
        ("169.254.169.254", Refusal::LinkLocal),
        ("0.0.0.0", Refusal::Unspecified),
        ("::ffff:127.0.0.1", Refusal::EmbedsIpv4),
    ] {
        names.say("provider.test", Reply::records([address]));
        assert_eq!(egress.judge(&url).await.outcome, Outcome::Refused(expected), "{address}");
    }
}

/// With a real listener on the port: it sees no connection.
#[tokio::test]
async fn a_public_name_that_answers_loopback_reaches_no_listener() {
    let (root, names) = (Root::new(), NameServer::start().await);
    let server = Server::answering(Some(root.server(["rebind.example.net"])), OK).await;
    let turns = [["93.184.216.34"], ["127.0.0.1"]].map(|turn| turn.map(str::to_owned).to_vec());
    names.say("rebind.example.net", Reply::Records(turns.to_vec()));
    let port = server.address.port();
    let settings = Settings { nameservers: vec![names.address], extra_ports: vec![port], ..root.settings() };
    let egress = Egress::new(&settings).unwrap();
    let url = format!("https://rebind.example.net:{port}/");
    assert_eq!(egress.judge(&url).await.outcome, Outcome::Allowed);
    let target = Target::parse(&url, egress.rules()).unwrap();
    let outcome = egress.send(Request::new(Method::POST, target)).await;
    assert_eq!(outcome.unwrap_err(), EgressError::Refused(Refusal::Loopback));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn own_listeners_are_refused_although_a_danger_entry_names_them() {
    let root = Root::new();
    let server = Server::answering(None, OK).await;
    let own = [
        server.address.into(),
        IpAddr::from(Ipv4Addr::LOCALHOST).into(),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, server.address.port())).into(),
    ];
    for own in own {
        let settings = Settings { danger: server.danger(), self_addresses: vec![own], ..root.settings() };
        let egress = Egress::new(&settings).unwrap();
        let outcome = match Target::parse(&server.url("http", "/"), egress.rules()) {
            Ok(target) => egress.send(Request::new(Method::GET, target)).await.map(drop),
            Err(refusal) => Err(refusal.into()),
        };
        assert_eq!(outcome, Err(Refusal::OwnAddress.into()), "{own:?}");
    }
    assert_eq!(server.connections(), 0);
}

/// What listens at every address is reached at any of `127.0.0.0/8`. With a real listener on one: it sees nothing.
#[tokio::test]
async fn a_listener_at_every_address_is_refused_at_each_loopback_address() {
    let root = Root::new();
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for everywhere in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        for host in ["127.0.0.2", "127.0.0.1", "127.255.255.254", "[::1]", "localhost"] {
            let entry: HostPort = format!("{host}:{port}").parse().unwrap();
            let settings = Settings {
                danger: vec![entry],
                self_addresses: vec![SocketAddr::from((everywhere, port)).into()],
                ..root.settings()
            };
            let tap = Tap::default();
            let egress = Egress::tapped(&settings, tap.clone());
            let url = format!("http://{host}:{port}/");
            assert_eq!(egress.judge(&url).await.outcome, Outcome::Refused(Refusal::OwnAddress), "{host}");
            let outcome = match Target::parse(&url, egress.rules()) {
                Ok(target) => egress.send(Request::new(Method::GET, target)).await.map(drop),
                Err(refusal) => Err(refusal.into()),
            };
            assert_eq!(outcome, Err(Refusal::OwnAddress.into()), "{host}");
            assert_eq!(tap.dialled(), [], "{host}");
        }
    }
    let seen = listener.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(seen, Err(std::io::ErrorKind::WouldBlock));
}

#[tokio::test]
async fn a_listener_at_every_address_is_refused_at_the_address_of_an_interface() {
    let (root, names) = (Root::new(), NameServer::start().await);
    let Some(address) = interface() else { return };
    names.say("keyholder.example.com", Reply::records([address.to_string().as_str()]));
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7443));
    let own = Settings {
        nameservers: vec![names.address],
        extra_ports: vec![7443],
        self_addresses: vec![everywhere.into()],
        ..root.settings()
    };
    let other = Settings { self_addresses: Vec::new(), ..own.clone() };
    let url = "https://keyholder.example.com:7443/";
    let tap = Tap::default();
    let egress = Egress::tapped(&own, tap.clone());
    assert_eq!(egress.judge(url).await.outcome, Outcome::Refused(Refusal::OwnAddress));
    let target = Target::parse(url, egress.rules()).unwrap();
    let outcome = egress.send(Request::new(Method::GET, target)).await.map(drop);
    assert_eq!((outcome, tap.dialled()), (Err(Refusal::OwnAddress.into()), Vec::new()));
    let elsewhere = Egress::tapped(&other, tap).judge(url).await.outcome;
    assert_ne!(elsewhere, Outcome::Refused(Refusal::OwnAddress), "only where Keyholder listens");
}

#[test]
fn the_system_says_which_addresses_are_its_own() {
    // Packets to 127.0.0.2 come from 127.0.0.1, as those to a second address of an interface come from its first.
    for own in ["127.0.0.1", "127.0.0.2", "127.255.255.254"] {
        assert!(is_own(own.parse().unwrap()), "{own}");
    }
    assert!(interface().is_none_or(|address| is_own(address.into())));
    for other in ["1.1.1.1", "93.184.216.34", "2001:db8::1", "2606:4700::1111", "::2"] {
        assert!(!is_own(other.parse().unwrap()), "{other}");
    }
}

/// The address of this machine that leads outside, if it has one. No packet is sent.
fn interface() -> Option<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("1.1.1.1:9").ok()?;
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[tokio::test]
async fn an_own_address_with_a_port_leaves_its_other_ports_alone() {
    let root = Root::new();
    let server = Server::answering(None, OK).await;
    let other = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let settings =
        Settings { danger: server.danger(), self_addresses: vec![other.into()], ..root.settings() };
    let egress = Egress::new(&settings).unwrap();
    let target = Target::parse(&server.url("http", "/"), egress.rules()).unwrap();
    assert!(egress.send(Request::new(Method::GET, target)).await.is_ok());
}

#[tokio::test]
async fn a_socket_that_is_connected_elsewhere_is_dropped() {
    let root = Root::new();
    let names = NameServer::start().await;
    names.say_otherwise(Reply::records(["93.184.216.34"]));
    let server = Server::answering(Some(root.server(["example.com"])), OK).await;
    let settings = Settings { nameservers: vec![names.address], ..root.settings() };
    let egress = Egress::tapped(&settings, Tap::hijacked_to(server.address));
    let target = Target::parse("https://example.com/", egress.rules()).unwrap();
    let outcome = egress.send(Request::new(Method::GET, target)).await;
    assert_eq!(outcome.unwrap_err(), EgressError::Refused(Refusal::PeerChanged));
}

#[test]
fn danger_entries_come_from_their_own_table_only() {
    use figment::Figment;
    use figment::providers::{Format as _, Toml};
    #[derive(serde::Deserialize, Debug)]
    struct File {
        egress: Settings,
        #[serde(default)]
        danger: crate::Danger,
    }
    let read = |text: &str| Figment::from(Toml::string(text)).extract::<File>().map_err(Box::new);
    let file = read(
        r#"
        [egress]
        allow_cidrs = ["10.20.0.0/16", "fd12::/32"]
        deny_cidrs = ["2606:4700::/32"]
        extra_ports = [9443]
        nameservers = ["10.0.0.2:53", "[fd00::53]:53"]
        self_addresses = ["192.0.2.1", "192.0.2.1:443"]
        deadlines = { total_ms = 5000, connect_ms = 1000 }
        limits = { calls = 8 }
        [danger]
        egress = ["127.0.0.1:9000", "localhost:9000", "[::1]:9000"]
        "#,
    )
    .unwrap();
    assert_eq!(file.egress.deadlines.total.as_millis(), 5000);
    assert_eq!(file.egress.deadlines.first_byte.as_millis(), 3000);
    assert_eq!((file.egress.limits.calls, file.egress.limits.body_bytes), (8, 1024 * 1024));
    assert_eq!(file.danger.egress.len(), 3);
    assert!(file.egress.danger.is_empty());
    for wrong in [
        "[egress]\ndanger = [\"127.0.0.1:9000\"]",
        "[egress]\nallow_cidrs = [\"10.20.1.0/16\"]",
        "[egress]\nallow_cidrs = [\"10.20.0.0\"]",
        "[egress]\nextra_ports = [65536]",
        "[egress]\nnameservers = [\"dns.example.com:53\"]",
        "[egress]\nnameservers = [\"10.0.0.2\"]",
        "[egress]\nself_addresses = [\"keyholder.example.com\"]",
        "[egress]\ndeadlines = { total = 5 }",
        "[egress]\n[danger]\negress = [\"127.0.0.1\"]",
        "[egress]\n[danger]\negress = [\"*:9000\"]",
        "[egress]\n[danger]\negress = [\"127.1:9000\"]",
        "[egress]\n[danger]\negress = [\"127.0.0.0/8:9000\"]",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_danger_entry_is_one_host_and_one_port() {
    for text in
        ["", ":1", "a", "a:", "a:0", "a:01", "a:65536", "a:1:2", "http://a:1", "a:1/", "u@a:1", "[::1]"]
    {
        assert!(text.parse::<HostPort>().is_err(), "{text}");
    }
    assert_eq!("LocalHost:80".parse::<HostPort>().unwrap().to_string(), "localhost:80");
}
