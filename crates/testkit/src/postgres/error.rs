use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The machine has no Postgres that can be used.
    #[error(
        "found no PostgreSQL {oldest} or later with initdb, postgres and psql; install it, or set KEYHOLDER_PG_BIN \
         to its bin folder\n  \
         Debian, Ubuntu: sudo apt-get install postgresql\n  \
         Fedora, RHEL:   sudo dnf install postgresql-server\n  \
         Arch:           sudo pacman -S postgresql\n  \
         Alpine:         sudo apk add postgresql\n  \
         macOS:          brew install postgresql@17"
    )]
    NotInstalled {
        /// The oldest version that can be used.
        oldest: u32,
    },
    /// `KEYHOLDER_PG_BIN` names a folder that cannot be used.
    #[error(
        "KEYHOLDER_PG_BIN is {}, but initdb, postgres and psql of PostgreSQL {oldest} or later are not there",
        path.display()
    )]
    WrongBinDir {
        /// The folder.
        path: PathBuf,
        /// The oldest version that can be used.
        oldest: u32,
    },
    /// Postgres refuses to run as root, and there is no other user.
    #[error("Postgres does not run as root, and this machine has neither a user postgres nor a user nobody")]
    NoAccount,
    /// Another process has the data in use.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The data was made by another major version.
    #[error(
        "{} holds data of PostgreSQL {found}, but {} is PostgreSQL {installed}: set KEYHOLDER_PG_BIN to version \
         {found}, or start with another folder",
        path.display(),
        bin_dir.display()
    )]
    OtherVersion {
        /// The folder of the data.
        path: PathBuf,
        /// The version that made it.
        found: String,
        /// The version in use.
        installed: u32,
        /// Where that version is.
        bin_dir: PathBuf,
    },
    /// No folder for temporary files has a path that is short enough for a socket and open to the server.
    #[error(
        "found no folder for a socket: the path of TMPDIR, /tmp or /var/tmp must be short and open to {account}"
    )]
    NoSocketFolder {
        /// The user that the server runs as.
        account: String,
    },
    /// A program said no.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        output: String,
    },
    /// The server did not become ready.
    #[error("Postgres was not ready after {} s; the end of {}:\n{output}", after.as_secs(), log.display())]
    NotReady {
        /// How long it had.
        after: Duration,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        output: String,
    },
    /// The server ended while it started.
    #[error("Postgres did not start ({status}); the end of {}:\n{output}", log.display())]
    DidNotStart {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        output: String,
    },
    /// A server that must not run cannot be ended.
    #[error("the Postgres process {pid} cannot be stopped")]
    CannotStop {
        /// Its process id.
        pid: u32,
    },
    /// A folder is missing parts or stands where it must not.
    #[error("{} {problem}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file cannot be used, or a program cannot be run.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl PostgresError {
    /// For `map_err`: what was tried, on what.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
