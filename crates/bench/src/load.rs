//! Calls in a closed loop, which sends the next one when one is answered, and in an open one, which sends them when
//! their time has come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::cpu::Usage;
use crate::plan::{Shape, Span};
use crate::wire::Connection;
use crate::{Failure, Outcome};

/// The longest latency that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(120);

/// Latencies, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        let most = u64::try_from(LONGEST.as_nanos()).expect("two minutes");
        Self(Histogram::new_with_bounds(1, most, 3).expect("good bounds"))
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that so much of a hundred is not above, in microseconds.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1_000.0
    }
}

/// What came of a loop.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) latencies: Latencies,
    pub(crate) elapsed: Duration,
    pub(crate) usage: Usage,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// What the server used for one call, in microseconds.
    pub(crate) fn server_us(&self) -> f64 {
        self.usage.server.as_secs_f64() * 1e6 / self.latencies.count() as f64
    }

    /// What Postgres used for one call, in microseconds.
    pub(crate) fn postgres_us(&self) -> f64 {
        self.usage.postgres.as_secs_f64() * 1e6 / self.latencies.count() as f64
    }
}

/// What the callers of one loop write to.
struct Record {
    latencies: Mutex<Latencies>,
    over: AtomicBool,
}

impl Record {
    fn new() -> Arc<Self> {
        Arc::new(Self { latencies: Mutex::new(Latencies::new()), over: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, Latencies> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Latencies {
        std::mem::replace(&mut *self.lock(), Latencies::new())
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// As many calls in flight as the shape says, each request in its turn.
pub(crate) async fn closed(
    connections: &[Connection],
    requests: &Arc<[Bytes]>,
    shape: Shape,
    span: Span,
    usage: impl Fn() -> Usage,
) -> Outcome<Measured> {
    let record = Record::new();
    let mut callers: JoinSet<Outcome<()>> = JoinSet::new();
    for caller in 0..shape.in_flight {
        let connection = connections[caller % shape.connections].clone();
        let (requests, record) = (Arc::clone(requests), Arc::clone(&record));
        callers.spawn(async move {
            // Each somewhere else, so that they do not ask for the same.
            let mut next = caller * requests.len() / shape.in_flight;
            while !record.is_over() {
                let sent = Instant::now();
                connection.call(requests[next % requests.len()].clone()).await?;
                record.lock().add(sent.elapsed());
                next += 1;
            }
            Ok(())
        });
    }
    tokio::time::sleep(span.warm_up).await;
    let before = usage();
    record.take();
    let started = Instant::now();
    tokio::time::sleep(span.window).await;
    let (latencies, elapsed) = (record.take(), started.elapsed());
    let usage = usage() - before;
    record.over.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(Measured { latencies, elapsed, usage })
}

/// A call at a fixed rate, whether or not those before are answered. A latency counts from when the call should have
/// been sent, so that one that is late because we were counts as late.
pub(crate) async fn open(
    connections: &[Connection],
    requests: &Arc<[Bytes]>,
    rate: f64,
    span: Span,
) -> Outcome<Latencies> {
    let record = Record::new();
    let mut calls: JoinSet<Outcome<()>> = JoinSet::new();
    let started = Instant::now();
    for number in 0.. {
        let offset = offset(number, rate);
        if offset >= span.warm_up + span.window {
            break;
        }
        let intended = started + offset;
        // A timer would be up to a millisecond late.
        while Instant::now() < intended {
            tokio::task::yield_now().await;
        }
        let connection = connections[number % connections.len()].clone();
        let (request, record) = (requests[number % requests.len()].clone(), Arc::clone(&record));
        let counts = offset >= span.warm_up;
        calls.spawn(async move {
            connection.call(request).await?;
            if counts {
                record.lock().add(intended.elapsed());
            }
            Ok(())
        });
        while let Some(ended) = calls.try_join_next() {
            ended??;
        }
    }
    let rest = async {
        while let Some(ended) = calls.join_next().await {
            ended??;
        }
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(LONGEST, rest).await.map_err(|_| "calls were not answered")??;
    Ok(record.take())
}

/// When a call is to be sent.
fn offset(number: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_an_open_loop_does_not_drift() {
        assert_eq!(offset(0, 3.0), Duration::ZERO);
        assert_eq!(offset(3_000_000, 3.0), Duration::from_secs(1_000_000));
    }

    #[test]
    fn percentiles_are_in_microseconds_and_the_longest_do_not_get_lost() {
        let mut latencies = Latencies::new();
        for milliseconds in 1..=99 {
            latencies.add(Duration::from_millis(milliseconds));
        }
        latencies.add(Duration::from_secs(3_600));
        assert_eq!(latencies.count(), 100);
        let near = |percent, wanted: f64| (latencies.percentile(percent) / wanted - 1.0).abs() < 0.002;
        assert!(near(50.0, 50_000.0) && near(99.0, 99_000.0));
        assert!(latencies.percentile(100.0) >= 119e6);
    }

    #[test]
    fn costs_are_by_call() {
        let mut latencies = Latencies::new();
        for _ in 0..200 {
            latencies.add(Duration::from_millis(1));
        }
        let usage = Usage { server: Duration::from_millis(40), postgres: Duration::from_millis(10) };
        let measured = Measured { latencies, elapsed: Duration::from_millis(500), usage };
        assert_eq!(measured.per_second().round(), 400.0);
        assert_eq!((measured.server_us().round(), measured.postgres_us().round()), (200.0, 50.0));
    }
}
