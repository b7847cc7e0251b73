//! Bad input gets a code, a reason and the path of the field, and changes nothing.

mod audit;
mod connections;
mod grants;
mod oauth;
mod providers;
mod values;

use std::collections::BTreeSet;
use std::fs;

use keyholder_proto::v1;
use keyholder_proto::v1::o_auth_client_service_client::OAuthClientServiceClient;
use prost::Message;
use prost_types::field_descriptor_proto::Type;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::callers::raw::{self, Descriptors};
use crate::harness::{ACME, World, assert_refused, fields, grant_request, openai, reason};

/// What no error and no log may ever hold.
const CANARY: &str = "canary7d1f4e";

/// Fields of `UpdateConnectionRequest.connection` that no mask can name: what stands in them is not read.
const NOT_READ: &[&str] = &[
    "connection.owner",
    "connection.provider_id",
    "connection.auth_method",
    "connection.account.id",
    "connection.account.name",
    "connection.account.email",
    "connection.state",
    "connection.state_reason",
    "connection.credential_summary",
    "connection.generation",
    "connection.create_time",
    "connection.update_time",
    "connection.last_test.time",
    "connection.last_test.ok",
    "connection.last_test.http_status",
    "connection.last_test.outcome",
    "connection.last_test.summary",
    "connection.tokens.client_id",
    "connection.tokens.requested_scopes",
    "connection.tokens.missing_scopes",
    "connection.tokens.expire_time",
    "connection.tokens.renewable",
    "connection.tokens.renewal_missing",
    "connection.tokens.idle_expire_time",
    "connection.tokens.stop_time",
    "connection.refresh.state",
    "connection.refresh.last_attempt_time",
    "connection.refresh.last_success_time",
    "connection.refresh.next_attempt_time",
    "connection.refresh.error",
    "connection.refresh.failures",
];

/// A request with one thing wrong, and what it gets.
struct Row {
    path: String,
    /// The field that is wrong, as the protos call it.
    field: &'static str,
    message: Vec<u8>,
    code: Code,
    reason: &'static str,
    /// The fields that the answer names.
    fields: Vec<String>,
}

impl Row {
    fn new(
        rpc: &str,
        field: &'static str,
        message: &impl Message,
        (code, reason): (Code, &'static str),
        fields: &[&str],
    ) -> Self {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        let path = format!("/keyholder.v1.{rpc}");
        Self { path, field, message: message.encode_to_vec(), code, reason, fields }
    }

    /// A field that is answered with its own path.
    fn invalid(rpc: &str, field: &'static str, message: &impl Message) -> Self {
        Self::new(rpc, field, message, (Code::InvalidArgument, "INVALID_FIELD"), &[field])
    }

    /// A field that is fine in itself and refused for what it names.
    fn refused(
        rpc: &str,
        field: &'static str,
        message: &impl Message,
        refusal: (Code, &'static str),
    ) -> Self {
        Self::new(rpc, field, message, refusal, &[])
    }
}

/// What the bad requests are about.
struct Fixture {
    /// At openai, at its second version.
    connection_id: String,
    /// At openai-compatible.
    compatible_id: String,
    /// At twilio, by API key.
    twilio_id: String,
    deleted_id: String,
    /// At its second version: revoked.
    grant_id: String,
    /// A flow that waits for its owner.
    flow_id: String,
    /// Another one, whose app takes the answer itself, and its state.
    app_flow_id: String,
    app_state: String,
    /// Page tokens: of connections, of grants, of events, of providers, each without a filter, and of what
    /// `agent:other` may use.
    pages: [String; 5],
    /// Page tokens of another organization.
    other_pages: [String; 3],
    /// A resume token of another organization.
    other_feed: String,
}

impl Fixture {
    async fn new(world: &World) -> Self {
        let connection_id = world.connect("user:ada", "sk-ada").await;
        let compatible = v1::CreateConnectionRequest {
            provider_id: "openai-compatible".into(),
            config: [("base_url".to_owned(), "https://ai.example/v1".to_owned())].into(),
            ..openai("user:ada", "sk-compatible")
        };
        let compatible_id = create(world, compatible).await;
        let twilio_id = create(world, connections::twilio()).await;
        let deleted_id = world.connect("user:bob", "sk-bob").await;
        let delete = v1::DeleteConnectionRequest {
            organization_id: ACME.into(),
            connection_id: deleted_id.clone(),
            ..Default::default()
        };
        let mut client = world.connections();
        client.delete_connection(delete).await.unwrap();
        let connection = v1::Connection {
            organization_id: ACME.into(),
            connection_id: connection_id.clone(),
            display_name: "Ada's".into(),
            ..Default::default()
        };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
        let update = v1::UpdateConnectionRequest { connection: Some(connection), update_mask };
        client.update_connection(update).await.unwrap();
        let grant_id = world.grant("agent:roadie", &connection_id).await;
        world.grant("agent:other", &connection_id).await;
        let revoke = v1::RevokeGrantRequest {
            organization_id: ACME.into(),
            grant_id: grant_id.clone(),
            ..Default::default()
        };
        let mut grants = world.grants("console");
        grants.revoke_grant(revoke).await.unwrap();

        for key in ["sk-1", "sk-2"] {
            let request =
                v1::CreateConnectionRequest { organization_id: "other".into(), ..openai("user:eve", key) };
            let other_id = create(world, request).await;
            let request = v1::CreateGrantRequest {
                organization_id: "other".into(),
                ..grant_request("agent:roadie", &other_id)
            };
            grants.create_grant(request).await.unwrap();
        }
        let first = page_tokens(world, ACME).await;
        let providers = v1::ListProvidersRequest { page_size: 1, ..Default::default() };
        let providers = world.providers().list_providers(providers).await.unwrap().into_inner();
        let [connections, grant_page, events] = first;
        let access = v1::ListAccessRequest {
            organization_id: ACME.into(),
            actor: "agent:other".into(),
            page_size: 1,
            ..Default::default()
        };
        let access = grants.list_access(access).await.unwrap().into_inner().next_page_token;
        assert!(!access.is_empty());
        let [(flow_id, _), (app_flow_id, app_url)] = begin_flows(world).await;
        let state = app_url.split(['?', '&']).find_map(|pair| pair.strip_prefix("state="));
        let public = v1::SetOAuthClientRequest {
            organization_id: ACME.into(),
            provider_id: "github".into(),
            client_id: "public".into(),
            ..Default::default()
        };
        let mut clients = OAuthClientServiceClient::new(world.channel("console"));
        clients.set_o_auth_client(public).await.unwrap();
        let watch = v1::WatchConnectionsRequest { organization_id: "other".into(), ..Default::default() };
        let mut feed = client.watch_connections(watch).await.unwrap().into_inner();
        Self {
            connection_id,
            compatible_id,
            twilio_id,
            deleted_id,
            grant_id,
            flow_id,
            app_flow_id,
            app_state: state.unwrap().to_owned(),
            pages: [connections, grant_page, events, providers.next_page_token, access],
            other_pages: page_tokens(world, "other").await,
            other_feed: feed.message().await.unwrap().unwrap().resume_token,
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = connections::rows(self);
        rows.extend(grants::rows(self));
        rows.extend(audit::rows(self));
        rows.extend(providers::rows(self));
        rows.extend(oauth::rows(self));
        rows
    }
}

async fn create(world: &World, request: v1::CreateConnectionRequest) -> String {
    let made = world.connections().create_connection(request).await.unwrap().into_inner();
    made.connection.unwrap().connection_id
}

/// Begins a flow that comes back to Keyholder, and one that comes back to its app; both have to be completed.
async fn begin_flows(world: &World) -> [(String, String); 2] {
    let to_us = v1::StartAuthorizationRequest {
        owner: "user:ada".into(),
        completion_challenge: oauth::CHALLENGE.into(),
        request_id: "start-1".into(),
        ..oauth::request()
    };
    let to_app = v1::StartAuthorizationRequest {
        redirect_uri: oauth::APP_REDIRECT_URI.into(),
        request_id: "start-2".into(),
        ..to_us.clone()
    };
    let mut flows = Vec::new();
    for request in [to_us, to_app] {
        let begun = world.connections().start_authorization(request).await.unwrap().into_inner();
        flows.push((begun.authorization.unwrap().authorization_id, begun.authorization_url));
    }
    flows.try_into().unwrap()
}

/// A world in which flows can begin.
fn start_world() -> World {
    World::start_with(|_, _| oauth::SETTINGS.to_owned())
}

/// The tokens of the second pages of connections, grants and events.
async fn page_tokens(world: &World, organization_id: &str) -> [String; 3] {
    let organization_id = organization_id.to_owned();
    let list = v1::ListConnectionsRequest {
        organization_id: organization_id.clone(),
        page_size: 1,
        ..Default::default()
    };
    let connections = world.connections().list_connections(list).await.unwrap().into_inner();
    let list = v1::ListGrantsRequest {
        organization_id: organization_id.clone(),
        page_size: 1,
        ..Default::default()
    };
    let grants = world.grants("console").list_grants(list).await.unwrap().into_inner();
    let list = v1::ListAuditEventsRequest { organization_id, page_size: 1, ..Default::default() };
    let events = world.audit().list_audit_events(list).await.unwrap().into_inner();
    let tokens = [connections.next_page_token, grants.next_page_token, events.next_page_token];
    assert!(tokens.iter().all(|token| !token.is_empty()));
    tokens
}

/// A fingerprint of every row of every table, but for the denials, the record of refused URLs, and what goes on by itself.
fn everything(world: &World) -> String {
    world.sql(
        "SELECT table_name, md5(query_to_xml(format('SELECT t::text FROM %I t %s ORDER BY 1', table_name,
             CASE WHEN table_name LIKE 'audit_events%'
                 THEN 'WHERE kind NOT IN (''CREDENTIAL_DENIED'', ''URL_REFUSED'')' END),
             true, false, '')::text)
         FROM information_schema.tables WHERE table_schema = 'public'
           AND table_name NOT IN ('installation', 'grant_uses') ORDER BY 1",
    )
}

/// Whether an RPC is for resolvers alone.
fn for_resolvers(path: &str) -> bool {
    path.ends_with("ResolveCredential") || path.ends_with("ReportRejected")
}

/// How many resolves are on record as refused for a field.
fn denials(world: &World) -> usize {
    let count = "SELECT count(*) FROM audit_events WHERE kind = 'CREDENTIAL_DENIED'
                     AND reason IN ('INVALID_FIELD', 'URL_NOT_ALLOWED')";
    world.sql(count).parse().unwrap()
}

#[tokio::test]
async fn every_bad_field_gets_a_code_a_reason_and_its_path_and_changes_nothing() {
    let world = start_world();
    let fixture = Fixture::new(&world).await;
    let (operator, gateway) = (world.channel("operator"), world.channel("gateway"));
    let before = everything(&world);
    let mut findings = Vec::new();
    let mut recorded = 0;
    let rows = fixture.rows();
    for about_one_field in rows.chunk_by(|row, next| (&row.path, row.field) == (&next.path, next.field)) {
        for (number, row) in about_one_field.iter().enumerate() {
            let channel = if for_resolvers(&row.path) { &gateway } else { &operator };
            let at = format!("{} {} {number}", row.path, row.field);
            match raw::call(channel, &row.path, row.message.clone()).await {
                Ok(_) => findings.push(format!("{at}: was accepted")),
                Err(status) => {
                    let got = (status.code(), reason(&status), fields(&status));
                    let expected = (row.code, row.reason.to_owned(), row.fields.clone());
                    if got != expected {
                        findings.push(format!("{at}: {got:?} in place of {expected:?}"));
                    }
                    assert_no_secret(&at, &status);
                }
            }
        }
        let Row { path, field, .. } = &about_one_field[0];
        assert!(everything(&world) == before, "a bad {field} of {path} changed something; {findings:#?}");
        if path.ends_with("ResolveCredential") && *field != "organization_id" {
            recorded += about_one_field.len();
        }
        assert_eq!(denials(&world), recorded, "denials after a bad {field} of {path}");
    }
    assert!(findings.is_empty(), "{findings:#?}");
    // Those in the settings of connections; a browser's way back is none of these.
    let of_settings = |row: &&Row| row.fields.iter().any(|field| field.contains("config."));
    let refused = rows.iter().filter(|row| row.reason == "URL_NOT_ALLOWED").filter(of_settings).count();
    let on_record = world.sql("SELECT count(*) FROM audit_events WHERE kind = 'URL_REFUSED'");
    assert!(
        on_record.parse::<usize>().unwrap() >= refused,
        "{on_record} of {refused} refused URLs are on record"
    );
    assert!(!fs::read_to_string(&world.server.log).unwrap().contains(CANARY));
}

/// Asserts that no part of an error holds what was in the request's credential.
#[track_caller]
fn assert_no_secret(at: &str, status: &Status) {
    let headers = MetadataMap::into_headers(status.metadata().clone());
    let parts =
        [status.message().as_bytes().to_vec(), status.details().to_vec(), format!("{headers:?}").into()];
    for part in parts {
        let found = part.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "{at}: a secret came back in {status:?}");
    }
}

#[tokio::test]
async fn every_field_of_every_request_is_tested() {
    let world = start_world();
    let fixture = Fixture::new(&world).await;
    let tested: BTreeSet<(String, String)> =
        fixture.rows().into_iter().map(|row| (row.path, row.field.to_owned())).collect();
    let descriptors = Descriptors::keyholder();
    let mut wanted = BTreeSet::new();
    for (path, request) in descriptors.methods() {
        let mut found = Vec::new();
        leaves(&descriptors, &request, "", &mut found);
        found.retain(|field| !NOT_READ.contains(&field.as_str()));
        wanted.extend(found.into_iter().map(|field| (path.clone(), field)));
    }
    let missing: Vec<_> = wanted.difference(&tested).collect();
    assert!(missing.is_empty(), "no bad value is tried for {missing:#?}");
}

/// The fields of a message, those of messages inside it by their path.
fn leaves(descriptors: &Descriptors, message: &str, prefix: &str, found: &mut Vec<String>) {
    for field in &descriptors.message(message).field {
        let path = format!("{prefix}{}", field.name());
        // Maps are messages inside their message; their name has one part more.
        let own = field.r#type() == Type::Message
            && field.type_name().starts_with(".keyholder.v1.")
            && field.type_name().matches('.').count() == 3;
        if own {
            leaves(descriptors, field.type_name(), &format!("{path}."), found);
        } else {
            found.push(path);
        }
    }
}

#[tokio::test]
async fn an_update_reads_no_field_that_its_mask_cannot_name() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut client = world.connections();
    let get = v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: connection_id.clone() };
    let before = client.get_connection(get).await.unwrap().into_inner().connection.unwrap();
    let connection = v1::Connection {
        organization_id: ACME.into(),
        connection_id,
        owner: "not an owner".into(),
        provider_id: "stripe".into(),
        auth_method: 99,
        display_name: "new".into(),
        account: Some(v1::Account { id: "\u{1b}".into(), name: "x".into(), email: "x".into() }),
        scopes: vec!["not a scope".into()],
        state: v1::ConnectionState::Deleted.into(),
        state_reason: "\0".into(),
        credential_summary: [("api_key".to_owned(), "sk-other".to_owned())].into(),
        config: [("colour".to_owned(), "red".to_owned())].into(),
        labels: [("NOT A KEY".to_owned(), String::new())].into(),
        refresh: Some(v1::Refresh { failures: -1, ..Default::default() }),
        generation: -1,
        create_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 }),
        update_time: Some(prost_types::Timestamp { seconds: i64::MIN, nanos: -1 }),
        etag: String::new(),
        last_test: Some(v1::LastTest { ok: true, outcome: 99, summary: "\0".into(), ..Default::default() }),
        tokens: Some(v1::Tokens { client_id: "x".into(), ..Default::default() }),
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
    let update = v1::UpdateConnectionRequest { connection: Some(connection), update_mask };
    let after = client.update_connection(update).await.unwrap().into_inner().connection.unwrap();
    let expected = v1::Connection {
        display_name: "new".into(),
        generation: 2,
        etag: after.etag.clone(),
        update_time: after.update_time,
        ..before
    };
    assert_eq!(after, expected);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_with_the_path_of_the_field() {
    let world = World::start();
    let channel = world.channel("console");
    let path = "/keyholder.v1.ConnectionService/CreateConnection";
    let before = everything(&world);
    let not_utf8 = |tag: u8| vec![tag << 3 | 2, 2, 0xff, 0xfe];
    let inside_account = [&[8 << 3 | 2, 4][..], &not_utf8(1)[..]].concat();
    for (message, named) in [
        (not_utf8(2), vec!["owner"]),
        (inside_account, vec!["account.id"]),
        (vec![2 << 3, 1], vec!["owner"]),
        (vec![0xff; 64], vec![]),
        (vec![2 << 3 | 2, 200, 1, b'u'], vec![]),
        (vec![0], vec![]),
    ] {
        let refused = raw::call(&channel, path, message.clone()).await;
        let status = assert_refused(refused, Code::InvalidArgument, "REQUEST_MALFORMED");
        if !named.is_empty() {
            assert_eq!(fields(&status), named, "{message:?}");
        }
    }
    assert_eq!(everything(&world), before);
}

#[tokio::test]
async fn a_request_of_10_mib_is_refused_as_too_large_by_every_rpc() {
    let world = World::start();
    let (operator, gateway) = (world.channel("operator"), world.channel("gateway"));
    // An unknown field, which every message could have.
    let mut message = vec![0xfa, 0x3f];
    prost::encoding::encode_varint(10 << 20, &mut message);
    message.resize(message.len() + (10 << 20), b'x');
    for path in Descriptors::keyholder().methods().keys() {
        let channel = if for_resolvers(path) { &gateway } else { &operator };
        let refused = raw::call(channel, path, message.clone()).await;
        assert_refused(refused, Code::InvalidArgument, "REQUEST_TOO_LARGE");
    }
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let world = World::start();
    let request = v1::CreateConnectionRequest {
        organization_id: ACME.into(),
        owner: "ada".into(),
        provider_id: "Open AI".into(),
        auth_method: 99,
        display_name: "\n".into(),
        scopes: vec!["a b".into()],
        labels: [("A".to_owned(), String::new())].into(),
        request_id: "a b".into(),
        ..Default::default()
    };
    let refused = world.connections().create_connection(request).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
    let named: BTreeSet<String> = fields(&status).into_iter().collect();
    let all = ["auth_method", "display_name", "labels", "owner", "provider_id", "request_id", "scopes"];
    assert_eq!(named, all.map(str::to_owned).into());

    let request = v1::CreateConnectionRequest {
        provider_id: "custom-api-key".into(),
        credentials: [("token".to_owned(), CANARY.to_owned())].into(),
        config: [
            ("base_url".to_owned(), format!("http://{CANARY}.example")),
            ("colour".to_owned(), "red".to_owned()),
        ]
        .into(),
        ..openai("user:ada", "")
    };
    let refused = world.connections().create_connection(request).await;
    let status = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
    let named: BTreeSet<String> = fields(&status).into_iter().collect();
    let all = ["config", "config.base_url", "credentials", "credentials.api_key"];
    assert_eq!(named, all.map(str::to_owned).into());
    assert_no_secret("several fields", &status);
}
