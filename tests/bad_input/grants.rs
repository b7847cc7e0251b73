use keyholder_domain::{Clock as _, SystemClock};
use keyholder_proto::v1::create_grant_request::Target as GrantTarget;
use keyholder_proto::v1::{self, check_access_request, resolve_credential_request};
use prost_types::{Duration, Timestamp};
use tonic::Code;

use super::values::{NO_CONNECTION, NO_GRANT};
use super::{Fixture, Row, values};
use crate::harness::{ACME, grant_request, resolve_request};

const INVALID: (Code, &str) = (Code::InvalidArgument, "INVALID_FIELD");
const NO_SUCH_CONNECTION: (Code, &str) = (Code::NotFound, "CONNECTION_NOT_FOUND");
const NO_SUCH_GRANT: (Code, &str) = (Code::NotFound, "GRANT_NOT_FOUND");
const CHANGED: (Code, &str) = (Code::FailedPrecondition, "ETAG_MISMATCH");

pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    let mut rows = create(fixture);
    rows.extend(selectors());
    rows.extend(get(fixture));
    rows.extend(list(fixture));
    rows.extend(revoke(fixture));
    rows.extend(check(fixture));
    rows.extend(resolve(fixture));
    rows.extend(capabilities(fixture));
    rows.extend(list_access(fixture));
    rows.extend(report_rejected(fixture));
    rows
}

fn create(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::CreateGrantRequest;
    const RPC: &str = "GrantService/CreateGrant";
    let mut rows = Vec::new();
    let create = || grant_request("agent:roadie", &fixture.connection_id);
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..create() });
    }
    for grantee in [vec![String::new()], values::principals()].concat() {
        add("grantee", &Request { grantee, ..create() });
    }
    for id in [vec![String::new()], values::connection_ids()].concat() {
        add("connection_id", &Request { target: Some(GrantTarget::ConnectionId(id)), ..create() });
    }
    for scopes in values::scopes() {
        add("scopes", &Request { scopes, ..create() });
    }
    // It has none.
    add("scopes", &Request { scopes: vec!["mail.read".into()], ..create() });
    for workload in values::workloads() {
        add("workloads", &Request { workloads: vec![workload], ..create() });
    }
    for pattern in ["*", "spiffe://*/a", "spiffe://test.example/a*", "spiffe://test.example/**", "dns:*"] {
        add("workloads", &Request { workloads: vec![pattern.into()], ..create() });
    }
    let many = (0..33).map(|number| format!("spiffe://test.example/{number}")).collect();
    add("workloads", &Request { workloads: many, ..create() });
    for moment in values::moments() {
        add("expire_time", &Request { expire_time: Some(moment), ..create() });
    }
    for seconds in [0, SystemClock.now().unix_timestamp() - 1] {
        add("expire_time", &Request { expire_time: Some(Timestamp { seconds, nanos: 0 }), ..create() });
    }
    for reason in values::words() {
        add("reason", &Request { reason, ..create() });
    }
    for request_id in values::request_ids() {
        add("request_id", &Request { request_id, ..create() });
    }
    for id in [NO_CONNECTION, &fixture.deleted_id] {
        let request = grant_request("agent:roadie", id);
        rows.push(Row::refused(RPC, "connection_id", &request, NO_SUCH_CONNECTION));
    }
    let nothing = Request { target: None, ..create() };
    rows.push(Row::new(RPC, "connection_id", &nothing, INVALID, &["target"]));
    rows
}

fn selectors() -> Vec<Row> {
    const RPC: &str = "GrantService/CreateGrant";
    let mut rows = Vec::new();
    let select = |owner: String, provider_id: String| v1::CreateGrantRequest {
        target: Some(GrantTarget::Selector(v1::GrantSelector { owner, provider_id })),
        ..grant_request("agent:roadie", "")
    };
    for owner in [vec![String::new(), "session:s_9".into()], values::principals()].concat() {
        rows.push(Row::invalid(RPC, "selector.owner", &select(owner, "openai".into())));
    }
    for provider in [vec![String::new()], values::providers()].concat() {
        rows.push(Row::invalid(RPC, "selector.provider_id", &select("user:ada".into(), provider)));
    }
    let unknown = select("user:ada".into(), "nowhere".into());
    rows.push(Row::refused(RPC, "selector.provider_id", &unknown, (Code::NotFound, "PROVIDER_NOT_FOUND")));
    let both = select(String::new(), String::new());
    rows.push(Row::new(RPC, "selector.owner", &both, INVALID, &["selector.owner", "selector.provider_id"]));
    rows
}

fn get(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::GetGrantRequest;
    const RPC: &str = "GrantService/GetGrant";
    let get = || Request { organization_id: ACME.into(), grant_id: fixture.grant_id.clone() };
    let mut rows = Vec::new();
    for organization_id in values::organizations() {
        rows.push(Row::invalid(RPC, "organization_id", &Request { organization_id, ..get() }));
    }
    for grant_id in [vec![String::new()], values::grant_ids()].concat() {
        rows.push(Row::invalid(RPC, "grant_id", &Request { grant_id, ..get() }));
    }
    let unknown = Request { grant_id: NO_GRANT.into(), ..get() };
    rows.push(Row::refused(RPC, "grant_id", &unknown, NO_SUCH_GRANT));
    rows
}

fn list(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::ListGrantsRequest;
    const RPC: &str = "GrantService/ListGrants";
    let list = || Request { organization_id: ACME.into(), ..Default::default() };
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..list() });
    }
    for grantee in values::principals() {
        add("grantee", &Request { grantee, ..list() });
    }
    for connection_id in values::connection_ids() {
        add("connection_id", &Request { connection_id, ..list() });
    }
    for state in [0, 4, -1, i32::MAX] {
        add("states", &Request { states: vec![1, state], ..list() });
    }
    for page_size in values::PAGE_SIZES {
        add("page_size", &Request { page_size, ..list() });
    }
    let [connections, grants, events, providers, access] = &fixture.pages;
    for page_token in
        [values::tokens(), [connections, events, providers, access].map(Clone::clone).into()].concat()
    {
        add("page_token", &Request { page_token, ..list() });
    }
    add("page_token", &Request { page_token: grants.clone(), states: vec![1], ..list() });
    add("page_token", &Request { page_token: fixture.other_pages[1].clone(), ..list() });
    rows
}

fn revoke(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::RevokeGrantRequest;
    const RPC: &str = "GrantService/RevokeGrant";
    let revoke =
        || Request { organization_id: ACME.into(), grant_id: fixture.grant_id.clone(), ..Default::default() };
    let mut rows = Vec::new();
    for organization_id in values::organizations() {
        rows.push(Row::invalid(RPC, "organization_id", &Request { organization_id, ..revoke() }));
    }
    for grant_id in [vec![String::new()], values::grant_ids()].concat() {
        rows.push(Row::invalid(RPC, "grant_id", &Request { grant_id, ..revoke() }));
    }
    let unknown = Request { grant_id: NO_GRANT.into(), ..revoke() };
    rows.push(Row::refused(RPC, "grant_id", &unknown, NO_SUCH_GRANT));
    for etag in values::etags() {
        rows.push(Row::invalid(RPC, "etag", &Request { etag, ..revoke() }));
    }
    for etag in ["g1", "g3"] {
        rows.push(Row::refused(RPC, "etag", &Request { etag: etag.into(), ..revoke() }, CHANGED));
    }
    rows
}

/// Targets with something wrong: the field, and the target.
fn targets() -> Vec<(&'static str, Result<String, v1::ProviderTarget>)> {
    let mut targets = Vec::new();
    for id in [vec![String::new()], values::connection_ids()].concat() {
        targets.push(("connection_id", Ok(id)));
    }
    let provider = || v1::ProviderTarget { provider_id: "openai".into(), ..Default::default() };
    for provider_id in [vec![String::new()], values::providers()].concat() {
        targets.push(("provider.provider_id", Err(v1::ProviderTarget { provider_id, ..provider() })));
    }
    for owner in values::principals() {
        targets.push(("provider.owner", Err(v1::ProviderTarget { owner, ..provider() })));
    }
    for account_id in values::words() {
        targets.push(("provider.account_id", Err(v1::ProviderTarget { account_id, ..provider() })));
    }
    targets
}

fn check(fixture: &Fixture) -> Vec<Row> {
    use check_access_request::Target;
    type Request = v1::CheckAccessRequest;
    const RPC: &str = "GrantService/CheckAccess";
    let check = || Request {
        organization_id: ACME.into(),
        actor: "agent:roadie".into(),
        target: Some(Target::ConnectionId(fixture.connection_id.clone())),
        ..Default::default()
    };
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..check() });
    }
    for actor in [vec![String::new()], values::principals()].concat() {
        add("actor", &Request { actor, ..check() });
    }
    for (field, target) in targets() {
        let target = match target {
            Ok(id) => Target::ConnectionId(id),
            Err(provider) => Target::Provider(provider),
        };
        add(field, &Request { target: Some(target), ..check() });
    }
    for scopes in values::scopes() {
        add("scopes", &Request { scopes, ..check() });
    }
    for workload in [values::workloads(), vec!["spiffe://test.example/*".into()]].concat() {
        add("workload", &Request { workload, ..check() });
    }
    let nothing = Request { target: None, ..check() };
    rows.push(Row::new(RPC, "connection_id", &nothing, INVALID, &["target"]));
    rows
}

fn resolve(fixture: &Fixture) -> Vec<Row> {
    use resolve_credential_request::Target;
    type Request = v1::ResolveCredentialRequest;
    const RPC: &str = "GrantService/ResolveCredential";
    let resolve = || resolve_request("user:ada", &fixture.connection_id);
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..resolve() });
    }
    for actor in [vec![String::new()], values::principals()].concat() {
        add("actor", &Request { actor, ..resolve() });
    }
    for (field, target) in targets() {
        let target = match target {
            Ok(id) => Target::ConnectionId(id),
            Err(provider) => Target::Provider(provider),
        };
        add(field, &Request { target: Some(target), ..resolve() });
    }
    for scopes in values::scopes() {
        add("scopes", &Request { scopes, ..resolve() });
    }
    for (seconds, nanos) in
        [(-1, 0), (0, -1), (3_600, 1), (3_601, 0), (0, 1_000_000_000), (i64::MAX, 0), (i64::MIN, i32::MIN)]
    {
        add("min_ttl", &Request { min_ttl: Some(Duration { seconds, nanos }), ..resolve() });
    }
    for purpose in values::words() {
        add("purpose", &Request { purpose, ..resolve() });
    }
    let nothing = Request { target: None, ..resolve() };
    rows.push(Row::new(RPC, "connection_id", &nothing, INVALID, &["target"]));
    rows
}

fn capabilities(fixture: &Fixture) -> Vec<Row> {
    const RPC: &str = "GrantService/CreateGrant";
    let mut rows = Vec::new();
    let selector = v1::GrantSelector { owner: "user:ada".into(), provider_id: "google".into() };
    let targets = [
        (GrantTarget::ConnectionId(fixture.connection_id.clone()), "gmail"),
        (GrantTarget::Selector(selector), "mail"),
    ];
    for (target, of_another) in targets {
        let create = |capabilities: &[&str]| v1::CreateGrantRequest {
            target: Some(target.clone()),
            capabilities: capabilities.iter().map(|id| (*id).to_owned()).collect(),
            ..grant_request("agent:roadie", "")
        };
        for id in ["", of_another, "GMAIL", "gmail\n", "a\u{202e}b", &"x".repeat(10_000)] {
            rows.push(Row::new(RPC, "capabilities", &create(&[id]), INVALID, &["capabilities[0]"]));
        }
        rows.push(Row::invalid(RPC, "capabilities", &create(&["gmail"; 33])));
    }
    rows
}

fn list_access(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::ListAccessRequest;
    const RPC: &str = "GrantService/ListAccess";
    let list = || Request { organization_id: ACME.into(), actor: "agent:other".into(), ..Default::default() };
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..list() });
    }
    for actor in [vec![String::new()], values::principals()].concat() {
        add("actor", &Request { actor, ..list() });
    }
    for workload in [values::workloads(), vec!["spiffe://test.example/*".into()]].concat() {
        add("workload", &Request { workload, ..list() });
    }
    for page_size in values::PAGE_SIZES {
        add("page_size", &Request { page_size, ..list() });
    }
    let [connections, grants, events, providers, access] = &fixture.pages;
    let others = [connections, grants, events, providers].map(Clone::clone);
    for page_token in [values::tokens(), others.into(), fixture.other_pages.to_vec()].concat() {
        add("page_token", &Request { page_token, ..list() });
    }
    // Of another actor, and through another workload.
    add("page_token", &Request { page_token: access.clone(), actor: "agent:roadie".into(), ..list() });
    let workload = "spiffe://test.example/gateway".into();
    add("page_token", &Request { page_token: access.clone(), workload, ..list() });
    rows
}

fn report_rejected(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::ReportRejectedRequest;
    const RPC: &str = "GrantService/ReportRejected";
    let report = || Request {
        organization_id: ACME.into(),
        actor: "user:ada".into(),
        connection_id: fixture.connection_id.clone(),
        generation: 1,
    };
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..report() });
    }
    for actor in [vec![String::new()], values::principals()].concat() {
        add("actor", &Request { actor, ..report() });
    }
    for connection_id in [vec![String::new()], values::connection_ids()].concat() {
        add("connection_id", &Request { connection_id, ..report() });
    }
    // None, and one that the connection has not come to.
    for generation in [0, -1, i64::MIN, i64::MAX] {
        add("generation", &Request { generation, ..report() });
    }
    rows
}
