//! What is due, and who sees to it.

use std::time::Duration;

use keyholder_domain::{ConnectionId, Generation, OrganizationId, ProviderId, Text, Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Attempt, ClientKey, Only};
use crate::installation::Reached;
use crate::provider_clients::organization;
use crate::{Store, StoreError, discard, in_time};

/// How long a lease outlives the call that it is for, in seconds.
const LEASE_MARGIN: i32 = 3;

/// How far ahead the calls of a client that has a pace are claimed, in seconds: from one claim to the next, and the time that
/// one takes. Where calls are paid for by so much, or nearly, the pace was used to the full.
const AHEAD: f64 = 0.05;

/// What was not used of a pace is made up for, in seconds: no more, for a provider that counts is told only that there were
/// too many, and a pause costs more than what a claim that came late does.
const ARREARS: f64 = 0.02;

#[derive(Debug)]
struct AttemptRow {
    organization_id: String,
    connection_id: Uuid,
    client_organization_id: String,
    provider_id: String,
    client_id: String,
    attempt_id: Uuid,
    fence: i64,
    generation: i64,
    attempt_time: Timestamp,
    call_seconds: i32,
    deadline: Option<Timestamp>,
    ambiguous_time: Option<Timestamp>,
    refused_time: Option<Timestamp>,
    failures: i32,
    sealed_answer: Option<String>,
    client_is_watched: bool,
    delay: f64,
}

impl Store {
    /// Makes up to `limit` connections ready whose moment has come. Returns how many there were.
    pub async fn ready_refreshes(&self, limit: i64) -> Result<u64, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "WITH due AS (
                     SELECT organization_id, connection_id FROM refreshes
                     WHERE due_time <= statement_timestamp() AND NOT ready
                     ORDER BY due_time LIMIT $1 FOR UPDATE SKIP LOCKED
                 )
                 UPDATE refreshes r SET ready = true FROM due
                 WHERE r.organization_id = due.organization_id AND r.connection_id = due.connection_id",
                limit,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected())
    }

    /// Whether anything waits for its turn whose client may be used soon.
    pub async fn has_ready_refreshes(&self) -> Result<bool, StoreError> {
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT 1 FROM refreshes r
                       JOIN provider_clients p ON p.organization_id = r.client_organization_id
                           AND p.provider_id = r.provider_id AND p.client_id = r.client_id
                       WHERE r.ready AND (p.quarantine IS NULL OR p.probe_time <= clock_timestamp())
                         AND (p.pause_time IS NULL OR p.pause_time <= clock_timestamp())
                         AND (SELECT frozen_time IS NULL FROM installation)
                   ) AS "exists!""#,
            )
            .fetch_one(connection)
            .await
        })
    }

    /// Claims up to `limit` ready connections: of the clients that may be used now, each within its budget and at most
    /// `per_client` at once, those that somebody waits for first, then those whose access token ends first.
    ///
    /// `unfit`: clients that this process cannot speak for; others do.
    ///
    /// Those of a client that has a pace are claimed a little ahead, each with the delay that the pace wants.
    ///
    /// Not sent twice: if the answer is lost, the leases run out.
    ///
    /// Nothing is claimed in a database that has not come as far as `reached`: it is not the one that was seen.
    pub async fn claim_refreshes(
        &self,
        limit: i64,
        per_client: i64,
        reached: Reached,
        unfit: &[ClientKey],
    ) -> Result<Vec<Attempt>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        match in_time(claim(&mut connection, limit, per_client, reached, unfit)).await {
            Ok(rows) => rows.into_iter().map(Attempt::try_from).collect(),
            Err(error) => {
                if crate::error::is_connection_lost(&error) {
                    discard(connection).await;
                }
                Err(error.into())
            }
        }
    }

    /// Claims one connection whatever its turn, unless an attempt is under way.
    pub async fn claim_refresh(&self, only: Only<'_>) -> Result<Option<Attempt>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let row = in_time(
            sqlx::query_as!(
                AttemptRow,
                r#"UPDATE refreshes r
                   SET ready = false, due_time = NULL, fence = r.fence + 1, attempt_id = gen_random_uuid(),
                       attempt_time = clock_timestamp(), attempt_generation = c.sealed_generation,
                       lease_expire_time = clock_timestamp() + make_interval(secs => r.call_seconds + $3),
                       last_attempt_time = clock_timestamp()
                   FROM connections c
                   WHERE r.organization_id = $1 AND r.connection_id = $2 AND r.attempt_id IS NULL
                     AND c.organization_id = r.organization_id AND c.connection_id = r.connection_id
                     AND c.sealed_renewal IS NOT NULL
                   RETURNING r.organization_id, r.connection_id, r.client_organization_id, r.provider_id, r.client_id,
                       r.attempt_id AS "attempt_id!", r.fence, r.attempt_generation AS "generation!",
                       r.attempt_time AS "attempt_time!", r.call_seconds, r.deadline, r.ambiguous_time,
                       r.refused_time, r.failures, r.sealed_answer, true AS "client_is_watched!",
                       0::double precision AS "delay!""#,
                only.organization_id.as_str(),
                only.connection_id.as_uuid(),
                LEASE_MARGIN,
            )
            .fetch_optional(&mut *connection),
        )
        .await?;
        row.map(Attempt::try_from).transpose()
    }

    /// Takes over up to `limit` attempts whose lease has run out, each under a new fence, for `lease` seconds.
    pub async fn take_abandoned_refreshes(&self, lease: f64, limit: i64) -> Result<Vec<Attempt>, StoreError> {
        let rows = run!(self, connection => {
            sqlx::query_as!(
                AttemptRow,
                r#"WITH abandoned AS (
                       SELECT organization_id, connection_id FROM refreshes
                       WHERE lease_expire_time < statement_timestamp()
                       ORDER BY lease_expire_time LIMIT $2 FOR UPDATE SKIP LOCKED
                   )
                   UPDATE refreshes r SET fence = r.fence + 1,
                       lease_expire_time = clock_timestamp() + make_interval(secs => $1)
                   FROM abandoned a
                   WHERE r.organization_id = a.organization_id AND r.connection_id = a.connection_id
                   RETURNING r.organization_id, r.connection_id, r.client_organization_id, r.provider_id, r.client_id,
                       r.attempt_id AS "attempt_id!", r.fence, r.attempt_generation AS "generation!",
                       r.attempt_time AS "attempt_time!", r.call_seconds, r.deadline, r.ambiguous_time,
                       r.refused_time, r.failures, r.sealed_answer, true AS "client_is_watched!",
                       0::double precision AS "delay!""#,
                lease,
                limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(Attempt::try_from).collect()
    }
}

/// The clients that have something ready are found by skipping through the index from one to the next, so what is not
/// due costs nothing. A client's row is locked for the time of the statement: its budget is spent once.
async fn claim(
    connection: &mut PgConnection,
    limit: i64,
    per_client: i64,
    reached: Reached,
    unfit: &[ClientKey],
) -> Result<Vec<AttemptRow>, sqlx::Error> {
    let organizations: Vec<&str> = unfit.iter().map(organization).collect();
    let providers: Vec<&str> = unfit.iter().map(|key| key.provider_id.as_str()).collect();
    let clients: Vec<&str> = unfit.iter().map(|key| key.client_id.as_str()).collect();
    sqlx::query_as!(
        AttemptRow,
        r#"WITH RECURSIVE clients AS (
               (SELECT client_organization_id, provider_id, client_id FROM refreshes
                WHERE ready AND (SELECT frozen_time IS NULL AND (era > $4 OR (era = $4 AND epoch >= $5)) FROM installation)
                ORDER BY client_organization_id, provider_id, client_id LIMIT 1)
               UNION ALL
               SELECT n.client_organization_id, n.provider_id, n.client_id
               FROM clients c CROSS JOIN LATERAL (
                   SELECT r.client_organization_id, r.provider_id, r.client_id FROM refreshes r
                   WHERE r.ready AND (r.client_organization_id, r.provider_id, r.client_id)
                       > (c.client_organization_id, c.provider_id, c.client_id)
                   ORDER BY r.client_organization_id, r.provider_id, r.client_id LIMIT 1
               ) n
           ), usable AS MATERIALIZED (
               SELECT p.* FROM provider_clients p
               JOIN clients c ON p.organization_id = c.client_organization_id AND p.provider_id = c.provider_id
                   AND p.client_id = c.client_id
               WHERE (p.pause_time IS NULL OR p.pause_time <= clock_timestamp())
                 AND (p.quarantine IS NULL OR p.probe_time <= clock_timestamp())
                 AND (p.organization_id, p.provider_id, p.client_id)
                     NOT IN (SELECT * FROM unnest($6::text[], $7::text[], $8::text[]))
               FOR UPDATE OF p SKIP LOCKED
           ), room AS (
               SELECT u.*, starts.wait, greatest(0, least(
                   $1::bigint,
                   CASE WHEN u.quarantine IS NOT NULL OR u.failures >= 5 THEN 1 ELSE $2::bigint END - under_way.number,
                   CASE WHEN u.rate IS NULL THEN $1::bigint
                        ELSE least($1::bigint::double precision, 1 + floor(($9 - starts.wait) * u.rate))::bigint END
               )) AS number
               FROM usable u CROSS JOIN LATERAL (
                   -- When its next call is to begin, in seconds from the statement's start, which `paid` counts from too.
                   SELECT greatest(extract(epoch FROM greatest(u.paid_time, u.pause_time) - statement_timestamp())::double precision,
                                   -$10::double precision) AS wait
               ) starts CROSS JOIN LATERAL (
                   SELECT count(*) AS number FROM refreshes r
                   WHERE r.client_organization_id = u.organization_id AND r.provider_id = u.provider_id
                     AND r.client_id = u.client_id AND r.lease_expire_time > clock_timestamp()
               ) under_way
               -- Somebody else may have claimed between our snapshot and the lock: what we count is old then.
               WHERE (u.rate IS NULL OR starts.wait <= $9::double precision)
                 AND u.claims = (SELECT q.claims FROM provider_clients q WHERE q.organization_id = u.organization_id
                                 AND q.provider_id = u.provider_id AND q.client_id = u.client_id)
           ), picked AS (
               SELECT f.organization_id, f.connection_id,
                   room.rate IS NOT NULL OR room.failures > 0 OR room.quarantine IS NOT NULL
                       OR coalesce(room.window_end_time > clock_timestamp(), false) AS watched,
                   -- One after the other, as evenly as the pace wants it.
                   CASE WHEN room.rate IS NULL THEN 0 ELSE greatest(0, room.wait + (row_number() OVER (
                       PARTITION BY room.organization_id, room.provider_id, room.client_id
                       ORDER BY f.demand_time, f.deadline) - 1) / room.rate) END AS delay
               FROM room CROSS JOIN LATERAL (
                   SELECT r.organization_id, r.connection_id, r.demand_time, r.deadline FROM refreshes r
                   WHERE r.ready AND r.client_organization_id = room.organization_id
                     AND r.provider_id = room.provider_id AND r.client_id = room.client_id
                     AND (room.quarantine IS NULL OR r.refused_time IS NULL)
                   ORDER BY r.demand_time, r.deadline LIMIT room.number FOR UPDATE SKIP LOCKED
               ) f
               ORDER BY f.demand_time, f.deadline LIMIT $1
           ), claimed AS (
               UPDATE refreshes r
               SET ready = false, due_time = NULL, fence = r.fence + 1, attempt_id = gen_random_uuid(),
                   attempt_time = clock_timestamp(), attempt_generation = coalesce(c.sealed_generation, c.generation),
                   lease_expire_time = clock_timestamp() + make_interval(secs => r.call_seconds + $3),
                   last_attempt_time = clock_timestamp()
               FROM picked, connections c
               WHERE r.organization_id = picked.organization_id AND r.connection_id = picked.connection_id
                 AND c.organization_id = r.organization_id AND c.connection_id = r.connection_id
               RETURNING r.organization_id, r.connection_id, r.client_organization_id, r.provider_id, r.client_id,
                   r.attempt_id, r.fence, r.attempt_generation, r.attempt_time, r.call_seconds, r.deadline,
                   r.ambiguous_time, r.refused_time, r.failures, r.sealed_answer, picked.watched,
                   picked.delay
           ), paid AS (
               UPDATE provider_clients p
               SET claims = p.claims + 1, paid_time = greatest(p.paid_time, p.pause_time, statement_timestamp() - make_interval(secs => $10))
                       + make_interval(secs => coalesce(spent.number / p.rate, 0)),
                   probe_time = CASE WHEN p.probe_time IS NULL THEN NULL
                                     WHEN p.quarantine = 'MANY_GRANTS_REFUSED'
                                         THEN clock_timestamp() + interval '10 minutes'
                                     ELSE clock_timestamp() + interval '30 seconds' END
               FROM (SELECT client_organization_id, provider_id, client_id, count(*) AS number FROM claimed
                     GROUP BY client_organization_id, provider_id, client_id) spent
               WHERE p.organization_id = spent.client_organization_id AND p.provider_id = spent.provider_id
                 AND p.client_id = spent.client_id
           )
           SELECT organization_id AS "organization_id!", connection_id AS "connection_id!",
               client_organization_id AS "client_organization_id!", provider_id AS "provider_id!",
               client_id AS "client_id!", attempt_id AS "attempt_id!", fence AS "fence!",
               attempt_generation AS "generation!", attempt_time AS "attempt_time!", call_seconds AS "call_seconds!",
               deadline, ambiguous_time, refused_time, failures AS "failures!", sealed_answer,
               watched AS "client_is_watched!", delay AS "delay!"
           FROM claimed"#,
        limit,
        per_client,
        LEASE_MARGIN,
        reached.era,
        reached.epoch,
        &organizations as &[&str],
        &providers as &[&str],
        &clients as &[&str],
        AHEAD,
        ARREARS,
    )
    .fetch_all(connection)
    .await
}

impl TryFrom<AttemptRow> for Attempt {
    type Error = StoreError;

    fn try_from(row: AttemptRow) -> Result<Self, StoreError> {
        let connection_id = ConnectionId::from_uuid(row.connection_id);
        let wrong = |column| StoreError::corrupt("refreshes", column, connection_id);
        Ok(Self {
            attempt_id: row.attempt_id,
            fence: row.fence,
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            connection_id,
            client: ClientKey {
                organization_id: match row.client_organization_id.as_str() {
                    "" => None,
                    id => Some(OrganizationId::parse(id).map_err(wrong("client_organization_id"))?),
                },
                provider_id: ProviderId::parse(&row.provider_id).map_err(wrong("provider_id"))?,
                client_id: Text::parse(&row.client_id).map_err(wrong("client_id"))?,
            },
            generation: Generation::new(row.generation).map_err(wrong("attempt_generation"))?,
            time: row.attempt_time,
            call_seconds: row.call_seconds,
            deadline: row.deadline,
            ambiguous_time: row.ambiguous_time,
            refused_time: row.refused_time,
            failures: row.failures,
            sealed_answer: row.sealed_answer,
            client_is_watched: row.client_is_watched,
            delay: Duration::try_from_secs_f64(row.delay).unwrap_or_default(),
        })
    }
}
