use std::fmt::Debug;

use time::OffsetDateTime;

/// A moment, in UTC.
pub type Timestamp = OffsetDateTime;

/// Where the time comes from: the system in production, a test's hand in tests.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The present moment, in microseconds: Postgres keeps no finer time, so a value that was stored
    /// compares equal to the value that was read back.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        let now = OffsetDateTime::now_utc();
        now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now)
    }
}
