use std::time::Duration;

use keyholder_domain::{
    AuditEvent, AuditEventId, AuditKind, ConnectionId, Generation, GrantId, Invalid, OrganizationId,
    Principal, ProviderId, Text, Timestamp, WorkloadId,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::row::one_row;
use crate::{Change, InTime as _, Store, StoreError, discard, in_time};

/// An audit event that is not in the database yet; its time will be the database's.
#[derive(Debug)]
pub struct NewAuditEvent<'a> {
    /// Its id.
    pub id: AuditEventId,
    /// The tenant.
    pub organization_id: &'a OrganizationId,
    /// What happened.
    pub kind: AuditKind,
    /// The process that called.
    pub workload: &'a WorkloadId,
    /// As whom it acted.
    pub actor: Option<&'a Principal>,
    /// The connection, at its generation.
    pub connection: Option<(ConnectionId, Generation)>,
    /// The grant.
    pub grant_id: Option<GrantId>,
    /// The provider.
    pub provider_id: Option<&'a ProviderId>,
    /// For a denial, its stable reason.
    pub reason: &'a str,
    /// What the caller wanted it for.
    pub purpose: &'a str,
}

/// Which events to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// About this connection.
    pub connection_id: Option<ConnectionId>,
    /// About this grant.
    pub grant_id: Option<GrantId>,
    /// Of this actor.
    pub actor: Option<Principal>,
    /// Through this workload.
    pub workload: Option<WorkloadId>,
    /// Of one of these kinds; empty: of any.
    pub kinds: Vec<AuditKind>,
    /// At or after this moment.
    pub start: Option<Timestamp>,
    /// Before this moment.
    pub end: Option<Timestamp>,
    /// Older than this one.
    pub before: Option<AuditEventId>,
    /// At most so many.
    pub limit: i64,
}

struct AuditRow {
    organization_id: String,
    audit_event_id: Uuid,
    kind: String,
    workload: String,
    actor: Option<String>,
    connection_id: Option<Uuid>,
    generation: Option<i64>,
    grant_id: Option<Uuid>,
    provider_id: Option<String>,
    reason: String,
    purpose: String,
    create_time: Timestamp,
}

impl Store {
    /// Records an event that stands for itself, such as a denial.
    pub async fn record(&self, event: &NewAuditEvent<'_>) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        match in_time(insert(&mut connection, event)).await {
            Err(error) if crate::error::is_connection_lost(&error) => {
                discard(connection).await;
                let mut connection = self.live_connection().await?;
                // The first attempt may have gone through, its answer lost.
                match in_time(insert(&mut connection, event)).await {
                    Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(()),
                    other => one_row("audit_events", &other?),
                }
            }
            other => one_row("audit_events", &other?),
        }
    }

    /// Lists events, the newest first.
    pub async fn audit_events(
        &self,
        organization_id: &OrganizationId,
        filter: &AuditFilter,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        let kinds: Vec<String> = filter.kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
        let rows = run!(self, connection => {
            sqlx::query_as!(
                AuditRow,
                "SELECT organization_id, audit_event_id, kind, workload, actor, connection_id, generation,
                            grant_id, provider_id, reason, purpose, create_time
                     FROM audit_events
                     WHERE organization_id = $1
                       AND ($2::uuid IS NULL OR connection_id = $2)
                       AND ($3::uuid IS NULL OR grant_id = $3)
                       AND ($4::text IS NULL OR actor = $4)
                       AND ($5::text IS NULL OR workload = $5)
                       AND (cardinality($6::text[]) = 0 OR kind = ANY($6))
                       AND ($7::timestamptz IS NULL OR create_time >= $7)
                       AND ($8::timestamptz IS NULL OR create_time < $8)
                       -- Whole weeks are passed over by the time in the id, which is a replica's.
                       AND audit_event_id >= coalesce(audit_bound($7 - interval '1 day'), audit_bound('epoch'))
                       AND audit_event_id < coalesce(audit_bound($8 + interval '1 day'), audit_bound('9999-01-01'))
                       AND ($9::uuid IS NULL OR audit_event_id < $9)
                     ORDER BY audit_event_id DESC
                     LIMIT $10",
                organization_id.as_str(),
                filter.connection_id.map(ConnectionId::as_uuid),
                filter.grant_id.map(GrantId::as_uuid),
                filter.actor.as_ref().map(Principal::as_str),
                filter.workload.as_ref().map(ToString::to_string),
                &kinds,
                filter.start,
                filter.end,
                filter.before.map(AuditEventId::as_uuid),
                filter.limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(AuditEvent::try_from).collect()
    }
}

/// How many weeks of the audit are made ahead.
const WEEKS_AHEAD: i32 = 4;

/// How long the work on the tables of the audit waits for those who use them, and so holds up those who come after: as
/// long as nobody notices. It is tried again.
const AUDIT_LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";

/// How much longer a table is kept than it must be: its week is by the clocks of those who wrote to it.
const AUDIT_SLACK: Duration = Duration::from_secs(86_400);

impl Store {
    /// Makes the tables of the coming weeks of the audit, drops those that hold only what is older than `retention`, and
    /// returns how many it made and the names of those that it dropped. Does what it can before it fails: each table is
    /// a transaction.
    pub async fn tend_audit(&self, retention: Option<Duration>) -> Result<(u32, Vec<String>), StoreError> {
        let (mut made, mut dropped, mut failed) = (0, Vec::new(), None);
        // Those first that nobody writes to yet.
        for week in (0..=WEEKS_AHEAD).rev() {
            match self.make_audit_week(week).await {
                Ok(new) => made += u32::from(new),
                Err(error) => failed = Some(error),
            }
        }
        for name in self.old_audit_weeks(retention).await? {
            match self.drop_audit_week(&name).await {
                Ok(()) => dropped.push(name),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.forget_other_audit(retention).await?;
        failed.map_or(Ok((made, dropped)), Err)
    }

    /// Deletes what is of no week and older than `retention`, some of it at a time.
    async fn forget_other_audit(&self, retention: Option<Duration>) -> Result<(), StoreError> {
        let Some(retention) = retention else { return Ok(()) };
        run!(self, connection => {
            sqlx::query!(
                "DELETE FROM audit_events_other WHERE audit_event_id IN (
                     SELECT audit_event_id FROM audit_events_other
                     WHERE audit_event_id < audit_bound(statement_timestamp() - make_interval(secs => $1))
                       -- The time in an id is that of a clock that may be wrong.
                       AND create_time < statement_timestamp() - make_interval(secs => $1)
                     ORDER BY audit_event_id LIMIT 10000
                 )",
                (retention + AUDIT_SLACK).as_secs_f64(),
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    async fn make_audit_week(&self, ahead: i32) -> Result<bool, StoreError> {
        let mut transaction = self.changes.begin().await?;
        sqlx::query(AUDIT_LOCK_TIMEOUT).execute(&mut *transaction).await?;
        // One replica after the other: the second finds it made.
        let made = sqlx::query_scalar!(
            r#"SELECT make_audit_week(
                   date_trunc('week', statement_timestamp() AT TIME ZONE 'UTC')::date + 7 * $1::int
               ) AS "made!"
               FROM pg_advisory_xact_lock(hashtextextended('keyholder/audit', 0))"#,
            ahead,
        );
        let made = made.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(made)
    }

    async fn old_audit_weeks(&self, retention: Option<Duration>) -> Result<Vec<String>, StoreError> {
        let Some(retention) = retention else { return Ok(Vec::new()) };
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"SELECT c.relname AS "name!"
                   FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = 'audit_events'::regclass AND c.relname ~ '^audit_events_until_\d{8}$'
                     AND to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC'
                         <= statement_timestamp() - make_interval(secs => $1)
                   ORDER BY c.relname"#,
                (retention + AUDIT_SLACK).as_secs_f64(),
            )
            .fetch_all(connection)
            .await
        })
    }

    /// Drops a table of the audit, unless another replica has.
    async fn drop_audit_week(&self, name: &str) -> Result<(), StoreError> {
        let mut transaction = self.changes.begin().await?;
        sqlx::query(AUDIT_LOCK_TIMEOUT).execute(&mut *transaction).await?;
        // Letters, digits and underscores, as the query asks.
        let drop = sqlx::AssertSqlSafe(format!("DROP TABLE IF EXISTS {name}"));
        sqlx::query(drop).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Whether it is on record that a generation of a connection was rejected.
    pub async fn is_rejection_on_record(
        &self,
        organization_id: &OrganizationId,
        id: ConnectionId,
        generation: Generation,
    ) -> Result<bool, StoreError> {
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT 1 FROM audit_events
                       WHERE organization_id = $1 AND connection_id = $2 AND kind = 'CREDENTIAL_REJECTED'
                         AND generation = $3
                   ) AS "there!""#,
                organization_id.as_str(),
                id.as_uuid(),
                generation.get(),
            )
            .fetch_one(connection)
            .await
        })
    }
}

impl Change {
    /// Records what the change does, in the same transaction.
    pub async fn record(&mut self, event: &NewAuditEvent<'_>) -> Result<(), StoreError> {
        one_row("audit_events", &insert(self.connection(), event).in_time().await?)
    }
}

async fn insert(
    connection: &mut PgConnection,
    event: &NewAuditEvent<'_>,
) -> Result<sqlx::postgres::PgQueryResult, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO audit_events (organization_id, audit_event_id, kind, workload, actor, connection_id,
             generation, grant_id, provider_id, reason, purpose)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        event.organization_id.as_str(),
        event.id.as_uuid(),
        event.kind.as_str(),
        event.workload.to_string(),
        event.actor.map(Principal::as_str),
        event.connection.map(|(id, _)| id.as_uuid()),
        event.connection.map(|(_, generation)| generation.get()),
        event.grant_id.map(GrantId::as_uuid),
        event.provider_id.map(ProviderId::as_str),
        event.reason,
        event.purpose,
    )
    .execute(connection)
    .await
}

impl TryFrom<AuditRow> for AuditEvent {
    type Error = StoreError;

    fn try_from(row: AuditRow) -> Result<Self, StoreError> {
        let id = AuditEventId::from_uuid(row.audit_event_id);
        let wrong = |column| StoreError::corrupt("audit_events", column, id);
        Ok(Self {
            id,
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            kind: AuditKind::parse(&row.kind).ok_or(Invalid("must be a kind")).map_err(wrong("kind"))?,
            workload: WorkloadId::parse(&row.workload).map_err(wrong("workload"))?,
            actor: row.actor.as_deref().map(Principal::parse).transpose().map_err(wrong("actor"))?,
            connection_id: row.connection_id.map(ConnectionId::from_uuid),
            generation: row.generation.map(Generation::new).transpose().map_err(wrong("generation"))?,
            grant_id: row.grant_id.map(GrantId::from_uuid),
            provider_id: row
                .provider_id
                .as_deref()
                .map(ProviderId::parse)
                .transpose()
                .map_err(wrong("provider_id"))?,
            reason: Text::parse(&row.reason).map_err(wrong("reason"))?,
            purpose: Text::parse(&row.purpose).map_err(wrong("purpose"))?,
            create_time: row.create_time,
        })
    }
}
