//! Accounts that are connected by OAuth: owners consent in a browser, and nothing is lost, doubled or sent elsewhere.

mod callback;
mod code;
mod crash;
mod device;
mod exchange;
mod flood;
mod leaks;
mod world;
