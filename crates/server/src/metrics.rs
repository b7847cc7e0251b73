//! What is counted. No label grows with users: methods, codes and reasons are fixed sets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

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
    cache_hits: Gauge,
    cache_misses: Gauge,
    egress_failures: Family<ReasonLabels, Gauge>,
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
            cache_hits: Gauge::default(),
            cache_misses: Gauge::default(),
            egress_failures: Family::default(),
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
        registry.register("lookup_cache_hits", "Lookups that the cache answered", self.cache_hits.clone());
        registry.register(
            "lookup_cache_misses",
            "Lookups that went to the database",
            self.cache_misses.clone(),
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
    pub fn encode(
        &self,
        pool: (u32, usize),
        cache: (u64, u64),
        egress_failures: &BTreeMap<&'static str, u64>,
    ) -> Result<String, fmt::Error> {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (reason, number) in egress_failures {
            self.egress_failures.get_or_create(&ReasonLabels { reason }).set(gauge(*number));
        }
        self.pool_open.set(pool.0.into());
        self.pool_idle.set(gauge(pool.1 as u64));
        self.cache_hits.set(gauge(cache.0));
        self.cache_misses.set(gauge(cache.1));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
