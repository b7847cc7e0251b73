//! What is said to providers: "is this credential good?", and everything that OAuth has to say.
//!
//! Everything leaves through egress, which decides whether an address may be called at all. Nothing that a provider
//! answers is passed on but what its definition names: what the answer says about the credential, and whose it
//! is. Providers' texts, headers and bodies end here.

pub mod oauth;
mod test;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keyholder_egress::{Egress, EgressError};

pub use test::Tested;

/// The way to providers.
#[derive(Debug)]
pub struct Upstream {
    egress: Egress,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Upstream {
    /// The way to providers, through an egress.
    pub const fn new(egress: Egress) -> Self {
        Self { egress, failures: Mutex::new(BTreeMap::new()) }
    }

    /// How many calls did not come to an answer, by the reason that egress gives.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.lock().clone()
    }

    fn count(&self, error: EgressError) {
        *self.lock().entry(error.reason()).or_default() += 1;
    }

    /// A panic while a number grows leaves nothing half-done.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The egress, to judge addresses before they are called.
    pub const fn egress(&self) -> &Egress {
        &self.egress
    }
}
