//! Probes and metrics, on a port of their own that only the platform reaches.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use keyholder_broker::{Broker, SchemaState, StoreError};

use crate::metrics::{Metrics, Readings};

/// What the probes look at.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The broker, for its database.
    pub broker: Broker,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

/// Ready when the database answers and its schema is ours.
async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let state = tokio::time::timeout(Duration::from_secs(2), admin.broker.store().schema_state());
    match state.await.unwrap_or(Err(StoreError::TimedOut)) {
        Ok(SchemaState::Current) => (StatusCode::OK, "ok\n"),
        Ok(SchemaState::Older) => (StatusCode::SERVICE_UNAVAILABLE, "the database is not migrated\n"),
        Ok(SchemaState::Newer) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the database is newer than this binary\n")
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database cannot be reached\n"),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let broker = &admin.broker;
    let numbers = tokio::time::timeout(Duration::from_secs(2), broker.store().refresh_numbers());
    let text = admin.metrics.encode(&Readings {
        pool: broker.store().pool_use(),
        release_statements: broker.store().release_statements(),
        cache: broker.cache_use(),
        egress_failures: broker.egress_failures(),
        refreshes: broker.refresh_counts(),
        numbers: numbers.await.ok().and_then(Result::ok),
        spooled_answers: broker.spooled_answers(),
    });
    match text {
        Ok(text) => (
            StatusCode::OK,
            [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], String::new()),
    }
}
