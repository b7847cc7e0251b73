//! The two statements of a resolve: find what is meant and what the decision needs, and release.

mod lane;

use std::collections::BTreeMap;

use keyholder_domain::{
    AuditEventId, ConnectionId, Generation, Grant, GrantId, OrganizationId, Principal, ProviderId, Text,
    Timestamp, WorkloadId,
};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::data_keys::StoredDataKey;
use crate::row::{ConnectionRow, GrantRow};
use crate::{Store, StoreError, StoredConnection};

pub use lane::ReleaseLane;

/// What a resolve means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One connection.
    Connection(ConnectionId),
    /// A provider, from which exactly one connection must follow.
    Provider {
        /// Which provider.
        provider_id: ProviderId,
        /// Only connections of this owner.
        owner: Option<Principal>,
        /// Only the connection of this account.
        account_id: Option<Text>,
    },
}

/// A connection that may be meant, with everything the decision needs.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The connection.
    pub stored: StoredConnection,
    /// A random value that changes with the connection and with whatever grant is about it.
    pub version: Uuid,
    /// The key that sealed its credential.
    pub data_key: Option<StoredDataKey>,
    /// The actor's grants that are about it, dead ones too.
    pub grants: Vec<Grant>,
}

/// What was found for a target.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The candidates: for a connection, that one; for a provider, those that the actor owns or was ever given
    /// a grant for, in the order of their ids, those with a live right first.
    pub candidates: Vec<Candidate>,
    /// For a provider, the generation of its set of connections and grants.
    pub provider_generation: Option<i64>,
}

/// A release: the audit event, and what must still stand.
#[derive(Debug, Clone)]
pub struct Release {
    /// The id of the audit event.
    pub audit_event_id: AuditEventId,
    /// The tenant.
    pub organization_id: OrganizationId,
    /// The connection, at the generation that was decided on.
    pub connection: (ConnectionId, Generation),
    /// The version that was decided on, of the connection and the grants that are about it.
    pub version: Uuid,
    /// The grant by which it is released; none: the actor owns the connection.
    pub grant_id: Option<GrantId>,
    /// The provider.
    pub provider_id: ProviderId,
    /// For a provider target, the generation of the set that was decided on.
    pub provider_generation: Option<i64>,
    /// Before which moment it must be, by the database's clock: the end of the grant, or the moment from which on the token
    /// is no longer good for as long as it must be.
    pub before: Option<Timestamp>,
    /// The process that calls.
    pub workload: WorkloadId,
    /// As whom.
    pub actor: Principal,
    /// What for.
    pub purpose: Text,
}

struct FoundRow {
    connection: ConnectionRow,
    version: Uuid,
    data_key: Option<(String, String)>,
    grants: Json<Vec<GrantRow>>,
    provider_generation: Option<i64>,
}

/// A query that finds candidates: the `FROM` and what follows, with `$1` the organization and `$2` the actor.
macro_rules! find {
    ($connection:expr, $from:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            r#"SELECT c.organization_id, c.connection_id, c.owner, c.provider_id, c.auth_method, c.display_name,
                      c.account_id, c.account_name, c.account_email, c.scopes, c.state, c.state_reason,
                      c.sealed_credential, c.sealed_generation, c.credential_fingerprint, c.credential_fields,
                      c.config AS "config: Json<BTreeMap<String, String>>",
                      c.labels AS "labels: Json<BTreeMap<String, String>>",
                      c.last_test_time, c.last_test_class, c.last_test_http_status, c.last_test_summary,
                      c.token_client_id, c.token_scopes_asked, c.token_expire_time, c.token_renewal_missing,
                      c.token_idle_expire_time, c.token_absolute_expire_time,
                      c.sealed_renewal IS NOT NULL AS "token_renewable!",
                      c.change, c.generation, c.create_time, c.update_time,
                      (SELECT v.version FROM connection_versions v WHERE v.connection_id = c.connection_id)
                          AS "version!",
                      k.data_key_id AS "data_key_id?", k.wrapped AS "wrapped?",
                      coalesce((
                          -- However many there have been: those that are live, and the newest of the others, which tell
                          -- why nothing is released.
                          SELECT jsonb_agg(to_jsonb(g)) FROM (
                              SELECT a.*, row_number() OVER (
                                  PARTITION BY a.revoke_time IS NULL AND coalesce(a.expire_time > statement_timestamp(), true)
                                  ORDER BY a.create_time DESC
                              ) AS place
                              FROM grants a
                              WHERE a.organization_id = c.organization_id AND a.grantee = $2
                                AND (a.connection_id = c.connection_id
                                     OR (a.selector_owner = c.owner AND a.provider_id = c.provider_id))
                          ) g
                          WHERE place <= 100
                              OR (revoke_time IS NULL AND coalesce(expire_time > statement_timestamp(), true))
                      ), '[]') AS "grants!: Json<Vec<GrantRow>>",
                      (SELECT p.generation FROM provider_generations p
                       WHERE p.organization_id = c.organization_id AND p.provider_id = c.provider_id)
                          AS provider_generation "#
                + $from
            $(, $argument)*
        )
        .map(|row| FoundRow {
            connection: ConnectionRow {
                organization_id: row.organization_id,
                connection_id: row.connection_id,
                owner: row.owner,
                provider_id: row.provider_id,
                auth_method: row.auth_method,
                display_name: row.display_name,
                account_id: row.account_id,
                account_name: row.account_name,
                account_email: row.account_email,
                scopes: row.scopes,
                state: row.state,
                state_reason: row.state_reason,
                sealed_credential: row.sealed_credential,
                sealed_generation: row.sealed_generation,
                credential_fingerprint: row.credential_fingerprint,
                credential_fields: row.credential_fields,
                config: row.config,
                labels: row.labels,
                last_test_time: row.last_test_time,
                last_test_class: row.last_test_class,
                last_test_http_status: row.last_test_http_status,
                last_test_summary: row.last_test_summary,
                token_client_id: row.token_client_id,
                token_scopes_asked: row.token_scopes_asked,
                token_expire_time: row.token_expire_time,
                token_renewal_missing: row.token_renewal_missing,
                token_idle_expire_time: row.token_idle_expire_time,
                token_absolute_expire_time: row.token_absolute_expire_time,
                sealed_renewal: None,
                token_renewable: row.token_renewable,
                change: row.change,
                generation: row.generation,
                create_time: row.create_time,
                update_time: row.update_time,
            },
            version: row.version,
            data_key: row.data_key_id.zip(row.wrapped),
            grants: row.grants,
            provider_generation: row.provider_generation,
        })
        .fetch_all($connection)
        .await
    };
}

async fn find_rows(
    connection: &mut PgConnection,
    organization_id: &OrganizationId,
    actor: &Principal,
    target: &Target,
) -> Result<Vec<FoundRow>, sqlx::Error> {
    match target {
        Target::Connection(id) => find!(
            connection,
            "FROM connections c
             LEFT JOIN data_keys k ON k.organization_id = c.organization_id
                 AND k.data_key_id = split_part(c.sealed_credential, ':', 3)
             WHERE c.organization_id = $1 AND c.connection_id = $3",
            organization_id.as_str(),
            actor.as_str(),
            id.as_uuid(),
        ),
        Target::Provider { provider_id, owner, account_id } => find!(
            connection,
            "FROM connections c
             JOIN (
                 SELECT o.connection_id, true AS live FROM connections o
                 WHERE o.organization_id = $1 AND o.provider_id = $3 AND o.owner = $2
                 UNION ALL
                 SELECT coalesce(s.connection_id, u.connection_id),
                        u.revoke_time IS NULL AND coalesce(u.expire_time > statement_timestamp(), true)
                 FROM grants u
                 LEFT JOIN connections s ON u.connection_id IS NULL AND s.organization_id = u.organization_id
                     AND s.provider_id = u.provider_id AND s.owner = u.selector_owner
                 WHERE u.organization_id = $1 AND u.grantee = $2 AND u.provider_id = $3
             ) usable ON usable.connection_id = c.connection_id
             LEFT JOIN data_keys k ON k.organization_id = c.organization_id
                 AND k.data_key_id = split_part(c.sealed_credential, ':', 3)
             WHERE c.organization_id = $1 AND c.provider_id = $3 AND c.state NOT IN ('DELETED', 'PENDING')
               AND ($4::text IS NULL OR c.owner = $4)
               AND ($5::text IS NULL OR c.account_id = $5)
             GROUP BY c.organization_id, c.connection_id, k.organization_id, k.data_key_id
             ORDER BY bool_or(usable.live) DESC, c.connection_id
             LIMIT 100",
            organization_id.as_str(),
            actor.as_str(),
            provider_id.as_str(),
            owner.as_ref().map(Principal::as_str),
            account_id.as_ref().map(Text::as_str),
        ),
    }
}

impl TryFrom<FoundRow> for Candidate {
    type Error = StoreError;

    fn try_from(row: FoundRow) -> Result<Self, StoreError> {
        Ok(Self {
            stored: row.connection.try_into()?,
            version: row.version,
            data_key: row.data_key.map(|(data_key_id, wrapped)| StoredDataKey { data_key_id, wrapped }),
            grants: row.grants.0.into_iter().map(Grant::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl Store {
    /// Finds what a target means for an actor. One statement.
    pub async fn find(
        &self,
        organization_id: &OrganizationId,
        actor: &Principal,
        target: &Target,
    ) -> Result<Found, StoreError> {
        let rows = run!(self, connection => { find_rows(connection, organization_id, actor, target).await })?;
        let provider_generation = rows.first().and_then(|row| row.provider_generation);
        let candidates = rows.into_iter().map(Candidate::try_from).collect::<Result<_, _>>()?;
        Ok(Found { candidates, provider_generation })
    }

    /// The connections at any provider that an actor owns or was ever given a grant for, in the order of their ids, from
    /// behind one of them on.
    pub async fn usable(
        &self,
        organization_id: &OrganizationId,
        actor: &Principal,
        after: Option<ConnectionId>,
        limit: i64,
    ) -> Result<Vec<Candidate>, StoreError> {
        let rows = run!(self, connection => {
            find!(
                connection,
                "FROM connections c
                 JOIN (
                     SELECT o.connection_id FROM connections o WHERE o.organization_id = $1 AND o.owner = $2
                     UNION
                     SELECT coalesce(s.connection_id, u.connection_id)
                     FROM grants u
                     LEFT JOIN connections s ON u.connection_id IS NULL AND s.organization_id = u.organization_id
                         AND s.provider_id = u.provider_id AND s.owner = u.selector_owner
                     WHERE u.organization_id = $1 AND u.grantee = $2
                 ) usable ON usable.connection_id = c.connection_id
                 LEFT JOIN data_keys k ON false
                 WHERE c.organization_id = $1 AND c.state NOT IN ('DELETED', 'PENDING')
                   AND ($3::uuid IS NULL OR c.connection_id > $3)
                 ORDER BY c.connection_id
                 LIMIT $4",
                organization_id.as_str(),
                actor.as_str(),
                after.map(ConnectionId::as_uuid),
                limit,
            )
        })?;
        rows.into_iter().map(Candidate::try_from).collect()
    }

    /// Whether a provider has any connection, not deleted, of this owner and account.
    pub async fn has_connection(
        &self,
        organization_id: &OrganizationId,
        provider_id: &ProviderId,
        owner: Option<&Principal>,
        account_id: Option<&Text>,
    ) -> Result<bool, StoreError> {
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT 1 FROM connections
                       WHERE organization_id = $1 AND provider_id = $2 AND state NOT IN ('DELETED', 'PENDING')
                         AND ($3::text IS NULL OR owner = $3)
                         AND ($4::text IS NULL OR account_id = $4)
                   ) AS "exists!""#,
                organization_id.as_str(),
                provider_id.as_str(),
                owner.map(Principal::as_str),
                account_id.map(Text::as_str),
            )
            .fetch_one(connection)
            .await
        })
    }
}
