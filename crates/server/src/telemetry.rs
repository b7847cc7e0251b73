//! Logs: one JSON object a line, or lines for people.

use std::fs::File;
use std::panic::PanicHookInfo;
use std::sync::Arc;

use serde::Deserialize;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How to log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `json` or `pretty`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`; of Keyholder's own code. The libraries beneath it log from
    /// `warn` on, whatever this says: what they would say below that can hold a request.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// From which level on to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Only what an operator must look at.
    Error,
    /// Also what may become a fault.
    Warn,
    /// Also every call.
    Info,
    /// Also what helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: LogLevel::Info }
    }
}

/// Starts logging to standard error. Does nothing if something else has started it.
pub fn start(config: &LogConfig) {
    start_with(config, std::io::stderr);
}

/// Starts logging to a file.
pub fn start_in(config: &LogConfig, file: File) {
    start_with(config, Arc::new(file));
}

fn start_with(config: &LogConfig, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(log_panic));
    let level = config.level.filter();
    let own = [
        "keyholder",
        "keyholder_broker",
        "keyholder_catalog",
        "keyholder_egress",
        "keyholder_identity",
        "keyholder_server",
        "keyholder_store",
        "keyholder_testkit",
        "keyholder_upstream",
        "keyholder_vault",
    ];
    let filter = own.iter().fold(Targets::new().with_default(LevelFilter::WARN), |filter, target| {
        filter.with_target(*target, level)
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that a test has started logging already.
    match config.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init().ok(),
        LogFormat::Pretty => registry.with(lines.compact()).try_init().ok(),
    };
}

/// Logs where a panic was, and not its message: that may hold what the code was about, such as a text that could not be
/// cut.
fn log_panic(panic: &PanicHookInfo<'_>) {
    tracing::error!(place = panic.location().map(tracing::field::display), "a panic");
}
