use keyholder_broker::AuditFilter;
use keyholder_domain::{AuditEvent, AuditEventId, AuditKind, ConnectionId, GrantId, Principal, WorkloadId};
use keyholder_proto::v1;

use super::page::{Page, PageToken};
use super::reader::Reader;
use super::timestamp;
use crate::problem::Problem;

/// An audit event on the wire.
pub fn audit_event(event: AuditEvent) -> v1::AuditEvent {
    v1::AuditEvent {
        audit_event_id: event.id.to_string(),
        organization_id: event.organization_id.to_string(),
        kind: kind(event.kind).into(),
        workload: event.workload.to_string(),
        actor: event.actor.map(|actor| actor.to_string()).unwrap_or_default(),
        connection_id: event.connection_id.map(|id| id.to_string()).unwrap_or_default(),
        generation: event.generation.map(keyholder_domain::Generation::get).unwrap_or_default(),
        grant_id: event.grant_id.map(|id| id.to_string()).unwrap_or_default(),
        provider_id: event.provider_id.map(|id| id.to_string()).unwrap_or_default(),
        reason: event.reason.as_str().to_owned(),
        purpose: event.purpose.as_str().to_owned(),
        create_time: Some(timestamp(event.create_time)),
    }
}

/// Reads which events to list, and which page of them.
pub fn audit_filter(
    mut request: v1::ListAuditEventsRequest,
) -> Result<(AuditFilter, PageToken, Page<AuditEventId>), Problem> {
    let mut reader = Reader::new();
    let size = std::mem::take(&mut request.page_size);
    let token = std::mem::take(&mut request.page_token);
    let tokens = PageToken::of("ListAuditEvents", &request);
    let page = tokens.read(&mut reader, size, &token, |text| AuditEventId::parse(text).ok());
    let mut kinds = Vec::new();
    for number in &request.kinds {
        let known = AuditKind::ALL.iter().copied().find(|known| i32::from(kind(*known)) == *number);
        match known {
            Some(known) => kinds.push(known),
            None => reader.wrong("kinds", "has a value that is not a kind"),
        }
    }
    let start = reader.moment("start_time", request.start_time.as_ref());
    let end = reader.moment("end_time", request.end_time.as_ref());
    if start.zip(end).is_some_and(|(start, end)| end <= start) {
        reader.wrong("end_time", "must be after start_time");
    }
    let filter = AuditFilter {
        connection_id: reader.optional("connection_id", &request.connection_id, ConnectionId::parse),
        grant_id: reader.optional("grant_id", &request.grant_id, GrantId::parse),
        actor: reader.optional("actor", &request.actor, Principal::parse),
        workload: reader.optional("workload", &request.workload, WorkloadId::parse),
        kinds,
        start,
        end,
        before: page.after,
        limit: page.size + 1,
    };
    reader.finish(Some((filter, tokens, page)))
}

const fn kind(kind: AuditKind) -> v1::AuditEventKind {
    match kind {
        AuditKind::CredentialReleased => v1::AuditEventKind::CredentialReleased,
        AuditKind::CredentialDenied => v1::AuditEventKind::CredentialDenied,
        AuditKind::ConnectionCreated => v1::AuditEventKind::ConnectionCreated,
        AuditKind::ConnectionUpdated => v1::AuditEventKind::ConnectionUpdated,
        AuditKind::CredentialsReplaced => v1::AuditEventKind::CredentialsReplaced,
        AuditKind::ConnectionDisabled => v1::AuditEventKind::ConnectionDisabled,
        AuditKind::ConnectionEnabled => v1::AuditEventKind::ConnectionEnabled,
        AuditKind::ConnectionDeleted => v1::AuditEventKind::ConnectionDeleted,
        AuditKind::AuthorizationStarted => v1::AuditEventKind::AuthorizationStarted,
        AuditKind::AuthorizationFailed => v1::AuditEventKind::AuthorizationFailed,
        AuditKind::ConnectionReauthorized => v1::AuditEventKind::ConnectionReauthorized,
        AuditKind::ConnectionRefreshed => v1::AuditEventKind::ConnectionRefreshed,
        AuditKind::TokenRevoked => v1::AuditEventKind::TokenRevoked,
        AuditKind::RevocationRunStarted => v1::AuditEventKind::RevocationRunStarted,
        AuditKind::OAuthClientChanged => v1::AuditEventKind::OauthClientChanged,
        AuditKind::GrantCreated => v1::AuditEventKind::GrantCreated,
        AuditKind::GrantRevoked => v1::AuditEventKind::GrantRevoked,
        AuditKind::ConnectionTested => v1::AuditEventKind::ConnectionTested,
        AuditKind::UrlRefused => v1::AuditEventKind::UrlRefused,
        AuditKind::RefreshRequested => v1::AuditEventKind::RefreshRequested,
        AuditKind::CredentialRejected => v1::AuditEventKind::CredentialRejected,
        AuditKind::ReauthorizationRequired => v1::AuditEventKind::ReauthorizationRequired,
        AuditKind::ConnectionExpiring => v1::AuditEventKind::ConnectionExpiring,
    }
}
