use std::collections::BTreeMap;
use std::time::Duration;

use fail::fail_point;
use keyholder_domain::{
    AuditEvent, AuditKind, Connection, ConnectionId, Generation, Grant, OrganizationId, Principal,
    ProviderId, Reason, TestClass, WorkloadId,
};
use keyholder_store::{AuditFilter, Change, NewAuditEvent, StoreError};

use crate::{Broker, BrokerError, Caller, FieldError, FieldReason};

/// A refusal that was decided before the broker was asked, such as by the workload's policy.
#[derive(Debug)]
pub struct Denied<'a> {
    /// The tenant that was named.
    pub organization_id: &'a OrganizationId,
    /// The process that called.
    pub workload: &'a WorkloadId,
    /// As whom it wanted to act, if that is known.
    pub actor: Option<&'a Principal>,
    /// The provider that was meant, if it was named.
    pub provider_id: Option<&'a ProviderId>,
    /// The stable reason.
    pub reason: Reason,
}

/// Settings of which one is a URL that was refused.
pub(crate) struct Refused<'a> {
    /// The provider that they are for.
    pub(crate) provider_id: &'a ProviderId,
    /// The connection that they were to go to, if there is one already.
    pub(crate) connection: Option<(ConnectionId, Generation)>,
    /// The settings.
    pub(crate) config: &'a BTreeMap<String, String>,
}

/// How often the tables of the audit are looked after.
const TEND: Duration = Duration::from_secs(600);

/// How soon that is tried again, where they were in use.
const TEND_AGAIN: Duration = Duration::from_secs(20);

impl Broker {
    /// Makes the tables of the coming weeks of the audit, and drops those that hold only what is older than `retention`, for
    /// ever.
    pub async fn tend_audit(&self, retention: Option<Duration>) {
        loop {
            fail_point!("audit");
            let pause = match self.store().tend_audit(retention).await {
                Ok((made, dropped)) => {
                    if made > 0 {
                        tracing::info!(made, "tables of the audit made");
                    }
                    if !dropped.is_empty() {
                        tracing::info!(tables = dropped.join(" "), "tables of the audit dropped");
                    }
                    TEND
                }
                Err(error) => {
                    tracing::warn!(%error, "the tables of the audit cannot be looked after");
                    // What the role may not do it may not do any sooner.
                    if matches!(error, StoreError::Unavailable(_)) { TEND_AGAIN } else { TEND }
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Lists audit events, the newest first.
    pub async fn list_audit_events(
        &self,
        caller: &Caller<'_>,
        filter: &AuditFilter,
    ) -> Result<Vec<AuditEvent>, BrokerError> {
        Ok(self.store().audit_events(caller.organization_id, filter).await?)
    }

    /// Records a refusal.
    pub async fn record_denial(&self, denied: &Denied<'_>) -> Result<(), BrokerError> {
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: denied.organization_id,
            kind: AuditKind::CredentialDenied,
            workload: denied.workload,
            actor: denied.actor,
            connection: None,
            grant_id: None,
            provider_id: denied.provider_id.filter(|id| self.catalog().get(id).is_some()),
            reason: denied.reason.as_str(),
            purpose: "",
        };
        Ok(self.store().record(&event).await?)
    }

    /// Records what a change does to a connection.
    pub(crate) async fn record_connection(
        &self,
        caller: &Caller<'_>,
        change: &mut Change,
        kind: AuditKind,
        connection: &Connection,
    ) -> Result<(), BrokerError> {
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: caller.organization_id,
            kind,
            workload: caller.workload,
            actor: None,
            connection: Some((connection.id, connection.generation)),
            grant_id: None,
            provider_id: Some(&connection.provider_id),
            reason: if kind == AuditKind::ConnectionDisabled { connection.state_reason.as_str() } else { "" },
            purpose: "",
        };
        Ok(change.record(&event).await?)
    }

    /// Records that a URL was refused where it entered: what is to be said to the caller. The URL itself is not kept.
    pub(crate) async fn refuse_fields(
        &self,
        caller: &Caller<'_>,
        about: &Refused<'_>,
        errors: Vec<FieldError>,
    ) -> BrokerError {
        if !self.note_refused_urls(about.config, &errors) {
            return BrokerError::Fields(errors);
        }
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: caller.organization_id,
            kind: AuditKind::UrlRefused,
            workload: caller.workload,
            actor: None,
            connection: about.connection,
            grant_id: None,
            provider_id: Some(about.provider_id),
            reason: Reason::UrlNotAllowed.as_str(),
            purpose: "",
        };
        match self.store().record(&event).await {
            Ok(()) => BrokerError::Fields(errors),
            Err(error) => error.into(),
        }
    }

    /// Counts and logs the settings that are refused URLs, and says whether there are any.
    pub(crate) fn note_refused_urls(&self, config: &BTreeMap<String, String>, errors: &[FieldError]) -> bool {
        let refused = errors.iter().filter(|error| error.reason == FieldReason::UrlNotAllowed);
        let urls = refused.filter_map(|error| config.get(error.field.strip_prefix("config.")?));
        urls.inspect(|url| self.0.upstream.refused(url)).count() > 0
    }

    /// Records how a test of a connection went.
    pub(crate) async fn record_test(
        &self,
        caller: &Caller<'_>,
        change: &mut Change,
        connection: &Connection,
        class: TestClass,
    ) -> Result<(), BrokerError> {
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: caller.organization_id,
            kind: AuditKind::ConnectionTested,
            workload: caller.workload,
            actor: None,
            connection: Some((connection.id, connection.generation)),
            grant_id: None,
            provider_id: Some(&connection.provider_id),
            reason: class.as_str(),
            purpose: "",
        };
        Ok(change.record(&event).await?)
    }

    /// Records what a change does to a grant.
    pub(crate) async fn record_grant(
        &self,
        caller: &Caller<'_>,
        change: &mut Change,
        kind: AuditKind,
        grant: &Grant,
        connection: Option<&Connection>,
        provider_id: Option<&ProviderId>,
    ) -> Result<(), BrokerError> {
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: caller.organization_id,
            kind,
            workload: caller.workload,
            actor: None,
            connection: connection.map(|connection| (connection.id, connection.generation)),
            grant_id: Some(grant.id),
            provider_id,
            reason: if kind == AuditKind::GrantCreated { grant.reason.as_str() } else { "" },
            purpose: "",
        };
        Ok(change.record(&event).await?)
    }
}
