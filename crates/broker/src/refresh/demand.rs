//! Refreshes that somebody waits for: a resolve that needs more life than is left, an operator, and a workload whose
//! provider did not take what it was given.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fail::fail_point;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use keyholder_domain::access::right_to_use;
use keyholder_domain::{
    AuditKind, Connection, ConnectionId, ConnectionState, Generation, OrganizationId, Principal, Timestamp,
};
use keyholder_store::{NewAuditEvent, Only, RefreshRow, Target};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{CLIENT_MISSING, PROVIDER_UNKNOWN, RATE_LIMITED, Told};
use crate::resolve::{Ask, Refusal};
use crate::shares::Shares;
use crate::{Broker, BrokerError, Caller};

/// How long a refresh is waited for at most, whoever waits.
const LONGEST: Duration = Duration::from_secs(15);

/// How long it is waited for a process that is configured for what this one is not.
const OTHERS: Duration = Duration::from_secs(2);

/// How often it is looked while one waits: notifications come at once, this is for the case that one is lost.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How many callers of one organization may wait in one process.
const WAITERS: usize = 1_024;

/// A credential that a workload says is not taken is not replaced more often than this.
const REPLACE_AGAIN: time::Duration = time::Duration::seconds(60);

/// What became of a refresh that somebody waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// There are new tokens, or the connection's state has changed: look again.
    Changed,
    /// It did not go through; not before this moment again, if that is known.
    Failed(Option<Timestamp>),
    /// The tokens came a moment ago, and the provider gives none that are good for longer.
    TooEarly,
    /// It is not over yet.
    Pending,
    /// The client is in quarantine.
    Quarantined,
    /// Nothing is refreshed at present.
    Frozen,
    /// There is nothing to refresh it with.
    NotRenewable,
}

type Waiting = Shared<BoxFuture<'static, Awaited>>;

/// The refreshes that callers of this process wait for.
#[derive(Debug)]
pub(super) struct Waits {
    /// Those who want it at once do not share the end of those who do not.
    refreshes: Mutex<HashMap<(ConnectionId, bool), Waiting>>,
    callers: Arc<Shares>,
}

impl Default for Waits {
    fn default() -> Self {
        Self { refreshes: Mutex::default(), callers: Shares::new(WAITERS) }
    }
}

/// A report that a provider did not take a credential.
#[derive(Debug)]
pub struct Rejected {
    /// As whom it was used.
    pub actor: Principal,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The generation that was released.
    pub generation: Generation,
    /// How long the caller waits.
    pub wait: Duration,
}

/// What became of such a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionOutcome {
    /// There is a newer credential: resolve again.
    Replaced,
    /// The provider says that the permission is gone; the owner must connect again.
    Gone,
    /// A refresh is under way, or is to be tried again.
    Pending,
    /// Nothing but its owner can replace it.
    NotRenewable,
}

impl Broker {
    /// Waits for a connection to be refreshed, with everybody else who does, and at most for so long. Goes on in the
    /// background when nobody waits any more. `at_once`: also if it would be tried again only later.
    pub(crate) async fn await_refresh(
        &self,
        organization_id: &OrganizationId,
        connection_id: ConnectionId,
        at_once: bool,
        wait: Duration,
    ) -> Result<Awaited, BrokerError> {
        let place = self.refresher().waits.callers.take(organization_id).ok_or(BrokerError::RateLimited)?;
        let waiting = self.join(organization_id, connection_id, at_once);
        let awaited = tokio::time::timeout(wait, waiting).await.unwrap_or(Awaited::Pending);
        drop(place);
        Ok(awaited)
    }

    fn join(&self, organization_id: &OrganizationId, connection_id: ConnectionId, at_once: bool) -> Waiting {
        let mut waits = self.waits();
        let key = (connection_id, at_once);
        if let Some(waiting) = waits.get(&key) {
            return waiting.clone();
        }
        let (broker, organization_id) = (self.clone(), organization_id.clone());
        // In a task of its own: it must not stop when the first of those who wait goes away.
        let task = tokio::spawn(async move {
            let awaited = broker.demand(&organization_id, connection_id, at_once);
            let awaited = AssertUnwindSafe(awaited).catch_unwind().await;
            // Whatever came of it: nobody may find an end of the past here.
            broker.waits().remove(&key);
            match awaited {
                Ok(Ok(awaited)) => awaited,
                Ok(Err(error)) => {
                    tracing::warn!(%error, %connection_id, "a refresh could not be waited for");
                    Awaited::Failed(None)
                }
                Err(_) => {
                    tracing::error!(%connection_id, "the wait for a refresh panicked");
                    Awaited::Failed(None)
                }
            }
        });
        let waiting = async move { task.await.unwrap_or(Awaited::Failed(None)) }.boxed().shared();
        waits.insert(key, waiting.clone());
        waiting
    }

    /// A panic while an entry changes leaves nothing half-done.
    fn waits(&self) -> MutexGuard<'_, HashMap<(ConnectionId, bool), Waiting>> {
        self.refresher().waits.refreshes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn demand(
        &self,
        organization_id: &OrganizationId,
        connection_id: ConnectionId,
        at_once: bool,
    ) -> Result<Awaited, BrokerError> {
        let only = Only { organization_id, connection_id };
        let mut told = self.refresher().told.subscribe();
        let until = Instant::now() + LONGEST;
        let mut others = None;
        fail_point!("demanded");
        let Some(mut before) = self.store().refresh(only).await? else {
            return Ok(Awaited::NotRenewable);
        };
        if let Some(awaited) = hopeless(&before, at_once) {
            return Ok(awaited);
        }
        if !before.under_way {
            self.store().demand_refresh(only, at_once).await?;
        }
        loop {
            tokio::select! {
                () = ended(connection_id, &mut told) => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = tokio::time::sleep_until(until) => return Ok(Awaited::Pending),
            }
            let Some(row) = self.store().refresh(only).await? else { return Ok(Awaited::Changed) };
            if row.done_attempt_id != before.done_attempt_id {
                return Ok(Awaited::Changed);
            }
            // The attempt that was under way, or the one that was asked for, has ended.
            let over = !row.under_way && row.fence > before.fence - i64::from(before.under_way);
            if over && row.last_error.as_deref() == Some(RATE_LIMITED) {
                // It keeps its place, and is next when the provider takes calls again.
                before = row;
                continue;
            }
            if over && matches!(row.last_error.as_deref(), Some(CLIENT_MISSING | PROVIDER_UNKNOWN)) {
                // Another process may see to it.
                let end = *others.get_or_insert_with(|| Instant::now() + OTHERS);
                if Instant::now() < end {
                    continue;
                }
                return Ok(if row.last_error.as_deref() == Some(CLIENT_MISSING) {
                    Awaited::Quarantined
                } else {
                    Awaited::Failed(None)
                });
            }
            if over {
                return Ok(hopeless(&row, false).unwrap_or(Awaited::Failed(Some(row.earliest_time))));
            }
            if let Some(awaited) = hopeless(&row, true) {
                return Ok(awaited);
            }
        }
    }

    /// Refreshes a connection now, whatever its turn, and returns it as it is then.
    pub async fn refresh_connection(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        wait: Duration,
    ) -> Result<Connection, BrokerError> {
        let stored = self.store().connection(caller.organization_id, id).await?;
        let stored = stored.ok_or(BrokerError::ConnectionNotFound)?;
        self.check_provider(caller, &stored.connection.provider_id)?;
        match stored.connection.state {
            ConnectionState::Active | ConnectionState::Disabled => {}
            ConnectionState::Pending => return Err(BrokerError::ConnectionPending),
            ConnectionState::Deleted => return Err(BrokerError::ConnectionDeleted),
            ConnectionState::ReauthorizationRequired => return Err(BrokerError::ConsentNeeded),
        }
        if !stored.connection.tokens.as_ref().is_some_and(|tokens| tokens.renewable) {
            return Err(BrokerError::NotRenewable);
        }
        let event = self.demand_event(caller, &stored.connection, AuditKind::RefreshRequested, None);
        self.store().record(&event).await?;
        let awaited = self.await_refresh(caller.organization_id, id, true, wait).await?;
        self.outcome_of(awaited)?;
        self.get_connection(caller, id).await
    }

    fn outcome_of(&self, awaited: Awaited) -> Result<(), BrokerError> {
        match awaited {
            Awaited::Changed => Ok(()),
            Awaited::Failed(_) | Awaited::TooEarly | Awaited::Pending => {
                Err(BrokerError::ProviderUnavailable)
            }
            Awaited::Quarantined => Err(BrokerError::OAuthClientRefused),
            Awaited::Frozen => Err(BrokerError::Frozen),
            Awaited::NotRenewable => Err(BrokerError::NotRenewable),
        }
    }

    /// Takes note that a provider did not take a credential. However many workloads say so of one generation, it is
    /// replaced once.
    pub async fn report_rejected(
        &self,
        caller: &Caller<'_>,
        rejected: &Rejected,
    ) -> Result<(Connection, RejectionOutcome), BrokerError> {
        let connection = self.rejected_connection(caller, rejected).await?;
        let credential_is_newer = connection.1.is_some_and(|sealed| sealed > rejected.generation);
        let connection = connection.0;
        if connection.generation < rejected.generation {
            let problem = "is of a generation that the connection has not come to";
            return Err(crate::FieldError::invalid("generation", problem).into());
        }
        if credential_is_newer {
            return Ok((connection, RejectionOutcome::Replaced));
        }
        // What is disabled is kept alive.
        if !matches!(connection.state, ConnectionState::Active | ConnectionState::Disabled) {
            return Ok((connection, RejectionOutcome::Gone));
        }
        let only = Only { organization_id: caller.organization_id, connection_id: connection.id };
        let row = self.store().refresh(only).await?;
        let renewable = connection.tokens.as_ref().is_some_and(|tokens| tokens.renewable);
        let Some(row) = row.filter(|_| renewable) else {
            let now = self.store().connection(caller.organization_id, connection.id).await?;
            if now.is_none_or(|now| now.connection.state != connection.state) {
                return Ok((connection, RejectionOutcome::Gone));
            }
            let (organization_id, id) = (caller.organization_id, connection.id);
            if !self.store().is_rejection_on_record(organization_id, id, connection.generation).await? {
                let event = self.demand_event(
                    caller,
                    &connection,
                    AuditKind::CredentialRejected,
                    Some(&rejected.actor),
                );
                self.store().record(&event).await?;
            }
            return Ok((connection, RejectionOutcome::NotRenewable));
        };
        let known = row.rejected_generation.is_some_and(|known| known >= rejected.generation.get());
        if !known {
            self.reject(caller, &connection, rejected).await?;
        }
        let fresh = row.last_success_time.is_some_and(|time| row.now - time < REPLACE_AGAIN);
        // If it was replaced a moment ago, and the provider does not take that one either, another will not help.
        let awaited = if fresh && row.failures == 0 && row.done_attempt_id.is_some() {
            Awaited::TooEarly
        } else {
            // It is asked for already.
            self.await_refresh(caller.organization_id, connection.id, false, rejected.wait).await?
        };
        let now = self.store().connection(caller.organization_id, connection.id).await?;
        let now = now.ok_or(BrokerError::ConnectionNotFound)?;
        let outcome = match now.connection.state {
            ConnectionState::Active | ConnectionState::Disabled
                if now.sealed.as_ref().is_some_and(|sealed| sealed.generation > rejected.generation) =>
            {
                RejectionOutcome::Replaced
            }
            ConnectionState::Active if awaited == Awaited::NotRenewable => RejectionOutcome::NotRenewable,
            ConnectionState::Active | ConnectionState::Disabled => RejectionOutcome::Pending,
            _ => RejectionOutcome::Gone,
        };
        Ok((now.connection, outcome))
    }

    /// Puts a report on record, and has the credential replaced: both or neither, and unless somebody else has.
    async fn reject(
        &self,
        caller: &Caller<'_>,
        connection: &Connection,
        rejected: &Rejected,
    ) -> Result<(), BrokerError> {
        let mut change = self.store().change(caller.organization_id).await?;
        let again = REPLACE_AGAIN.as_seconds_f64();
        if !change.reject_generation(connection.id, rejected.generation, again).await? {
            return Ok(());
        }
        let event =
            self.demand_event(caller, connection, AuditKind::CredentialRejected, Some(&rejected.actor));
        change.record(&event).await?;
        Ok(change.commit().await?)
    }

    /// The connection that a report is about, and the generation that its credential was sealed at: told only to those
    /// who have a right to it.
    async fn rejected_connection(
        &self,
        caller: &Caller<'_>,
        rejected: &Rejected,
    ) -> Result<(Connection, Option<Generation>), BrokerError> {
        let ask = Ask {
            actor: rejected.actor.clone(),
            target: Target::Connection(rejected.connection_id),
            scopes: keyholder_domain::Scopes::default(),
            min_ttl: Duration::ZERO,
            purpose: keyholder_domain::Text::default(),
            wait: Duration::ZERO,
        };
        let found = self.store().find(caller.organization_id, &ask.actor, &ask.target).await?;
        let candidate = found.candidates.into_iter().next();
        let candidate = candidate.filter(|it| it.stored.connection.state != ConnectionState::Deleted);
        let candidate = candidate.ok_or(BrokerError::ConnectionNotFound)?;
        let connection = candidate.stored.connection;
        let question = self.question(&ask, caller.workload);
        right_to_use(&question, &connection, &candidate.grants)
            .map_err(|denial| BrokerError::Refused(Refusal::Denied(denial)))?;
        self.check_provider(caller, &connection.provider_id)?;
        Ok((connection, candidate.stored.sealed.map(|sealed| sealed.generation)))
    }

    fn demand_event<'a>(
        &self,
        caller: &Caller<'a>,
        connection: &'a Connection,
        kind: AuditKind,
        actor: Option<&'a Principal>,
    ) -> NewAuditEvent<'a> {
        NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: caller.organization_id,
            kind,
            workload: caller.workload,
            actor,
            connection: Some((connection.id, connection.generation)),
            grant_id: None,
            provider_id: Some(&connection.provider_id),
            reason: "",
            purpose: "",
        }
    }
}

/// Why it makes no sense to wait, if it does not.
fn hopeless(row: &RefreshRow, at_once: bool) -> Option<Awaited> {
    let later = |time: Timestamp| time > row.now + LONGEST;
    if row.frozen_reason.is_some() {
        return Some(Awaited::Frozen);
    }
    if row.under_way {
        return None;
    }
    if row.quarantine.is_some() {
        return Some(Awaited::Quarantined);
    }
    if let Some(pause) = row.pause_time.filter(|pause| later(*pause)) {
        return Some(Awaited::Failed(Some(pause)));
    }
    if at_once || !later(row.earliest_time) {
        return None;
    }
    Some(match row.last_error {
        Some(_) => Awaited::Failed(Some(row.earliest_time)),
        None => Awaited::TooEarly,
    })
}

/// Returns when a connection's refresh has ended, as far as is told.
async fn ended(connection_id: ConnectionId, told: &mut broadcast::Receiver<Told>) {
    use broadcast::error::RecvError;
    loop {
        match told.recv().await {
            Ok(Told::Ended(id)) if id != connection_id => {}
            Ok(Told::Demanded) => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
