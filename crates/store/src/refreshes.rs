//! When connections are refreshed, and the attempts that are under way. Any number of replicas share the work through
//! these rows, by the database's clock alone.
//!
//! A connection becomes *ready* when its moment has come, and is *claimed* by one attempt, the one whose access token
//! ends first of those whose client may be used now. The claim stores a lease and a fence before anybody is asked. What
//! an attempt brings counts only while the fence is its own.

mod claim;

use std::collections::BTreeMap;

use keyholder_domain::{
    ConnectionId, Generation, OrganizationId, ProviderId, RefreshState, RefreshStatus, Text, Timestamp,
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::row::one_row;
use crate::{Change, InTime as _, Store, StoreError};

/// A client as its provider knows it: the installation's, or an organization's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// Whose own client it is; none: the installation's.
    pub organization_id: Option<OrganizationId>,
    /// At which provider.
    pub provider_id: ProviderId,
    /// Its public id.
    pub client_id: Text,
}

/// When a connection is refreshed next.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Which connection.
    pub connection_id: ConnectionId,
    /// With which client.
    pub client: ClientKey,
    /// When; none: not by itself.
    pub due_time: Option<Timestamp>,
    /// Not before this, whoever waits.
    pub earliest_time: Timestamp,
    /// When the access token ends, if that is known.
    pub deadline: Option<Timestamp>,
    /// How long one call may take, in seconds.
    pub call_seconds: i32,
    /// When the owner is to be told next that the permission ends.
    pub notice_time: Option<Timestamp>,
}

/// An attempt to refresh a connection.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its id.
    pub attempt_id: Uuid,
    /// Its number among the connection's attempts.
    pub fence: i64,
    /// The tenant.
    pub organization_id: OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The client that the tokens were issued to.
    pub client: ClientKey,
    /// The generation that the tokens are sealed at with which the provider is asked.
    pub generation: Generation,
    /// When it began, by the database's clock.
    pub time: Timestamp,
    /// How long the call may take, in seconds.
    pub call_seconds: i32,
    /// When the access token ends, if that is known.
    pub deadline: Option<Timestamp>,
    /// Since when it is not known whether the provider has replaced the tokens.
    pub ambiguous_time: Option<Timestamp>,
    /// When the provider said that the grant is gone, if it is asked whether that is to be believed.
    pub refused_time: Option<Timestamp>,
    /// How many attempts in a row came to nothing before this one.
    pub failures: i32,
    /// The provider's answer, if it was kept by somebody who went no further.
    pub sealed_answer: Option<String>,
    /// Whether it matters to the client that a call goes well: it failed of late, or is used within a budget.
    pub client_is_watched: bool,
}

/// What becomes of a connection whose attempt brought no new tokens.
#[derive(Debug, Clone)]
pub struct Postponed {
    /// When to try again; none: not by itself.
    pub due_time: Option<Timestamp>,
    /// Not before this, whoever waits.
    pub earliest_time: Timestamp,
    /// What went wrong: a stable name.
    pub error: &'static str,
    /// Whether the attempt counts as a failure of this connection.
    pub counts: bool,
    /// Whether the provider's answer is known. If it is not, and has been kept meanwhile, the attempt does not end.
    pub answered: bool,
    /// Whether whoever waits for it keeps its place in front of others.
    pub keeps_place: bool,
    /// Since when it is not known whether the provider has replaced the tokens.
    pub ambiguous_time: Option<Timestamp>,
    /// When the provider said that the grant is gone, while that is not believed.
    pub refused_time: Option<Timestamp>,
}

/// How a connection stands with the refresher.
#[derive(Debug, Clone)]
pub struct RefreshRow {
    /// The number of attempts so far.
    pub fence: i64,
    /// Whether one is under way.
    pub under_way: bool,
    /// When the next one is; none: not by itself, or under way.
    pub due_time: Option<Timestamp>,
    /// Not before this, whoever waits.
    pub earliest_time: Timestamp,
    /// Since when it is not known whether the provider has replaced the tokens.
    pub ambiguous_time: Option<Timestamp>,
    /// When the provider said that the grant is gone, while that is not believed yet.
    pub refused_time: Option<Timestamp>,
    /// Attempts in a row that came to nothing.
    pub failures: i32,
    /// When the last one began.
    pub last_attempt_time: Option<Timestamp>,
    /// When one last brought tokens.
    pub last_success_time: Option<Timestamp>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The last attempt that brought tokens.
    pub done_attempt_id: Option<Uuid>,
    /// The newest generation that a workload said the provider does not take.
    pub rejected_generation: Option<i64>,
    /// Until when the client is left alone.
    pub pause_time: Option<Timestamp>,
    /// Why nothing is refreshed with the client.
    pub quarantine: Option<String>,
    /// Why nothing is refreshed at all.
    pub frozen_reason: Option<String>,
    /// The database's clock.
    pub now: Timestamp,
}

#[derive(Debug)]
struct StatusRow {
    connection_id: Uuid,
    ready: bool,
    under_way: bool,
    due_time: Option<Timestamp>,
    ambiguous_time: Option<Timestamp>,
    refused_time: Option<Timestamp>,
    failures: i32,
    last_attempt_time: Option<Timestamp>,
    last_success_time: Option<Timestamp>,
    last_error: Option<String>,
    quarantine: Option<String>,
    frozen_reason: Option<String>,
}

impl StatusRow {
    fn split(self) -> (ConnectionId, RefreshStatus) {
        let state = if self.frozen_reason.is_some() {
            RefreshState::Frozen
        } else if self.refused_time.is_some() {
            RefreshState::Refused
        } else if self.quarantine.is_some() {
            RefreshState::ClientQuarantined
        } else if self.ambiguous_time.is_some() {
            RefreshState::Ambiguous
        } else if self.under_way || self.ready {
            RefreshState::UnderWay
        } else if self.last_error.is_some() {
            RefreshState::Failing
        } else {
            RefreshState::Scheduled
        };
        let status = RefreshStatus {
            state,
            last_attempt_time: self.last_attempt_time,
            last_success_time: self.last_success_time,
            next_attempt_time: self.due_time,
            error: self.last_error.and_then(|error| Text::parse(&error).ok()).unwrap_or_default(),
            failures: self.failures,
        };
        (ConnectionId::from_uuid(self.connection_id), status)
    }
}

/// Which connection a claim is for.
#[derive(Debug, Clone, Copy)]
pub struct Only<'a> {
    /// The tenant.
    pub organization_id: &'a OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
}

impl Store {
    /// Keeps what a provider answered before anything is made of it. `false`: the attempt counts no more.
    pub async fn keep_refresh_answer(&self, kept: &KeptAnswer<'_>) -> Result<bool, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "UPDATE refreshes SET sealed_answer = $4
                 WHERE organization_id = $1 AND connection_id = $2 AND attempt_id = $3",
                kept.organization_id.as_str(),
                kept.connection_id.as_uuid(),
                kept.attempt_id,
                kept.sealed_answer,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected() == 1)
    }

    /// Forgets an answer of which nobody can make anything, kept with its attempt or apart.
    pub async fn forget_refresh_answer(&self, attempt: &Attempt) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "WITH apart AS (
                     DELETE FROM late_answers WHERE organization_id = $1 AND connection_id = $2 AND generation = $4
                 )
                 UPDATE refreshes SET sealed_answer = NULL
                 WHERE organization_id = $1 AND connection_id = $2 AND fence = $3",
                attempt.organization_id.as_str(),
                attempt.connection_id.as_uuid(),
                attempt.fence,
                attempt.generation.get(),
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Ends an attempt that brought no tokens. `false`: it counted no more.
    pub async fn postpone_refresh(
        &self,
        attempt: &Attempt,
        postponed: &Postponed,
    ) -> Result<bool, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "WITH ended AS (
                     UPDATE refreshes SET attempt_id = NULL, attempt_time = NULL, attempt_generation = NULL,
                         lease_expire_time = NULL, sealed_answer = NULL, ready = false, due_time = $4,
                         earliest_time = $5, last_error = $6, failures = failures + CASE WHEN $7 THEN 1 ELSE 0 END,
                         ambiguous_time = $8, refused_time = $9,
                         demand_time = CASE WHEN $11 THEN demand_time END
                     WHERE organization_id = $1 AND connection_id = $2 AND fence = $3 AND attempt_id IS NOT NULL
                       AND (sealed_answer IS NULL OR $10)
                     RETURNING connection_id
                 )
                 SELECT pg_notify('keyholder_refreshes', connection_id::text) FROM ended",
                attempt.organization_id.as_str(),
                attempt.connection_id.as_uuid(),
                attempt.fence,
                postponed.due_time,
                postponed.earliest_time,
                postponed.error,
                postponed.counts,
                postponed.ambiguous_time,
                postponed.refused_time,
                postponed.answered,
                postponed.keeps_place,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected() == 1)
    }

    /// Asks for a connection to be refreshed as soon as may be, and wakes whoever does it. `at_once`: also earlier than
    /// it would be tried again by itself.
    pub async fn demand_refresh(&self, only: Only<'_>, at_once: bool) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "WITH asked AS (
                     UPDATE refreshes SET demand_time = coalesce(demand_time, clock_timestamp()),
                         earliest_time = CASE WHEN $3 THEN least(earliest_time, clock_timestamp()) ELSE earliest_time END,
                         due_time = least(due_time, CASE WHEN $3 THEN clock_timestamp()
                                                    ELSE greatest(earliest_time, clock_timestamp()) END),
                         ready = ready OR $3 OR earliest_time <= clock_timestamp()
                     WHERE organization_id = $1 AND connection_id = $2 AND attempt_id IS NULL
                       AND (demand_time IS NULL OR NOT ready)
                     RETURNING connection_id
                 )
                 SELECT pg_notify('keyholder_refreshes', '') FROM asked",
                only.organization_id.as_str(),
                only.connection_id.as_uuid(),
                at_once,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// How a connection stands with the refresher.
    pub async fn refresh(&self, only: Only<'_>) -> Result<Option<RefreshRow>, StoreError> {
        run!(self, connection => { refresh_row(connection, only).await })
    }

    /// How several connections of an organization stand with the refresher.
    pub async fn refreshes(
        &self,
        organization_id: &OrganizationId,
        ids: &[ConnectionId],
    ) -> Result<BTreeMap<ConnectionId, RefreshStatus>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        let rows = run!(self, connection => {
            sqlx::query_as!(
                StatusRow,
                r#"SELECT r.connection_id, r.ready, r.attempt_id IS NOT NULL AS "under_way!", r.due_time,
                       r.ambiguous_time, r.refused_time, r.failures, r.last_attempt_time, r.last_success_time,
                       r.last_error, p.quarantine AS "quarantine?",
                       (SELECT i.frozen_reason FROM installation i) AS frozen_reason
                   FROM refreshes r
                   LEFT JOIN provider_clients p ON p.organization_id = r.client_organization_id
                       AND p.provider_id = r.provider_id AND p.client_id = r.client_id
                   WHERE r.organization_id = $1 AND r.connection_id = ANY($2)"#,
                organization_id.as_str(),
                &ids,
            )
            .fetch_all(connection)
            .await
        })?;
        Ok(rows.into_iter().map(StatusRow::split).collect())
    }
}

/// An answer that is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct KeptAnswer<'a> {
    /// The tenant.
    pub organization_id: &'a OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The attempt that it answers.
    pub attempt_id: Uuid,
    /// The generation that it is sealed for.
    pub generation: Generation,
    /// The answer, sealed.
    pub sealed_answer: &'a str,
}

impl Change {
    /// Notes that a workload said that the provider does not take a generation, and has it replaced: now or, if it came by a
    /// refresh itself, `again` seconds after that at the earliest. `false`: somebody has said so before, or it was replaced.
    pub async fn reject_generation(
        &mut self,
        connection_id: ConnectionId,
        generation: Generation,
        again: f64,
    ) -> Result<bool, StoreError> {
        let organization_id = self.organization_id().clone();
        let result = sqlx::query!(
            "WITH rejected AS (
                 UPDATE refreshes r SET rejected_generation = $3, demand_time = coalesce(demand_time, clock_timestamp()),
                     earliest_time = least(earliest_time, moment),
                     due_time = CASE WHEN attempt_id IS NULL THEN least(due_time, moment) END,
                     ready = attempt_id IS NULL AND (ready OR moment <= clock_timestamp())
                 FROM (
                     SELECT organization_id, connection_id,
                         greatest(clock_timestamp(), CASE WHEN done_attempt_id IS NOT NULL AND failures = 0
                             THEN last_success_time + make_interval(secs => $4) END) AS moment
                     FROM refreshes WHERE organization_id = $1 AND connection_id = $2
                 ) old
                 WHERE r.organization_id = old.organization_id AND r.connection_id = old.connection_id
                   AND (r.rejected_generation IS NULL OR r.rejected_generation < $3)
                   AND NOT EXISTS (SELECT FROM connections c WHERE c.organization_id = $1 AND c.connection_id = $2
                                   AND c.sealed_generation > $3)
                 RETURNING r.connection_id
             )
             SELECT pg_notify('keyholder_refreshes', '') FROM rejected",
            organization_id.as_str(),
            connection_id.as_uuid(),
            generation.get(),
            again,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(result.rows_affected() == 1)
    }

    /// Says when a connection is refreshed next, which has new tokens just now. An attempt that is under way counts no
    /// more.
    pub async fn schedule_refresh(&mut self, schedule: &Schedule) -> Result<(), StoreError> {
        let organization_id = self.organization_id().clone();
        let client = &schedule.client;
        let client_organization_id = client.organization_id.as_ref().map_or("", OrganizationId::as_str);
        sqlx::query!(
            "INSERT INTO provider_clients (organization_id, provider_id, client_id) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
            client_organization_id,
            client.provider_id.as_str(),
            client.client_id.as_str(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        let result = sqlx::query!(
            "INSERT INTO refreshes AS r (organization_id, connection_id, client_organization_id, provider_id, client_id,
                 due_time, earliest_time, deadline, call_seconds, notice_time, last_success_time)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, clock_timestamp())
             ON CONFLICT (organization_id, connection_id) DO UPDATE SET
                 client_organization_id = $3, provider_id = $4, client_id = $5, due_time = $6, earliest_time = $7,
                 deadline = $8, call_seconds = $9, notice_time = $10, last_success_time = clock_timestamp(),
                 ready = false, demand_time = NULL, fence = r.fence + 1, attempt_id = NULL, attempt_time = NULL,
                 attempt_generation = NULL, lease_expire_time = NULL, sealed_answer = NULL, ambiguous_time = NULL,
                 refused_time = NULL, failures = 0, last_error = NULL",
            organization_id.as_str(),
            schedule.connection_id.as_uuid(),
            client_organization_id,
            client.provider_id.as_str(),
            client.client_id.as_str(),
            schedule.due_time,
            schedule.earliest_time,
            schedule.deadline,
            schedule.call_seconds,
            schedule.notice_time,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("refreshes", &result)
    }

    /// Ends an attempt that brought tokens, and says when the next one is. `false`: it counts no more.
    pub async fn finish_refresh(
        &mut self,
        attempt: &Attempt,
        schedule: &Schedule,
    ) -> Result<bool, StoreError> {
        let organization_id = self.organization_id().clone();
        let result = sqlx::query!(
            "WITH done AS (
                 UPDATE refreshes r SET due_time = $4, earliest_time = $5, deadline = $6, call_seconds = $7, notice_time = $8,
                     ready = false, attempt_id = NULL, attempt_time = NULL, attempt_generation = NULL,
                     lease_expire_time = NULL, sealed_answer = NULL, done_attempt_id = r.attempt_id,
                     ambiguous_time = NULL, refused_time = NULL, failures = 0, last_error = NULL,
                     last_success_time = clock_timestamp(), demand_time = NULL
                 FROM refreshes old
                 WHERE r.organization_id = $1 AND r.connection_id = $2 AND r.fence = $3 AND r.attempt_id IS NOT NULL
                   AND old.organization_id = r.organization_id AND old.connection_id = r.connection_id
                 RETURNING r.connection_id, old.demand_time
             )
             SELECT CASE WHEN demand_time IS NOT NULL THEN pg_notify('keyholder_refreshes', connection_id::text) END
             FROM done",
            organization_id.as_str(),
            attempt.connection_id.as_uuid(),
            attempt.fence,
            schedule.due_time,
            schedule.earliest_time,
            schedule.deadline,
            schedule.call_seconds,
            schedule.notice_time,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(result.rows_affected() == 1)
    }

    /// Forgets a connection that is not refreshed any more, and what it might have been saved with.
    pub async fn unschedule_refresh(&mut self, id: ConnectionId) -> Result<(), StoreError> {
        self.forget_late_answers(id).await?;
        self.end_schedule(id).await
    }

    /// Forgets a connection that is not refreshed any more.
    pub async fn end_schedule(&mut self, id: ConnectionId) -> Result<(), StoreError> {
        let organization_id = self.organization_id().clone();
        sqlx::query!(
            "WITH gone AS (
                 DELETE FROM refreshes WHERE organization_id = $1 AND connection_id = $2 RETURNING connection_id
             )
             SELECT pg_notify('keyholder_refreshes', connection_id::text) FROM gone",
            organization_id.as_str(),
            id.as_uuid(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(())
    }

    /// How a connection stands with the refresher.
    pub async fn refresh(&mut self, id: ConnectionId) -> Result<Option<RefreshRow>, StoreError> {
        let organization_id = self.organization_id().clone();
        let only = Only { organization_id: &organization_id, connection_id: id };
        Ok(refresh_row(self.connection(), only).in_time().await?)
    }
}

async fn refresh_row(
    connection: &mut PgConnection,
    only: Only<'_>,
) -> Result<Option<RefreshRow>, sqlx::Error> {
    sqlx::query_as!(
        RefreshRow,
        r#"SELECT r.fence, r.attempt_id IS NOT NULL AS "under_way!", r.due_time, r.earliest_time, r.ambiguous_time,
               r.refused_time, r.failures, r.last_attempt_time, r.last_success_time, r.last_error, r.done_attempt_id,
               r.rejected_generation, p.pause_time AS "pause_time?", p.quarantine AS "quarantine?",
               (SELECT i.frozen_reason FROM installation i) AS frozen_reason, clock_timestamp() AS "now!"
           FROM refreshes r
           LEFT JOIN provider_clients p ON p.organization_id = r.client_organization_id
               AND p.provider_id = r.provider_id AND p.client_id = r.client_id
           WHERE r.organization_id = $1 AND r.connection_id = $2"#,
        only.organization_id.as_str(),
        only.connection_id.as_uuid(),
    )
    .fetch_optional(connection)
    .await
}
