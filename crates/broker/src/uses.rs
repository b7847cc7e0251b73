//! When grants were last used, for those who look after them: to the minute, so that a grant that is used a thousand times a
//! second costs one write a minute. The audit has every use.

use std::time::Duration;

use fail::fail_point;
use keyholder_domain::{GrantId, OrganizationId};
use tokio::sync::{Mutex, mpsc};

use crate::Broker;

/// How long a use stands for those that follow.
const PRECISION: Duration = Duration::from_secs(60);

/// The most uses that wait to be written, and that are written at once.
const WAITING: usize = 10_000;
const BATCH: usize = 1_000;

/// How long uses are gathered.
const PAUSE: Duration = Duration::from_secs(1);

/// The uses of grants through this process.
#[derive(Debug)]
pub(crate) struct Uses {
    noted: moka::sync::Cache<GrantId, ()>,
    sender: mpsc::Sender<(OrganizationId, GrantId)>,
    receiver: Mutex<mpsc::Receiver<(OrganizationId, GrantId)>>,
}

impl Uses {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let noted = moka::sync::Cache::builder().max_capacity(100_000).time_to_live(PRECISION).build();
        Self { noted, sender, receiver: Mutex::new(receiver) }
    }

    /// Notes that a credential was released through a grant.
    pub(crate) fn note(&self, organization_id: &OrganizationId, id: GrantId) {
        if self.noted.entry(id).or_insert(()).is_fresh()
            && self.sender.try_send((organization_id.clone(), id)).is_err()
        {
            // Too many wait: its next use is noted.
            self.noted.invalidate(&id);
        }
    }
}

impl Broker {
    /// Writes down when grants were used, for ever.
    pub async fn tend_uses(&self) {
        let mut receiver = self.0.uses.receiver.lock().await;
        loop {
            let mut uses = Vec::new();
            let number = receiver.recv_many(&mut uses, BATCH).await;
            fail_point!("uses");
            if let Err(error) = self.store().note_grant_uses(&uses).await {
                tracing::warn!(%error, "the uses of grants cannot be written down");
                uses.iter().for_each(|(_, id)| self.0.uses.noted.invalidate(id));
            }
            if number < BATCH {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
