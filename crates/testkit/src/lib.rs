//! A development PKI and a private Postgres, for tests and for keyholder dev.
