//! Owners are told in time when their permission ends: 30, 7 and 1 days before, in the audit and to whoever watches.

use std::time::Duration;

use fail::fail_point;
use keyholder_domain::{AuditKind, ConnectionState};
use keyholder_store::{DueNotice, NewAuditEvent};
use tokio::sync::watch;

use super::{SELF, pause, plan};
use crate::{Broker, BrokerError};

/// How often it is looked.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How many are told at once.
const BATCH: i64 = 100;

impl Broker {
    pub(super) async fn notify_for_ever(&self, mut stop: watch::Receiver<bool>) {
        loop {
            fail_point!("notices");
            if let Err(error) = self.notify().await {
                tracing::debug!(%error, "owners could not be told that their permission ends");
            }
            if pause(LOOK_AGAIN, &mut stop).await {
                return;
            }
        }
    }

    async fn notify(&self) -> Result<(), BrokerError> {
        for due in self.store().due_notices(BATCH).await? {
            self.notify_of(&due).await?;
        }
        Ok(())
    }

    async fn notify_of(&self, due: &DueNotice) -> Result<(), BrokerError> {
        let mut change = self.store().change(&due.organization_id).await?;
        let Some(stored) = change.stored_connection(due.connection_id).await? else { return Ok(()) };
        let connection = &stored.connection;
        let end = connection.tokens.as_ref().and_then(|tokens| tokens.stop_time());
        let now = self.now();
        let next = connection.tokens.as_ref().and_then(|tokens| plan::next_notice(tokens, now));
        let in_use = matches!(connection.state, ConnectionState::Active | ConnectionState::Disabled);
        if !change.set_notice(due, next.filter(|_| in_use)).await? {
            return Ok(());
        }
        if let Some(end) = end.filter(|_| in_use) {
            let reason = plan::notice_name(end, now);
            let event = NewAuditEvent {
                id: self.audit_event_id(),
                organization_id: &due.organization_id,
                kind: AuditKind::ConnectionExpiring,
                workload: &SELF,
                actor: None,
                connection: Some((connection.id, connection.generation)),
                grant_id: None,
                provider_id: Some(&connection.provider_id),
                reason,
                purpose: "",
            };
            change.record(&event).await?;
            tracing::info!(connection_id = %connection.id, provider_id = %connection.provider_id, reason, "a permission ends soon");
        }
        Ok(change.commit().await?)
    }
}
