//! What is said to providers: "is this credential good?", and everything that OAuth has to say.
//!
//! Everything leaves through egress, which decides whether an address may be called at all. Nothing that a provider
//! answers is passed on but what its definition names: what the answer says about the credential, and whose it
//! is. Providers' texts, headers and bodies end here.

pub mod oauth;
mod test;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keyholder_egress::{Egress, Host, Refusal, Target};

pub use test::Tested;

/// The reason of a URL that could be called, and is not one that requests can be sent below.
const FORM: &str = "form";

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

    /// Counts and logs a URL that was refused where it entered: the host and the reason, never the path or the query.
    pub fn refused(&self, url: &str) {
        let reason = Target::parse(url, self.egress.rules()).err().map_or(FORM, Refusal::reason);
        self.count(reason);
        log_refused(url, reason);
    }

    fn count(&self, reason: &'static str) {
        *self.lock().entry(reason).or_default() += 1;
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

fn log_refused(url: &str, reason: &'static str) {
    let host = Host::of_refused(url).map(|host| host.to_string()).unwrap_or_default();
    tracing::warn!(host, reason, "URL refused");
}
