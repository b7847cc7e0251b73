//! When a connection is refreshed, and who asks for it sooner.

use keyholder_domain::{ConnectionId, Generation, OrganizationId};

use super::{Only, Schedule};
use crate::row::one_row;
use crate::{Change, InTime as _, Store, StoreError};

impl Store {
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
}
