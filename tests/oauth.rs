//! Accounts that are connected by OAuth: owners consent in a browser, and nothing is lost, doubled or sent elsewhere.

mod clients;
mod code;
mod device_flow;
mod pages;
mod peers;
mod quirks;
mod two_legged;
mod world;
