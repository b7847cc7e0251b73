//! What is kept in memory between calls. Nothing here is trusted: a credential leaves only after the database
//! has confirmed, in the statement that records the release, the generations that were decided on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyholder_domain::{Grant, OrganizationId, Principal};
use keyholder_store::{Candidate, Found, Target};
use keyholder_vault::DataKey;

/// The most bytes that found connections may take.
const FOUND_BYTES: u64 = 64 * 1024 * 1024;

/// How long anything is kept: what was erased in the database is not in memory for much longer.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The question that was asked of the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) organization_id: OrganizationId,
    pub(crate) actor: Principal,
    pub(crate) target: Target,
}

/// What was found, sealed, by the question that was asked.
#[derive(Debug)]
pub(crate) struct Cache {
    found: moka::sync::Cache<Key, Arc<Found>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let found = moka::sync::Cache::builder()
            .max_capacity(FOUND_BYTES)
            .time_to_live(LIFETIME)
            .weigher(|_, found: &Arc<Found>| u32::try_from(weight(found)).unwrap_or(u32::MAX))
            .build();
        Self { found, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Found>> {
        let found = self.found.get(key);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub(crate) fn insert(&self, key: Key, found: Arc<Found>) {
        self.found.insert(key, found);
    }

    pub(crate) fn forget(&self, key: &Key) {
        self.found.invalidate(key);
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

/// Roughly the bytes that an entry takes; the fixed part stands for ids, keys and allocations.
fn weight(found: &Found) -> usize {
    let candidate = |candidate: &Candidate| {
        let connection = &candidate.stored.connection;
        let sealed = candidate.stored.sealed.as_ref().map_or(0, |sealed| sealed.credential.len());
        let config: usize = connection.config.iter().map(|(key, value)| key.len() + value.len()).sum();
        let scopes: usize = connection.scopes.iter().map(str::len).sum();
        let labels: usize =
            connection.labels.as_map().iter().map(|(key, value)| key.len() + value.len() + 128).sum();
        let grant = |grant: &Grant| {
            let scopes: usize = grant.scopes.iter().map(|scope| scope.len() + 48).sum();
            let workloads: usize = grant.workloads.iter().map(|pattern| pattern.as_str().len() + 32).sum();
            1_024 + scopes + workloads
        };
        4_096 + sealed + config + scopes + labels + candidate.grants.iter().map(grant).sum::<usize>()
    };
    2_048 + found.candidates.iter().map(candidate).sum::<usize>()
}

/// Opened data keys, for a while.
#[derive(Debug)]
pub(crate) struct DataKeyCache(moka::sync::Cache<(OrganizationId, String), Arc<DataKey>>);

impl DataKeyCache {
    pub(crate) fn new() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(10_000).time_to_live(LIFETIME).build())
    }

    pub(crate) fn get(&self, organization_id: &OrganizationId, data_key_id: &str) -> Option<Arc<DataKey>> {
        self.0.get(&(organization_id.clone(), data_key_id.to_owned()))
    }

    pub(crate) fn insert(&self, organization_id: &OrganizationId, key: Arc<DataKey>) {
        self.0.insert((organization_id.clone(), key.id().as_str().to_owned()), key);
    }
}
