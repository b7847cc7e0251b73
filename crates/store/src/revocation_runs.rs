//! Many connections that are revoked in one go.

use std::time::Duration;

use keyholder_domain::{
    ConnectionId, OrganizationId, ProviderId, RequestId, RevocationRunId, Timestamp, WorkloadId,
};
use uuid::Uuid;

use crate::row::one_row;
use crate::{Change, InTime as _, Remembered, Store, StoreError};

/// How long a look through the whole audit may take: less than the lease of a run.
const AUDIT_TIMEOUT: &str = "SET LOCAL statement_timeout = '50s'";

/// A run, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationRun {
    /// Its id.
    pub id: RevocationRunId,
    /// The tenant.
    pub organization_id: OrganizationId,
    /// Only connections at this provider.
    pub provider_id: Option<ProviderId>,
    /// Only connections whose credential this workload got.
    pub workload: Option<WorkloadId>,
    /// Who began it.
    pub requested_by: WorkloadId,
    /// The last connection that was looked at.
    pub reached: Option<ConnectionId>,
    /// How many connections were deleted.
    pub deleted: i64,
    /// When the last connection was deleted.
    pub done_time: Option<Timestamp>,
    /// When it began: what was connected later stays.
    pub create_time: Timestamp,
}

/// What has become of the tokens of a run's connections, as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RevocationCounts {
    /// Still to be given back.
    pub pending: i64,
    /// Taken back by their provider.
    pub revoked: i64,
    /// Of providers that have no way to do so.
    pub unsupported: i64,
    /// Not taken back, however often it was tried.
    pub failed: i64,
}

#[derive(Debug)]
struct RunRow {
    organization_id: String,
    revocation_run_id: Uuid,
    provider_id: Option<String>,
    workload: Option<String>,
    requested_by: String,
    reached: Option<Uuid>,
    deleted: i64,
    done_time: Option<Timestamp>,
    create_time: Timestamp,
}

impl Store {
    /// A run, and what has become of its tokens.
    pub async fn revocation_run(
        &self,
        organization_id: &OrganizationId,
        id: RevocationRunId,
    ) -> Result<Option<(RevocationRun, RevocationCounts)>, StoreError> {
        let found = run!(self, connection => {
            sqlx::query_as!(
                RunRow,
                "SELECT organization_id, revocation_run_id, provider_id, workload, requested_by, reached, deleted,
                     done_time, create_time
                 FROM revocation_runs WHERE organization_id = $1 AND revocation_run_id = $2",
                organization_id.as_str(),
                id.as_uuid(),
            )
            .fetch_optional(connection)
            .await
        })?;
        let Some(found) = found else { return Ok(None) };
        let counts = run!(self, connection => {
            sqlx::query_as!(
                RevocationCounts,
                r#"SELECT count(*) FILTER (WHERE outcome = 'PENDING') AS "pending!",
                       count(*) FILTER (WHERE outcome = 'REVOKED') AS "revoked!",
                       count(*) FILTER (WHERE outcome = 'UNSUPPORTED') AS "unsupported!",
                       count(*) FILTER (WHERE outcome = 'FAILED') AS "failed!"
                   FROM revocations WHERE organization_id = $1 AND revocation_run_id = $2"#,
                organization_id.as_str(),
                id.as_uuid(),
            )
            .fetch_one(connection)
            .await
        })?;
        Ok(Some((found.try_into()?, counts)))
    }

    /// Takes one run that is not done and that no other replica has, for `lease` seconds.
    pub async fn take_revocation_run(&self, lease: f64) -> Result<Option<RevocationRun>, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                RunRow,
                "WITH due AS (
                     SELECT organization_id, revocation_run_id FROM revocation_runs
                     WHERE done_time IS NULL
                       AND (lease_expire_time IS NULL OR lease_expire_time < clock_timestamp())
                     ORDER BY create_time LIMIT 1 FOR UPDATE SKIP LOCKED
                 )
                 UPDATE revocation_runs SET lease_expire_time = clock_timestamp() + make_interval(secs => $1)
                 WHERE (organization_id, revocation_run_id) IN (SELECT organization_id, revocation_run_id FROM due)
                 RETURNING organization_id, revocation_run_id, provider_id, workload, requested_by, reached, deleted,
                     done_time, create_time",
                lease,
            )
            .fetch_optional(connection)
            .await
        })?
        .map(RevocationRun::try_from)
        .transpose()
    }

    /// The next connections of a run, behind the last one that was looked at.
    pub async fn connections_of_run(
        &self,
        of: &RevocationRun,
        limit: i64,
    ) -> Result<Vec<ConnectionId>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(AUDIT_TIMEOUT).execute(&mut *transaction).await?;
        let query = sqlx::query_scalar!(
            "SELECT connection_id FROM connections c
                 WHERE organization_id = $1 AND state <> 'DELETED' AND create_time <= $2
                   AND ($3::uuid IS NULL OR connection_id > $3)
                   AND ($4::text IS NULL OR provider_id = $4)
                   -- Once for all of them: the audit has no index by connection of what was released.
                   AND ($5::text IS NULL OR connection_id IN (
                       SELECT a.connection_id FROM audit_events a
                       WHERE a.organization_id = $1 AND a.workload = $5 AND a.kind = 'CREDENTIAL_RELEASED'
                   ))
                 ORDER BY connection_id LIMIT $6",
            of.organization_id.as_str(),
            of.create_time,
            of.reached.map(ConnectionId::as_uuid),
            of.provider_id.as_ref().map(ProviderId::as_str),
            of.workload.as_ref().map(ToString::to_string),
            limit,
        );
        let found = tokio::time::timeout(Duration::from_secs(55), query.fetch_all(&mut *transaction));
        let found = found.await.map_err(|_| StoreError::TimedOut)??;
        Ok(found.into_iter().map(ConnectionId::from_uuid).collect())
    }

    /// Says how far a run has come, and keeps it for `lease` seconds more.
    pub async fn advance_revocation_run(
        &self,
        of: &RevocationRun,
        done: bool,
        lease: f64,
    ) -> Result<(), StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "UPDATE revocation_runs SET reached = $3,
                     lease_expire_time = clock_timestamp() + make_interval(secs => $4),
                     done_time = CASE WHEN $5 THEN clock_timestamp() END
                 WHERE organization_id = $1 AND revocation_run_id = $2",
                of.organization_id.as_str(),
                of.id.as_uuid(),
                of.reached.map(ConnectionId::as_uuid),
                lease,
                done,
            )
            .execute(connection)
            .await
        })?;
        one_row("revocation_runs", &result)
    }
}

impl Change {
    /// The run that an earlier request with this id began.
    pub async fn remembered_run(
        &mut self,
        request_id: &RequestId,
    ) -> Result<Option<Remembered<RevocationRunId>>, StoreError> {
        let organization_id = self.organization_id().clone();
        let found = sqlx::query!(
            r#"SELECT revocation_run_id, request_fingerprint AS "fingerprint!" FROM revocation_runs
               WHERE organization_id = $1 AND request_id = $2"#,
            organization_id.as_str(),
            request_id.as_str(),
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?;
        Ok(found.map(|found| Remembered {
            made: RevocationRunId::from_uuid(found.revocation_run_id),
            fingerprint: found.fingerprint,
        }))
    }

    /// Counts a connection that a run deletes. Inside the change that deletes it, so that a run whose process dies, or that
    /// two replicas have, counts each connection once.
    pub async fn count_deleted(&mut self, run: RevocationRunId) -> Result<(), StoreError> {
        let organization_id = self.organization_id().clone();
        let result = sqlx::query!(
            "UPDATE revocation_runs SET deleted = deleted + 1
             WHERE organization_id = $1 AND revocation_run_id = $2",
            organization_id.as_str(),
            run.as_uuid(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("revocation_runs", &result)
    }

    /// Adds a run.
    pub async fn insert_revocation_run(
        &mut self,
        new: &RevocationRun,
        request: Option<(&RequestId, &str)>,
    ) -> Result<(), StoreError> {
        let result = sqlx::query!(
            "INSERT INTO revocation_runs (organization_id, revocation_run_id, provider_id, workload, requested_by,
                 request_id, request_fingerprint, create_time)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            new.organization_id.as_str(),
            new.id.as_uuid(),
            new.provider_id.as_ref().map(ProviderId::as_str),
            new.workload.as_ref().map(ToString::to_string),
            new.requested_by.to_string(),
            request.map(|(id, _)| id.as_str()),
            request.map(|(_, fingerprint)| fingerprint),
            new.create_time,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("revocation_runs", &result)
    }
}

impl TryFrom<RunRow> for RevocationRun {
    type Error = StoreError;

    fn try_from(row: RunRow) -> Result<Self, StoreError> {
        let id = RevocationRunId::from_uuid(row.revocation_run_id);
        let wrong = |column| StoreError::corrupt("revocation_runs", column, id);
        let workload = |text: &str, column| WorkloadId::parse(text).map_err(wrong(column));
        Ok(Self {
            id,
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            provider_id: row
                .provider_id
                .as_deref()
                .map(ProviderId::parse)
                .transpose()
                .map_err(wrong("provider_id"))?,
            workload: row.workload.as_deref().map(|text| workload(text, "workload")).transpose()?,
            requested_by: workload(&row.requested_by, "requested_by")?,
            reached: row.reached.map(ConnectionId::from_uuid),
            deleted: row.deleted,
            done_time: row.done_time,
            create_time: row.create_time,
        })
    }
}
