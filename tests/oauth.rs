//! Accounts that are connected by OAuth: owners consent in a browser, and nothing is lost, doubled or sent elsewhere.

mod access;
mod callback;
mod clients;
mod code;
mod crash;
mod device;
mod device_flow;
mod exchange;
mod flood;
mod leaks;
mod pages;
mod peers;
mod quirks;
mod record;
mod refresh_tokens;
mod revoke_all;
mod two_legged;
pub(crate) mod world;
