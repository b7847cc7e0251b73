//! Tokens that are still to be given back to their provider.

use std::collections::BTreeMap;

use keyholder_domain::{
    ConnectionId, Generation, OrganizationId, ProviderId, RevocationRunId, Text, Timestamp, WorkloadId,
};
use sqlx::types::Json;
use uuid::Uuid;

use crate::row::one_row;
use crate::{Change, InTime as _, Store, StoreError};

/// Tokens that are to be given back.
#[derive(Debug)]
pub struct NewRevocation<'a> {
    /// Whose tokens they were.
    pub connection_id: ConnectionId,
    /// The connection's generation that they are sealed for.
    pub generation: Generation,
    /// Their provider.
    pub provider_id: &'a ProviderId,
    /// The client that they were issued to.
    pub client_id: &'a Text,
    /// The connection's settings, which say where the provider is.
    pub config: &'a BTreeMap<String, String>,
    /// The tokens, sealed.
    pub sealed_tokens: &'a str,
    /// Who gives them back.
    pub requested_by: &'a WorkloadId,
    /// The run that it belongs to.
    pub run: Option<RevocationRunId>,
    /// When.
    pub create_time: Timestamp,
}

/// Tokens that are to be given back now.
#[derive(Debug, Clone)]
pub struct StoredRevocation {
    /// The tenant.
    pub organization_id: OrganizationId,
    /// Whose tokens they were.
    pub connection_id: ConnectionId,
    /// The connection's generation that they are sealed for.
    pub generation: Generation,
    /// Their provider.
    pub provider_id: ProviderId,
    /// The client that they were issued to.
    pub client_id: Text,
    /// The connection's settings.
    pub config: BTreeMap<String, String>,
    /// The tokens, sealed.
    pub sealed_tokens: String,
    /// How often it was tried, this time included.
    pub attempts: i32,
    /// Who gives them back.
    pub requested_by: WorkloadId,
}

/// What came of giving tokens back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationOutcome {
    /// The provider has taken them back.
    Revoked,
    /// The provider has no way to do so.
    Unsupported,
    /// The provider would not, however often it was asked.
    Failed,
}

impl RevocationOutcome {
    /// The outcome's name in the database and in the audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "REVOKED",
            Self::Unsupported => "UNSUPPORTED",
            Self::Failed => "FAILED",
        }
    }
}

#[derive(Debug)]
struct RevocationRow {
    organization_id: String,
    connection_id: Uuid,
    generation: i64,
    provider_id: String,
    client_id: String,
    config: Json<BTreeMap<String, String>>,
    sealed_tokens: String,
    attempts: i32,
    requested_by: String,
}

impl Store {
    /// Takes up to `limit` revocations that are due, of any organization; each is taken by one replica, which has it to
    /// itself for `lease` seconds.
    pub async fn take_due_revocations(
        &self,
        lease: f64,
        limit: i64,
    ) -> Result<Vec<StoredRevocation>, StoreError> {
        let rows = run!(self, connection => {
            sqlx::query_as!(
                RevocationRow,
                r#"WITH due AS (
                       SELECT organization_id, connection_id, generation FROM revocations
                       WHERE outcome = 'PENDING' AND next_attempt_time < statement_timestamp()
                       ORDER BY next_attempt_time LIMIT $2 FOR UPDATE SKIP LOCKED
                   )
                   UPDATE revocations SET attempts = attempts + 1,
                       next_attempt_time = clock_timestamp() + make_interval(secs => $1)
                   WHERE (organization_id, connection_id, generation) IN
                       (SELECT organization_id, connection_id, generation FROM due)
                   RETURNING organization_id, connection_id, generation, provider_id, client_id,
                       config AS "config: Json<BTreeMap<String, String>>", sealed_tokens AS "sealed_tokens!",
                       attempts, requested_by"#,
                lease,
                limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(StoredRevocation::try_from).collect()
    }

    /// Says when a revocation is to be tried again.
    pub async fn postpone_revocation(
        &self,
        revocation: &StoredRevocation,
        seconds: f64,
    ) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE revocations SET next_attempt_time = clock_timestamp() + make_interval(secs => $4)
                 WHERE organization_id = $1 AND connection_id = $2 AND generation = $3 AND outcome = 'PENDING'",
                revocation.organization_id.as_str(),
                revocation.connection_id.as_uuid(),
                revocation.generation.get(),
                seconds,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }
}

impl Change {
    /// Keeps tokens until they are given back.
    pub async fn insert_revocation(&mut self, new: &NewRevocation<'_>) -> Result<(), StoreError> {
        let organization_id = self.organization_id().clone();
        let result = sqlx::query!(
            "INSERT INTO revocations (organization_id, connection_id, provider_id, client_id, config, sealed_tokens,
                 generation, next_attempt_time, requested_by, create_time, revocation_run_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp(), $8, $9, $10)",
            organization_id.as_str(),
            new.connection_id.as_uuid(),
            new.provider_id.as_str(),
            new.client_id.as_str(),
            Json(new.config) as _,
            new.sealed_tokens,
            new.generation.get(),
            new.requested_by.to_string(),
            new.create_time,
            new.run.map(RevocationRunId::as_uuid),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("revocations", &result)
    }

    /// Ends a revocation, and forgets the tokens. `false`: it had ended already.
    pub async fn end_revocation(
        &mut self,
        revocation: &StoredRevocation,
        outcome: RevocationOutcome,
    ) -> Result<bool, StoreError> {
        let result = sqlx::query!(
            "UPDATE revocations SET outcome = $4, sealed_tokens = NULL
             WHERE organization_id = $1 AND connection_id = $2 AND generation = $3 AND outcome = 'PENDING'",
            revocation.organization_id.as_str(),
            revocation.connection_id.as_uuid(),
            revocation.generation.get(),
            outcome.as_str(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(result.rows_affected() == 1)
    }
}

impl TryFrom<RevocationRow> for StoredRevocation {
    type Error = StoreError;

    fn try_from(row: RevocationRow) -> Result<Self, StoreError> {
        let connection_id = ConnectionId::from_uuid(row.connection_id);
        let wrong = |column| StoreError::corrupt("revocations", column, connection_id);
        Ok(Self {
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            connection_id,
            generation: Generation::new(row.generation).map_err(wrong("generation"))?,
            provider_id: ProviderId::parse(&row.provider_id).map_err(wrong("provider_id"))?,
            client_id: Text::parse(&row.client_id).map_err(wrong("client_id"))?,
            config: row.config.0,
            sealed_tokens: row.sealed_tokens,
            attempts: row.attempts,
            requested_by: WorkloadId::parse(&row.requested_by).map_err(wrong("requested_by"))?,
        })
    }
}
