use keyholder_domain::{
    ConnectionId, Grant, GrantId, GrantState, GrantTarget, OrganizationId, Principal, ProviderId, RequestId,
    Timestamp,
};

use crate::connections::Remembered;
use crate::row::{GrantRow, one_row};
use crate::{Change, InTime as _, Store, StoreError};

/// A grant that is not in the database yet.
#[derive(Debug)]
pub struct NewGrant<'a> {
    /// The grant, at its first generation.
    pub grant: &'a Grant,
    /// The provider that it is about, also when its target is a connection.
    pub provider_id: &'a ProviderId,
    /// What makes the create idempotent, with a keyed hash of the request.
    pub request: Option<(&'a RequestId, &'a str)>,
}

/// Which grants to list.
#[derive(Debug, Clone)]
pub struct GrantFilter {
    /// For this grantee.
    pub grantee: Option<Principal>,
    /// For this connection, by its id or by a selector.
    pub connection_id: Option<ConnectionId>,
    /// In one of these states; empty: in any.
    pub states: Vec<GrantState>,
    /// The moment at which the states are judged.
    pub now: Timestamp,
    /// Behind this one.
    pub after: Option<GrantId>,
    /// At most so many.
    pub limit: i64,
}

/// A query that answers with rows of `grants g`: the text behind the column list, then the arguments.
macro_rules! grants {
    ($after:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            GrantRow,
            r#"SELECT g.organization_id, g.grant_id, g.grantee, g.connection_id, g.selector_owner, g.provider_id,
                      g.scopes, g.workloads, g.expire_time, g.reason, g.created_by, g.revoke_time,
                      (SELECT u.last_used_time FROM grant_uses u
                       WHERE u.organization_id = g.organization_id AND u.grant_id = g.grant_id) AS last_used_time,
                      g.generation, g.create_time
               FROM grants g "#
                + $after
            $(, $argument)*
        )
    };
}

impl Store {
    /// Notes that credentials were released through these grants just now.
    pub async fn note_grant_uses(&self, uses: &[(OrganizationId, GrantId)]) -> Result<(), StoreError> {
        let (organizations, grants): (Vec<&str>, Vec<_>) =
            uses.iter().map(|(organization, grant)| (organization.as_str(), grant.as_uuid())).unzip();
        run!(self, connection => {
            sqlx::query!(
                "INSERT INTO grant_uses (organization_id, grant_id, last_used_time)
                 SELECT DISTINCT r.organization_id, r.grant_id, statement_timestamp()
                 FROM UNNEST($1::text[], $2::uuid[]) AS r (organization_id, grant_id)
                 ORDER BY 1, 2
                 ON CONFLICT (organization_id, grant_id) DO UPDATE SET last_used_time = excluded.last_used_time",
                &organizations as &[&str],
                &grants,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Reads a grant, revoked and expired ones too.
    pub async fn grant(
        &self,
        organization_id: &OrganizationId,
        id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        run!(self, connection => {
            grants!(
                "WHERE g.organization_id = $1 AND g.grant_id = $2",
                organization_id.as_str(),
                id.as_uuid()
            )
            .fetch_optional(connection)
            .await
        })?
        .map(Grant::try_from)
        .transpose()
    }

    /// Lists grants in the order in which they were made.
    pub async fn grants(
        &self,
        organization_id: &OrganizationId,
        filter: &GrantFilter,
    ) -> Result<Vec<Grant>, StoreError> {
        let wanted = |state| filter.states.is_empty() || filter.states.contains(&state);
        let rows = run!(self, connection => {
            grants!(
                "WHERE g.organization_id = $1
                       AND ($2::text IS NULL OR g.grantee = $2)
                       AND ($3::uuid IS NULL OR g.connection_id = $3 OR EXISTS (
                           SELECT 1 FROM connections c
                           WHERE c.organization_id = $1 AND c.connection_id = $3
                             AND c.owner = g.selector_owner AND c.provider_id = g.provider_id))
                       AND CASE WHEN g.revoke_time IS NOT NULL THEN $4::boolean
                                WHEN g.expire_time <= $7 THEN $5::boolean
                                ELSE $6::boolean END
                       AND ($8::uuid IS NULL OR g.grant_id > $8)
                     ORDER BY g.grant_id
                     LIMIT $9",
                organization_id.as_str(),
                filter.grantee.as_ref().map(Principal::as_str),
                filter.connection_id.map(ConnectionId::as_uuid),
                wanted(GrantState::Revoked),
                wanted(GrantState::Expired),
                wanted(GrantState::Active),
                filter.now,
                filter.after.map(GrantId::as_uuid),
                filter.limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(Grant::try_from).collect()
    }
}

impl Change {
    /// Reads a grant inside the change.
    pub async fn grant(&mut self, id: GrantId) -> Result<Option<Grant>, StoreError> {
        let organization_id = self.organization_id().clone();
        grants!("WHERE g.organization_id = $1 AND g.grant_id = $2", organization_id.as_str(), id.as_uuid())
            .fetch_optional(self.connection())
            .in_time()
            .await?
            .map(Grant::try_from)
            .transpose()
    }

    /// The grant that an earlier request with this id made.
    pub async fn remembered_grant(
        &mut self,
        request_id: &RequestId,
    ) -> Result<Option<Remembered<Grant>>, StoreError> {
        let organization_id = self.organization_id().clone();
        let Some(found) = sqlx::query!(
            r#"SELECT grant_id, request_fingerprint AS "fingerprint!" FROM grants
               WHERE organization_id = $1 AND request_id = $2"#,
            organization_id.as_str(),
            request_id.as_str(),
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?
        else {
            return Ok(None);
        };
        let made = self.grant(GrantId::from_uuid(found.grant_id)).await?;
        Ok(made.map(|made| Remembered { made, fingerprint: found.fingerprint }))
    }

    /// Adds a grant.
    pub async fn insert_grant(&mut self, new: &NewGrant<'_>) -> Result<(), StoreError> {
        let grant = new.grant;
        let (connection_id, selector_owner) = match &grant.target {
            GrantTarget::Connection(id) => (Some(id.as_uuid()), None),
            GrantTarget::Selector { owner, .. } => (None, Some(owner.as_str())),
        };
        let workloads: Vec<String> =
            grant.workloads.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        let result = sqlx::query!(
            "INSERT INTO grants (
                 organization_id, grant_id, grantee, connection_id, selector_owner, provider_id, scopes, workloads,
                 expire_time, reason, created_by, request_id, request_fingerprint, generation, create_time
             ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            grant.organization_id.as_str(),
            grant.id.as_uuid(),
            grant.grantee.as_str(),
            connection_id,
            selector_owner,
            new.provider_id.as_str(),
            &grant.scopes.to_strings(),
            &workloads,
            grant.expire_time,
            grant.reason.as_str(),
            grant.created_by.to_string(),
            new.request.map(|(id, _)| id.as_str()),
            new.request.map(|(_, fingerprint)| fingerprint),
            grant.generation.get(),
            grant.create_time,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("grants", &result)?;
        self.grow_provider(new.provider_id).await
    }

    /// Writes a revocation; the grant must still be at the generation before its own.
    pub async fn update_grant(&mut self, grant: &Grant) -> Result<(), StoreError> {
        let result = sqlx::query!(
            "UPDATE grants SET revoke_time = $3, generation = $4::bigint
             WHERE organization_id = $1 AND grant_id = $2 AND generation = $4::bigint - 1",
            grant.organization_id.as_str(),
            grant.id.as_uuid(),
            grant.revoke_time,
            grant.generation.get(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("grants", &result)
    }
}
