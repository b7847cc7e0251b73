//! What is counted. No label grows with users: methods, codes and reasons are fixed sets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use keyholder_broker::{RefreshCounts, RefreshNumbers};
use keyholder_domain::{Reason, Timestamp};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tonic::Code;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: CodeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    file: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    provider: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CodeLabel(Code);

impl EncodeLabelValue for CodeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        use std::fmt::Write as _;
        write!(encoder, "{:?}", self.0)
    }
}

/// The counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    latency: Family<MethodLabels, Histogram, fn() -> Histogram>,
    denials: Family<ReasonLabels, Counter>,
    releases: Counter,
    certificates: Family<CertificateLabels, Gauge>,
    pool_open: Gauge,
    pool_idle: Gauge,
    release_statements: Gauge,
    cache_hits: Gauge,
    cache_misses: Gauge,
    egress_failures: Family<ReasonLabels, Gauge>,
    refreshes: Family<RefreshLabels, Gauge>,
    refreshes_ready: Gauge,
    refreshes_under_way: Gauge,
    refreshes_ambiguous: Gauge,
    refresh_clients_quarantined: Gauge,
    refresh_late_answers: Gauge,
    refresh_spooled_answers: Gauge,
    refresh_frozen: Gauge,
    refresh_time_to_safety: Gauge<f64, AtomicU64>,
}

/// What is told beside the counters when they are read.
#[derive(Debug)]
pub struct Readings {
    /// How many database connections are open, and how many of them are idle.
    pub pool: (u32, usize),
    /// How many statements recorded releases.
    pub release_statements: u64,
    /// How many lookups the cache answered, and how many it could not.
    pub cache: (u64, u64),
    /// Calls to providers that did not come to an answer, by reason.
    pub egress_failures: BTreeMap<&'static str, u64>,
    /// Attempts to refresh in this process.
    pub refreshes: RefreshCounts,
    /// All refreshes in numbers; none if the database does not answer.
    pub numbers: Option<RefreshNumbers>,
    /// Answers that wait for the database in files of this process.
    pub spooled_answers: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        // 0.25 ms to 4 s.
        let buckets: fn() -> Histogram =
            || Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_25, 2.0, 15));
        let mut metrics = Self {
            registry: Registry::with_prefix("keyholder"),
            calls: Family::default(),
            latency: Family::new_with_constructor(buckets),
            denials: Family::default(),
            releases: Counter::default(),
            certificates: Family::default(),
            pool_open: Gauge::default(),
            pool_idle: Gauge::default(),
            release_statements: Gauge::default(),
            cache_hits: Gauge::default(),
            cache_misses: Gauge::default(),
            egress_failures: Family::default(),
            refreshes: Family::default(),
            refreshes_ready: Gauge::default(),
            refreshes_under_way: Gauge::default(),
            refreshes_ambiguous: Gauge::default(),
            refresh_clients_quarantined: Gauge::default(),
            refresh_late_answers: Gauge::default(),
            refresh_spooled_answers: Gauge::default(),
            refresh_frozen: Gauge::default(),
            refresh_time_to_safety: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("calls", "Calls by method and gRPC code", self.calls.clone());
        registry.register("call_duration_seconds", "How long calls took, by method", self.latency.clone());
        registry.register("denials", "Refused calls by reason", self.denials.clone());
        registry.register("releases", "Credentials released", self.releases.clone());
        registry.register(
            "certificate_not_after_seconds",
            "When a certificate ends, in Unix seconds, by file",
            self.certificates.clone(),
        );
        registry.register("database_connections_open", "Open database connections", self.pool_open.clone());
        registry.register("database_connections_idle", "Idle database connections", self.pool_idle.clone());
        registry.register(
            "egress_failures",
            "URLs refused, and calls to providers that did not come to an answer, by reason",
            self.egress_failures.clone(),
        );
        registry.register(
            "release_statements",
            "Statements that recorded releases: releases divided by it is how many share one",
            self.release_statements.clone(),
        );
        registry.register("lookup_cache_hits", "Lookups that the cache answered", self.cache_hits.clone());
        registry.register(
            "lookup_cache_misses",
            "Lookups that went to the database",
            self.cache_misses.clone(),
        );
        self.register_refreshes();
    }

    fn register_refreshes(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "refreshes",
            "Attempts to refresh a connection, by provider and outcome",
            self.refreshes.clone(),
        );
        let gauges = [
            (
                "refreshes_ready",
                "Connections that wait for their turn to be refreshed",
                &self.refreshes_ready,
            ),
            ("refreshes_under_way", "Connections that are being refreshed", &self.refreshes_under_way),
            (
                "refreshes_ambiguous",
                "Connections of which it is not known whether the provider has replaced the tokens",
                &self.refreshes_ambiguous,
            ),
            (
                "refresh_clients_quarantined",
                "OAuth clients with which nothing is refreshed at present: refused, or many of their grants",
                &self.refresh_clients_quarantined,
            ),
            ("refresh_late_answers", "Answers that came too late and are kept", &self.refresh_late_answers),
            (
                "refresh_spooled_answers",
                "Answers that wait in files for the database, of this process",
                &self.refresh_spooled_answers,
            ),
            (
                "refresh_frozen",
                "Whether nothing is refreshed: the database was restored or copied",
                &self.refresh_frozen,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "refresh_time_to_safety_seconds",
            "The time that the worst connection has left before its access token ends, of those that are due; +Inf: none is",
            self.refresh_time_to_safety.clone(),
        );
    }

    /// Counts a call.
    pub fn called(&self, method: &'static str, code: Code, reason: Option<Reason>, took: Duration) {
        self.calls.get_or_create(&CallLabels { method, code: CodeLabel(code) }).inc();
        self.latency.get_or_create(&MethodLabels { method }).observe(took.as_secs_f64());
        if let Some(reason) = reason {
            self.denials.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
        }
    }

    /// Counts a call that the gate refused.
    pub fn refused(&self, method: &'static str, code: Code, reason: Reason) {
        self.calls.get_or_create(&CallLabels { method, code: CodeLabel(code) }).inc();
        self.denials.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
    }

    /// Counts a release.
    pub fn released(&self) {
        self.releases.inc();
    }

    /// Notes when a certificate ends.
    pub fn certificate(&self, file: &str, not_after: Timestamp) {
        self.certificates
            .get_or_create(&CertificateLabels { file: file.to_owned() })
            .set(not_after.unix_timestamp());
    }

    /// The counters as OpenMetrics text.
    pub fn encode(&self, readings: &Readings) -> Result<String, fmt::Error> {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (reason, number) in &readings.egress_failures {
            self.egress_failures.get_or_create(&ReasonLabels { reason }).set(gauge(*number));
        }
        self.pool_open.set(readings.pool.0.into());
        self.pool_idle.set(gauge(readings.pool.1 as u64));
        self.release_statements.set(gauge(readings.release_statements));
        self.cache_hits.set(gauge(readings.cache.0));
        self.cache_misses.set(gauge(readings.cache.1));
        for ((provider, outcome), number) in &readings.refreshes {
            let labels = RefreshLabels { provider: provider.clone(), outcome };
            self.refreshes.get_or_create(&labels).set(gauge(*number));
        }
        self.refresh_spooled_answers.set(gauge(readings.spooled_answers as u64));
        if let Some(numbers) = readings.numbers {
            self.refreshes_ready.set(numbers.ready);
            self.refreshes_under_way.set(numbers.under_way);
            self.refreshes_ambiguous.set(numbers.ambiguous);
            self.refresh_clients_quarantined.set(numbers.quarantined);
            self.refresh_late_answers.set(numbers.late_answers);
            self.refresh_frozen.set(numbers.frozen.into());
            self.refresh_time_to_safety.set(numbers.time_to_safety.unwrap_or(f64::INFINITY));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
