//! Accounts that are connected by OAuth: owners consent in a browser, and nothing is lost, doubled or sent elsewhere.

mod access;
mod code;
mod record;
mod revoke_all;
mod world;
