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

/// The most uses that wait to be written down, and the most grants that are kept for having been noted.
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

    /// Notes that a credential was released through a grant. Where too many wait, its next use is noted.
    pub(crate) fn note(&self, organization_id: &OrganizationId, id: GrantId) {
        let mut noted = self.noted();
        if noted.waiting.len() < NOTED && noted.grants.insert(id) {
            noted.waiting.push((organization_id.clone(), id));
            if noted.grants.len() >= NOTED {
                // Some are written more than once a minute then, and none is missed.
                noted.grants.clear();
            }
        }
    }

    /// The first of those that are yet to be written down.
    fn first(&self, now: Instant) -> Vec<(OrganizationId, GrantId)> {
        let mut noted = self.noted();
        if now.duration_since(noted.since) >= PRECISION {
            noted.grants = HashSet::new();
            noted.since = now;
        }
        noted.waiting.iter().take(BATCH).cloned().collect()
    }

    /// So many of the first are written down; by another one as well, perhaps, who was not stopped in time.
    fn written(&self, number: usize) {
        let mut noted = self.noted();
        let number = number.min(noted.waiting.len());
        noted.waiting.drain(..number);
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

    /// Writes down which grants were used since it was done last. What cannot be written waits.
    pub async fn write_uses(&self) {
        loop {
            let uses = self.0.uses.first(Instant::now());
            if uses.is_empty() {
                return;
            }
            fail_point!("uses");
            if let Err(error) = self.store().note_grant_uses(&uses).await {
                tracing::warn!(%error, "the uses of grants cannot be written down");
                return;
            }
            self.0.uses.written(uses.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use keyholder_domain::Timestamp;

    use super::*;

    fn acme() -> OrganizationId {
        OrganizationId::parse("acme").unwrap()
    }

    fn grant(number: usize) -> GrantId {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        GrantId::new(Timestamp::UNIX_EPOCH, random)
    }

    #[test]
    fn a_use_waits_until_it_is_written_and_stands_for_a_minute() {
        let (uses, start) = (Uses::new(), Instant::now());
        for number in [1, 2, 1, 1] {
            uses.note(&acme(), grant(number));
        }
        let both = [(acme(), grant(1)), (acme(), grant(2))];
        assert_eq!(uses.first(start), both);
        assert_eq!(uses.first(start), both, "nobody has written it");
        uses.written(1);
        uses.note(&acme(), grant(1));
        assert_eq!(uses.first(start + PRECISION * 9 / 10), both[1..]);
        uses.written(1);
        uses.note(&acme(), grant(1));
        assert_eq!(uses.first(start + PRECISION * 2), [], "it was noted within the minute");
        uses.note(&acme(), grant(1));
        assert_eq!(uses.first(start + PRECISION * 2), both[..1]);
    }

    #[test]
    fn however_many_grants_are_used_none_is_missed_and_no_more_wait_than_there_is_room_for() {
        let uses = Uses::new();
        for number in 0..=NOTED {
            uses.note(&acme(), grant(number));
        }
        assert_eq!(uses.noted().waiting.len(), NOTED);
        uses.written(NOTED);
        uses.note(&acme(), grant(NOTED));
        assert_eq!(uses.first(Instant::now()), [(acme(), grant(NOTED))]);
    }
}
