//! How much of what is measured.

use std::time::Duration;

/// Calls in flight, over so many connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
}

/// The shapes of the closed loop.
pub(crate) const SHAPES: [Shape; 4] = [
    Shape { in_flight: 1, connections: 1 },
    Shape { in_flight: 16, connections: 4 },
    Shape { in_flight: 64, connections: 8 },
    Shape { in_flight: 256, connections: 16 },
];

/// How many organizations real connections are spread over.
pub(crate) const ORGANIZATIONS: usize = 8;

/// A time to come to speed, and a time that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// How much of everything.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    /// Runs of whatever has several.
    pub(crate) rounds: usize,

    // === Resolves ===
    /// How long one loop lasts.
    pub(crate) span: Span,
    /// Calls a second in the open loop.
    pub(crate) rate: f64,
    /// Connections that are resolved in turn.
    pub(crate) resolved: usize,
    /// How many of them are resolved once by a server that has just started.
    pub(crate) cold: usize,
    /// How many connections there are in the end, beside those, with the name of the figure.
    pub(crate) scale: (&'static str, u64),
    /// How many are resolved once each, so that the cache is full.
    pub(crate) many: usize,

    // === Refreshes ===
    /// Connections that are refreshed in one run.
    pub(crate) refreshed: usize,
    /// The rows that the scheduler's cost is measured at, with the names of the figures.
    pub(crate) sizes: &'static [(&'static str, u64)],
    /// How long the scheduler is watched at each size.
    pub(crate) watch: Duration,
    /// Connections that come due each second, where some do.
    pub(crate) due_per_second: u32,
    /// Tokens that end in the same minute.
    pub(crate) herd: usize,
    /// The calls that their provider takes each second.
    pub(crate) herd_limit: u32,
    /// Resolves each second that must wait for a token meanwhile.
    pub(crate) waiting_per_second: u32,
}

impl Plan {
    pub(crate) fn new(quick: bool, rate: Option<f64>) -> Self {
        let plan = if quick { Self::quick() } else { Self::full() };
        Self { rate: rate.unwrap_or(plan.rate), ..plan }
    }

    fn full() -> Self {
        Self {
            quick: false,
            rounds: 5,
            span: Span { warm_up: Duration::from_secs(1), window: Duration::from_secs(4) },
            rate: 1_000.0,
            resolved: 1_000,
            cold: 500,
            scale: ("1m", 1_000_000),
            many: 9_000,
            refreshed: 4_000,
            sizes: &[("1k", 1_000), ("10k", 10_000), ("100k", 100_000), ("1m", 1_000_000)],
            watch: Duration::from_secs(5),
            due_per_second: 20,
            herd: 20_000,
            herd_limit: 200,
            waiting_per_second: 4,
        }
    }

    fn quick() -> Self {
        Self {
            quick: true,
            rounds: 3,
            span: Span { warm_up: Duration::from_millis(200), window: Duration::from_millis(600) },
            resolved: 400,
            cold: 200,
            scale: ("100k", 100_000),
            many: 0,
            refreshed: 600,
            sizes: &[("1k", 1_000), ("100k", 100_000)],
            watch: Duration::from_millis(1_000),
            herd: 1_000,
            ..Self::full()
        }
    }

    /// How many waiting resolves there can be, if a herd takes three times as long as it must.
    pub(crate) fn waiting(&self) -> usize {
        let seconds = self.herd / self.herd_limit as usize + 1;
        3 * seconds * self.waiting_per_second as usize
    }
}
