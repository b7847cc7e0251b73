use std::collections::BTreeMap;

use keyholder_proto::v1;
use prost_types::FieldMask;
use tonic::Code;

use super::values::NO_CONNECTION;
use super::{CANARY, Fixture, Row, values};
use crate::harness::{ACME, openai};

pub(super) const INVALID: (Code, &str) = (Code::InvalidArgument, "INVALID_FIELD");
pub(super) const URL: (Code, &str) = (Code::InvalidArgument, "URL_NOT_ALLOWED");
pub(super) const NOT_FOUND: (Code, &str) = (Code::NotFound, "CONNECTION_NOT_FOUND");
const CHANGED: (Code, &str) = (Code::FailedPrecondition, "ETAG_MISMATCH");
const DELETED: (Code, &str) = (Code::FailedPrecondition, "CONNECTION_DELETED");
const NO_CLIENT: (Code, &str) = (Code::FailedPrecondition, "OAUTH_CLIENT_MISSING");

const CREATE: &str = "ConnectionService/CreateConnection";

pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    let mut rows = create();
    rows.extend(create_labels());
    rows.extend(create_method());
    rows.extend(create_credentials());
    rows.extend(create_config());
    rows.extend(create_from_tokens());
    rows.extend(named(fixture));
    rows.extend(replace(fixture));
    rows.extend(disable_reason(fixture));
    rows.extend(update(fixture));
    rows.extend(list(fixture));
    rows.extend(watch(fixture));
    rows
}

/// An account at Twilio, by API key.
pub(super) fn twilio() -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest {
        provider_id: "twilio".into(),
        auth_method: v1::AuthMethod::ApiKey.into(),
        credentials: twilio_fields(),
        ..openai("user:ada", "")
    }
}

fn twilio_fields() -> BTreeMap<String, String> {
    let sid = |prefix: &str| format!("{prefix}{}", "0".repeat(32));
    map(&[("account_sid", &sid("AC")), ("key_sid", &sid("SK")), ("api_key", CANARY)])
}

pub(super) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn request() -> v1::CreateConnectionRequest {
    openai("user:carol", CANARY)
}

fn create() -> Vec<Row> {
    type Request = v1::CreateConnectionRequest;
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(CREATE, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..request() });
    }
    for owner in [vec![String::new(), "session:s_9".into()], values::principals()].concat() {
        add("owner", &Request { owner, ..request() });
    }
    for provider_id in [vec![String::new()], values::providers()].concat() {
        add("provider_id", &Request { provider_id, ..request() });
    }
    for display_name in values::words() {
        add("display_name", &Request { display_name, ..request() });
    }
    for text in values::words() {
        let account = v1::Account { id: text.clone(), ..Default::default() };
        add("account.id", &Request { account: Some(account), ..request() });
        let account = v1::Account { name: text.clone(), ..Default::default() };
        add("account.name", &Request { account: Some(account), ..request() });
        let account = v1::Account { email: text, ..Default::default() };
        add("account.email", &Request { account: Some(account), ..request() });
    }
    for scopes in values::scopes() {
        add("scopes", &Request { scopes, ..request() });
    }
    for request_id in values::request_ids() {
        add("request_id", &Request { request_id, ..request() });
    }
    let unknown = Request { provider_id: "nowhere".into(), ..request() };
    rows.push(Row::refused(CREATE, "provider_id", &unknown, (Code::NotFound, "PROVIDER_NOT_FOUND")));
    rows
}

/// Labels with something wrong.
pub(super) fn labels() -> Vec<BTreeMap<String, String>> {
    let mut bad: Vec<_> = ["", "A", "a b", "a\n", "é", "a:b", &"a".repeat(64)]
        .map(|key| map(&[("fine", ""), (key, "x")]))
        .into();
    bad.extend(values::words().iter().map(|text| map(&[("key", text)])));
    bad.push((0..65).map(|number| (format!("key{number}"), String::new())).collect());
    bad
}

fn create_labels() -> Vec<Row> {
    let row = |labels| v1::CreateConnectionRequest { labels, ..request() };
    labels().into_iter().map(|labels| Row::invalid(CREATE, "labels", &row(labels))).collect()
}

fn create_method() -> Vec<Row> {
    use v1::AuthMethod::{Basic, Bearer, JwtBearer, Oauth2Code, Oauth2Device, Unspecified};
    let request = |provider_id: &str, method: i32| v1::CreateConnectionRequest {
        provider_id: provider_id.into(),
        auth_method: method,
        ..request()
    };
    let mut rows = Vec::new();
    for number in [9, 99, -1, i32::MAX] {
        rows.push(Row::invalid(CREATE, "auth_method", &request("openai", number)));
    }
    // Methods that the provider does not have, and none where it has several.
    for (provider, method) in [
        ("openai", Basic),
        ("openai", Oauth2Code),
        ("slack", JwtBearer),
        ("google", Bearer),
        ("twilio", Unspecified),
    ] {
        rows.push(Row::invalid(CREATE, "auth_method", &request(provider, method.into())));
    }
    // Methods that a typed-in credential is not for have to be named.
    for provider in ["google", "gitlab"] {
        rows.push(Row::invalid(CREATE, "auth_method", &request(provider, Unspecified.into())));
    }
    for (provider, method) in [("slack", Oauth2Code), ("google", Oauth2Code), ("google", Oauth2Device)] {
        rows.push(Row::refused(CREATE, "auth_method", &request(provider, method.into()), NO_CLIENT));
    }
    rows
}

/// Credentials for OpenAI with something wrong, and the path that is answered.
fn openai_credentials() -> Vec<(BTreeMap<String, String>, &'static str)> {
    let mut bad = Vec::new();
    for value in [
        String::new(),
        format!(" {CANARY}"),
        format!("{CANARY}\n"),
        format!("\r\n{CANARY}"),
        format!("{CANARY}\t"),
        format!("{CANARY}\u{a0}"),
        format!("{CANARY}\0x"),
        format!("{CANARY}\nx"),
        format!("{CANARY}\u{1b}[0m"),
        format!("{CANARY}é"),
        format!("{CANARY}\u{202e}x"),
        CANARY.repeat(1_366),
    ] {
        bad.push((map(&[("api_key", &value)]), "credentials.api_key"));
    }
    bad.push((BTreeMap::new(), "credentials.api_key"));
    // A name that nobody asked for may be a secret that was pasted in the wrong place, and is not repeated.
    for name in ["password", CANARY, &format!("sk-{CANARY}"), &format!("{CANARY} x"), ""] {
        bad.push((map(&[("api_key", CANARY), (name, CANARY)]), "credentials"));
    }
    let many = (0..65).map(|number| (format!("key{number}"), CANARY.to_owned())).collect();
    bad.push((many, "credentials"));
    bad
}

fn create_credentials() -> Vec<Row> {
    type Request = v1::CreateConnectionRequest;
    let mut rows = Vec::new();
    let mut add = |request: &Request, paths: &[&str]| {
        rows.push(Row::new(CREATE, "credentials", request, INVALID, paths));
    };
    for (credentials, path) in openai_credentials() {
        add(&Request { credentials, ..request() }, &[path]);
    }
    let both = map(&[("token", CANARY)]);
    add(&Request { credentials: both, ..request() }, &["credentials", "credentials.api_key"]);

    for (field, value) in [("account_sid", "AC0"), ("key_sid", "AC00000000000000000000000000000000")] {
        let mut credentials = twilio_fields();
        credentials.insert(field.into(), format!("{value}{CANARY}"));
        add(&Request { credentials, ..twilio() }, &[&format!("credentials.{field}")]);
    }
    let mut credentials = twilio_fields();
    credentials.remove("key_sid");
    add(&Request { credentials, ..twilio() }, &["credentials.key_sid"]);
    let another = Some(v1::Account { id: "AC1".into(), ..Default::default() });
    add(&Request { account: another, ..twilio() }, &["credentials.account_sid"]);

    let basic = |username: &str| Request {
        provider_id: "basic".into(),
        credentials: map(&[("username", username), ("password", CANARY)]),
        ..request()
    };
    for username in ["a:b", "", &"x".repeat(257), "a\u{202e}b"] {
        add(&basic(username), &["credentials.username"]);
    }
    let custom = |credentials| Request { provider_id: "custom".into(), credentials, ..request() };
    add(&custom(BTreeMap::new()), &["credentials"]);
    for name in ["", "1a", "a b", "ä", &"a".repeat(65)] {
        add(&custom(map(&[(name, CANARY)])), &["credentials"]);
    }
    add(&custom(map(&[("key", "a\r\nb")])), &["credentials.key"]);
    add(
        &custom((0..65).map(|number| (format!("key{number}"), CANARY.to_owned())).collect()),
        &["credentials"],
    );
    rows
}

/// URLs that may not be used.
pub(super) const URLS: [&str; 8] = [
    "http://ai.example",
    "ai.example",
    "https://user:canary7d1f4e@ai.example",
    "https://ai.example/?key=canary7d1f4e",
    "https://ai.example/#x",
    "https://2130706433/",
    "https://ai.example/../x",
    "file:///etc/passwd",
];

fn create_config() -> Vec<Row> {
    type Request = v1::CreateConnectionRequest;
    let mut rows = Vec::new();
    let request =
        |provider_id: &str, config| Request { provider_id: provider_id.into(), config, ..request() };
    for url in URLS {
        let request = request("openai-compatible", map(&[("base_url", url)]));
        rows.push(Row::new(CREATE, "config", &request, URL, &["config.base_url"]));
    }
    let mut add = |provider: &str, config, path: &str| {
        rows.push(Row::new(CREATE, "config", &request(provider, config), INVALID, &[path]));
    };
    add("openai-compatible", BTreeMap::new(), "config.base_url");
    add("openai-compatible", map(&[("base_url", "")]), "config.base_url");
    add("openai-compatible", map(&[("base_url", &"https://a.b/\n".repeat(2))]), "config.base_url");
    add("openai", map(&[("colour", "red")]), "config");
    add("openai", map(&[("sk-canary7d1f4e", "x")]), "config");
    add("openai", (0..65).map(|number| (format!("key{number}"), String::new())).collect(), "config");
    for name in ["Host", "X Key", "", "Transfer-Encoding", "X-Key\r\nX-Other"] {
        add("custom-api-key", map(&[("header_name", name)]), "config.header_name");
    }
    add("custom-api-key", map(&[("prefix", "Bearer\r\nX: ")]), "config.prefix");
    let both = request("openai-compatible", map(&[("base_url", "http://a"), ("colour", "red")]));
    rows.push(Row::new(CREATE, "config", &both, INVALID, &["config.base_url", "config"]));
    rows
}

/// Tokens that were issued elsewhere, with something wrong.
fn create_from_tokens() -> Vec<Row> {
    type Request = v1::CreateConnectionRequest;
    let import = |credentials| Request {
        provider_id: "gitlab".into(),
        auth_method: v1::AuthMethod::Oauth2Code.into(),
        credentials,
        ..request()
    };
    let mut rows = Vec::new();
    for moment in values::moments() {
        let request = Request { token_expire_time: Some(moment), ..import(map(&[("access_token", CANARY)])) };
        rows.push(Row::invalid(CREATE, "token_expire_time", &request));
    }
    // An API key has no end.
    let soon = Some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 });
    rows.push(Row::invalid(CREATE, "token_expire_time", &Request { token_expire_time: soon, ..request() }));
    // Nothing to prove.
    for request in [request(), import(map(&[("access_token", CANARY)]))] {
        let request = Request { prove_refresh_token: true, ..request };
        rows.push(Row::invalid(CREATE, "prove_refresh_token", &request));
    }
    let mut add = |credentials, path: &str| {
        rows.push(Row::new(CREATE, "credentials", &import(credentials), INVALID, &[path]));
    };
    add(BTreeMap::new(), "credentials.access_token");
    add(map(&[("refresh_token", CANARY)]), "credentials.access_token");
    add(map(&[("access_token", CANARY), ("api_key", CANARY)]), "credentials");
    for token in ["", " ", "a b", &format!("{CANARY}\n"), &format!("{CANARY}é"), &CANARY.repeat(6_000)] {
        add(map(&[("access_token", token)]), "credentials.access_token");
        add(map(&[("access_token", CANARY), ("refresh_token", token)]), "credentials.refresh_token");
    }
    rows
}

/// What all requests about one connection have in common.
fn named(fixture: &Fixture) -> Vec<Row> {
    let mut rows = Vec::new();
    let (organization_id, connection_id) = (ACME.to_owned(), fixture.connection_id.clone());
    let get = v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: connection_id.clone() };
    rows.extend(ids("ConnectionService/GetConnection", |organization_id, connection_id| {
        v1::GetConnectionRequest {
            organization_id: organization_id.unwrap_or_else(|| get.organization_id.clone()),
            connection_id: connection_id.unwrap_or_else(|| get.connection_id.clone()),
        }
    }));
    rows.extend(ids("ConnectionService/TestConnection", |organization_id, connection_id| {
        v1::TestConnectionRequest {
            organization_id: organization_id.unwrap_or_else(|| get.organization_id.clone()),
            connection_id: connection_id.unwrap_or_else(|| get.connection_id.clone()),
        }
    }));
    rows.extend(ids("ConnectionService/RefreshConnection", |organization_id, connection_id| {
        v1::RefreshConnectionRequest {
            organization_id: organization_id.unwrap_or_else(|| get.organization_id.clone()),
            connection_id: connection_id.unwrap_or_else(|| get.connection_id.clone()),
        }
    }));
    let ours = move |organization: Option<String>, connection: Option<String>| {
        (organization.unwrap_or(organization_id.clone()), connection.unwrap_or(connection_id.clone()))
    };

    let disable = |etag: String, organization, connection| {
        let (organization_id, connection_id) = ours(organization, connection);
        v1::DisableConnectionRequest { organization_id, connection_id, etag, ..Default::default() }
    };
    let rpc = "ConnectionService/DisableConnection";
    rows.extend(ids(rpc, |organization, connection| disable(String::new(), organization, connection)));
    rows.extend(etags(rpc, |etag| disable(etag, None, None)));
    let enable = |etag: String, organization, connection| {
        let (organization_id, connection_id) = ours(organization, connection);
        v1::EnableConnectionRequest { organization_id, connection_id, etag }
    };
    let rpc = "ConnectionService/EnableConnection";
    rows.extend(ids(rpc, |organization, connection| enable(String::new(), organization, connection)));
    rows.extend(etags(rpc, |etag| enable(etag, None, None)));
    let delete = |etag: String, organization, connection| {
        let (organization_id, connection_id) = ours(organization, connection);
        v1::DeleteConnectionRequest { organization_id, connection_id, etag }
    };
    let rpc = "ConnectionService/DeleteConnection";
    rows.extend(ids(rpc, |organization, connection| delete(String::new(), organization, connection)));
    rows.extend(etags(rpc, |etag| delete(etag, None, None)));
    let replace = |etag: String, organization, connection| {
        let (organization_id, connection_id) = ours(organization, connection);
        let credentials = map(&[("api_key", CANARY)]);
        v1::ReplaceCredentialsRequest {
            organization_id,
            connection_id,
            credentials,
            etag,
            ..Default::default()
        }
    };
    let rpc = "ConnectionService/ReplaceCredentials";
    rows.extend(ids(rpc, |organization, connection| replace(String::new(), organization, connection)));
    rows.extend(etags(rpc, |etag| replace(etag, None, None)));

    for (rpc, refusal) in [
        ("ConnectionService/DisableConnection", (Code::FailedPrecondition, "STATE_NOT_ALLOWED")),
        ("ConnectionService/EnableConnection", (Code::FailedPrecondition, "STATE_NOT_ALLOWED")),
        ("ConnectionService/ReplaceCredentials", DELETED),
    ] {
        let deleted = replace(String::new(), None, Some(fixture.deleted_id.clone()));
        // The first two fields are the same in all of them; the third is left out.
        let deleted = v1::ReplaceCredentialsRequest {
            credentials: if rpc.ends_with("Credentials") { deleted.credentials } else { BTreeMap::new() },
            ..deleted
        };
        rows.push(Row::refused(rpc, "connection_id", &deleted, refusal));
    }
    rows
}

/// Organizations and connections that cannot be or are not there.
fn ids<M: prost::Message>(rpc: &str, request: impl Fn(Option<String>, Option<String>) -> M) -> Vec<Row> {
    let mut rows = Vec::new();
    for organization_id in values::organizations() {
        rows.push(Row::invalid(rpc, "organization_id", &request(Some(organization_id), None)));
    }
    for connection_id in [vec![String::new()], values::connection_ids()].concat() {
        rows.push(Row::invalid(rpc, "connection_id", &request(None, Some(connection_id))));
    }
    let unknown = request(None, Some(NO_CONNECTION.into()));
    rows.push(Row::refused(rpc, "connection_id", &unknown, NOT_FOUND));
    rows
}

/// Etags that were in no message, or in an older one.
fn etags<M: prost::Message>(rpc: &str, request: impl Fn(String) -> M) -> Vec<Row> {
    let malformed = values::etags().into_iter().map(|etag| Row::invalid(rpc, "etag", &request(etag)));
    let stale = ["g1", "g3"].map(|etag| Row::refused(rpc, "etag", &request(etag.into()), CHANGED));
    malformed.chain(stale).collect()
}

fn replace(fixture: &Fixture) -> Vec<Row> {
    const RPC: &str = "ConnectionService/ReplaceCredentials";
    let request = |connection_id: &str, credentials| v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: connection_id.into(),
        credentials,
        ..Default::default()
    };
    let mut rows = Vec::new();
    for (credentials, path) in openai_credentials() {
        let request = request(&fixture.connection_id, credentials);
        rows.push(Row::new(RPC, "credentials", &request, INVALID, &[path]));
    }
    for url in URLS {
        let request = v1::ReplaceCredentialsRequest {
            config: map(&[("base_url", url)]),
            ..request(&fixture.compatible_id, map(&[("api_key", CANARY)]))
        };
        rows.push(Row::new(RPC, "config", &request, URL, &["config.base_url"]));
    }
    // Another account would get the grants that were given for this one.
    let mut another = twilio_fields();
    another.insert("account_sid".into(), format!("AC{}", "1".repeat(32)));
    let another = request(&fixture.twilio_id, another);
    rows.push(Row::new(RPC, "credentials", &another, INVALID, &["credentials.account_sid"]));
    rows
}

fn disable_reason(fixture: &Fixture) -> Vec<Row> {
    let request = |reason| v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: fixture.connection_id.clone(),
        reason,
        ..Default::default()
    };
    let row = |reason| Row::invalid("ConnectionService/DisableConnection", "reason", &request(reason));
    values::words().into_iter().map(row).collect()
}

fn update(fixture: &Fixture) -> Vec<Row> {
    const RPC: &str = "ConnectionService/UpdateConnection";
    let connection = || v1::Connection {
        organization_id: ACME.into(),
        connection_id: fixture.connection_id.clone(),
        ..Default::default()
    };
    let request = |paths: &[&str], connection| v1::UpdateConnectionRequest {
        connection: Some(connection),
        update_mask: Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
    };
    let name = |connection| request(&["display_name"], connection);
    let mut rows = Vec::new();
    let mut add = |field, request: &v1::UpdateConnectionRequest| rows.push(Row::invalid(RPC, field, request));
    let nothing =
        v1::UpdateConnectionRequest { connection: None, ..request(&["display_name"], connection()) };
    add("connection.organization_id", &nothing);
    for organization_id in values::organizations() {
        add("connection.organization_id", &name(v1::Connection { organization_id, ..connection() }));
    }
    for connection_id in [vec![String::new()], values::connection_ids()].concat() {
        add("connection.connection_id", &name(v1::Connection { connection_id, ..connection() }));
    }
    for etag in values::etags() {
        add("connection.etag", &name(v1::Connection { etag, ..connection() }));
    }
    for paths in [&[][..], &["owner"], &["*"], &[""], &["display_name", "credentials"], &["etag"]] {
        add("update_mask", &request(paths, connection()));
    }
    for path in ["connection.display_name", "labels.key", "display_name ", "Display_name", "account"] {
        add("update_mask", &request(&[path], connection()));
    }
    add("update_mask", &v1::UpdateConnectionRequest { connection: Some(connection()), update_mask: None });
    for display_name in values::words() {
        add("connection.display_name", &name(v1::Connection { display_name, ..connection() }));
    }
    for labels in labels() {
        add("connection.labels", &request(&["labels"], v1::Connection { labels, ..connection() }));
    }
    for scopes in values::scopes() {
        add("connection.scopes", &request(&["scopes"], v1::Connection { scopes, ..connection() }));
    }

    let config = |id: &str, config| {
        request(&["config"], v1::Connection { connection_id: id.into(), config, ..connection() })
    };
    for url in URLS {
        let request = config(&fixture.compatible_id, map(&[("base_url", url)]));
        rows.push(Row::new(RPC, "connection.config", &request, URL, &["connection.config.base_url"]));
    }
    let missing = config(&fixture.compatible_id, BTreeMap::new());
    rows.push(Row::new(RPC, "connection.config", &missing, INVALID, &["connection.config.base_url"]));
    let unknown = config(&fixture.connection_id, map(&[("colour", "red")]));
    rows.push(Row::new(RPC, "connection.config", &unknown, INVALID, &["connection.config"]));

    let unknown = v1::Connection { connection_id: NO_CONNECTION.into(), ..connection() };
    rows.push(Row::refused(RPC, "connection.connection_id", &name(unknown), NOT_FOUND));
    let deleted = v1::Connection { connection_id: fixture.deleted_id.clone(), ..connection() };
    rows.push(Row::refused(RPC, "connection.connection_id", &name(deleted), DELETED));
    for etag in ["g1", "g3"] {
        let stale = v1::Connection { etag: etag.into(), ..connection() };
        rows.push(Row::refused(RPC, "connection.etag", &name(stale), CHANGED));
    }
    rows
}

fn list(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::ListConnectionsRequest;
    const RPC: &str = "ConnectionService/ListConnections";
    let list = || Request { organization_id: ACME.into(), ..Default::default() };
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..list() });
    }
    for owner in values::principals() {
        add("owner", &Request { owner, ..list() });
    }
    for provider_id in values::providers() {
        add("provider_id", &Request { provider_id, ..list() });
    }
    for account_id in values::words() {
        add("account_id", &Request { account_id, ..list() });
    }
    for state in [0, 6, -1, i32::MAX] {
        add("states", &Request { states: vec![2, state], ..list() });
    }
    for outcome in [0, 8, -1, i32::MAX] {
        add("last_test_outcomes", &Request { last_test_outcomes: vec![1, outcome], ..list() });
    }
    for page_size in values::PAGE_SIZES {
        add("page_size", &Request { page_size, ..list() });
    }
    let [connections, grants, events, providers, access] = &fixture.pages;
    for page_token in
        [values::tokens(), [grants, events, providers, access].map(Clone::clone).into()].concat()
    {
        add("page_token", &Request { page_token, ..list() });
    }
    add("page_token", &Request { page_token: connections.clone(), owner: "user:ada".into(), ..list() });
    add("page_token", &Request { page_token: fixture.other_pages[0].clone(), ..list() });
    rows
}

fn watch(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::WatchConnectionsRequest;
    const RPC: &str = "ConnectionService/WatchConnections";
    let watch = || Request { organization_id: ACME.into(), ..Default::default() };
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..watch() });
    }
    for owner in values::principals() {
        add("owner", &Request { owner, ..watch() });
    }
    for provider_id in values::providers() {
        add("provider_id", &Request { provider_id, ..watch() });
    }
    let others = [vec![fixture.other_feed.clone()], fixture.pages.to_vec()].concat();
    for resume_token in [values::tokens(), others].concat() {
        add("resume_token", &Request { resume_token, ..watch() });
    }
    rows
}
