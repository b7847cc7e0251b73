//! Accounts that are connected by OAuth: owners consent in a browser, and nothing is lost, doubled or sent elsewhere.

mod code;
mod world;
