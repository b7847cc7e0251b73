//! How connections stand with the refresher.

use std::collections::BTreeMap;

use keyholder_domain::{ConnectionId, OrganizationId, RefreshState, RefreshStatus, Text, Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Only;
use crate::{Change, InTime as _, Store, StoreError};

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

impl Store {
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

impl Change {
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
