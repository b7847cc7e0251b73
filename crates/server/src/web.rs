//! What an account's owner sees in a browser while an account is being connected.
//!
//! It is never an API: no scripts, no CORS headers, nothing loaded from elsewhere.

pub mod pages;
