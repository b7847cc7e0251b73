use std::sync::Arc;

use keyholder_domain::Invalid;

/// What can go wrong with the database.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The operator's: the URL is no Postgres URL.
    #[error("the database URL is not a valid postgres:// URL")]
    Url,
    /// Nobody's, and passing: Postgres does not answer, or not in time.
    #[error("the database cannot be reached, or does not answer in time")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// Nobody's, and passing: Postgres does not answer in time.
    #[error("the database does not answer in time")]
    TimedOut,
    /// Nobody's, and passing: more wait for Postgres than it can serve in time.
    #[error("too many wait for the database")]
    Busy,
    /// The database's: it answered, and refused a write that should have gone through.
    #[error("the database refused to write")]
    WriteRefused(#[source] Arc<sqlx::Error>),
    /// Ours: a row contradicts the types.
    #[error("table {table}, column {column}: {rule} (row {row})")]
    Corrupt {
        /// Where.
        table: &'static str,
        /// In which column.
        column: &'static str,
        /// In which row.
        row: String,
        /// Which rule is broken.
        rule: &'static str,
    },
    /// Ours: a write affected another number of rows than it must.
    #[error("a write to {table} affected {affected} rows instead of 1")]
    RowsAffected {
        /// Which table.
        table: &'static str,
        /// How many.
        affected: u64,
    },
    /// The operator's: the schema is older than this binary.
    #[error("the database schema is older than this binary; run keyholder migrate")]
    SchemaOlder,
    /// The operator's: the schema is newer than this binary.
    #[error("the database schema is newer than this binary; run the newer keyholder")]
    SchemaNewer,
    /// The operator's: a migration that was applied is not the one in this binary.
    #[error("the database was migrated with another version of migration {0}")]
    SchemaForked(i64),
    /// The operator's: a migration failed and was rolled back.
    #[error("a migration failed")]
    Migration(#[source] Arc<sqlx::migrate::MigrateError>),
    /// Ours: the query and the schema do not fit together.
    #[error("a query failed")]
    Query(#[source] Arc<sqlx::Error>),
}

impl StoreError {
    pub(crate) fn corrupt(
        table: &'static str,
        column: &'static str,
        row: impl ToString,
    ) -> impl FnOnce(Invalid) -> Self {
        let row = row.to_string();
        move |Invalid(rule)| Self::Corrupt { table, column, row, rule }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Arc::new(error).into()
    }
}

/// An error that all those share who waited for the same statement.
impl From<Arc<sqlx::Error>> for StoreError {
    fn from(error: Arc<sqlx::Error>) -> Self {
        if is_unavailable(&error) {
            Self::Unavailable(error)
        } else if is_write_refused(&error) {
            Self::WriteRefused(error)
        } else {
            Self::Query(error)
        }
    }
}

/// Whether the connection under a query is gone, so that another one may fare better.
pub(crate) fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            true
        }
        // Class 08 connection exception; 57P01 to 57P05 admin shutdown, crash shutdown, cannot connect now, database
        // dropped, idle session; 25006 read only: a primary that became a standby (PostgreSQL manual, appendix A).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08")
                || matches!(&*code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25006")
        }),
        _ => false,
    }
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    let exhausted = |error: &dyn sqlx::error::DatabaseError| {
        // Class 28 the role or password is refused; 3D000 no such database; 53300 too many connections; 57014 query canceled; 55P03 lock not available; 40001 and 40P01
        // serialization failure and deadlock.
        error.code().is_some_and(|code| {
            code.starts_with("28")
                || matches!(&*code, "3D000" | "53300" | "57014" | "55P03" | "40001" | "40P01")
        })
    };
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(database) if exhausted(&**database) => true,
        _ => is_connection_lost(error),
    }
}

pub(crate) fn is_write_refused(error: &sqlx::Error) -> bool {
    // Class 53 insufficient resources (disk full among them), 58 system error, XX internal error.
    let refused = |code: &str| ["53", "58", "XX"].iter().any(|class| code.starts_with(class));
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| refused(&code))
}

/// Whether a statement failed for what one of its rows holds, so that the others may fare better without it.
pub(crate) fn is_of_the_data(error: &sqlx::Error) -> bool {
    // Class 22 data exception, 23 integrity constraint violation.
    let of_data = |code: &str| ["22", "23"].iter().any(|class| code.starts_with(class));
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| of_data(&code))
}
