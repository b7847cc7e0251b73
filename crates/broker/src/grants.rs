use keyholder_catalog::Provider;
use keyholder_domain::{
    AuditKind, Connection, ConnectionState, Generation, Grant, GrantId, GrantTarget, Principal, Scopes, Text,
    Timestamp, WorkloadPattern,
};
use keyholder_store::{Change, GrantFilter, NewGrant};
use keyholder_vault::random_bytes;

use crate::connections::same_request;
use crate::error::FieldError;
use crate::{Broker, BrokerError, Caller, Idempotency};

/// What gives a permission.
#[derive(Debug)]
pub struct CreateGrant {
    /// Who may use the connections.
    pub grantee: Principal,
    /// Which connections.
    pub target: GrantTarget,
    /// What may be asked for; with no capabilities either: all that the connection has.
    pub scopes: Scopes,
    /// The provider's capabilities whose scopes may be asked for.
    pub capabilities: Vec<String>,
    /// Through which workloads; empty: any that the policy lets speak for the grantee.
    pub workloads: Vec<WorkloadPattern>,
    /// When it ends by itself.
    pub expire_time: Option<Timestamp>,
    /// Why.
    pub reason: Text,
    /// What makes the create idempotent.
    pub idempotency: Option<Idempotency>,
}

impl Broker {
    /// Gives a permission. The same request sent again with the same request id makes nothing new.
    pub async fn create_grant(&self, caller: &Caller<'_>, create: CreateGrant) -> Result<Grant, BrokerError> {
        let now = self.now();
        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let request_fingerprint =
            create.idempotency.as_ref().map(|request| key.fingerprint_bytes("create_grant", &request.body));
        // Asked first: by the time a request is sent again, its expire_time may have passed.
        if let (Some(request), Some(fingerprint)) = (&create.idempotency, &request_fingerprint)
            && let Some(remembered) = change.remembered_grant(&request.request_id).await?
        {
            return same_request(remembered.fingerprint == *fingerprint, remembered.made);
        }
        if create.expire_time.is_some_and(|end| end <= now) {
            return Err(FieldError::invalid("expire_time", "must be in the future").into());
        }
        let mut create = create;
        let connection = self.granted_connection(&mut change, &create).await?;
        let provider_id = match (&create.target, &connection) {
            (GrantTarget::Selector { provider_id, .. }, _) => provider_id.clone(),
            (GrantTarget::Connection(_), Some(connection)) => connection.provider_id.clone(),
            (GrantTarget::Connection(_), None) => return Err(BrokerError::ConnectionNotFound),
        };
        let provider = self.provider(caller, &provider_id)?;
        create.scopes = with_capabilities(provider, create.scopes, &create.capabilities)?;
        if let Some(connection) = &connection
            && !create.scopes.is_subset(&connection.scopes)
        {
            let field = if create.capabilities.is_empty() { "scopes" } else { "capabilities" };
            return Err(FieldError::invalid(field, "must be among the scopes of the connection").into());
        }

        let grant = Grant {
            id: GrantId::new(now, random_bytes()),
            organization_id: caller.organization_id.clone(),
            grantee: create.grantee,
            target: create.target,
            scopes: create.scopes,
            workloads: create.workloads,
            expire_time: create.expire_time,
            reason: create.reason,
            created_by: caller.workload.clone(),
            revoke_time: None,
            last_used_time: None,
            generation: Generation::FIRST,
            create_time: now,
        };
        let request = create
            .idempotency
            .as_ref()
            .map(|request| &request.request_id)
            .zip(request_fingerprint.as_deref());
        change.insert_grant(&NewGrant { grant: &grant, provider_id: &provider_id, request }).await?;
        let kind = AuditKind::GrantCreated;
        self.record_grant(caller, &mut change, kind, &grant, connection.as_ref(), Some(&provider_id)).await?;
        change.commit().await?;
        Ok(grant)
    }

    /// Reads a grant, revoked and expired ones too.
    pub async fn get_grant(&self, caller: &Caller<'_>, id: GrantId) -> Result<Grant, BrokerError> {
        self.store().grant(caller.organization_id, id).await?.ok_or(BrokerError::GrantNotFound)
    }

    /// Lists grants, the oldest first.
    pub async fn list_grants(
        &self,
        caller: &Caller<'_>,
        filter: &GrantFilter,
    ) -> Result<Vec<Grant>, BrokerError> {
        Ok(self.store().grants(caller.organization_id, filter).await?)
    }

    /// Takes a grant back. From the moment this returns, nothing is released through it.
    pub async fn revoke_grant(
        &self,
        caller: &Caller<'_>,
        id: GrantId,
        expected: Option<Generation>,
    ) -> Result<Grant, BrokerError> {
        let mut change = self.store().change(caller.organization_id).await?;
        let mut grant = change.grant(id).await?.ok_or(BrokerError::GrantNotFound)?;
        let connection = match &grant.target {
            GrantTarget::Connection(id) => {
                change.stored_connection(*id).await?.map(|stored| stored.connection)
            }
            GrantTarget::Selector { .. } => None,
        };
        let provider_id = match &grant.target {
            GrantTarget::Selector { provider_id, .. } => Some(provider_id.clone()),
            GrantTarget::Connection(_) => {
                connection.as_ref().map(|connection| connection.provider_id.clone())
            }
        };
        if let Some(provider_id) = &provider_id {
            self.check_provider(caller, provider_id)?;
        }
        if expected.is_some_and(|generation| generation != grant.generation) {
            return Err(BrokerError::EtagMismatch);
        }
        if grant.revoke_time.is_some() {
            return Ok(grant);
        }
        grant.revoke_time = Some(self.now());
        grant.generation = grant.generation.next();
        change.update_grant(&grant).await?;
        let kind = AuditKind::GrantRevoked;
        self.record_grant(caller, &mut change, kind, &grant, connection.as_ref(), provider_id.as_ref())
            .await?;
        change.commit().await?;
        Ok(grant)
    }

    /// The one connection that a grant is to be for; none for a selector.
    async fn granted_connection(
        &self,
        change: &mut Change,
        create: &CreateGrant,
    ) -> Result<Option<Connection>, BrokerError> {
        let GrantTarget::Connection(id) = create.target else { return Ok(None) };
        let stored = change.stored_connection(id).await?;
        let connection = stored
            .map(|stored| stored.connection)
            .filter(|connection| connection.state != ConnectionState::Deleted)
            .ok_or(BrokerError::ConnectionNotFound)?;
        Ok(Some(connection))
    }
}

/// Scopes, with those of a provider's capabilities.
pub(crate) fn with_capabilities(
    provider: &Provider,
    scopes: Scopes,
    capabilities: &[String],
) -> Result<Scopes, FieldError> {
    let mut all = scopes;
    for (number, id) in capabilities.iter().enumerate() {
        let known = provider.capabilities.iter().find(|capability| capability.id == *id);
        let problem = "is not one of the provider's capabilities";
        let capability =
            known.ok_or_else(|| FieldError::invalid(format!("capabilities[{number}]"), problem))?;
        all = all.union(&capability.scopes);
    }
    Ok(all)
}
