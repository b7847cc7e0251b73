use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::migrate::{MigrateError, Migrator};

use crate::{Store, StoreError};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How the schema stands to this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// They fit.
    Current,
    /// Migrations are still to be applied.
    Older,
    /// A newer binary has migrated it.
    Newer,
}

impl Store {
    /// Applies every migration that is still to be applied, one transaction each. Several processes may call
    /// this at the same time: they take turns. Returns how many there were.
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let before = self.applied_migrations().await?.len();
        // A connection of its own: the lock that takes turns belongs to the connection, and is not given back when a
        // migration fails.
        let mut connection = self.pool.acquire().await?.detach();
        let result = MIGRATIONS.run(&mut connection).await;
        // Closed or gone, the lock is free in either case.
        connection.close().await.ok();
        match result {
            Ok(()) => Ok(self.applied_migrations().await?.len() - before),
            Err(MigrateError::VersionMissing(_)) => Err(StoreError::SchemaNewer),
            Err(MigrateError::VersionMismatch(version)) => Err(StoreError::SchemaForked(version)),
            Err(MigrateError::Execute(error)) => Err(error.into()),
            Err(error) => Err(StoreError::Migration(Arc::new(error))),
        }
    }

    /// How the schema stands to this binary.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        let applied = self.applied_migrations().await?;
        let known: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        if applied.iter().any(|version| !known.contains(version)) {
            Ok(SchemaState::Newer)
        } else if known.iter().any(|version| !applied.contains(version)) {
            Ok(SchemaState::Older)
        } else {
            Ok(SchemaState::Current)
        }
    }

    async fn applied_migrations(&self) -> Result<Vec<i64>, StoreError> {
        // The table is sqlx's own and is not there before the first migration, so the query cannot be checked
        // at compile time.
        let there = run!(self, connection => {
            sqlx::query_scalar::<_, bool>("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
                .fetch_one(connection)
                .await
        })?;
        if !there {
            return Ok(Vec::new());
        }
        run!(self, connection => {
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
                .fetch_all(connection)
                .await
        })
    }
}
