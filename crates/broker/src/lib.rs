//! The use cases: connect an account, grant its use, resolve a grant into a credential, revoke.
//!
//! Speaks in domain types; knows nothing of gRPC, certificates or configuration files. Whether a workload may
//! call at all, for which organization and as whom, was decided before: a [`Caller`] says for whom the
//! broker works. What the broker itself decides is whether this actor may use this connection, and it
//! releases nothing without the audit event that says so.
//!
//! Secrets exist here for the time of one call, in types that print nothing and zero themselves.
//!
//! The commonest change is a new use case: a method of [`Broker`] in the file of its noun, which reads
//! through [`Store`], changes through [`Change`](keyholder_store::Change), and records an audit event in the
//! same change.

mod access;
mod audit;
mod audit_ids;
mod cache;
mod caller;
mod connections;
mod credentials;
mod data_keys;
mod error;
mod grants;
mod oauth;
mod refresh;
mod resolve;
mod shares;
mod tasks;
mod test;
mod uses;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use keyholder_catalog::Catalog;
use keyholder_domain::{AuditEventId, Clock, Timestamp};
use keyholder_egress::Rules;
use keyholder_store::Store;
use keyholder_upstream::Upstream;
use keyholder_vault::KeyRing;

pub use access::{Access, Answer, Usable, UsableCapability};
pub use audit::Denied;
pub use caller::{Caller, Idempotency};
pub use connections::{ConnectionUpdate, CreateConnection};
pub use error::{BrokerError, FieldError, FieldReason};
pub use grants::CreateGrant;
pub use keyholder_store::{
    AuditFilter, ClientStatus, ConnectionFilter, GrantFilter, Installation, RefreshNumbers, ReleaseLane,
    RevocationCounts, RevocationRun, SchemaState, StoreError, Target,
};
pub use keyholder_upstream::oauth::{Client, ClientKey};
pub use oauth::{
    BrowserAnswer, Completion, Cookies, Landing, LandingOutcome, OAuthClient, OAuthSettings, Opened,
    RevokeAll, SetOAuthClient, StartAuthorization, Started,
};
pub use refresh::{RefreshCounts, RefresherSettings, Rejected, RejectionOutcome};
pub use resolve::{AmbiguousCandidate, Ask, Refusal, Released, ReleasedCredential};
pub use tasks::keep_running;
pub use watch::{Watch, WatchFilter, Watched};

use audit_ids::AuditIds;
use cache::{Cache, DataKeyCache};
use refresh::Refresher;
use shares::Shares;
use tokio::sync::Semaphore;
use uses::Uses;
use watch::Changes;

/// How many resolves look something up at once at most. More are refused, so that a slow database costs no memory.
const LOOKUPS: usize = 1_024;

/// The broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    catalog: Catalog,
    keys: KeyRing,
    upstream: Upstream,
    oauth: OAuthSettings,
    clock: Arc<dyn Clock>,
    found: Cache,
    data_keys: DataKeyCache,
    changes: Changes,
    tests: Arc<Shares>,
    audit_ids: AuditIds,
    lookups: Semaphore,
    uses: Uses,
    refresher: Refresher,
}

impl Broker {
    /// A broker on a database, with the providers it knows, the keys that open its data keys, the way to the providers, how
    /// people are asked for consent, and how connections are refreshed.
    pub fn new(
        store: Store,
        catalog: Catalog,
        keys: KeyRing,
        upstream: Upstream,
        oauth: OAuthSettings,
        refresher: RefresherSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            catalog,
            keys,
            upstream,
            oauth,
            clock,
            found: Cache::new(),
            data_keys: DataKeyCache::new(),
            changes: Changes::new(),
            tests: Shares::new(test::UNDER_WAY),
            audit_ids: AuditIds::new(),
            lookups: Semaphore::new(LOOKUPS),
            uses: Uses::new(),
            refresher: Refresher::new(refresher),
        }))
    }

    /// The providers it knows.
    pub fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    /// The database it works on.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The key-encryption keys.
    pub fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    /// The present moment, by the broker's clock.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// How many calls to providers did not come to an answer, by reason.
    pub fn egress_failures(&self) -> BTreeMap<&'static str, u64> {
        self.0.upstream.failures()
    }

    /// How many attempts to refresh there were in this process, by provider and outcome.
    pub fn refresh_counts(&self) -> RefreshCounts {
        self.0.refresher.counts()
    }

    /// How many lookups the cache answered, and how many it could not.
    pub fn cache_use(&self) -> (u64, u64) {
        self.0.found.counts()
    }

    /// The rules that a URL is held to where it enters.
    fn url_rules(&self) -> &Rules {
        self.0.upstream.egress().rules()
    }

    fn audit_event_id(&self) -> AuditEventId {
        // No secret, so it need not come from the operating system each time.
        self.0.audit_ids.next(self.now(), rand::random())
    }
}
