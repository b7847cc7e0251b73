//! What an agent is told it may use, and what capabilities stand for.

use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::{self, create_grant_request};
use keyholder_testkit::provider::Endpoint;
use prost_types::Timestamp;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::world::{CLIENT, OAuth, Setup, start};
use crate::harness::{ACME, assert_refused, fields, grant_request, openai};

/// Two services, one of them with an API elsewhere.
const CAPABILITIES: &str = "capabilities:\n\
    \x20 - { id: mail, title: Mail, scopes: [read], base_url: 'https://mail.example.com/v1' }\n\
    \x20 - { id: calendar, title: Calendar, scopes: [write] }\n\
    \x20 - { id: suite, title: Both, scopes: [read, write] }\n";

fn office() -> OAuth {
    OAuth::start_with(&Setup { definition: CAPABILITIES, ..Setup::default() })
}

fn of(actor: &str) -> v1::ListAccessRequest {
    v1::ListAccessRequest { organization_id: ACME.into(), actor: actor.into(), ..Default::default() }
}

async fn listed(
    client: &mut GrantServiceClient<Channel>,
    request: v1::ListAccessRequest,
) -> Result<Vec<v1::AccessibleConnection>, Status> {
    Ok(client.list_access(request).await?.into_inner().connections)
}

fn ids(connections: &[v1::AccessibleConnection]) -> Vec<&str> {
    connections.iter().map(|connection| connection.connection_id.as_str()).collect()
}

fn capability(id: &str, title: &str, base_url: &str) -> v1::AccessibleCapability {
    v1::AccessibleCapability { capability_id: id.into(), title: title.into(), base_url: base_url.into() }
}

fn with_capabilities(connection_id: &str, capabilities: &[&str]) -> v1::CreateGrantRequest {
    v1::CreateGrantRequest {
        capabilities: capabilities.iter().map(|id| (*id).to_owned()).collect(),
        ..grant_request("agent:roadie", connection_id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_told_its_accounts_what_it_may_do_there_where_and_until_when() {
    let oauth = office();
    let made = oauth.connect("user:ada").await;
    let end = Timestamp { seconds: 4_102_444_800, nanos: 0 };
    let request = v1::CreateGrantRequest {
        expire_time: Some(end),
        ..with_capabilities(&made.connection_id, &["mail"])
    };
    let mut grants = oauth.world.grants("console");
    let grant = grants.create_grant(request).await.unwrap().into_inner().grant.unwrap();
    let base_url = oauth.provider.url("").trim_end_matches('/').to_owned();
    let mail = capability("mail", "Mail", "https://mail.example.com/v1");
    let told = v1::AccessibleConnection {
        connection_id: made.connection_id.clone(),
        grant_id: grant.grant_id,
        grant_expire_time: Some(end),
        provider_id: "demo".into(),
        provider_name: "Demo".into(),
        owner: "user:ada".into(),
        account: made.account.clone(),
        display_name: made.display_name.clone(),
        state: v1::ConnectionState::Active.into(),
        scopes: vec!["read".into()],
        capabilities: vec![mail.clone()],
        base_url: base_url.clone(),
    };
    assert!(!told.account.as_ref().unwrap().email.is_empty());
    for workload in ["console", "gateway"] {
        let found = listed(&mut oauth.world.grants(workload), of("agent:roadie")).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&told), "{workload}");
    }

    // Its owner may do all of it, by no grant.
    let owners = listed(&mut grants, of("user:ada")).await.unwrap();
    let expected = v1::AccessibleConnection {
        grant_id: String::new(),
        grant_expire_time: None,
        scopes: vec!["read".into(), "write".into()],
        capabilities: vec![
            mail,
            capability("calendar", "Calendar", &base_url),
            capability("suite", "Both", &base_url),
        ],
        ..told
    };
    assert_eq!(owners, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_has_no_right_to_is_left_out() {
    let oauth = office();
    let world = &oauth.world;
    let granted = world.connect("user:ada", "sk-granted").await;
    let disabled = world.connect("user:ada", "sk-disabled").await;
    let [revoked, expired, deleted, elsewhere] = [
        world.connect("user:ada", "sk-revoked").await,
        world.connect("user:ada", "sk-expired").await,
        world.connect("user:ada", "sk-deleted").await,
        world.connect("user:ada", "sk-elsewhere").await,
    ];
    world.connect("user:ada", "sk-never").await;
    world.connect("agent:other", "sk-other").await;
    let mut grants = world.grants("console");
    for id in [&granted, &disabled, &deleted] {
        world.grant("agent:roadie", id).await;
    }
    let grant_id = world.grant("agent:roadie", &revoked).await;
    let revoke = v1::RevokeGrantRequest { organization_id: ACME.into(), grant_id, etag: String::new() };
    grants.revoke_grant(revoke).await.unwrap();
    let grant_id = world.grant("agent:roadie", &expired).await.replace("grant_", "");
    world.sql(&format!("UPDATE grants SET expire_time = create_time WHERE grant_id = '{grant_id}'"));
    let request = v1::CreateGrantRequest {
        workloads: vec!["spiffe://test.example/other".into()],
        ..grant_request("agent:roadie", &elsewhere)
    };
    grants.create_grant(request).await.unwrap();
    let mut connections = world.connections();
    let delete = v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: deleted,
        ..Default::default()
    };
    connections.delete_connection(delete).await.unwrap();
    let disable = v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: disabled.clone(),
        ..Default::default()
    };
    connections.disable_connection(disable).await.unwrap();

    let mut gateway = world.grants("gateway");
    let found = listed(&mut gateway, of("agent:roadie")).await.unwrap();
    assert_eq!(ids(&found), [&granted, &disabled]);
    assert_eq!(found[1].state(), v1::ConnectionState::Disabled);
    assert!(listed(&mut gateway, of("agent:nobody")).await.unwrap().is_empty());

    // A grant for all of an owner's at a provider covers each of them, and nothing else.
    let selector = v1::GrantSelector { owner: "agent:other".into(), provider_id: "openai".into() };
    let request = v1::CreateGrantRequest {
        target: Some(create_grant_request::Target::Selector(selector)),
        ..grant_request("agent:assistant", "")
    };
    grants.create_grant(request).await.unwrap();
    let later = world.connect("agent:other", "sk-later").await;
    let found = listed(&mut gateway, of("agent:assistant")).await.unwrap();
    assert_eq!((found.len(), found[1].connection_id.as_str()), (2, later.as_str()));
    // Nor does another organization's list show any of it.
    let other = v1::ListAccessRequest { organization_id: "other".into(), ..of("agent:roadie") };
    assert!(listed(&mut gateway, other).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_lists_only_as_whom_and_for_what_it_may_speak() {
    let oauth = office();
    let world = &oauth.world;
    let key = world.connect("user:ada", "sk-ada").await;
    let consented = oauth.connect("user:ada").await.connection_id;
    for actor in ["agent:roadie", "agent:other"] {
        for id in [&key, &consented] {
            world.grant(actor, id).await;
        }
    }
    let mut narrow = world.grants("narrow");
    assert_eq!(ids(&listed(&mut narrow, of("agent:roadie")).await.unwrap()), [&key]);
    let refused = listed(&mut narrow, of("agent:other")).await;
    assert_refused(refused, Code::PermissionDenied, "ACTOR_NOT_ALLOWED");
    let elsewhere = v1::ListAccessRequest { organization_id: "other".into(), ..of("agent:roadie") };
    assert_refused(listed(&mut narrow, elsewhere).await, Code::PermissionDenied, "ORGANIZATION_NOT_ALLOWED");
    let through = |actor: &str, workload: &str| v1::ListAccessRequest {
        workload: format!("spiffe://test.example/{workload}"),
        ..of(actor)
    };
    let refused = listed(&mut narrow, through("agent:roadie", "gateway")).await;
    assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
    assert_eq!(ids(&listed(&mut narrow, through("agent:roadie", "narrow")).await.unwrap()), [&key]);
    let refused = listed(&mut world.grants("auditor"), of("agent:roadie")).await;
    assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_workload_a_manager_is_told_what_that_workload_would_be_told() {
    let oauth = office();
    let world = &oauth.world;
    let key = world.connect("user:ada", "sk-ada").await;
    let consented = oauth.connect("user:ada").await.connection_id;
    for actor in ["agent:roadie", "agent:other"] {
        for id in [&key, &consented] {
            world.grant(actor, id).await;
        }
    }
    let mut console = world.grants("console");
    let through = |actor: &str, workload: &str| v1::ListAccessRequest {
        workload: format!("spiffe://test.example/{workload}"),
        ..of(actor)
    };
    let everything = [key.as_str(), consented.as_str()];
    for (actor, workload, expected) in [
        ("agent:roadie", "gateway", &everything[..]),
        ("agent:other", "gateway", &everything),
        ("agent:roadie", "narrow", &everything[..1]),
        ("agent:other", "narrow", &[]),
        // These resolve nothing at all.
        ("agent:roadie", "auditor", &[]),
        ("agent:roadie", "nobody", &[]),
    ] {
        let found = listed(&mut console, through(actor, workload)).await.unwrap();
        assert_eq!(ids(&found), expected, "{actor} {workload}");
        // The same as asking for each of them.
        for id in everything {
            let check = v1::CheckAccessRequest {
                organization_id: ACME.into(),
                actor: actor.into(),
                workload: format!("spiffe://test.example/{workload}"),
                target: Some(v1::check_access_request::Target::ConnectionId(id.into())),
                ..Default::default()
            };
            let allowed = console.check_access(check).await.unwrap().into_inner().allowed;
            assert_eq!(allowed, expected.contains(&id), "{actor} {workload}");
        }
    }
    assert_eq!(ids(&listed(&mut console, of("agent:other")).await.unwrap()), everything);
    // Nor does a manager of one provider learn of another one.
    let mut openai_console = world.grants("openai-console");
    assert_eq!(ids(&listed(&mut openai_console, of("agent:roadie")).await.unwrap()), [&key]);
    let found = listed(&mut openai_console, through("agent:roadie", "gateway")).await.unwrap();
    assert_eq!(ids(&found), [&key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_every_connection_once_the_oldest_first() {
    let oauth = OAuth::start();
    let world = &oauth.world;
    let mut expected = Vec::new();
    for number in 0..7 {
        let id = world.connect("user:ada", &format!("sk-{number}")).await;
        // Twice: a connection with two grants is still one.
        world.grant("agent:roadie", &id).await;
        world.grant("agent:roadie", &id).await;
        if number % 3 == 1 {
            let id = id.replace("conn_", "");
            world.sql(&format!("UPDATE grants SET revoke_time = now() WHERE connection_id = '{id}'"));
        } else {
            expected.push(id);
        }
    }
    let mut gateway = world.grants("gateway");
    for page_size in [1, 2, 3, 7, 100] {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListAccessRequest { page_size, page_token, ..of("agent:roadie") };
            let page = gateway.list_access(request).await.unwrap().into_inner();
            assert!(page.connections.len() <= usize::try_from(page_size).unwrap());
            found.extend(page.connections.into_iter().map(|connection| connection.connection_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "in pages of {page_size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_capabilities_is_a_grant_of_their_scopes() {
    let oauth = office();
    let mut grants = oauth.world.grants("console");
    let made = oauth.connect("user:ada").await;
    let grant = grants
        .create_grant(with_capabilities(&made.connection_id, &["calendar"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(grant.grant.unwrap().scopes, ["write"]);
    let both = v1::CreateGrantRequest {
        scopes: vec!["read".into()],
        ..with_capabilities(&made.connection_id, &["calendar", "calendar"])
    };
    let grant = grants.create_grant(both).await.unwrap().into_inner().grant.unwrap();
    assert_eq!(grant.scopes, ["read", "write"]);

    let unknown = grants.create_grant(with_capabilities(&made.connection_id, &["mail", "contacts"])).await;
    let refused = assert_refused(unknown, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["capabilities[1]"]);
    // A connection that was asked for less has less to give.
    let narrow = v1::StartAuthorizationRequest { capabilities: vec!["mail".into()], ..start("user:bob") };
    let begun = oauth.begin_as(narrow).await;
    oauth.consent(&begun).await;
    let reader = oauth.authorization(&begun).await.connection_id;
    grants.create_grant(with_capabilities(&reader, &["mail"])).await.unwrap();
    for lacking in ["calendar", "suite"] {
        let refused = grants.create_grant(with_capabilities(&reader, &[lacking])).await;
        let refused = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(fields(&refused), ["capabilities"], "{lacking}");
    }
    // Another provider's are none of this one's.
    let key = oauth.world.connections().create_connection(openai("user:ada", "sk-1")).await.unwrap();
    let key = key.into_inner().connection.unwrap().connection_id;
    let refused = grants.create_grant(with_capabilities(&key, &["mail"])).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_asked_for_the_scopes_of_the_capabilities() {
    let oauth = office();
    for (scopes, capabilities, expected) in [
        (&[][..], &["mail"][..], &["read"][..]),
        (&[], &["calendar"], &["write"]),
        (&[], &["mail", "calendar"], &["read", "write"]),
        (&["read"], &["calendar"], &["read", "write"]),
        // Nothing named: what the provider's definition says.
        (&[], &[], &["read", "write"]),
    ] {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let request = v1::StartAuthorizationRequest {
            scopes: owned(scopes),
            capabilities: owned(capabilities),
            ..start(&format!("user:ada-{}", expected.join("-")))
        };
        let begun = oauth.begin_as(request).await;
        assert_eq!(begun.authorization.as_ref().unwrap().scopes, expected);
        oauth.consent(&begun).await;
        let history = oauth.provider.history();
        let asked = history.iter().rfind(|call| call.endpoint == Endpoint::Authorize).unwrap();
        assert_eq!(asked.parameter("scope"), Some(expected.join(" ").as_str()), "{capabilities:?}");
        let done = oauth.authorization(&begun).await;
        assert_eq!(oauth.connection(&done.connection_id).await.scopes, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_with_default_scopes_of_its_own_asks_for_those() {
    let oauth = OAuth::start_with(&Setup { own_client: "    default_scopes: [read]\n", ..Setup::default() });
    let create = |owner: &str, scopes: &[&str]| v1::CreateConnectionRequest {
        provider_id: "demo".into(),
        auth_method: v1::AuthMethod::Oauth2ClientCredentials.into(),
        credentials: [("client_id", CLIENT.0), ("client_secret", CLIENT.1)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ..openai(owner, "")
    };
    for (owner, scopes, expected) in [
        ("user:ada", &[][..], "read"),
        ("user:bob", &["write"], "write"),
        ("user:eve", &["read", "write"], "read write"),
    ] {
        let made = oauth.world.connections().create_connection(create(owner, scopes)).await.unwrap();
        let history = oauth.provider.history();
        let asked = history.iter().rfind(|call| call.endpoint == Endpoint::Token).unwrap();
        assert_eq!(asked.parameter("scope"), Some(expected), "{owner}");
        assert_eq!(made.into_inner().connection.unwrap().scopes.join(" "), expected);
    }
    // The other methods ask for the provider's.
    assert_eq!(oauth.connect("user:ada").await.scopes, ["read", "write"]);
}
