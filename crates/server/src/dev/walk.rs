//! The main job, once, step by step, for a person to read.

use std::net::SocketAddr;
use std::path::Path;

use keyholder_proto::v1::audit_service_client::AuditServiceClient;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::{
    AuditEventKind, AuthMethod, Connection, CreateConnectionRequest, CreateGrantRequest,
    GetAuthorizationRequest, GetConnectionRequest, ListAuditEventsRequest, ResolveCredentialRequest,
    RevokeGrantRequest, StartAuthorizationRequest, StartAuthorizationResponse, create_grant_request,
    resolve_credential_request,
};
use keyholder_testkit::browser::Browser;
use keyholder_testkit::client::channel;
use keyholder_testkit::pki::DevPki;
use keyholder_testkit::postgres::PrivatePostgres;
use keyholder_testkit::provider::Provider;
use keyholder_vault::random_bytes;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use super::{DATABASE, DevError, demo, say};

const ORGANIZATION: &str = "acme";
const OWNER: &str = "user:ada";
const AGENT: &str = "agent:roadie";

type Step<T> = Result<T, DevError>;

/// Walks through connect, grant, resolve, revoke, refused, and prints how to do it by hand.
pub(super) async fn walk(
    grpc: SocketAddr,
    pki: &DevPki,
    postgres: &PrivatePostgres,
    provider: &Provider,
    dir: &Path,
) -> Step<()> {
    let open = |name: &str| {
        channel(grpc, &pki.certificate("ca"), &pki.certificate(name), &pki.key(name))
            .map_err(|error| DevError::Walk("opening a channel", Box::new(error)))
    };
    let mut connections = ConnectionServiceClient::new(open("console")?);
    let mut managing = GrantServiceClient::new(open("console")?);
    let mut resolving = GrantServiceClient::new(open("gateway")?);
    let mut auditing = AuditServiceClient::new(open("auditor")?);
    // A made-up key, another one each time: the same key of the same owner would be refused as connected already.
    let key = format!("sk-demo-{}", random_hex());

    say(&format!(
        "\n1. Connect. The console puts {OWNER}'s OpenAI key {key} into the organization {ORGANIZATION}."
    ));
    let connection = connect(&mut connections, &key).await?;
    let sealed = sealed_credential(postgres, &connection)?;
    say(&format!("   {connection} is ACTIVE. What Postgres holds of the key is\n   {sealed}"));

    say(&format!("\n2. Grant. {AGENT} may use it, through the gateway only."));
    let grant = give(&mut managing, &connection).await?;
    say(&format!("   {grant} is ACTIVE."));

    say(&format!("\n3. Resolve. The gateway asks for it as {AGENT}."));
    let (header, event) = resolve(&mut resolving, &connection).await?;
    say(&format!("   Authorization: {header}\n   recorded as {event} before it left."));

    say("\n4. Revoke. The console takes the grant back.");
    managing
        .revoke_grant(RevokeGrantRequest {
            organization_id: ORGANIZATION.into(),
            grant_id: grant.clone(),
            etag: String::new(),
        })
        .await
        .map_err(failed("revoke"))?;
    say(&format!("   {grant} is REVOKED."));

    say("\n5. Refused. The gateway asks once more.");
    say(&format!("   {}", refused(&mut resolving, &connection).await?));

    say("\nThe audit, the newest first:");
    print_audit(&mut auditing, &connection).await?;

    say(&format!(
        "\n6. Consent. {OWNER} connects an account at the demo provider, an OAuth server on this machine."
    ));
    let account = consent(&mut connections, provider).await?;
    say(&format!(
        "   {} is ACTIVE, for the account {:?}.",
        account.connection_id,
        account.account.unwrap_or_default().name
    ));
    let header = resolve_as_owner(&mut resolving, &account.connection_id).await?;
    say(&format!("   The gateway, as {OWNER}, gets   Authorization: {header}"));
    let link = begin(&mut connections, &format!("user:you-{}", random_hex())).await?;
    say(&format!(
        "   Do it yourself within ten minutes; open this in a browser:\n   {}",
        link.authorization_url
    ));

    let again = give(&mut managing, &connection).await?;
    print_by_hand(grpc, dir, &connection, &again);
    Ok(())
}

async fn connect(console: &mut ConnectionServiceClient<Channel>, key: &str) -> Step<String> {
    let request = CreateConnectionRequest {
        organization_id: ORGANIZATION.into(),
        owner: OWNER.into(),
        provider_id: "openai".into(),
        auth_method: AuthMethod::ApiKey.into(),
        credentials: [("api_key".to_owned(), key.to_owned())].into(),
        display_name: "Ada's OpenAI account".into(),
        ..Default::default()
    };
    let made = console.create_connection(request).await.map_err(failed("connect"))?.into_inner();
    Ok(made.connection.unwrap_or_default().connection_id)
}

async fn begin(
    console: &mut ConnectionServiceClient<Channel>,
    owner: &str,
) -> Step<StartAuthorizationResponse> {
    let request = StartAuthorizationRequest {
        organization_id: ORGANIZATION.into(),
        owner: owner.into(),
        provider_id: demo::PROVIDER.into(),
        ..Default::default()
    };
    Ok(console.start_authorization(request).await.map_err(failed("consent"))?.into_inner())
}

/// Follows the link as a browser would, with an owner who says yes.
async fn consent(console: &mut ConnectionServiceClient<Channel>, provider: &Provider) -> Step<Connection> {
    let begun = begin(console, OWNER).await?;
    demo::answer_by_itself(provider, true);
    let page = Browser::new().get(&begun.authorization_url).await;
    demo::answer_by_itself(provider, false);
    page.map_err(|error| DevError::Walk("consent", Box::new(error)))?;
    let request = GetAuthorizationRequest {
        organization_id: ORGANIZATION.into(),
        authorization_id: begun.authorization.unwrap_or_default().authorization_id,
    };
    let done = console.get_authorization(request).await.map_err(failed("consent"))?.into_inner();
    let request = GetConnectionRequest {
        organization_id: ORGANIZATION.into(),
        connection_id: done.authorization.unwrap_or_default().connection_id,
    };
    let made = console.get_connection(request).await.map_err(failed("consent"))?.into_inner();
    Ok(made.connection.unwrap_or_default())
}

async fn resolve_as_owner(gateway: &mut GrantServiceClient<Channel>, connection: &str) -> Step<String> {
    let request = ResolveCredentialRequest { actor: OWNER.into(), ..resolve_request(connection) };
    let released = gateway.resolve_credential(request).await.map_err(failed("resolve"))?.into_inner();
    Ok(released.http.unwrap_or_default().headers.remove("Authorization").unwrap_or_default())
}

async fn give(console: &mut GrantServiceClient<Channel>, connection: &str) -> Step<String> {
    let request = CreateGrantRequest {
        organization_id: ORGANIZATION.into(),
        grantee: AGENT.into(),
        target: Some(create_grant_request::Target::ConnectionId(connection.to_owned())),
        workloads: vec!["spiffe://keyholder.dev/gateway".into()],
        reason: "trying Keyholder out".into(),
        ..Default::default()
    };
    let made = console.create_grant(request).await.map_err(failed("grant"))?.into_inner();
    Ok(made.grant.unwrap_or_default().grant_id)
}

async fn resolve(gateway: &mut GrantServiceClient<Channel>, connection: &str) -> Step<(String, String)> {
    let released = gateway
        .resolve_credential(resolve_request(connection))
        .await
        .map_err(failed("resolve"))?
        .into_inner();
    let header = released.http.unwrap_or_default().headers.remove("Authorization").unwrap_or_default();
    Ok((header, released.audit_event_id))
}

async fn refused(gateway: &mut GrantServiceClient<Channel>, connection: &str) -> Step<String> {
    match gateway.resolve_credential(resolve_request(connection)).await {
        Ok(_) => Err(DevError::Walk("refuse", "a revoked grant released a credential".into())),
        Err(status) => {
            let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
            Ok(format!("{:?}, {reason}: {}", status.code(), status.message()))
        }
    }
}

fn resolve_request(connection: &str) -> ResolveCredentialRequest {
    ResolveCredentialRequest {
        organization_id: ORGANIZATION.into(),
        actor: AGENT.into(),
        target: Some(resolve_credential_request::Target::ConnectionId(connection.to_owned())),
        purpose: "trying Keyholder out".into(),
        ..Default::default()
    }
}

fn sealed_credential(postgres: &PrivatePostgres, connection: &str) -> Step<String> {
    let id = connection.trim_start_matches("conn_");
    let sealed = postgres.psql(
        DATABASE,
        &format!("SELECT left(sealed_credential, 84) || '…' FROM connections WHERE connection_id = '{id}'"),
    )?;
    Ok(sealed.trim().to_owned())
}

async fn print_audit(auditor: &mut AuditServiceClient<Channel>, connection: &str) -> Step<()> {
    let request = ListAuditEventsRequest {
        organization_id: ORGANIZATION.into(),
        connection_id: connection.to_owned(),
        ..Default::default()
    };
    let events = auditor.list_audit_events(request).await.map_err(failed("audit"))?.into_inner().audit_events;
    for event in events {
        let kind = AuditEventKind::try_from(event.kind).unwrap_or_default();
        let kind = kind.as_str_name().trim_start_matches("AUDIT_EVENT_KIND_");
        let who = if event.actor.is_empty() { "-" } else { &event.actor };
        say(&format!("   {kind:<20} {:<32} {who:<14} {}", event.workload, event.reason));
    }
    Ok(())
}

fn print_by_hand(grpc: SocketAddr, dir: &Path, connection: &str, grant: &str) {
    let dir = dir.display();
    let call = |name: &str, method: &str, body: &str| {
        say(&format!(
            "grpcurl -max-time 5 -cacert {dir}/pki/ca.pem -cert {dir}/pki/{name}.pem -key {dir}/pki/{name}-key.pem \\\n  \
             -d '{body}' \\\n  localhost:{} keyholder.v1.{method}\n",
            grpc.port()
        ));
    };
    say(&format!(
        "\nNow by hand. {AGENT} has a new grant, so the first line gives you a credential. grpcurl is at\n\
         https://github.com/fullstorydev/grpcurl; `deploy/tools/setup checks` also puts one at target/tools/venv/bin.\n"
    ));
    let organization = format!(r#""organization_id":"{ORGANIZATION}""#);
    let resolve = format!(r#"{{{organization},"actor":"{AGENT}","connection_id":"{connection}"}}"#);
    call("gateway", "GrantService/ResolveCredential", &resolve);
    call("console", "GrantService/RevokeGrant", &format!(r#"{{{organization},"grant_id":"{grant}"}}"#));
    // Another owner each time, so that the lines work again after a restart: all of it is kept.
    let (owner, key) = (format!("site:shop-{}", random_hex()), format!("sk_test_{}", random_hex()));
    let connect = format!(
        r#"{{{organization},"owner":"{owner}","provider_id":"stripe","credentials":{{"token":"{key}"}}}}"#
    );
    call("console", "ConnectionService/CreateConnection", &connect);
    let selector = format!(r#""owner":"{owner}","provider_id":"stripe""#);
    let give = format!(r#"{{{organization},"grantee":"{AGENT}","selector":{{{selector}}}}}"#);
    call("console", "GrantService/CreateGrant", &give);
    let by_provider = format!(r#"{{{organization},"actor":"{AGENT}","provider":{{{selector}}}}}"#);
    call("gateway", "GrantService/ResolveCredential", &by_provider);
    call("auditor", "AuditService/ListAuditEvents", &format!("{{{organization}}}"));
}

fn failed(step: &'static str) -> impl FnOnce(tonic::Status) -> DevError {
    move |status| DevError::Walk(step, Box::new(status))
}

fn random_hex() -> String {
    random_bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect()
}
