//! When grants were last used, for those who look after them: to the minute, so that a grant that is used a thousand times a
//! second costs one write a minute. The audit has every use.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fail::fail_point;
use keyholder_domain::{GrantId, OrganizationId};

use crate::Broker;

/// How long a use stands for those that follow.
const PRECISION: Duration = Duration::from_secs(60);

/// The most grants whose use is noted in that time: one that is not is noted in the next.
const NOTED: usize = 100_000;

/// The most uses that are written at once.
const BATCH: usize = 1_000;

/// How long uses are gathered.
const PAUSE: Duration = Duration::from_secs(1);

/// The uses of grants through this process.
#[derive(Debug)]
pub(crate) struct Uses(Mutex<Noted>);

#[derive(Debug)]
struct Noted {
    /// Those that were noted since then.
    grants: HashSet<GrantId>,
    since: Instant,
    /// Those that are yet to be written down.
    waiting: Vec<(OrganizationId, GrantId)>,
}

impl Uses {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Noted { grants: HashSet::new(), since: Instant::now(), waiting: Vec::new() }))
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a credential was released through a grant.
    pub(crate) fn note(&self, organization_id: &OrganizationId, id: GrantId) {
        let mut noted = self.noted();
        if noted.grants.len() < NOTED && noted.grants.insert(id) {
            noted.waiting.push((organization_id.clone(), id));
        }
    }

    /// Those that are yet to be written down. From here on they are not waiting.
    fn take(&self) -> Vec<(OrganizationId, GrantId)> {
        let mut noted = self.noted();
        if noted.since.elapsed() >= PRECISION {
            noted.grants = HashSet::new();
            noted.since = Instant::now();
        }
        std::mem::take(&mut noted.waiting)
    }

    /// Uses that could not be written down: the next one of each is noted.
    fn forget(&self, uses: &[(OrganizationId, GrantId)]) {
        let mut noted = self.noted();
        for (_, id) in uses {
            noted.grants.remove(id);
        }
    }
}

impl Broker {
    /// Writes down when grants were used, for ever.
    pub async fn tend_uses(&self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            self.write_uses().await;
        }
    }

    /// Writes down which grants were used since it was done last.
    pub async fn write_uses(&self) {
        for uses in self.0.uses.take().chunks(BATCH) {
            fail_point!("uses");
            if let Err(error) = self.store().note_grant_uses(uses).await {
                tracing::warn!(%error, "the uses of grants cannot be written down");
                self.0.uses.forget(uses);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keyholder_domain::Timestamp;

    use super::*;

    #[test]
    fn a_use_is_written_once_and_again_if_it_could_not_be() {
        let uses = Uses::new();
        let acme = OrganizationId::parse("acme").unwrap();
        let [one, two] = [1, 2].map(|number| GrantId::new(Timestamp::UNIX_EPOCH, [number; 10]));
        for id in [one, two, one, one] {
            uses.note(&acme, id);
        }
        let taken = uses.take();
        assert_eq!(taken, [(acme.clone(), one), (acme.clone(), two)]);
        uses.note(&acme, one);
        assert_eq!(uses.take(), [], "it was noted within the minute");
        uses.forget(&taken[..1]);
        uses.note(&acme, one);
        uses.note(&acme, two);
        assert_eq!(uses.take(), taken[..1]);
    }

    #[test]
    fn no_more_grants_are_noted_in_a_minute_than_there_is_room_for() {
        let uses = Uses::new();
        let acme = OrganizationId::parse("acme").unwrap();
        for number in 0..=NOTED as u64 {
            let mut random = [0; 10];
            random[2..].copy_from_slice(&number.to_be_bytes());
            uses.note(&acme, GrantId::new(Timestamp::UNIX_EPOCH, random));
        }
        assert_eq!(uses.take().len(), NOTED);
    }
}
