//! What Keyholder says to providers, and where it refuses to go.

use std::fs;
use std::process::Command;

use keyholder_proto::v1::{self, TestOutcome};
use tonic::Code;

use crate::harness::{ACME, World, assert_refused, binary, fields, http_get, log_lines, openai};
use crate::provider::Provider;

/// A world whose catalog has a provider on this machine.
fn world() -> (World, Provider) {
    world_with("")
}

/// The same, with more settings of the way out.
fn world_with(egress: &str) -> (World, Provider) {
    let mut provider = None;
    let world = World::start_with(|authority, dir| {
        let started = provider.insert(Provider::start(authority));
        let port = started.address.port();
        fs::create_dir(dir.join("providers")).unwrap();
        let definition = format!(
            "id: local\nname: Local\ndocumentation_url: https://example.com/docs\nfacts_checked: 2026-11-22\n\
             base_url: https://localhost:{port}/v1\n\
             config:\n  - name: region\n    title: Region\n    required: false\nauth_methods:\n  - method: api_key\n    title: API key\n    \
             fields:\n      - name: api_key\n        title: Key\n        secret: true\n    http:\n      headers:\n        \
             Authorization: Bearer {{credential.api_key}}\n    test:\n      request: GET /me\n      good: [200]\n      \
             dead: [401]\n      forbidden: [403]\n      account:\n        id: /id\n        name: /name\n        email: /email\n"
        );
        fs::write(dir.join("providers/local.yaml"), definition).unwrap();
        format!(
            "[catalog]\ndirectory = \"providers\"\n[egress]\nroots = \"ca.pem\"\n{egress}\n[danger]\negress = [\"localhost:{port}\"]\n"
        )
    });
    (world, provider.unwrap())
}

async fn connect(world: &World, key: &str) -> v1::Connection {
    let request = v1::CreateConnectionRequest { provider_id: "local".into(), ..openai("user:ada", key) };
    world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap()
}

fn test_request(connection: &v1::Connection) -> v1::TestConnectionRequest {
    v1::TestConnectionRequest {
        organization_id: ACME.into(),
        connection_id: connection.connection_id.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_tells_good_dead_forbidden_limited_and_unavailable_apart() {
    let (world, provider) = world();
    for (key, outcome, status) in [
        ("sk-good", TestOutcome::Good, 200),
        ("sk-dead", TestOutcome::Dead, 401),
        ("sk-forbidden", TestOutcome::Forbidden, 403),
        ("sk-limited", TestOutcome::Limited, 429),
        ("sk-broken", TestOutcome::Unavailable, 500),
        ("sk-teapot", TestOutcome::Unclear, 418),
    ] {
        let made = connect(&world, key).await;
        let tested = world.connections().test_connection(test_request(&made)).await.unwrap().into_inner();
        let tested = tested.connection.unwrap();
        let last = tested.last_test.clone().unwrap();
        assert_eq!((last.outcome(), last.http_status, last.ok), (outcome, status, status == 200), "{key}");
        assert!(!last.summary.is_empty() && !last.summary.contains("PROVIDER-TEXT"), "{}", last.summary);
        assert_eq!(
            (tested.state(), &tested.etag),
            (made.state(), &made.etag),
            "a test changes neither state nor etag"
        );
        let read = v1::GetConnectionRequest {
            organization_id: ACME.into(),
            connection_id: made.connection_id.clone(),
        };
        let read = world.connections().get_connection(read).await.unwrap().into_inner().connection.unwrap();
        assert_eq!(read.last_test, Some(last));
        assert!(
            provider.last_request().contains(&format!("authorization: Bearer {key}\r\n")),
            "{}",
            provider.last_request()
        );
        let account = read.account.unwrap();
        let learned = (account.id.as_str(), account.name.as_str(), account.email.as_str());
        let expected = if status == 200 { ("account-7", "Ada", "ada@example.org") } else { ("", "", "") };
        assert_eq!(learned, expected, "{key}");
    }
    let list = v1::ListConnectionsRequest {
        organization_id: ACME.into(),
        last_test_outcomes: vec![TestOutcome::Dead.into(), TestOutcome::Limited.into()],
        ..Default::default()
    };
    let found = world.connections().list_connections(list).await.unwrap().into_inner().connections;
    let outcomes: Vec<TestOutcome> =
        found.iter().map(|found| found.last_test.as_ref().unwrap().outcome()).collect();
    assert_eq!(outcomes, [TestOutcome::Dead, TestOutcome::Limited]);
    let tested = world.sql(
        "SELECT string_agg(reason, ' ' ORDER BY audit_event_id) FROM audit_events
                            WHERE kind = 'CONNECTION_TESTED'",
    );
    assert_eq!(tested, "GOOD DEAD FORBIDDEN LIMITED UNAVAILABLE UNCLEAR");
    let log = fs::read_to_string(&world.server.log).unwrap();
    assert!(
        !log.contains("PROVIDER-TEXT") && !log.contains("sk-"),
        "the provider's words and the keys stay out of the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_tested_again_only_after_a_pause() {
    let (world, provider) = world();
    let made = connect(&world, "sk-good").await;
    world.connections().test_connection(test_request(&made)).await.unwrap();
    let refused = world.connections().test_connection(test_request(&made)).await;
    assert_refused(refused, Code::ResourceExhausted, "RATE_LIMITED");
    assert_eq!(provider.requests(), 1);
    world.sql("UPDATE connections SET test_claim_time = test_claim_time - interval '16 seconds'");
    world.connections().test_connection(test_request(&made)).await.unwrap();
    assert_eq!(provider.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_credential_has_not_been_tested() {
    let (world, _provider) = world();
    let made = connect(&world, "sk-dead").await;
    world.connections().test_connection(test_request(&made)).await.unwrap();
    let replace = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        credentials: [("api_key".to_owned(), "sk-good".to_owned())].into(),
        ..Default::default()
    };
    let replaced =
        world.connections().replace_credentials(replace).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(replaced.last_test, None);
    let read = v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: made.connection_id };
    let read = world.connections().get_connection(read).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(read.last_test, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_an_answer_and_never_a_dead_key() {
    let (world, provider) = world();
    let made = connect(&world, "sk-redirect").await;
    let tested = world.connections().test_connection(test_request(&made)).await.unwrap().into_inner();
    let last = tested.connection.unwrap().last_test.unwrap();
    assert_eq!((last.outcome(), last.http_status), (TestOutcome::Refused, 0), "a redirect is not followed");
    drop(provider);
    let made = connect(&world, "sk-good").await;
    let tested = world.connections().test_connection(test_request(&made)).await.unwrap().into_inner();
    let last = tested.connection.unwrap().last_test.unwrap();
    assert_eq!((last.outcome(), last.ok), (TestOutcome::Unavailable, false));
    let lines = log_lines(&world.server.log);
    assert!(lines.iter().any(|line| line["reason"] == "unreachable"), "the log names the reason");
    let warned = |line: &serde_json::Value| {
        line["level"] == "WARN" && line["message"].as_str().is_some_and(|text| text.contains("[danger]"))
    };
    assert!(lines.iter().any(warned), "the log warns of the entry at every start");
    let metrics = http_get(world.server.admin, "/metrics").1;
    assert!(metrics.contains(r#"keyholder_egress_failures{reason="unreachable"} 1"#), "{metrics}");
}

#[tokio::test]
async fn what_has_no_test_says_so() {
    let world = World::start();
    let request = v1::CreateConnectionRequest {
        provider_id: "custom".into(),
        credentials: [("secret".to_owned(), "x".to_owned())].into(),
        ..openai("user:ada", "")
    };
    let made = world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap();
    let refused = world.connections().test_connection(test_request(&made)).await;
    assert_refused(refused, Code::FailedPrecondition, "TEST_NOT_AVAILABLE");
}

#[tokio::test]
async fn a_url_that_may_never_be_called_is_refused_where_it_enters() {
    let world = World::start();
    for url in [
        "https://10.0.0.1/v1",
        "https://127.0.0.1/v1",
        "https://169.254.169.254/latest",
        "https://localhost/v1",
        "https://[::1]/v1",
        "https://metadata.internal/v1",
        "https://api.example.com:22/v1",
        "https://2130706433/",
        "http://api.example.com/v1",
    ] {
        let request = v1::CreateConnectionRequest {
            provider_id: "openai-compatible".into(),
            config: [("base_url".to_owned(), url.to_owned())].into(),
            ..openai("user:ada", "sk-ada")
        };
        let refused = world.connections().create_connection(request).await;
        let status = assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
        assert_eq!(fields(&status), ["config.base_url"], "{url}");
    }
    assert_eq!(world.sql("SELECT count(*) FROM connections"), "0");
}

#[tokio::test]
async fn a_stored_url_that_the_rules_no_longer_allow_releases_nothing() {
    let world = World::start();
    let request = v1::CreateConnectionRequest {
        provider_id: "openai-compatible".into(),
        config: [("base_url".to_owned(), "https://api.example.com/v1".to_owned())].into(),
        ..openai("user:ada", "sk-ada")
    };
    let made = world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap();
    world.sql(r#"UPDATE connections SET config = '{"base_url": "https://10.0.0.1/v1"}', generation = generation + 1"#);
    let refused = world
        .grants("gateway")
        .resolve_credential(crate::harness::resolve_request("user:ada", &made.connection_id))
        .await;
    assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
    assert_eq!(
        world.sql("SELECT kind || ' ' || reason FROM audit_events ORDER BY audit_event_id DESC LIMIT 1"),
        "CREDENTIAL_DENIED URL_NOT_ALLOWED"
    );
    assert_refused_for(&world, "10.0.0.1", "private", 1);
}

/// Asserts what the log and the metrics say of URLs that were refused.
fn assert_refused_for(world: &World, host: &str, reason: &str, times: usize) {
    let lines = log_lines(&world.server.log);
    let refused = |line: &&serde_json::Value| {
        line["message"] == "URL refused" && line["host"] == host && line["reason"] == reason
    };
    assert_eq!(lines.iter().filter(refused).count(), times, "{lines:?}");
    let metrics = http_get(world.server.admin, "/metrics").1;
    let sample = format!("keyholder_egress_failures{{reason=\"{reason}\"}} {times}\n");
    assert!(metrics.contains(&sample), "{metrics}");
}

#[tokio::test]
async fn a_refused_url_goes_on_record_without_the_url() {
    let world = World::start();
    let at = |url: &str| std::collections::BTreeMap::from([("base_url".to_owned(), url.to_owned())]);
    let request = |key: &str, url: &str| v1::CreateConnectionRequest {
        provider_id: "openai-compatible".into(),
        config: at(url),
        ..openai("user:ada", key)
    };
    let hidden = "https://10.0.0.1/hush";
    let refused = world.connections().create_connection(request("sk-ada", hidden)).await;
    assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
    // Another field is wrong as well: the URL is still on record.
    let refused = world.connections().create_connection(request("", hidden)).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
    let made = request("sk-ada", "https://api.example.com/v1");
    let made = world.connections().create_connection(made).await.unwrap().into_inner().connection.unwrap();
    let update = v1::UpdateConnectionRequest {
        connection: Some(v1::Connection { config: at(hidden), ..made.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["config".into()] }),
    };
    let refused = world.connections().update_connection(update).await;
    assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
    let replace = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        credentials: [("api_key".to_owned(), "sk-ada".to_owned())].into(),
        config: at(hidden),
        etag: String::new(),
    };
    let refused = world.connections().replace_credentials(replace).await;
    assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");

    let list = v1::ListAuditEventsRequest {
        organization_id: ACME.into(),
        kinds: vec![v1::AuditEventKind::UrlRefused.into()],
        ..Default::default()
    };
    let events = world.audit().list_audit_events(list).await.unwrap().into_inner().audit_events;
    let known = made.connection_id.as_str();
    let about: Vec<&str> = events.iter().rev().map(|event| event.connection_id.as_str()).collect();
    assert_eq!(about, ["", "", known, known]);
    for event in &events {
        assert_eq!(
            (event.workload.as_str(), event.provider_id.as_str(), event.reason.as_str()),
            ("spiffe://test.example/console", "openai-compatible", "URL_NOT_ALLOWED")
        );
    }
    assert_refused_for(&world, "10.0.0.1", "private", 4);
    assert_eq!(world.sql("SELECT count(*) FROM audit_events e WHERE e::text LIKE '%hush%'"), "0");
    assert!(!fs::read_to_string(&world.server.log).unwrap().contains("hush"));
    let read =
        v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: made.connection_id.clone() };
    let read = world.connections().get_connection(read).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(read, made, "nothing changed");
}

#[tokio::test]
async fn the_log_has_no_part_of_a_refused_url_but_a_plain_host() {
    let world = World::start();
    for (url, host, reason) in [
        ("https://user:hush@api.example.com/", "", "user_info"),
        ("https://hush/", "", "single_label"),
        ("hush.example.com", "", "not_absolute"),
        ("https://api.example.com:hush/", "api.example.com", "port_syntax"),
        ("https://eu.example.com/#hush", "eu.example.com", "fragment"),
        ("https://us.example.com/v1?hush=1", "us.example.com", "form"),
    ] {
        let request = v1::CreateConnectionRequest {
            provider_id: "openai-compatible".into(),
            config: [("base_url".to_owned(), url.to_owned())].into(),
            ..openai("user:ada", "sk-ada")
        };
        let refused = world.connections().create_connection(request).await;
        assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
        assert_refused_for(&world, host, reason, 1);
    }
    assert!(!fs::read_to_string(&world.server.log).unwrap().contains("hush"));
}

#[test]
fn egress_check_says_whether_and_why_not_and_calls_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (url, code, expected) in [
        ("https://1.1.1.1/", 0, "allowed"),
        ("https://10.0.0.1/", 1, "refused (private)"),
        ("http://1.1.1.1/", 1, "refused (scheme)"),
        ("https://user:secret-canary@1.1.1.1/", 1, "refused (user_info)"),
    ] {
        let output = Command::new(binary())
            .args(["egress", "check", "--", url])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{url}: {text}");
        assert!(text.starts_with(expected) && !text.contains("canary"), "{url}: {text}");
    }
    // A name server that nobody answers for: this cannot be judged.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "[grpc]\ncertificate = \"x\"\nkey = \"x\"\n[egress]\nnameservers = [\"{}\"]\ndeadlines = {{ resolve_ms = 50 }}\n",
        silent.local_addr().unwrap()
    );
    fs::write(dir.path().join("keyholder.toml"), config).unwrap();
    let output = Command::new(binary())
        .args(["egress", "check", "--config", "keyholder.toml", "--", "https://api.example.com/"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("cannot be judged"), "{text}");
}

#[tokio::test]
async fn the_clear_is_for_danger_entries_only() {
    let entries = "[danger]\negress = [\"127.0.0.1:9\"]\n";
    let world = World::start_with(|_, _| entries.to_owned());
    let connect = async |url: &str| {
        let request = v1::CreateConnectionRequest {
            provider_id: "openai-compatible".into(),
            config: [("base_url".to_owned(), url.to_owned())].into(),
            ..openai("user:ada", &format!("sk-{}", url.len()))
        };
        world.connections().create_connection(request).await
    };
    connect("http://127.0.0.1:9/v1").await.unwrap();
    for url in ["http://127.0.0.1:10/v1", "http://localhost:9/v1", "http://example.com:9/v1"] {
        assert_refused(connect(url).await, Code::InvalidArgument, "URL_NOT_ALLOWED");
    }
}

#[test]
fn a_definition_whose_base_url_may_not_be_called_is_refused_at_start() {
    let world = World::start();
    let dir = world.dir.path().join("providers");
    fs::create_dir(&dir).unwrap();
    let good =
        fs::read_to_string(crate::harness::root().join("crates/catalog/providers/openai.yaml")).unwrap();
    fs::write(dir.join("openai.yaml"), good.replace("https://api.openai.com/v1", "https://10.0.0.1/v1"))
        .unwrap();
    let output = Command::new(binary())
        .arg("check-config")
        .current_dir(world.dir.path())
        .env("DATABASE_URL", world.postgres.url(crate::harness::DATABASE))
        .env("KEYHOLDER_CATALOG__DIRECTORY", &dir)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("openai") && error.contains("private"), "{error}");
}

#[tokio::test]
async fn nobody_without_the_credential_can_have_it_sent_elsewhere() {
    let world = World::start();
    let at = |url: &str| std::collections::BTreeMap::from([("base_url".to_owned(), url.to_owned())]);
    let request = v1::CreateConnectionRequest {
        provider_id: "openai-compatible".into(),
        config: at("https://api.example.com/v1"),
        ..openai("user:ada", "sk-ada")
    };
    let made = world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap();
    for (field, value) in [("base_url", "https://evil.example.net/v1"), ("test_path", "/steal")] {
        let mut config = made.config.clone();
        config.insert(field.to_owned(), value.to_owned());
        let update = v1::UpdateConnectionRequest {
            connection: Some(v1::Connection { config, ..made.clone() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["config".into()] }),
        };
        let refused = world.connections().update_connection(update).await;
        let status = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
        assert!(fields(&status).iter().all(|path| path.ends_with(field)), "{status:?}");
    }
    let replace = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        credentials: [("api_key".to_owned(), "sk-ada".to_owned())].into(),
        config: at("https://eu.example.com/v1"),
        etag: String::new(),
    };
    let moved =
        world.connections().replace_credentials(replace).await.unwrap().into_inner().connection.unwrap();
    assert_eq!(moved.config["base_url"], "https://eu.example.com/v1");
}

#[tokio::test]
async fn the_servers_own_ports_are_refused_as_its_own() {
    // Every port that the system gives to who asks for none, so that no port is refused for being one.
    let ports: Vec<String> = (1_024..=65_535).map(|port: u16| port.to_string()).collect();
    let world = World::start_with(|_, _| format!("[egress]\nextra_ports = [{}]\n", ports.join(",")));
    let (grpc, admin) = (world.server.grpc.port(), world.server.admin.port());
    let neither = (1_024..).find(|port| ![grpc, admin].contains(port)).unwrap();
    for (port, reason, times) in
        [(neither, "loopback", 1), (grpc, "own_address", 1), (admin, "own_address", 2)]
    {
        let request = v1::CreateConnectionRequest {
            provider_id: "openai-compatible".into(),
            config: [("base_url".to_owned(), format!("https://127.0.0.1:{port}/v1"))].into(),
            ..openai("user:ada", "sk-ada")
        };
        let refused = world.connections().create_connection(request).await;
        assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
        assert_refused_for(&world, "127.0.0.1", reason, times);
    }
}

// === A test while something else happens ===

/// No deadline of ours ends before a test lets the provider answer.
const PATIENT: &str = "deadlines = { total_ms = 60000, first_byte_ms = 60000 }";

/// Begins a test, and returns once the provider was asked.
async fn begin_test(
    world: &World,
    provider: &Provider,
    connection: &v1::Connection,
) -> tokio::task::JoinHandle<Result<v1::Connection, tonic::Status>> {
    let (mut client, request) = (world.connections(), test_request(connection));
    let asked = provider.requests() + 1;
    let begun = tokio::spawn(async move {
        client.test_connection(request).await.map(|tested| tested.into_inner().connection.unwrap())
    });
    provider.wait_for_requests(asked);
    begun
}

async fn read(world: &World, connection: &v1::Connection) -> v1::Connection {
    let get = v1::GetConnectionRequest {
        organization_id: ACME.into(),
        connection_id: connection.connection_id.clone(),
    };
    world.connections().get_connection(get).await.unwrap().into_inner().connection.unwrap()
}

fn replace(connection: &v1::Connection, key: &str) -> v1::ReplaceCredentialsRequest {
    v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: connection.connection_id.clone(),
        credentials: [("api_key".to_owned(), key.to_owned())].into(),
        ..Default::default()
    }
}

const TESTS_ON_RECORD: &str = "SELECT count(*) FROM audit_events WHERE kind = 'CONNECTION_TESTED'";

#[tokio::test(flavor = "multi_thread")]
async fn a_test_whose_caller_no_longer_waits_goes_on_record() {
    let (world, provider) = world_with(PATIENT);
    let made = connect(&world, "sk-good-held").await;
    provider.hold();
    let mut request = tonic::Request::new(test_request(&made));
    request.set_timeout(std::time::Duration::from_secs(3));
    let late = world.connections().test_connection(request).await;
    assert_refused(late, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!((provider.requests(), world.sql(TESTS_ON_RECORD).as_str()), (1, "0"));
    provider.release();
    crate::harness::eventually("the record", || (world.sql(TESTS_ON_RECORD) == "1").then_some(()));
    let last = read(&world, &made).await.last_test.unwrap();
    assert_eq!((last.outcome(), last.http_status), (TestOutcome::Good, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_test_does_not_overwrite_a_newer_one() {
    let (world, provider) = world_with(PATIENT);
    let made = connect(&world, "sk-good-held").await;
    provider.hold();
    let older = begin_test(&world, &provider, &made).await;
    provider.hold_no_more();
    world.sql("UPDATE connections SET test_claim_time = test_claim_time - interval '16 seconds'");
    let newer = world.connections().test_connection(test_request(&made)).await.unwrap().into_inner();
    let newer = newer.connection.unwrap().last_test;
    provider.release();
    assert_refused(older.await.unwrap(), Code::Aborted, "CONTENDED");
    assert_eq!(read(&world, &made).await.last_test, newer);
    assert_eq!(world.sql(TESTS_ON_RECORD), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_nothing_of_a_credential_that_came_meanwhile() {
    let (world, provider) = world_with(PATIENT);
    let made = connect(&world, "sk-good-held").await;
    provider.hold();
    let begun = begin_test(&world, &provider, &made).await;
    world.connections().replace_credentials(replace(&made, "sk-dead")).await.unwrap();
    provider.release();
    assert_refused(begun.await.unwrap(), Code::Aborted, "CONTENDED");
    let after = read(&world, &made).await;
    assert_eq!((after.last_test, after.account.unwrap().id.as_str()), (None, ""));
    assert_eq!(world.sql(TESTS_ON_RECORD), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_for_which_there_is_no_room_is_kept_nowhere_and_need_not_wait() {
    let (world, provider) = world_with(&format!("limits = {{ calls_per_host = 1 }}\n{PATIENT}"));
    let (held, other) = (connect(&world, "sk-good-held").await, connect(&world, "sk-dead").await);
    provider.hold();
    let begun = begin_test(&world, &provider, &held).await;
    let refused = world.connections().test_connection(test_request(&other)).await;
    assert_refused(refused, Code::ResourceExhausted, "RATE_LIMITED");
    assert_eq!((provider.requests(), read(&world, &other).await.last_test), (1, None));
    assert_eq!(world.sql(TESTS_ON_RECORD), "0");
    provider.release();
    begun.await.unwrap().unwrap();
    let tested = world.connections().test_connection(test_request(&other)).await.unwrap().into_inner();
    assert_eq!(tested.connection.unwrap().last_test.unwrap().outcome(), TestOutcome::Dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_cannot_keep_the_others_from_testing() {
    let (world, provider) = world_with(PATIENT);
    provider.hold();
    let mut begun = Vec::new();
    for number in 0..16 {
        let made = connect(&world, &format!("sk-good-held-{number}")).await;
        world.sql("UPDATE connections SET account_id = connection_id::text");
        begun.push(begin_test(&world, &provider, &made).await);
    }
    let one_more = connect(&world, "sk-dead").await;
    let refused = world.connections().test_connection(test_request(&one_more)).await;
    assert_refused(refused, Code::ResourceExhausted, "RATE_LIMITED");
    let request = v1::CreateConnectionRequest {
        organization_id: "beta".into(),
        provider_id: "local".into(),
        ..openai("user:bob", "sk-good")
    };
    let other =
        world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap();
    let request = v1::TestConnectionRequest { organization_id: "beta".into(), ..test_request(&other) };
    let tested = world.connections().test_connection(request).await.unwrap().into_inner();
    assert_eq!(tested.connection.unwrap().last_test.unwrap().outcome(), TestOutcome::Good);
    provider.release();
    for one in begun {
        assert_eq!(one.await.unwrap().unwrap().last_test.unwrap().outcome(), TestOutcome::Good);
    }
    // The one that was turned away need not wait either.
    let tested = world.connections().test_connection(test_request(&one_more)).await.unwrap().into_inner();
    assert_eq!(tested.connection.unwrap().last_test.unwrap().outcome(), TestOutcome::Dead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_the_provider_echoes_is_not_learned() {
    let (world, _provider) = world();
    let made = connect(&world, "sk-echo-7").await;
    let tested = world.connections().test_connection(test_request(&made)).await.unwrap().into_inner();
    let account = tested.connection.unwrap().account.unwrap();
    assert_eq!(
        (account.id.as_str(), account.name.as_str(), account.email.as_str()),
        ("", "", "ada@example.org")
    );
    for table in ["connections", "audit_events"] {
        assert_eq!(world.sql(&format!("SELECT count(*) FROM {table} t WHERE t::text LIKE '%sk-echo%'")), "0");
    }
    assert!(!fs::read_to_string(&world.server.log).unwrap().contains("sk-echo"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_known_is_not_renamed_by_a_test() {
    let (world, _provider) = world();
    let known = v1::Account { id: "account-1".into(), ..Default::default() };
    let request = v1::CreateConnectionRequest {
        provider_id: "local".into(),
        account: Some(known.clone()),
        ..openai("user:ada", "sk-good")
    };
    let made = world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap();
    let tested = world.connections().test_connection(test_request(&made)).await.unwrap().into_inner();
    let tested = tested.connection.unwrap();
    assert!(tested.last_test.unwrap().ok);
    assert_eq!(tested.account, Some(known), "the provider speaks of account-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_nothing_of_settings_that_came_later() {
    let (world, provider) = world();
    let port = provider.address.port();
    let at = |path: &str| {
        let config =
            [("base_url", format!("https://localhost:{port}{path}")), ("test_path", "/me".to_owned())];
        config.map(|(name, value)| (name.to_owned(), value)).into()
    };
    let request = v1::CreateConnectionRequest {
        provider_id: "openai-compatible".into(),
        config: at("/v1"),
        ..openai("user:ada", "sk-good")
    };
    let made = world.connections().create_connection(request).await.unwrap().into_inner().connection.unwrap();
    world.connections().test_connection(test_request(&made)).await.unwrap();
    assert!(read(&world, &made).await.last_test.unwrap().ok);
    let moved = v1::ReplaceCredentialsRequest { config: at("/v2"), ..replace(&made, "sk-good") };
    let moved =
        world.connections().replace_credentials(moved).await.unwrap().into_inner().connection.unwrap();
    assert_eq!((moved.last_test.clone(), read(&world, &made).await), (None, moved));

    // A setting that does not decide where the credential goes may decide how it is taken.
    let made = connect(&world, "sk-good").await;
    world.connections().test_connection(test_request(&made)).await.unwrap();
    let tested = read(&world, &made).await;
    let update = |config: std::collections::BTreeMap<String, String>| v1::UpdateConnectionRequest {
        connection: Some(v1::Connection { config, etag: String::new(), ..made.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["config".into()] }),
    };
    let same = world.connections().update_connection(update(made.config.clone())).await.unwrap().into_inner();
    assert_eq!(same.connection.unwrap().last_test, tested.last_test, "the same settings");
    let region = [("region".to_owned(), "eu".to_owned())].into();
    let updated = world.connections().update_connection(update(region)).await.unwrap().into_inner();
    let updated = updated.connection.unwrap();
    assert_eq!((updated.last_test.clone(), read(&world, &made).await), (None, updated));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_that_a_credential_is_dead() {
    let (world, _provider) = world();
    let made = connect(&world, "sk-dead").await;
    let watch = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feed = world.connections().watch_connections(watch).await.unwrap().into_inner();
    while feed.message().await.unwrap().unwrap().connection.is_some() {}
    world.connections().test_connection(test_request(&made)).await.unwrap();
    let seen = tokio::time::timeout(std::time::Duration::from_secs(60), feed.message())
        .await
        .expect("no message came");
    let seen = seen.unwrap().unwrap().connection.unwrap();
    assert_eq!((&seen.connection_id, seen.state()), (&made.connection_id, v1::ConnectionState::Active));
    assert_eq!(seen.last_test.unwrap().outcome(), TestOutcome::Dead);
}
