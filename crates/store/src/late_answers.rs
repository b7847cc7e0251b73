//! Answers that came when their attempt counted no more, and tokens that came beside an error: what a connection may
//! still be saved with.

use keyholder_domain::{ConnectionId, Generation, OrganizationId};
use uuid::Uuid;

use crate::{Change, InTime as _, KeptAnswer, Only, Store, StoreError};

/// A late answer.
#[derive(Debug, Clone)]
pub struct LateAnswer {
    /// The tenant.
    pub organization_id: OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The attempt that it answers.
    pub attempt_id: Uuid,
    /// The generation that it is sealed for.
    pub generation: Generation,
    /// The answer, sealed.
    pub sealed_answer: String,
}

#[derive(Debug)]
struct LateAnswerRow {
    organization_id: String,
    connection_id: Uuid,
    attempt_id: Uuid,
    generation: i64,
    sealed_answer: String,
}

impl Store {
    /// Keeps a late answer. `seen`: it was looked at, and no new credential can be made of it as a whole.
    pub async fn keep_late_answer(&self, kept: &KeptAnswer<'_>, seen: bool) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "INSERT INTO late_answers (organization_id, connection_id, attempt_id, generation, sealed_answer, seen)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (organization_id, connection_id, attempt_id) DO UPDATE SET seen = EXCLUDED.seen OR late_answers.seen",
                kept.organization_id.as_str(),
                kept.connection_id.as_uuid(),
                kept.attempt_id,
                kept.generation.get(),
                kept.sealed_answer,
                seen,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Notes that a late answer is looked at.
    pub async fn see_late_answer(&self, late: &LateAnswer) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE late_answers SET seen = true
                 WHERE organization_id = $1 AND connection_id = $2 AND attempt_id = $3",
                late.organization_id.as_str(),
                late.connection_id.as_uuid(),
                late.attempt_id,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// The newest late answer of a connection.
    pub async fn late_answer(&self, only: Only<'_>) -> Result<Option<LateAnswer>, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                LateAnswerRow,
                "SELECT organization_id, connection_id, attempt_id, generation, sealed_answer FROM late_answers
                 WHERE organization_id = $1 AND connection_id = $2 ORDER BY create_time DESC LIMIT 1",
                only.organization_id.as_str(),
                only.connection_id.as_uuid(),
            )
            .fetch_optional(connection)
            .await
        })?
        .map(LateAnswer::try_from)
        .transpose()
    }

    /// Late answers of connections that wait for exactly them: the outcome of their attempt is not known, and no other
    /// attempt is under way.
    pub async fn late_answers(&self, limit: i64) -> Result<Vec<LateAnswer>, StoreError> {
        let rows = run!(self, connection => {
            sqlx::query_as!(
                LateAnswerRow,
                "SELECT l.organization_id, l.connection_id, l.attempt_id, l.generation, l.sealed_answer
                 FROM late_answers l
                 JOIN refreshes r ON r.organization_id = l.organization_id AND r.connection_id = l.connection_id
                 JOIN connections c ON c.organization_id = l.organization_id AND c.connection_id = l.connection_id
                 WHERE r.attempt_id IS NULL AND r.ambiguous_time IS NOT NULL AND c.sealed_generation = l.generation
                   AND NOT l.seen AND (SELECT frozen_time IS NULL FROM installation)
                 ORDER BY l.create_time LIMIT $1",
                limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(LateAnswer::try_from).collect()
    }

    /// Forgets late answers that are older than `days`, or whose connection has newer tokens.
    pub async fn forget_late_answers(&self, days: i32) -> Result<u64, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "DELETE FROM late_answers l
                 WHERE l.create_time < statement_timestamp() - make_interval(days => $1)
                    OR NOT EXISTS (SELECT 1 FROM connections c WHERE c.organization_id = l.organization_id
                           AND c.connection_id = l.connection_id AND c.sealed_generation = l.generation)",
                days,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected())
    }
}

impl Change {
    /// Forgets the late answers of a connection that has newer tokens.
    pub async fn forget_late_answers(&mut self, id: ConnectionId) -> Result<(), StoreError> {
        let organization_id = self.organization_id().clone();
        sqlx::query!(
            "DELETE FROM late_answers WHERE organization_id = $1 AND connection_id = $2",
            organization_id.as_str(),
            id.as_uuid(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(())
    }
}

impl TryFrom<LateAnswerRow> for LateAnswer {
    type Error = StoreError;

    fn try_from(row: LateAnswerRow) -> Result<Self, StoreError> {
        let connection_id = ConnectionId::from_uuid(row.connection_id);
        let wrong = |column| StoreError::corrupt("late_answers", column, connection_id);
        Ok(Self {
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            connection_id,
            attempt_id: row.attempt_id,
            generation: Generation::new(row.generation).map_err(wrong("generation"))?,
            sealed_answer: row.sealed_answer,
        })
    }
}
