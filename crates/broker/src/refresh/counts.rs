//! What this process has counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use keyholder_domain::ProviderId;

/// Attempts so far, by provider and by what came of them.
pub type RefreshCounts = BTreeMap<(String, &'static str), u64>;

#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<RefreshCounts>);

impl Counts {
    pub(super) fn add(&self, provider_id: &ProviderId, outcome: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((provider_id.to_string(), outcome)).or_default() += 1;
    }

    pub(super) fn read(&self) -> RefreshCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
