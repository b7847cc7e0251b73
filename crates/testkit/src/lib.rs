//! A development PKI and a private Postgres, for tests and for keyholder dev.

pub mod client;
pub mod pki;
pub mod postgres;
