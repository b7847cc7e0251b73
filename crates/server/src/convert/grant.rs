use std::time::Duration;

use keyholder_broker::{
    Access, Answer, Ask, CreateGrant, GrantFilter, Refusal, Rejected, RejectionOutcome, Target, Usable,
};
use keyholder_domain::access::Right;
use keyholder_domain::{
    ConnectionId, Generation, Grant, GrantId, GrantState, GrantTarget, Principal, ProviderId, Reason, Scopes,
    Text, Timestamp, WorkloadId, WorkloadPattern,
};
use keyholder_proto::v1;

use super::connection::{account, state};
use super::page::{Page, PageToken};
use super::reader::{Reader, idempotency, to_etag};
use super::timestamp;
use crate::problem::Problem;

/// A grant on the wire.
pub fn grant(grant: Grant, now: Timestamp) -> v1::Grant {
    let state = match grant.state(now) {
        GrantState::Active => v1::GrantState::Active,
        GrantState::Expired => v1::GrantState::Expired,
        GrantState::Revoked => v1::GrantState::Revoked,
    };
    v1::Grant {
        grant_id: grant.id.to_string(),
        organization_id: grant.organization_id.to_string(),
        grantee: grant.grantee.to_string(),
        target: Some(match grant.target {
            GrantTarget::Connection(id) => v1::grant::Target::ConnectionId(id.to_string()),
            GrantTarget::Selector { owner, provider_id } => v1::grant::Target::Selector(v1::GrantSelector {
                owner: owner.to_string(),
                provider_id: provider_id.to_string(),
            }),
        }),
        scopes: grant.scopes.to_strings(),
        workloads: grant.workloads.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        expire_time: grant.expire_time.map(timestamp),
        reason: grant.reason.as_str().to_owned(),
        created_by: grant.created_by.to_string(),
        revoke_time: grant.revoke_time.map(timestamp),
        last_used_time: grant.last_used_time.map(timestamp),
        state: state.into(),
        create_time: Some(timestamp(grant.create_time)),
        etag: to_etag(grant.generation),
    }
}

/// Reads a request to give a permission.
pub fn create_grant(mut request: v1::CreateGrantRequest) -> Result<CreateGrant, Problem> {
    use v1::create_grant_request::Target;

    let mut reader = Reader::new();
    let request_id = std::mem::take(&mut request.request_id);
    let idempotency = idempotency(&mut reader, &request_id, &request);
    let grantee = reader.required("grantee", &request.grantee, Principal::parse);
    let target = match &request.target {
        Some(Target::ConnectionId(id)) => {
            reader.required("connection_id", id, ConnectionId::parse).map(GrantTarget::Connection)
        }
        Some(Target::Selector(selector)) => {
            let owner = reader.required("selector.owner", &selector.owner, Principal::parse_owner);
            let provider_id =
                reader.required("selector.provider_id", &selector.provider_id, ProviderId::parse);
            owner.zip(provider_id).map(|(owner, provider_id)| GrantTarget::Selector { owner, provider_id })
        }
        None => {
            reader.wrong("target", "must be a connection_id or a selector");
            None
        }
    };
    let scopes = reader.checked("scopes", Scopes::parse(&request.scopes));
    if request.workloads.len() > 32 {
        reader.wrong("workloads", "must be at most 32 patterns");
    }
    let patterns: Result<Vec<_>, _> =
        request.workloads.iter().map(|pattern| WorkloadPattern::parse(pattern)).collect();
    let workloads = reader.checked("workloads", patterns);
    if request.capabilities.len() > 32 {
        reader.wrong("capabilities", "must be at most 32 ids");
    }
    let expire_time = reader.moment("expire_time", request.expire_time.as_ref());
    let reason = reader.checked("reason", Text::parse(&request.reason));
    let create = (|| {
        Some(CreateGrant {
            grantee: grantee?,
            target: target?,
            scopes: scopes?,
            capabilities: request.capabilities,
            workloads: workloads?,
            expire_time,
            reason: reason?,
            idempotency,
        })
    })();
    reader.finish(create)
}

/// Reads which grants to list, and which page of them.
pub fn grant_filter(
    mut request: v1::ListGrantsRequest,
    now: Timestamp,
) -> Result<(GrantFilter, PageToken, Page<GrantId>), Problem> {
    let mut reader = Reader::new();
    let size = std::mem::take(&mut request.page_size);
    let token = std::mem::take(&mut request.page_token);
    let tokens = PageToken::of("ListGrants", &request);
    let page = tokens.read(&mut reader, size, &token, |text| GrantId::parse(text).ok());
    let mut states = Vec::new();
    for number in &request.states {
        match v1::GrantState::try_from(*number) {
            Ok(v1::GrantState::Active) => states.push(GrantState::Active),
            Ok(v1::GrantState::Expired) => states.push(GrantState::Expired),
            Ok(v1::GrantState::Revoked) => states.push(GrantState::Revoked),
            Ok(v1::GrantState::Unspecified) | Err(_) => {
                reader.wrong("states", "has a value that is not a state")
            }
        }
    }
    let filter = GrantFilter {
        grantee: reader.optional("grantee", &request.grantee, Principal::parse),
        connection_id: reader.optional("connection_id", &request.connection_id, ConnectionId::parse),
        states,
        now,
        after: page.after,
        limit: page.size + 1,
    };
    reader.finish(Some((filter, tokens, page)))
}

/// What a resolve and a check have in common.
#[derive(Debug)]
pub struct AskFields<'a> {
    /// The actor.
    pub actor: &'a str,
    /// The connection, if one is named.
    pub connection_id: Option<&'a str>,
    /// The provider, if one is.
    pub provider: Option<&'a v1::ProviderTarget>,
    /// The scopes that are needed.
    pub scopes: &'a [String],
    /// How long the credential must be good for.
    pub min_ttl: Option<prost_types::Duration>,
    /// What for.
    pub purpose: &'a str,
}

/// The longest `min_ttl` that may be asked for.
const MAX_MIN_TTL: Duration = Duration::from_secs(3_600);

/// Reads what is asked for.
pub fn ask(reader: &mut Reader, fields: &AskFields<'_>) -> Option<Ask> {
    let actor = reader.required("actor", fields.actor, Principal::parse);
    let target = match (fields.connection_id, fields.provider) {
        (Some(id), _) => reader.required("connection_id", id, ConnectionId::parse).map(Target::Connection),
        (None, Some(target)) => provider_target(reader, target),
        (None, None) => {
            reader.wrong("target", "must be a connection_id or a provider");
            None
        }
    };
    let scopes = reader.checked("scopes", Scopes::parse(fields.scopes));
    let purpose = reader.checked("purpose", Text::parse(fields.purpose));
    let min_ttl = read_min_ttl(reader, fields.min_ttl);
    let wait = Duration::ZERO;
    Some(Ask { actor: actor?, target: target?, scopes: scopes?, min_ttl, purpose: purpose?, wait })
}

fn read_min_ttl(reader: &mut Reader, given: Option<prost_types::Duration>) -> Duration {
    let Some(given) = given else { return Duration::ZERO };
    // Judged first: the conversion adds the two up.
    let in_range = (0..=3_600).contains(&given.seconds) && (0..1_000_000_000).contains(&given.nanos);
    let ttl = if in_range { Duration::try_from(given).ok() } else { None };
    ttl.filter(|ttl| *ttl <= MAX_MIN_TTL).unwrap_or_else(|| {
        reader.wrong("min_ttl", "must be between 0 seconds and one hour");
        Duration::ZERO
    })
}

fn provider_target(reader: &mut Reader, target: &v1::ProviderTarget) -> Option<Target> {
    let provider_id = reader.required("provider.provider_id", &target.provider_id, ProviderId::parse);
    let owner = reader.optional("provider.owner", &target.owner, Principal::parse);
    let account_id = reader.optional("provider.account_id", &target.account_id, Text::parse);
    Some(Target::Provider { provider_id: provider_id?, owner, account_id })
}

/// The answer to whether an actor may use a connection.
pub fn check_access_response(access: Access) -> v1::CheckAccessResponse {
    let connection_id = access.connection.as_ref().map(|found| found.id.to_string()).unwrap_or_default();
    let known = access.connection.as_ref().map(|found| account(&found.account));
    match access.answer {
        Answer::Allowed(permit) => v1::CheckAccessResponse {
            allowed: true,
            connection_id,
            grant_id: match permit.right {
                Right::Ownership => String::new(),
                Right::Grant(id, _) => id.to_string(),
            },
            account: known,
            scopes: permit.scopes.to_strings(),
            ..Default::default()
        },
        Answer::Refused(refusal) => v1::CheckAccessResponse {
            connection_id,
            account: known,
            candidates: candidates(&refusal),
            ..no_access(refusal.reason())
        },
    }
}

/// The answer no, with nothing but its reason.
pub fn no_access(reason: Reason) -> v1::CheckAccessResponse {
    v1::CheckAccessResponse {
        allowed: false,
        reason: reason.as_str().to_owned(),
        message: reason.sentence().to_owned(),
        ..Default::default()
    }
}

/// Reads whose access to list, and which page of it.
pub fn list_access(
    mut request: v1::ListAccessRequest,
) -> Result<(Principal, Option<WorkloadId>, PageToken, Page<ConnectionId>), Problem> {
    let mut reader = Reader::new();
    let size = std::mem::take(&mut request.page_size);
    let token = std::mem::take(&mut request.page_token);
    let tokens = PageToken::of("ListAccess", &request);
    let page = tokens.read(&mut reader, size, &token, |text| ConnectionId::parse(text).ok());
    let actor = reader.required("actor", &request.actor, Principal::parse);
    let workload = reader.optional("workload", &request.workload, WorkloadId::parse);
    reader.finish(actor.map(|actor| (actor, workload, tokens, page)))
}

/// A connection that may be used, on the wire.
pub fn accessible(usable: Usable) -> v1::AccessibleConnection {
    let connection = usable.connection;
    v1::AccessibleConnection {
        connection_id: connection.id.to_string(),
        grant_id: usable.grant.as_ref().map(|grant| grant.id.to_string()).unwrap_or_default(),
        grant_expire_time: usable.grant.and_then(|grant| grant.expire_time).map(timestamp),
        provider_id: connection.provider_id.to_string(),
        provider_name: usable.provider_name,
        owner: connection.owner.to_string(),
        account: Some(account(&connection.account)),
        display_name: connection.display_name.as_str().to_owned(),
        state: state(connection.state).into(),
        scopes: usable.permit.scopes.to_strings(),
        capabilities: usable
            .capabilities
            .into_iter()
            .map(|capability| v1::AccessibleCapability {
                capability_id: capability.id,
                title: capability.title,
                base_url: capability.base_url,
            })
            .collect(),
        base_url: usable.base_url,
    }
}

fn candidates(refusal: &Refusal) -> Vec<v1::ConnectionCandidate> {
    let Refusal::Ambiguous(candidates) = refusal else { return Vec::new() };
    candidates
        .iter()
        .map(|candidate| v1::ConnectionCandidate {
            connection_id: candidate.connection_id.to_string(),
            owner: candidate.owner.to_string(),
            account: Some(account(&candidate.account)),
            display_name: candidate.display_name.as_str().to_owned(),
            state: state(candidate.state).into(),
        })
        .collect()
}

/// Reads a report that a provider did not take a credential.
pub fn rejected(message: &v1::ReportRejectedRequest, wait: Duration) -> Result<Rejected, Problem> {
    let mut reader = Reader::new();
    let actor = reader.required("actor", &message.actor, Principal::parse);
    let connection_id = reader.required("connection_id", &message.connection_id, ConnectionId::parse);
    let generation = reader.checked("generation", Generation::new(message.generation));
    let rejected =
        (|| Some(Rejected { actor: actor?, connection_id: connection_id?, generation: generation?, wait }))();
    reader.finish(rejected)
}

/// What became of a credential that a provider did not take.
pub const fn rejection_outcome(outcome: RejectionOutcome) -> v1::RejectionOutcome {
    match outcome {
        RejectionOutcome::Replaced => v1::RejectionOutcome::Replaced,
        RejectionOutcome::Gone => v1::RejectionOutcome::Gone,
        RejectionOutcome::Pending => v1::RejectionOutcome::Pending,
        RejectionOutcome::NotRenewable => v1::RejectionOutcome::NotRenewable,
    }
}
