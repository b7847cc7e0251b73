//! Which refused resolves are in the audit, and in whose.

use keyholder_proto::v1::{self, resolve_credential_request::Target};
use prost::Message as _;
use tonic::Code;

use crate::callers::raw;
use crate::harness::{ACME, World, assert_refused, resolve_request};

const RESOLVE: &str = "/keyholder.v1.GrantService/ResolveCredential";
const NO_CONNECTION: &str = "conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b";

fn provider(provider_id: &str) -> Option<Target> {
    Some(Target::Provider(v1::ProviderTarget { provider_id: provider_id.into(), ..Default::default() }))
}

fn of_organization(organization_id: &str) -> v1::ResolveCredentialRequest {
    v1::ResolveCredentialRequest {
        organization_id: organization_id.into(),
        ..resolve_request("agent:roadie", NO_CONNECTION)
    }
}

/// Every denial of every organization, the oldest first: organization, workload, actor, provider, reason, purpose.
fn denials(world: &World) -> Vec<String> {
    let lines = world.sql(
        "SELECT concat_ws(' ', organization_id, regexp_replace(workload, '.*/', ''), coalesce(actor, '-'),
             coalesce(provider_id, '-'), reason, quote_literal(purpose))
         FROM audit_events WHERE kind = 'CREDENTIAL_DENIED' ORDER BY audit_event_id",
    );
    lines.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_resolve_refused_for_its_role_is_in_the_audit_of_its_organization() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    for workload in ["console", "operator", "auditor"] {
        let request = v1::ResolveCredentialRequest {
            purpose: "words of its own".into(),
            ..resolve_request("user:ada", &connection_id)
        };
        let refused = world.grants(workload).resolve_credential(request).await;
        assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
    }
    let by_provider =
        v1::ResolveCredentialRequest { target: provider("openai"), ..resolve_request("user:ada", "") };
    let refused = world.grants("console").resolve_credential(by_provider).await;
    assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
    // Its role is judged before its fields.
    let nonsense =
        v1::ResolveCredentialRequest { target: provider("No Provider"), ..resolve_request("no actor", "") };
    let refused = world.grants("console").resolve_credential(nonsense).await;
    assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
    assert_eq!(
        denials(&world),
        [
            "acme console user:ada - ROLE_MISSING ''",
            "acme operator user:ada - ROLE_MISSING ''",
            "acme auditor user:ada - ROLE_MISSING ''",
            "acme console user:ada openai ROLE_MISSING ''",
            "acme console - - ROLE_MISSING ''",
        ]
    );
    let page = v1::ListAuditEventsRequest {
        organization_id: ACME.into(),
        kinds: vec![v1::AuditEventKind::CredentialDenied.into()],
        ..Default::default()
    };
    let events = world.audit().list_audit_events(page).await.unwrap().into_inner().audit_events;
    assert_eq!(events.len(), 5);
}

#[tokio::test]
async fn a_resolve_refused_for_a_field_is_in_the_audit_of_its_organization() {
    let world = World::start();
    let mut gateway = world.grants("gateway");
    let good = || resolve_request("agent:roadie", NO_CONNECTION);
    for request in [
        v1::ResolveCredentialRequest { actor: "roadie".into(), ..good() },
        v1::ResolveCredentialRequest { target: provider("openai"), scopes: vec![String::new()], ..good() },
        v1::ResolveCredentialRequest { target: None, purpose: "words of its own".into(), ..good() },
        v1::ResolveCredentialRequest { target: provider("unheard-of"), actor: String::new(), ..good() },
    ] {
        assert_refused(gateway.resolve_credential(request).await, Code::InvalidArgument, "INVALID_FIELD");
    }
    assert_eq!(
        denials(&world),
        [
            "acme gateway - - INVALID_FIELD ''",
            "acme gateway agent:roadie openai INVALID_FIELD ''",
            "acme gateway agent:roadie - INVALID_FIELD ''",
            "acme gateway - - INVALID_FIELD ''",
        ]
    );
}

#[tokio::test]
async fn nobody_fills_the_audit_of_an_organization_that_is_not_theirs() {
    let world = World::start();
    let (denied, invalid) = (Code::PermissionDenied, Code::InvalidArgument);
    let bad_field = v1::ResolveCredentialRequest { actor: "roadie".into(), ..of_organization("other") };
    for (workload, request, code, expected) in [
        // May act for acme only.
        ("acme-console", of_organization("other"), denied, "ROLE_MISSING"),
        ("narrow", bad_field, invalid, "INVALID_FIELD"),
        // Nobody vouches for it.
        ("stranger", of_organization(ACME), denied, "WORKLOAD_UNKNOWN"),
        // No organization is named.
        ("console", of_organization("No Organization"), denied, "ROLE_MISSING"),
        ("console", of_organization(""), denied, "ROLE_MISSING"),
        ("gateway", of_organization("No Organization"), invalid, "INVALID_FIELD"),
    ] {
        let refused = raw::call(&world.channel(workload), RESOLVE, request.encode_to_vec()).await;
        assert_refused(refused, code, expected);
    }
    assert_eq!(denials(&world), Vec::<String>::new());

    let refused = world.grants("acme-console").resolve_credential(of_organization(ACME)).await;
    assert_refused(refused, denied, "ROLE_MISSING");
    assert_eq!(denials(&world), ["acme acme-console agent:roadie - ROLE_MISSING ''"]);
}

#[tokio::test]
async fn whoever_lacks_the_role_learns_nothing_about_the_form_of_a_resolve() {
    let world = World::start();
    let console = world.channel("console");
    let too_large = v1::ResolveCredentialRequest { purpose: "x".repeat(3 << 20), ..of_organization(ACME) };
    for message in [vec![0xff; 8], too_large.encode_to_vec()] {
        let refused = raw::call(&console, RESOLVE, message).await;
        let refused = assert_refused(refused, Code::PermissionDenied, "ROLE_MISSING");
        assert_eq!(refused.message(), "The calling workload has no role that may call this method.");
    }
    assert_eq!(denials(&world), Vec::<String>::new());
}
