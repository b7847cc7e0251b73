//! A development PKI, a private Postgres, an OAuth 2.0 provider and a browser, for tests and for keyholder dev.

pub mod browser;
pub mod client;
pub mod pki;
pub mod postgres;
pub mod provider;
