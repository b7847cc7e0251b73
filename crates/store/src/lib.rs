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

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Postgres, pool::PoolConnection};

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
pub use provider_clients::{ClientStatus, Quarantine, RefusedGrants};
pub use refreshes::{Attempt, ClientKey, KeptAnswer, Only, Postponed, RefreshRow, Schedule};
pub use release::{Candidate, Found, Release, Target};
pub use revocation_runs::{RevocationCounts, RevocationRun};
pub use revocations::{NewRevocation, RevocationOutcome, StoredRevocation};
pub use schema::SchemaState;

/// How to reach Postgres.
#[derive(Clone)]
pub struct StoreSettings {
    /// A `postgres://` URL. May hold a password, so it is never printed.
    pub url: String,
    /// The most connections that are open at once.
    pub max_connections: u32,
    /// How long a call waits for a free connection, and for a new one to open.
    pub acquire_timeout: Duration,
}

impl StoreSettings {
    /// The settings that fit most: 16 connections, 3 seconds.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), max_connections: 16, acquire_timeout: Duration::from_secs(3) }
    }
}

impl std::fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreSettings")
    }
}

/// How long a change waits for another change of the same organization.
const LOCK_TIMEOUT: &str = "5s";

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
    /// For what only reads, and for releases.
    pool: PgPool,
    /// For changes, which may wait for each other: however many wait, a release finds a connection.
    changes: PgPool,
}

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
        let pool = pool(settings.max_connections - for_changes.max(1)).connect_with(options).await?;
        Ok(Self { pool, changes })
    }

    /// Answers if Postgres does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.live_connection().await.map(drop)
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        tokio::join!(self.pool.close(), self.changes.close());
    }

    /// How many connections are open, and how many of them are idle.
    pub fn pool_use(&self) -> (u32, usize) {
        (self.pool.size() + self.changes.size(), self.pool.num_idle() + self.changes.num_idle())
    }

    /// A connection that answered just now. After Postgres has restarted, the pool is full of dead ones.
    async fn live_connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        for _ in 0..=self.pool.size() {
            let mut connection = self.pool.acquire().await?;
            if tokio::time::timeout(PING_TIMEOUT, connection.ping()).await.is_ok_and(|answer| answer.is_ok())
            {
                return Ok(connection);
            }
            discard(connection).await;
        }
        Ok(self.pool.acquire().await?)
    }
}

/// How long a step of a change may take: longer than it may wait for another change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(8);

/// A step of a change, which is over in time or counts as never answered.
trait InTime<T>: Future<Output = Result<T, sqlx::Error>> + Sized {
    async fn in_time(self) -> Result<T, sqlx::Error> {
        match tokio::time::timeout(CHANGE_TIMEOUT, self).await {
            Ok(answer) => answer,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<T, F: Future<Output = Result<T, sqlx::Error>>> InTime<T> for F {}

/// What a query answers, or that its connection is lost.
async fn in_time<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(QUERY_TIMEOUT, query).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Throws away a connection that is no good.
async fn discard(connection: PoolConnection<Postgres>) {
    // It is gone in either case; an error only says that Postgres did not hear us leave.
    connection.detach().close_hard().await.ok();
}
