use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use keyholder_domain::{AuditEventId, Timestamp};

/// Makes the ids of audit events. Of one process, ids made later sort later, also within a microsecond and after the
/// clock was set back: an id is at least a microsecond behind the one before it (RFC 9562, section 6.2).
#[derive(Debug)]
pub(crate) struct AuditIds {
    /// The microsecond since 1970 of the last id.
    last: AtomicI64,
}

impl AuditIds {
    pub(crate) fn new() -> Self {
        Self { last: AtomicI64::new(0) }
    }

    /// The next id, from the time and 10 random bytes.
    pub(crate) fn next(&self, now: Timestamp, random: [u8; 10]) -> AuditEventId {
        let now = i64::try_from(now.unix_timestamp_nanos() / 1_000).unwrap_or_default();
        let step = |last: i64| Some(now.max(last + 1));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_default();
        let micros = u64::try_from(now.max(last + 1)).unwrap_or_default();
        AuditEventId::new(Timestamp::UNIX_EPOCH + Duration::from_micros(micros), random)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_micros(1_800_000_000_000_000 + micros)
    }

    #[test]
    fn ids_of_one_microsecond_sort_in_the_order_in_which_they_were_made() {
        let ids = AuditIds::new();
        // Random bytes that fall, so that only the time can put them in order.
        let made: Vec<_> = (0..=255).rev().map(|byte| ids.next(at(0), [byte; 10])).collect();
        assert!(made.is_sorted_by(|before, after| before < after));
    }

    #[test]
    fn ids_made_after_the_clock_was_set_back_sort_behind() {
        let ids = AuditIds::new();
        let made = [at(5_000_000), at(0), at(4_999_999), at(5_000_001), at(6_000_000)];
        let made = made.map(|now| ids.next(now, [9; 10]));
        assert!(made.is_sorted_by(|before, after| before < after));
        assert_eq!(made[4], AuditEventId::new(at(6_000_000), [9; 10]), "the clock is followed again");
    }

    #[test]
    fn ids_made_at_once_are_different_and_each_threads_are_in_order() {
        let ids = AuditIds::new();
        let mut all = thread::scope(|scope| {
            let make = || (0..1_000).map(|_| ids.next(at(0), [0; 10])).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            let made: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert!(made.iter().all(|made| made.is_sorted()));
            made.concat()
        });
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4_000);
    }
}
