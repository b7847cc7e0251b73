//! Real TLS over loopback sockets: who gets in, who does not, and what the log says about it.
//!
//! With TLS 1.3 a client has finished its handshake before the server has seen the client's certificate: a
//! refused client sees its connect succeed and its first read fail.

#![expect(clippy::unwrap_used, reason = "a test whose preparation fails ends there")]

mod acceptor;
mod chain;
mod der;
mod dev_pki;
mod grpc;
mod identity;
mod key;
mod lifetime;
mod protocol;
mod resumption;
mod support;
mod trust_domain;
