//! The gate in front of a service of the tests' own, on a real port and over real mTLS.

#[cfg(test)]
mod gate;
