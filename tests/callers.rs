//! Who may call what, as whom, for which organization and provider: what the certificate and the policy say, and
//! nothing else.

pub(crate) mod raw;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use keyholder_domain::{Clock as _, SystemClock};
use keyholder_proto::v1;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_testkit::client::{channel, channel_with};
use keyholder_testkit::pki::{Authority, LeafRequest};
use prost::Message as _;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{ACME, World, assert_refused, grant_request, openai, reason, resolve_request};
use raw::Descriptors;

const ANY: &[&str] = &["operator", "console", "gateway", "auditor", "several"];
const MANAGING: &[&str] = &["operator", "console", "several"];
const CHECKING: &[&str] = &["operator", "console", "gateway", "several"];
const RESOLVING: &[&str] = &["gateway", "several"];
const AUDITING: &[&str] = &["operator", "auditor"];

/// Every method, who may call it, and what an empty request gets from it.
const EXPECTED: &[(&str, &[&str], &str)] = &[
    ("/keyholder.v1.ProviderService/ListProviders", ANY, "OK"),
    ("/keyholder.v1.ProviderService/GetProvider", ANY, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/CreateConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/StartAuthorization", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/GetAuthorization", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/CompleteAuthorization", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/GetConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/ListConnections", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/UpdateConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/ReplaceCredentials", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/DisableConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/EnableConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/DeleteConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/RevokeAll", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/GetRevocationRun", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/TestConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/RefreshConnection", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.ConnectionService/WatchConnections", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.OAuthClientService/SetOAuthClient", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.OAuthClientService/ListOAuthClients", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.OAuthClientService/DeleteOAuthClient", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/CreateGrant", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/GetGrant", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/ListGrants", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/RevokeGrant", MANAGING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/CheckAccess", CHECKING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/ListAccess", CHECKING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/ResolveCredential", RESOLVING, "INVALID_FIELD"),
    ("/keyholder.v1.GrantService/ReportRejected", RESOLVING, "INVALID_FIELD"),
    ("/keyholder.v1.AuditService/ListAuditEvents", AUDITING, "INVALID_FIELD"),
    ("/grpc.health.v1.Health/Check", ANY, "OK"),
    // The library under it has no list yet.
    ("/grpc.health.v1.Health/List", ANY, "METHOD_UNKNOWN"),
    ("/grpc.health.v1.Health/Watch", ANY, "OK"),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANY, "InvalidArgument"),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ANY, "InvalidArgument"),
];

#[tokio::test]
async fn every_rpc_answers_every_kind_of_caller_as_the_table_says() {
    let known: BTreeSet<&str> = EXPECTED.iter().map(|(path, ..)| *path).collect();
    let mut served = Descriptors::keyholder().methods();
    served.extend(Descriptors::read(tonic_health::pb::FILE_DESCRIPTOR_SET).methods());
    let unknown: Vec<_> = served.keys().filter(|path| !known.contains(path.as_str())).collect();
    assert!(unknown.is_empty(), "the table lacks {unknown:?}");

    let world = World::start();
    for caller in ANY {
        let channel = world.channel(caller);
        for (path, callers, answer) in EXPECTED {
            let expected = if callers.contains(caller) { answer } else { "ROLE_MISSING" };
            assert_eq!(
                outcome(raw::call(&channel, path, Vec::new()).await),
                expected,
                "{caller} calls {path}"
            );
        }
    }
    let stranger = world.channel("stranger");
    for (path, ..) in EXPECTED {
        let refused = raw::call(&stranger, path, Vec::new()).await;
        assert_refused(refused, Code::PermissionDenied, "WORKLOAD_UNKNOWN");
    }
    for (who, channel) in [("nobody", nobody(&world)), ("a forger", forger(&world))] {
        for (path, ..) in EXPECTED {
            let refused = raw::call(&channel, path, Vec::new()).await.unwrap_err();
            assert_eq!(reason(&refused), "", "{who} got as far as the gate of {path}");
            let cause = std::error::Error::source(&refused);
            assert!(cause.is_some(), "{who} got an answer to {path}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn a_path_that_is_no_method_is_refused_to_everybody() {
    let world = World::start();
    let (operator, stranger) = (world.channel("operator"), world.channel("stranger"));
    for path in [
        "/",
        "/nothing",
        "/keyholder.v1.GrantService/Nothing",
        "/keyholder.v1.GrantService/",
        "/keyholder.v1.GrantService/GetGrant/",
        "/keyholder.v1.GrantService/getgrant",
        "//keyholder.v1.GrantService/GetGrant",
        "/keyholder.v1.ConnectionService/GetGrant",
        "/keyholder.v1.AdminService/Drain",
    ] {
        let refused = raw::call(&operator, path, Vec::new()).await;
        assert_refused(refused, Code::Unimplemented, "METHOD_UNKNOWN");
        let refused = raw::call(&stranger, path, Vec::new()).await;
        assert_refused(refused, Code::PermissionDenied, "WORKLOAD_UNKNOWN");
    }
}

#[tokio::test]
async fn names_in_headers_count_for_nothing() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let path = "/keyholder.v1.AuditService/ListAuditEvents";
    let list = v1::ListAuditEventsRequest { organization_id: ACME.into(), ..Default::default() };
    for (workload, code, expected) in [
        ("gateway", Code::PermissionDenied, "ROLE_MISSING"),
        ("stranger", Code::PermissionDenied, "WORKLOAD_UNKNOWN"),
    ] {
        let refused =
            raw::call_with(&world.channel(workload), path, list.encode_to_vec(), operators_name()).await;
        assert_refused(refused, code, expected);
    }

    let resolve = resolve_request("user:ada", &connection_id).encode_to_vec();
    let path = "/keyholder.v1.GrantService/ResolveCredential";
    raw::call_with(&world.channel("gateway"), path, resolve, operators_name()).await.unwrap();
    let released = &events(&world, ACME).await[0];
    assert_eq!(released.workload, "spiffe://test.example/gateway");
}

#[tokio::test]
async fn a_resolver_speaks_only_as_the_actors_for_the_organizations_and_at_the_providers_of_its_policy() {
    let world = World::start();
    let openai_id = world.connect("agent:roadie", "sk-1").await;
    let stripe_id = connect_stripe(&world, "agent:roadie").await;
    let other = world.connect("user:ada", "sk-2").await;
    world.grant("agent:roadie", &other).await;
    let mut narrow = world.grants("narrow");

    narrow.resolve_credential(resolve_request("agent:roadie", &openai_id)).await.unwrap();
    narrow.resolve_credential(resolve_request("agent:roadie", &other)).await.unwrap();
    let mut wanted = Vec::new();
    for actor in ["user:ada", "agent:rodie", "agent:roadie2", "session:roadie"] {
        let refused = narrow.resolve_credential(resolve_request(actor, &other)).await;
        assert_refused(refused, Code::PermissionDenied, "ACTOR_NOT_ALLOWED");
        wanted.push((actor.to_owned(), "ACTOR_NOT_ALLOWED".to_owned(), String::new()));
    }
    let refused = narrow.resolve_credential(resolve_request("service:any", &other)).await;
    assert_refused(refused, Code::PermissionDenied, "GRANT_MISSING");
    wanted.push(("service:any".to_owned(), "GRANT_MISSING".to_owned(), "openai".to_owned()));
    for request in [resolve_request("agent:roadie", &stripe_id), provider_request("agent:roadie", "stripe")] {
        let refused = narrow.resolve_credential(request).await;
        assert_refused(refused, Code::PermissionDenied, "PROVIDER_NOT_ALLOWED");
        wanted.push(("agent:roadie".to_owned(), "PROVIDER_NOT_ALLOWED".to_owned(), "stripe".to_owned()));
    }
    wanted.sort();
    assert_eq!(denials(&world, ACME).await, wanted);

    for request in [resolve_request("agent:roadie", &openai_id), provider_request("agent:roadie", "openai")] {
        let request = v1::ResolveCredentialRequest { organization_id: "other".into(), ..request };
        let refused = narrow.resolve_credential(request).await;
        assert_refused(refused, Code::PermissionDenied, "ORGANIZATION_NOT_ALLOWED");
    }
    let denial = |provider: &str| {
        ("agent:roadie".to_owned(), "ORGANIZATION_NOT_ALLOWED".to_owned(), provider.to_owned())
    };
    assert_eq!(denials(&world, "other").await, [denial(""), denial("openai")]);
}

#[tokio::test]
async fn an_organization_that_is_not_allowed_is_refused_alike_whether_it_is_used_or_not() {
    let world = World::start();
    let used = v1::CreateConnectionRequest { organization_id: "used".into(), ..openai("user:ada", "sk-1") };
    world.connections().create_connection(used).await.unwrap();
    let console = world.channel("acme-console");
    for (path, callers, _) in EXPECTED {
        if !callers.contains(&"console") || path.starts_with("/grpc") || path.contains("ProviderService") {
            continue;
        }
        let refusal = |organization: &'static str| {
            // In every request organization_id is the field 1, but in UpdateConnection, where it is inside.
            let message =
                v1::GetConnectionRequest { organization_id: organization.into(), ..Default::default() };
            let message = if path.ends_with("UpdateConnection") {
                let connection =
                    v1::Connection { organization_id: organization.into(), ..Default::default() };
                v1::UpdateConnectionRequest { connection: Some(connection), ..Default::default() }
                    .encode_to_vec()
            } else {
                message.encode_to_vec()
            };
            raw::call(&console, path, message)
        };
        let (used, unused) = (refusal("used").await, refusal("unused").await);
        let used = assert_refused(used, Code::PermissionDenied, "ORGANIZATION_NOT_ALLOWED");
        let unused = assert_refused(unused, Code::PermissionDenied, "ORGANIZATION_NOT_ALLOWED");
        assert_eq!((used.message(), used.details()), (unused.message(), unused.details()), "{path}");
    }
}

#[tokio::test]
async fn a_manager_changes_nothing_at_a_provider_outside_its_policy() {
    let world = World::start();
    let stripe_id = connect_stripe(&world, "user:ada").await;
    let stripe_grant = world.grant("agent:roadie", &stripe_id).await;
    let mut connections = ConnectionServiceClient::new(world.channel("openai-console"));
    let mut grants = world.grants("openai-console");
    let (code, expected) = (Code::PermissionDenied, "PROVIDER_NOT_ALLOWED");

    assert_refused(connections.create_connection(stripe("user:bob", "sk-2")).await, code, expected);
    for path in ["display_name", "config"] {
        let connection = named(&stripe_id);
        let update_mask = Some(prost_types::FieldMask { paths: vec![path.into()] });
        let update = v1::UpdateConnectionRequest { connection: Some(connection), update_mask };
        assert_refused(connections.update_connection(update).await, code, expected);
    }
    let replace = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: stripe_id.clone(),
        credentials: [("token".to_owned(), "sk-3".to_owned())].into(),
        ..Default::default()
    };
    assert_refused(connections.replace_credentials(replace).await, code, expected);
    let (organization_id, connection_id) = (ACME.to_owned(), stripe_id.clone());
    let disable = v1::DisableConnectionRequest { organization_id, connection_id, ..Default::default() };
    assert_refused(connections.disable_connection(disable).await, code, expected);
    let (organization_id, connection_id) = (ACME.to_owned(), stripe_id.clone());
    let enable = v1::EnableConnectionRequest { organization_id, connection_id, ..Default::default() };
    assert_refused(connections.enable_connection(enable).await, code, expected);
    let (organization_id, connection_id) = (ACME.to_owned(), stripe_id.clone());
    let delete = v1::DeleteConnectionRequest { organization_id, connection_id, ..Default::default() };
    assert_refused(connections.delete_connection(delete).await, code, expected);

    assert_refused(grants.create_grant(grant_request("agent:b", &stripe_id)).await, code, expected);
    let selector = v1::GrantSelector { owner: "user:ada".into(), provider_id: "stripe".into() };
    let by_selector = v1::CreateGrantRequest {
        target: Some(v1::create_grant_request::Target::Selector(selector)),
        ..grant_request("agent:b", "")
    };
    assert_refused(grants.create_grant(by_selector).await, code, expected);
    let revoke =
        v1::RevokeGrantRequest { organization_id: ACME.into(), grant_id: stripe_grant, etag: String::new() };
    assert_refused(grants.revoke_grant(revoke).await, code, expected);
    let answer = check(&world, "openai-console", check_request("agent:roadie", &stripe_id)).await.unwrap();
    assert_eq!((answer.allowed, answer.reason.as_str()), (false, expected));

    let made = connections.create_connection(openai("user:ada", "sk-1")).await.unwrap().into_inner();
    let made = made.connection.unwrap().connection_id;
    grants.create_grant(grant_request("agent:b", &made)).await.unwrap();
    let unchanged = connections.get_connection(get(&stripe_id)).await.unwrap().into_inner();
    assert_eq!(unchanged.connection.unwrap().etag, "g1");
}

#[tokio::test]
async fn a_workload_whose_policy_names_no_providers_uses_those_that_allow_it_by_default() {
    let world = World::start();
    let openai_id = world.connect("service:shop", "sk-1").await;
    let stripe_id = connect_stripe(&world, "service:shop").await;
    let mut plain = world.grants("plain");
    plain.resolve_credential(resolve_request("service:shop", &openai_id)).await.unwrap();
    plain.resolve_credential(provider_request("service:shop", "openai")).await.unwrap();
    for request in [resolve_request("service:shop", &stripe_id), provider_request("service:shop", "stripe")] {
        let refused = plain.resolve_credential(request).await;
        assert_refused(refused, Code::PermissionDenied, "PROVIDER_NOT_ALLOWED");
    }
    let answer = check(&world, "plain", check_request("service:shop", &stripe_id)).await.unwrap();
    assert_eq!((answer.allowed, answer.reason.as_str()), (false, "PROVIDER_NOT_ALLOWED"));
    let mut gateway = world.grants("gateway");
    gateway.resolve_credential(resolve_request("service:shop", &stripe_id)).await.unwrap();
}

#[tokio::test]
async fn only_a_manager_asks_whether_another_workload_would_get_access() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-1").await;
    let request = v1::CreateGrantRequest {
        workloads: vec!["spiffe://test.example/narrow".into()],
        ..grant_request("agent:roadie", &connection_id)
    };
    world.grants("console").create_grant(request).await.unwrap();
    let as_workload = |workload: &str| v1::CheckAccessRequest {
        workload: format!("spiffe://test.example/{workload}"),
        ..check_request("agent:roadie", &connection_id)
    };

    for manager in ["console", "operator"] {
        assert!(check(&world, manager, as_workload("narrow")).await.unwrap().allowed);
        let answer = check(&world, manager, as_workload("gateway")).await.unwrap();
        assert_eq!((answer.allowed, answer.reason.as_str()), (false, "WORKLOAD_NOT_GRANTED"));
    }
    let refused = check(&world, "gateway", as_workload("narrow")).await;
    assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
    let answer = check(&world, "gateway", as_workload("gateway")).await.unwrap();
    assert_eq!(answer.reason, "WORKLOAD_NOT_GRANTED");
    assert!(check(&world, "narrow", as_workload("narrow")).await.unwrap().allowed);
    assert!(check(&world, "narrow", check_request("agent:roadie", &connection_id)).await.unwrap().allowed);
    let refused = check(&world, "narrow", check_request("user:ada", &connection_id)).await;
    assert_refused(refused, Code::PermissionDenied, "ACTOR_NOT_ALLOWED");
}

#[tokio::test]
async fn a_managers_check_for_a_workload_says_what_that_workloads_resolve_would() {
    let world = World::start();
    let mut connection_ids = vec![world.connect("agent:roadie", "sk-1").await];
    connection_ids.push(connect_stripe(&world, "agent:roadie").await);
    connection_ids.push(world.connect("user:ada", "sk-2").await);
    for workload in ["narrow", "plain", "gateway", "several", "auditor", "console", "stranger"] {
        let mut resolver = world.grants(workload);
        for connection_id in &connection_ids {
            for actor in ["agent:roadie", "user:ada"] {
                let request = v1::CheckAccessRequest {
                    workload: format!("spiffe://test.example/{workload}"),
                    ..check_request(actor, connection_id)
                };
                let answer = check(&world, "operator", request).await.unwrap();
                let refused = resolver.resolve_credential(resolve_request(actor, connection_id)).await.err();
                let refusal = refused.as_ref().map(reason).unwrap_or_default();
                assert_eq!(
                    (answer.allowed, &answer.reason),
                    (refused.is_none(), &refusal),
                    "{workload} as {actor}"
                );
            }
        }
    }
    let request = v1::CheckAccessRequest {
        organization_id: "other".into(),
        workload: "spiffe://test.example/narrow".into(),
        ..check_request("agent:roadie", &connection_ids[0])
    };
    let answer = check(&world, "operator", request).await.unwrap();
    assert_eq!((answer.allowed, answer.reason.as_str()), (false, "ORGANIZATION_NOT_ALLOWED"));
}

/// What a call came to: a reason, or a code where there is none.
fn outcome(result: Result<Vec<u8>, Status>) -> String {
    match result {
        Ok(_) => "OK".into(),
        Err(status) if reason(&status).is_empty() => format!("{:?}", status.code()),
        Err(status) => reason(&status),
    }
}

/// A channel without a certificate.
fn nobody(world: &World) -> Channel {
    let mut roots = RootCertStore::empty();
    roots.add(world.authority.certificate().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    channel_with(world.server.grpc, config)
}

/// A channel with a certificate for the operator's name that another authority signed.
fn forger(world: &World) -> Channel {
    let authority = Authority::root("Keyholder test CA", SystemClock.now()).unwrap();
    let request = LeafRequest::spiffe("spiffe://test.example/operator", SystemClock.now()).unwrap();
    let issued = authority.issue(request).unwrap();
    let file = |name: &str| world.dir.path().join(name);
    fs::write(file("forged.pem"), issued.pem()).unwrap();
    fs::write(file("forged-key.pem"), issued.key_pem()).unwrap();
    channel(world.server.grpc, &file("ca.pem"), &file("forged.pem"), &file("forged-key.pem")).unwrap()
}

/// Headers in which proxies and meshes say who calls; here, the operator.
fn operators_name() -> MetadataMap {
    let name = "spiffe://test.example/operator";
    let mut headers = MetadataMap::new();
    for (header, value) in [
        ("x-forwarded-client-cert", format!("By=spiffe://test.example/proxy;URI={name}")),
        ("x-spiffe-id", name.to_owned()),
        ("x-forwarded-user", "operator".to_owned()),
        ("x-client-cert-san", name.to_owned()),
        ("x-keyholder-role", "operator".to_owned()),
        ("authorization", "Bearer operator".to_owned()),
        ("forwarded", "for=127.0.0.1;by=operator".to_owned()),
    ] {
        headers.insert(header, value.parse().unwrap());
    }
    headers
}

fn stripe(owner: &str, token: &str) -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest {
        provider_id: "stripe".into(),
        credentials: [("token".to_owned(), token.to_owned())].into(),
        ..openai(owner, "")
    }
}

async fn connect_stripe(world: &World, owner: &str) -> String {
    let made = world.connections().create_connection(stripe(owner, "sk-stripe")).await.unwrap().into_inner();
    made.connection.unwrap().connection_id
}

fn named(connection_id: &str) -> v1::Connection {
    v1::Connection { organization_id: ACME.into(), connection_id: connection_id.into(), ..Default::default() }
}

fn get(connection_id: &str) -> v1::GetConnectionRequest {
    v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: connection_id.into() }
}

fn provider_request(actor: &str, provider_id: &str) -> v1::ResolveCredentialRequest {
    let target = v1::ProviderTarget { provider_id: provider_id.into(), ..Default::default() };
    v1::ResolveCredentialRequest {
        target: Some(v1::resolve_credential_request::Target::Provider(target)),
        ..resolve_request(actor, "")
    }
}

fn check_request(actor: &str, connection_id: &str) -> v1::CheckAccessRequest {
    v1::CheckAccessRequest {
        organization_id: ACME.into(),
        actor: actor.into(),
        target: Some(v1::check_access_request::Target::ConnectionId(connection_id.into())),
        ..Default::default()
    }
}

async fn check(
    world: &World,
    caller: &str,
    request: v1::CheckAccessRequest,
) -> Result<v1::CheckAccessResponse, Status> {
    world.grants(caller).check_access(request).await.map(tonic::Response::into_inner)
}

/// The audit of an organization, the newest event first.
async fn events(world: &World, organization_id: &str) -> Vec<v1::AuditEvent> {
    let request =
        v1::ListAuditEventsRequest { organization_id: organization_id.into(), ..Default::default() };
    world.audit().list_audit_events(request).await.unwrap().into_inner().audit_events
}

/// The denials in the audit of an organization, sorted: actor, reason and provider.
async fn denials(world: &World, organization_id: &str) -> Vec<(String, String, String)> {
    let events = events(world, organization_id).await;
    let mut denials: Vec<_> = events
        .into_iter()
        .filter(|event| event.kind() == v1::AuditEventKind::CredentialDenied)
        .inspect(|event| assert_eq!(event.workload, "spiffe://test.example/narrow"))
        .map(|event| (event.actor, event.reason, event.provider_id))
        .collect();
    denials.sort();
    denials
}
