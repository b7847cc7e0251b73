//! One organization cannot observe that another's rows exist.

mod probes;

use std::collections::BTreeSet;
use std::time::Duration;

use keyholder_proto::v1::o_auth_client_service_client::OAuthClientServiceClient;
use keyholder_proto::v1::{self, check_access_request, create_grant_request, resolve_credential_request};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::callers::raw::{self, Descriptors};
use crate::harness::{ACME, World, assert_refused, eventually, grant_request, openai, resolve_request};
use probes::{Probe, authorization_probes, connection_probes, grant_probes, name_probes, probe, run_probes};

/// The other organization. Whatever is in it is called eve.
const OTHER: &str = "other";

/// Ids that were never given out.
const NO_CONNECTION: &str = "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";
const NO_GRANT: &str = "grant_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";
const NO_AUTHORIZATION: &str = "authz_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";
const NO_RUN: &str = "run_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";

/// What completes eve's flow, and its challenge (RFC 7636, appendix B).
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// Where the browsers of flows come back to.
const WEB: &str = "[web]\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://keyholder.example.com\"\n";

/// What the other organization has.
struct Eve {
    connection_ids: Vec<String>,
    grant_ids: Vec<String>,
    authorization_ids: Vec<String>,
    run_ids: Vec<String>,
    page_tokens: [String; 3],
    resume_token: String,
}

/// A connection of eve's with everything that a connection can have.
fn eves(owner: &str, key: &str) -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest {
        organization_id: OTHER.into(),
        display_name: "eve's own".into(),
        account: Some(v1::Account {
            id: format!("acct_eve_{key}"),
            name: "eve".into(),
            email: "eve@example.com".into(),
        }),
        labels: [("team".to_owned(), "eve".to_owned())].into(),
        request_id: format!("eve-{key}"),
        ..openai(owner, key)
    }
}

impl Eve {
    /// Fills the other organization: connections that are in use, disabled and deleted, one of them owned by a
    /// principal that is called the same in both organizations, and grants to another such.
    async fn new(world: &World) -> Self {
        let (mut connections, mut grants) = (world.connections(), world.grants("console"));
        let mut connection_ids = Vec::new();
        for (owner, key) in
            [("user:ada", "sk-1"), ("user:eve", "sk-2"), ("user:eve", "sk-3"), ("user:eve", "sk-4")]
        {
            let made = connections.create_connection(eves(owner, key)).await.unwrap().into_inner();
            connection_ids.push(made.connection.unwrap().connection_id);
        }
        let mut grant_ids = Vec::new();
        for id in &connection_ids {
            let request = v1::CreateGrantRequest {
                organization_id: OTHER.into(),
                reason: "eve".into(),
                request_id: format!("eve-{id}"),
                ..grant_request("agent:roadie", id)
            };
            grant_ids.push(grants.create_grant(request).await.unwrap().into_inner().grant.unwrap().grant_id);
        }
        for (actor, id) in [("agent:roadie", &connection_ids[0]), ("user:eve", &connection_ids[1])] {
            let resolve = v1::ResolveCredentialRequest {
                organization_id: OTHER.into(),
                purpose: "eve's purpose".into(),
                ..resolve_request(actor, id)
            };
            world.grants("gateway").resolve_credential(resolve).await.unwrap();
        }
        let disable = v1::DisableConnectionRequest {
            organization_id: OTHER.into(),
            connection_id: connection_ids[2].clone(),
            ..Default::default()
        };
        connections.disable_connection(disable).await.unwrap();
        let delete = v1::DeleteConnectionRequest {
            organization_id: OTHER.into(),
            connection_id: connection_ids[3].clone(),
            ..Default::default()
        };
        connections.delete_connection(delete).await.unwrap();
        let revoke = v1::RevokeGrantRequest {
            organization_id: OTHER.into(),
            grant_id: grant_ids[1].clone(),
            ..Default::default()
        };
        grants.revoke_grant(revoke).await.unwrap();

        let authorization_ids = Self::begin_flows(world).await;
        let run = v1::RevokeAllRequest {
            organization_id: OTHER.into(),
            provider_id: "stripe".into(),
            ..Default::default()
        };
        let run = connections.revoke_all(run).await.unwrap().into_inner().revocation_run.unwrap();
        eventually("the end of eve's run", || {
            (world.sql("SELECT count(*) FROM revocation_runs WHERE done_time IS NULL") == "0").then_some(())
        });

        let (organization_id, page_size) = (OTHER.to_owned(), 1);
        let list = v1::ListConnectionsRequest { organization_id, page_size, ..Default::default() };
        let connection_page = connections.list_connections(list).await.unwrap().into_inner();
        let organization_id = OTHER.to_owned();
        let list = v1::ListGrantsRequest { organization_id, page_size, ..Default::default() };
        let grant_page = grants.list_grants(list).await.unwrap().into_inner();
        let organization_id = OTHER.to_owned();
        let list = v1::ListAuditEventsRequest { organization_id, page_size, ..Default::default() };
        let event_page = world.audit().list_audit_events(list).await.unwrap().into_inner();
        let watch = v1::WatchConnectionsRequest { organization_id: OTHER.into(), ..Default::default() };
        let mut feed = connections.watch_connections(watch).await.unwrap().into_inner();
        Self {
            connection_ids,
            grant_ids,
            authorization_ids,
            run_ids: vec![run.revocation_run_id],
            page_tokens: [
                connection_page.next_page_token,
                grant_page.next_page_token,
                event_page.next_page_token,
            ],
            resume_token: feed.message().await.unwrap().unwrap().resume_token,
        }
    }
}

impl Eve {
    /// Begins flows with a client of the other organization's own, one of them with a challenge.
    async fn begin_flows(world: &World) -> Vec<String> {
        let client = v1::SetOAuthClientRequest {
            organization_id: OTHER.into(),
            provider_id: "github".into(),
            client_id: "eves-client".into(),
            client_secret: "eves-secret".into(),
            keep_previous_secret: false,
        };
        let mut clients = OAuthClientServiceClient::new(world.channel("console"));
        clients.set_o_auth_client(client).await.unwrap();
        let mut ids = Vec::new();
        for completion_challenge in ["", CHALLENGE].map(String::from) {
            let start = v1::StartAuthorizationRequest {
                organization_id: OTHER.into(),
                owner: "user:eve".into(),
                provider_id: "github".into(),
                display_name: "eve's".into(),
                completion_challenge,
                ..Default::default()
            };
            let begun = world.connections().start_authorization(start).await.unwrap().into_inner();
            ids.push(begun.authorization.unwrap().authorization_id);
        }
        ids
    }
}

/// All of a call that a caller can see.
fn seen(result: Result<Vec<u8>, Status>) -> Result<Vec<u8>, (Code, String, Vec<u8>)> {
    result.map_err(|status| (status.code(), status.message().to_owned(), status.details().to_vec()))
}

/// Everything of an organization, as the database has it.
fn rows_of(world: &World, organization_id: &str) -> String {
    world.sql(&format!(
        "SELECT table_name, md5(query_to_xml(format('SELECT t::text FROM %I t WHERE organization_id = %L ORDER BY 1',
                                                    table_name, '{organization_id}'), true, false, '')::text)
         FROM information_schema.columns
         WHERE table_schema = 'public' AND column_name = 'organization_id' ORDER BY 1"
    ))
}

/// A world in which acme has something of its own.
async fn two_organizations() -> (World, Eve) {
    let world = World::start_with(|_, _| WEB.to_owned());
    let connection_id = world.connect("user:ada", "sk-ada").await;
    world.grant("agent:roadie", &connection_id).await;
    let eve = Eve::new(&world).await;
    (world, eve)
}

#[tokio::test]
async fn another_organizations_id_is_answered_byte_for_byte_like_one_that_never_was() {
    let (world, eve) = two_organizations().await;
    let before = rows_of(&world, OTHER);
    let (several, auditor) = (world.channel("several"), world.channel("auditor"));
    let channel = |path: &str| if path.contains("Audit") { &auditor } else { &several };
    let cases = [
        (connection_probes(), &eve.connection_ids, NO_CONNECTION),
        (grant_probes(), &eve.grant_ids, NO_GRANT),
        (authorization_probes(), &eve.authorization_ids, NO_AUTHORIZATION),
        (run_probes(), &eve.run_ids, NO_RUN),
    ];
    let mut tried = BTreeSet::new();
    for (probes, eves, nobodys) in cases {
        for Probe { path, field, request } in probes {
            let never = seen(raw::call(channel(&path), &path, request(nobodys)).await);
            for id in eves {
                let theirs = seen(raw::call(channel(&path), &path, request(id)).await);
                assert_eq!(theirs, never, "{path} {field}");
            }
            tried.insert((path, field.to_owned()));
        }
    }
    for (Probe { path, field, request }, eves, nobodys) in name_probes() {
        let never = seen(raw::call(channel(&path), &path, request(nobodys)).await);
        let theirs = seen(raw::call(channel(&path), &path, request(eves)).await);
        assert_eq!(theirs, never, "{path} {field}");
    }
    assert_eq!(rows_of(&world, OTHER), before);

    let untried: Vec<_> = fields_with_ids().difference(&tried).cloned().collect();
    assert!(untried.is_empty(), "no id of another organization is tried for {untried:?}");
}

/// The fields of all requests that hold the id of something.
fn fields_with_ids() -> BTreeSet<(String, String)> {
    let descriptors = Descriptors::keyholder();
    let mut found = BTreeSet::new();
    for (path, request) in descriptors.methods() {
        for field in &descriptors.message(&request).field {
            match field.name() {
                "connection_id" | "grant_id" | "authorization_id" | "revocation_run_id" => {
                    found.insert((path.clone(), field.name().to_owned()));
                }
                "connection" => {
                    found.insert((path.clone(), "connection.connection_id".to_owned()));
                }
                _ => {}
            }
        }
    }
    found
}

#[tokio::test]
async fn tokens_of_another_organization_are_answered_like_nonsense() {
    let (world, eve) = two_organizations().await;
    let [connections, grants, events] = eve.page_tokens;
    let probes = [
        (
            probe("ConnectionService/ListConnections", "page_token", move |page_token| {
                v1::ListConnectionsRequest {
                    organization_id: ACME.into(),
                    page_size: 1,
                    page_token,
                    ..Default::default()
                }
            }),
            connections,
        ),
        (
            probe("GrantService/ListGrants", "page_token", move |page_token| v1::ListGrantsRequest {
                organization_id: ACME.into(),
                page_size: 1,
                page_token,
                ..Default::default()
            }),
            grants,
        ),
        (
            probe("AuditService/ListAuditEvents", "page_token", move |page_token| {
                v1::ListAuditEventsRequest {
                    organization_id: ACME.into(),
                    page_size: 1,
                    page_token,
                    ..Default::default()
                }
            }),
            events,
        ),
        (
            probe("ConnectionService/WatchConnections", "resume_token", move |resume_token| {
                v1::WatchConnectionsRequest {
                    organization_id: ACME.into(),
                    resume_token,
                    ..Default::default()
                }
            }),
            eve.resume_token,
        ),
    ];
    let operator = world.channel("operator");
    for (Probe { path, request, .. }, token) in probes {
        let nonsense = raw::call(&operator, &path, request("nonsense")).await;
        let theirs = raw::call(&operator, &path, request(&token)).await;
        let nonsense = assert_refused(nonsense, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(seen(theirs), seen(Err(nonsense)), "{path}");
    }
}

#[tokio::test]
async fn the_same_request_id_account_and_credential_in_two_organizations_do_not_collide() {
    let world = World::start();
    let (mut connections, mut grants) = (world.connections(), world.grants("console"));
    let mut made = BTreeSet::new();
    for organization_id in [OTHER, ACME] {
        let by_account = v1::CreateConnectionRequest {
            organization_id: organization_id.into(),
            ..eves("user:eve", "sk-1")
        };
        let by_credential = v1::CreateConnectionRequest {
            organization_id: organization_id.into(),
            request_id: "the-same".into(),
            ..openai("user:eve", "sk-2")
        };
        for request in [by_account, by_credential] {
            let connection =
                connections.create_connection(request).await.unwrap().into_inner().connection.unwrap();
            assert_eq!(connection.organization_id, organization_id);
            let request = v1::CreateGrantRequest {
                organization_id: organization_id.into(),
                request_id: format!("grant-{}", connection.account.unwrap().id),
                ..grant_request("agent:roadie", &connection.connection_id)
            };
            let grant = grants.create_grant(request).await.unwrap().into_inner().grant.unwrap();
            made.extend([connection.connection_id, grant.grant_id]);
        }
    }
    assert_eq!(made.len(), 8);
    // Nor does another request with an id that the other organization used.
    let request = v1::CreateConnectionRequest { request_id: "eve-sk-9".into(), ..openai("user:ada", "sk-9") };
    connections.create_connection(eves("user:eve", "sk-9")).await.unwrap();
    connections.create_connection(request).await.unwrap();
}

#[tokio::test]
async fn no_list_no_check_and_no_audit_shows_another_organizations_rows() {
    let (world, eve) = two_organizations().await;
    let mut answers = Vec::new();
    let all = [1, 2, 3, 4, 5].to_vec();
    let list = v1::ListConnectionsRequest { organization_id: ACME.into(), states: all, ..Default::default() };
    let connections = world.connections().list_connections(list).await.unwrap().into_inner();
    assert_eq!(connections.connections.len(), 1);
    answers.push(connections.encode_to_vec());
    let list = v1::ListGrantsRequest { organization_id: ACME.into(), ..Default::default() };
    let grants = world.grants("console").list_grants(list).await.unwrap().into_inner();
    assert_eq!(grants.grants.len(), 1);
    answers.push(grants.encode_to_vec());

    // In both organizations roadie may use a connection at openai; in acme that is exactly one.
    let access = v1::ListAccessRequest {
        organization_id: ACME.into(),
        actor: "agent:roadie".into(),
        ..Default::default()
    };
    let access = world.grants("gateway").list_access(access).await.unwrap().into_inner();
    assert_eq!(access.connections.len(), 1);
    answers.push(access.encode_to_vec());
    let list = v1::ListOAuthClientsRequest { organization_id: ACME.into() };
    let mut clients = OAuthClientServiceClient::new(world.channel("console"));
    let clients = clients.list_o_auth_clients(list).await.unwrap().into_inner();
    assert!(clients.oauth_clients.is_empty());
    answers.push(clients.encode_to_vec());
    let target = v1::ProviderTarget { provider_id: "openai".into(), ..Default::default() };
    let check = v1::CheckAccessRequest {
        organization_id: ACME.into(),
        actor: "agent:roadie".into(),
        target: Some(check_access_request::Target::Provider(target.clone())),
        ..Default::default()
    };
    let answer = world.grants("console").check_access(check).await.unwrap().into_inner();
    assert_eq!(answer.connection_id, connections.connections[0].connection_id);
    answers.push(answer.encode_to_vec());
    let resolve = v1::ResolveCredentialRequest {
        target: Some(resolve_credential_request::Target::Provider(target)),
        ..resolve_request("agent:roadie", "")
    };
    let released = world.grants("gateway").resolve_credential(resolve).await.unwrap().into_inner();
    assert_eq!(released.http.as_ref().unwrap().headers["Authorization"], "Bearer sk-ada");
    answers.push(released.encode_to_vec());

    let list = v1::ListAuditEventsRequest { organization_id: ACME.into(), ..Default::default() };
    let events = world.audit().list_audit_events(list).await.unwrap().into_inner();
    assert_eq!(events.audit_events.len(), 3);
    answers.push(events.encode_to_vec());

    let ids = eve.connection_ids.iter().chain(&eve.grant_ids).map(String::as_str);
    for secret in ids.chain(["eve", OTHER]) {
        for answer in &answers {
            assert!(!answer.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
    }
}

#[tokio::test]
async fn a_watch_tells_nothing_of_another_organizations_changes() {
    let (world, _) = two_organizations().await;
    let mut client = world.connections();
    let watch = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feed = client.watch_connections(watch).await.unwrap().into_inner();
    let first = feed.message().await.unwrap().unwrap().connection.unwrap();
    assert_eq!(first.organization_id, ACME);
    assert_eq!(feed.message().await.unwrap().unwrap().connection, None);

    client.create_connection(eves("user:eve", "sk-5")).await.unwrap();
    let connection_id = world.connect("user:ada", "sk-6").await;
    let next = timeout(Duration::from_secs(60), feed.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.connection.unwrap().connection_id, connection_id);
}

#[tokio::test]
async fn a_selector_grant_covers_its_own_organization_only() {
    let world = World::start();
    let mut grants = world.grants("console");
    let selector = v1::GrantSelector { owner: "user:ada".into(), provider_id: "openai".into() };
    let request = v1::CreateGrantRequest {
        organization_id: OTHER.into(),
        target: Some(create_grant_request::Target::Selector(selector)),
        ..grant_request("agent:roadie", "")
    };
    grants.create_grant(request).await.unwrap();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let refused =
        world.grants("gateway").resolve_credential(resolve_request("agent:roadie", &connection_id)).await;
    assert_refused(refused, Code::PermissionDenied, "GRANT_MISSING");
}
