use std::sync::Arc;
use std::time::Duration;

use fail::fail_point;
use keyholder_domain::{Connection, ConnectionState, OrganizationId};
use keyholder_store::{ChangeFilter, ChangeNumber, Notice};
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::error::FieldError;
use crate::refresh::Told;
use crate::{Broker, BrokerError, Caller};

pub use keyholder_store::ChangeFilter as WatchFilter;

/// How many changes are read at once.
const PAGE: i64 = 32;

/// How many messages wait for a watcher that is slow to read.
const WAITING: usize = 8;

/// How many watchers one process feeds.
const WATCHERS: usize = 512;

/// How long a watcher waits at most before it looks by itself. Notifications come at once; this is for the case
/// that one is lost.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// One message to a watcher.
#[derive(Debug)]
pub struct Watched {
    /// A connection as it is now; none in the message that ends the first pass.
    pub connection: Option<Connection>,
    /// The place behind this message.
    pub place: ChangeNumber,
}

/// The messages to a watcher, until it goes away.
pub type Watch = ReceiverStream<Result<Watched, BrokerError>>;

/// Tells the watchers of this process which organization changed, or `None` that they had better look.
#[derive(Debug)]
pub(crate) struct Changes {
    told: broadcast::Sender<Option<OrganizationId>>,
    watchers: Arc<Semaphore>,
}

impl Changes {
    pub(crate) fn new() -> Self {
        Self { told: broadcast::Sender::new(1_024), watchers: Arc::new(Semaphore::new(WATCHERS)) }
    }
}

impl Broker {
    fn pass_on(&self, notice: Notice) {
        let (changes, refreshes) = (&self.0.changes.told, &self.0.refresher.told);
        // An error only says that nobody listens.
        match notice {
            Notice::Changed(organization_id) => drop(changes.send(Some(organization_id))),
            Notice::RefreshDemanded => drop(refreshes.send(Told::Demanded)),
            Notice::RefreshEnded(id) => drop(refreshes.send(Told::Ended(id))),
            Notice::Missed => {
                changes.send(None).ok();
                refreshes.send(Told::Missed).ok();
            }
        }
    }

    /// Listens for changes on every replica, for ever. Without it, watchers still look every 30 seconds.
    pub async fn listen_for_changes(&self) {
        loop {
            fail_point!("changes");
            let tell = |notice| self.pass_on(notice);
            if let Err(error) = self.store().listen(tell).await {
                tracing::warn!(%error, "listening for changes failed; trying again");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Sends every connection, then each one again when it changes; with a place, only what changed behind it.
    pub async fn watch_connections(
        &self,
        caller: &Caller<'_>,
        filter: ChangeFilter,
        behind: Option<ChangeNumber>,
    ) -> Result<Watch, BrokerError> {
        if let Some(place) = behind {
            // A place that was not reached yet comes from a database that has since been restored.
            if place > self.store().last_change(caller.organization_id).await? {
                return Err(
                    FieldError::invalid("resume_token", "is not of this feed; begin without one").into()
                );
            }
        }
        let (send, receive) = mpsc::channel(WAITING);
        let place_taken =
            Arc::clone(&self.0.changes.watchers).try_acquire_owned().map_err(|_| BrokerError::RateLimited)?;
        let broker = self.clone();
        let organization_id = caller.organization_id.clone();
        tokio::spawn(async move {
            let _until_the_end = place_taken;
            let error = broker.feed(&organization_id, &filter, behind, &send).await.err();
            if let Some(error) = error {
                send.send(Err(error)).await.ok();
            }
        });
        Ok(ReceiverStream::new(receive))
    }

    /// Feeds one watcher until it goes away.
    async fn feed(
        &self,
        organization_id: &OrganizationId,
        filter: &ChangeFilter,
        behind: Option<ChangeNumber>,
        send: &mpsc::Sender<Result<Watched, BrokerError>>,
    ) -> Result<(), BrokerError> {
        let mut told = self.0.changes.told.subscribe();
        let mut place = behind.unwrap_or(0);
        let mut first_pass = true;
        loop {
            let changed = self.store().changes(organization_id, filter, place, PAGE).await?;
            let more = changed.len() as i64 == PAGE;
            for stored in changed {
                place = stored.change;
                if first_pass && behind.is_none() && stored.connection.state == ConnectionState::Deleted {
                    // News to nobody who begins now.
                    continue;
                }
                let message = Watched { connection: Some(stored.connection), place };
                if send.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
            }
            if more {
                continue;
            }
            if std::mem::take(&mut first_pass)
                && send.send(Ok(Watched { connection: None, place })).await.is_err()
            {
                return Ok(());
            }
            tokio::select! {
                () = send.closed() => return Ok(()),
                () = told_of(organization_id, &mut told) => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// Returns when an organization may have changed.
async fn told_of(organization_id: &OrganizationId, told: &mut broadcast::Receiver<Option<OrganizationId>>) {
    loop {
        match told.recv().await {
            Ok(Some(other)) if other != *organization_id => {}
            // Missed messages may have been about us.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
