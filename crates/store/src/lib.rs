//! Postgres: the schema, and one file of queries per noun.
//!
//! Three rules hold for every query. It names the organization. It reads from and writes to the primary.
//! A write says how many rows it must affect and fails if it affected another number.
//!
//! What changes anything goes through a [`Change`]: a transaction that first takes the organization's next
//! change number and so has the organization to itself until it commits. What only reads is a method of
//! [`Store`].
//!
//! What is compared with an indexed time is `statement_timestamp()`, never `clock_timestamp()`: that one may change from row
//! to row, so that Postgres uses no index for it.
//!
//! The commonest change is a new query. Write it in the file of its noun with `sqlx::query!`, then run
//! `make gen`, which checks it against a real Postgres and refreshes `.sqlx`. A new column needs a new file
//! in `migrations/`; a migration that was released is never edited.
//!
//! ```no_run
//! use keyholder_store::{Store, StoreSettings};
//!
//! # async fn example() -> Result<(), keyholder_store::StoreError> {
//! let store = Store::connect(&StoreSettings::new("postgres://localhost/keyholder")).await?;
//! store.migrate().await?;
//! # Ok(()) }
//! ```

/// Runs a query that may be sent twice without harm, and sends it again, once, if the connection under it turns
/// out to be gone. A macro, because a closure over a borrowed connection has no future that can be sent
/// to another thread.
macro_rules! run {
    ($store:expr, $connection:ident => $query:block) => {
        async {
            let mut owned = $store.pool.acquire().await?;
            let $connection = &mut *owned;
            match crate::in_time(async { $query }).await {
                Err(error) if crate::error::is_connection_lost(&error) => {
                    crate::discard(owned).await;
                    let mut owned = $store.live_connection().await?;
                    let $connection = &mut *owned;
                    Ok::<_, crate::StoreError>(crate::in_time(async { $query }).await?)
                }
                other => Ok(other?),
            }
        }
        .await
    };
}

mod audit;
mod authorizations;
mod change;
mod changes;
mod connections;
mod data_keys;
mod error;
mod grants;
mod installation;
mod late_answers;
mod oauth_clients;
mod provider_clients;
mod refreshes;
mod release;
mod revocation_runs;
mod revocations;
mod row;
mod schema;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres, pool::PoolConnection};

pub use audit::{AuditFilter, NewAuditEvent};
pub use authorizations::{BrowserKey, NewAuthorization, StoredAuthorization};
pub use change::Change;
pub use changes::{ChangeFilter, ChangeNumber, Notice};
pub use connections::{ConnectionFilter, NewConnection, Remembered, Sealed, StoredConnection};
pub use data_keys::StoredDataKey;
pub use error::StoreError;
pub use grants::{GrantFilter, NewGrant};
pub use installation::{DueNotice, Installation, Reached, RefreshNumbers, Sample};
pub use late_answers::LateAnswer;
pub use oauth_clients::StoredOAuthClient;
pub use provider_clients::{ClientLimited, ClientStatus, ClientWorked, Pace, Quarantine, RefusedGrants};
pub use refreshes::{Attempt, ClientKey, KeptAnswer, Only, Postponed, RefreshRow, Schedule};
pub use release::{Candidate, Found, Release, ReleaseLane, Target};
pub use revocation_runs::{RevocationCounts, RevocationRun};
pub use revocations::{NewRevocation, RevocationOutcome, StoredRevocation};
pub use schema::SchemaState;

/// How to reach Postgres.
#[derive(Clone)]
pub struct StoreSettings {
    /// A `postgres://` URL. May hold a password, so it is never printed.
    pub url: String,
    /// The most connections that are open at once, besides those of each [`ReleaseLane`].
    pub max_connections: u32,
    /// How long a call waits for a free connection, and for a new one to open.
    pub acquire_timeout: Duration,
    /// When a release counts as recorded.
    pub release_commit: Commit,
}

/// When a transaction counts as committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Commit {
    /// When it is on the disk, and outlives a crash of Postgres.
    #[default]
    Durable,
    /// When it is in Postgres's memory: a crash of Postgres may lose those of the last second or so.
    Async,
}

impl StoreSettings {
    /// The settings that fit most: 16 connections, 3 seconds, durable.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(3),
            release_commit: Commit::Durable,
        }
    }
}

impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreSettings")
    }
}

/// How long a change waits for another change of the same organization.
const LOCK_TIMEOUT: &str = "5s";

/// How long a release waits for a lock in Postgres: as long as its connection counts as there, so that none stays behind.
const RELEASE_LOCK_TIMEOUT: &str = "4s";

/// How long a change may do nothing before Postgres ends it: a replica that hangs must not hold an organization.
const IDLE_TIMEOUT: &str = "10s";

/// How long a query may take before its connection counts as lost. After a failover that nobody announced, a dead
/// connection says nothing at all.
const QUERY_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a connection may take to say that it is alive.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    /// For what only reads, and for denials.
    pool: PgPool,
    /// For changes, which may wait for each other: however many wait, a resolve finds a connection.
    changes: PgPool,
    /// How the connections of a [`ReleaseLane`] are opened.
    releases: ForReleases,
    batches: Arc<AtomicU64>,
    acquire_timeout: Duration,
}

/// Options that may hold a password, so they are never printed.
#[derive(Clone)]
struct ForReleases(PgConnectOptions);

impl std::fmt::Debug for ForReleases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ForReleases")
    }
}

/// A release is planned once, and looks rows up by their keys: a plan for tables that were small when it was made must not
/// read them whole when they have grown.
const RELEASE_PLANS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

impl Store {
    /// Connects, and fails if Postgres cannot be reached.
    pub async fn connect(settings: &StoreSettings) -> Result<Self, StoreError> {
        let options: PgConnectOptions = settings.url.parse().map_err(|_| StoreError::Url)?;
        let options = options.application_name("keyholder").disable_statement_logging();
        let for_changes = settings.max_connections / 4;
        let pool = |connections: u32| {
            PgPoolOptions::new()
                .max_connections(connections.max(1))
                .acquire_timeout(settings.acquire_timeout)
                // Asking "are you there" before every query would double the round trips. A connection that
                // died is found out by the query, and the query is sent once more on one that answers.
                .test_before_acquire(false)
        };
        let waiting = options
            .clone()
            .options([("lock_timeout", LOCK_TIMEOUT), ("idle_in_transaction_session_timeout", IDLE_TIMEOUT)]);
        let changes = pool(for_changes).test_before_acquire(true).connect_lazy_with(waiting);
        let synchronous_commit = match settings.release_commit {
            Commit::Durable => "on",
            Commit::Async => "off",
        };
        let for_releases = options.clone().options([("synchronous_commit", synchronous_commit)]);
        let releases = for_releases.options(RELEASE_PLANS).options([("lock_timeout", RELEASE_LOCK_TIMEOUT)]);
        let releases = ForReleases(releases);
        let pool = pool(settings.max_connections - for_changes.max(1)).connect_with(options).await?;
        let batches = Arc::default();
        Ok(Self { pool, changes, releases, batches, acquire_timeout: settings.acquire_timeout })
    }

    /// Answers if Postgres does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.live_connection().await.map(drop)?)
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        tokio::join!(self.pool.close(), self.changes.close());
    }

    /// How many connections are open, and how many of them are idle.
    pub fn pool_use(&self) -> (u32, usize) {
        (self.pool.size() + self.changes.size(), self.pool.num_idle() + self.changes.num_idle())
    }

    async fn live_connection(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        live_connection(&self.pool).await
    }
}

/// A connection that answered just now. After Postgres has restarted, a pool is full of dead ones.
async fn live_connection(pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    for _ in 0..=pool.size() {
        let mut connection = pool.acquire().await?;
        if is_there(&mut connection).await {
            return Ok(connection);
        }
        discard(connection).await;
    }
    pool.acquire().await
}

async fn is_there(connection: &mut PgConnection) -> bool {
    tokio::time::timeout(PING_TIMEOUT, connection.ping()).await.is_ok_and(|answer| answer.is_ok())
}

/// How long a step of a change may take: longer than it may wait for another change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(8);

/// A step of a change, which is over in time or counts as never answered.
trait InTime<T>: Future<Output = Result<T, sqlx::Error>> + Sized {
    async fn in_time(self) -> Result<T, sqlx::Error> {
        match tokio::time::timeout(CHANGE_TIMEOUT, self).await {
            Ok(answer) => answer,
            Err(_) => Err(timed_out()),
        }
    }
}

impl<T, F: Future<Output = Result<T, sqlx::Error>>> InTime<T> for F {}

/// What a query answers, or that its connection is lost.
async fn in_time<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(QUERY_TIMEOUT, query).await {
        Ok(answer) => answer,
        Err(_) => Err(timed_out()),
    }
}

/// That no answer came, which is as if the connection were lost.
fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// Throws away a connection that is no good.
async fn discard(connection: PoolConnection<Postgres>) {
    // It is gone in either case; an error only says that Postgres did not hear us leave.
    tokio::time::timeout(PING_TIMEOUT, connection.detach().close_hard()).await.ok();
}
