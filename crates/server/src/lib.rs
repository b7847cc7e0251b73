//! The Keyholder binary: what stands between the wire and the broker.
//!
//! [`grpc`] turns requests into domain types and answers into messages; [`gate`] decides who may call at all;
//! [`config`] reads `keyholder.toml`; [`admin`] answers probes and metrics; [`web`] is what an account's owner
//! sees in a browser. Decisions about connections and grants are the broker's; nothing is decided here but who
//! calls.
//!
//! The commonest change is a new RPC: a row in [`methods`], an adapter in the service's file under `grpc/`,
//! and its conversions under `convert/`. A test fails until the row is there.

pub mod admin;
pub mod call;
pub mod config;
pub mod convert;
pub mod gate;
pub mod grpc;
pub mod methods;
pub mod metrics;
pub mod problem;
pub mod refresh;
pub mod serve;
pub mod telemetry;
pub mod web;

#[cfg(feature = "dev")]
pub mod dev;
