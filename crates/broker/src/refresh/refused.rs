//! Grants that the provider says are gone.

use keyholder_domain::{AuditKind, ConnectionState, Text};
use keyholder_store::Postponed;

use super::attempt::{HOLD, Work, only};
use crate::{Broker, BrokerError};

impl Broker {
    /// The provider says that the grant is gone. Before that is believed, it is looked at what else the client hears,
    /// and whether somebody else has newer tokens.
    pub(super) async fn refused(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        let attempt = work.attempt;
        let late = self.store().late_answer(only(attempt)).await?;
        if attempt.failures == 0 && late.is_some_and(|late| late.generation == attempt.generation) {
            // Tokens came late that are newer than the ones that were refused.
            return self.postpone(work, "GRANT_REFUSED", Some(work.now()), true).await;
        }
        let doubted = self.grant_refused(&attempt.client).await?;
        let now = work.now();
        let hold = now + HOLD;
        self.count(work, "GRANT_REFUSED");
        self.store()
            .postpone_refresh(
                attempt,
                &Postponed {
                    due_time: (!doubted).then_some(hold),
                    earliest_time: hold,
                    error: "GRANT_REFUSED",
                    counts: true,
                    answered: true,
                    keeps_place: false,
                    ambiguous_time: attempt.ambiguous_time,
                    refused_time: Some(now),
                },
            )
            .await?;
        Ok(())
    }

    /// A refused grant whose time of doubt is over.
    pub(super) async fn believe_or_doubt(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        if !self.doubts_refusals(&work.attempt.client).await? {
            let lost = work.attempt.ambiguous_time.is_some();
            return self.end(work, if lost { "LOST_ROTATION" } else { "REVOKED" }).await;
        }
        self.store()
            .postpone_refresh(
                work.attempt,
                &Postponed {
                    due_time: None,
                    earliest_time: work.now() + HOLD,
                    error: "GRANT_REFUSED",
                    counts: false,
                    answered: true,
                    keeps_place: false,
                    ambiguous_time: work.attempt.ambiguous_time,
                    refused_time: work.attempt.refused_time,
                },
            )
            .await?;
        Ok(())
    }

    /// The refresh token may not be shown any more, and the new one never came.
    pub(super) async fn lose(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        let over = work.attempt.deadline.is_none_or(|end| end <= work.now());
        if over {
            return self.end(work, "LOST_ROTATION").await;
        }
        self.postpone(work, "LOST_ROTATION", work.attempt.deadline, false).await
    }

    /// Ends a connection until its owner connects it again.
    pub(super) async fn end(&self, work: &Work<'_>, reason: &'static str) -> Result<(), BrokerError> {
        let attempt = work.attempt;
        let mut change = self.store().change(&attempt.organization_id).await?;
        let Some(mut stored) = change.stored_connection(attempt.connection_id).await? else { return Ok(()) };
        let row = change.refresh(attempt.connection_id).await?;
        let same = stored.sealed.as_ref().is_some_and(|sealed| sealed.generation == attempt.generation);
        let mine = row.is_some_and(|row| row.fence == attempt.fence);
        if !same || !mine {
            // Whoever has newer tokens is right.
            return Ok(());
        }
        if !matches!(stored.connection.state, ConnectionState::Active | ConnectionState::Disabled) {
            return Ok(());
        }
        stored.connection.state = ConnectionState::ReauthorizationRequired;
        stored.connection.state_reason = Text::parse(reason).unwrap_or_default();
        self.grow(&mut stored.connection);
        change.update_connection(&stored).await?;
        if reason == "ACCOUNT_CHANGED" {
            change.end_schedule(attempt.connection_id).await?;
        } else {
            change.unschedule_refresh(attempt.connection_id).await?;
        }
        self.record_refresh(&mut change, AuditKind::ReauthorizationRequired, &stored, reason).await?;
        change.commit().await?;
        self.count(work, reason);
        tracing::warn!(
            connection_id = %attempt.connection_id, provider_id = %work.provider.id, reason,
            "a connection needs its owner: it must be authorized anew"
        );
        Ok(())
    }
}
