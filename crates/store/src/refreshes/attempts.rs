//! What an attempt brings: an answer, tokens, or nothing. It counts only while the fence is its own.

use super::{Attempt, KeptAnswer, Postponed, Schedule};
use crate::{Change, InTime as _, Store, StoreError};

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
}

impl Change {
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
}
