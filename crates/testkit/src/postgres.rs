//! A private Postgres: a server of our own, from the machine's own Postgres programs, that only this
//! process's user can reach, and that is gone when this process is gone.
//!
//! - It listens on a Unix socket in a private folder and nowhere else.
//! - Started by root, it runs as `postgres`, else as `nobody`, because Postgres refuses root.
//! - Ctrl-C does not reach it: it has a process group of its own. Whoever holds the [`PrivatePostgres`] stops
//!   it, by dropping it.
//! - If this process is killed, a watchdog sees its end of a pipe close, and stops the server.
//!
//! ```no_run
//! use keyholder_testkit::postgres::PrivatePostgres;
//!
//! let postgres = PrivatePostgres::temporary()?;
//! postgres.create_database("mine")?;
//! assert_eq!(postgres.psql("mine", "SELECT 1 + 1")?, "2");
//! println!("{}", postgres.url("mine"));
//! # Ok::<(), keyholder_testkit::postgres::PostgresError>(())
//! ```

mod account;
mod binaries;
mod client;
mod cluster;
mod error;
mod folders;
mod leftover;
mod process;
mod server;
mod settings;
mod template;

pub use binaries::Binaries;
pub use error::PostgresError;
pub use settings::Settings;

use std::path::{Path, PathBuf};

use self::{
    account::Account,
    client::Client,
    folders::{Home, Locked, PrivateFolder},
    server::{Ending, Server, StartUp},
};

/// A running Postgres of our own. Stopped when dropped; a temporary one is removed, too.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Dropped in this order: the server before the folders that it lives in.
    server: Option<Server>,
    start_up: StartUp,
    client: Client,
    binaries: Binaries,
    preloads_statement_statistics: bool,
    home: Home,
    _sockets: PrivateFolder,
}

impl PrivatePostgres {
    /// Starts a server whose data is kept in a folder. What was committed there survives everything.
    ///
    /// The folder is made if it is not there, and is locked while the server runs. The data is in it; but where
    /// root's folder cannot be reached by the user that the server runs as, the data is under
    /// `/var/lib/keyholder`, and a link stands in the folder. [`PrivatePostgres::data_dir`] tells.
    pub fn start(data: &Path) -> Result<Self, PostgresError> {
        Self::start_with(data, &Settings::default())
    }

    /// Like [`PrivatePostgres::start`], with settings.
    pub fn start_with(data: &Path, settings: &Settings) -> Result<Self, PostgresError> {
        let binaries = Binaries::find()?;
        let locked = Locked::new(data)?;
        let account = Account::for_data(&locked.cluster())?;
        let home = Home::persistent(locked, &account)?;
        leftover::stop(home.cluster())?;
        if home.is_new() {
            cluster::create(&binaries, &account, home.cluster())?;
        }
        cluster::check_version(&binaries, home.cluster())?;
        let sockets = PrivateFolder::new(&account)?;
        Self::launch(binaries, account, home, sockets, settings.clone(), Ending::Fast)
    }

    /// Starts an empty server under the folder for temporary files, or in memory (`/dev/shm`) if there is
    /// room and `TMPDIR` is not set; it is removed when this is dropped.
    ///
    /// Made for tests: nothing is flushed to disk. It survives the end of its processes, not of the machine.
    pub fn temporary() -> Result<Self, PostgresError> {
        Self::temporary_with(&Settings::default())
    }

    /// Like [`PrivatePostgres::temporary`], with settings.
    pub fn temporary_with(settings: &Settings) -> Result<Self, PostgresError> {
        let binaries = Binaries::find()?;
        let account = Account::current()?;
        let folder = PrivateFolder::for_data(&account)?;
        let home = Home::temporary(folder.path());
        template::copy_to(&binaries, &account, home.cluster())?;
        let settings = settings.clone().set("fsync", "off").set("full_page_writes", "off");
        Self::launch(binaries, account, home, folder, settings, Ending::Immediate)
    }

    fn launch(
        binaries: Binaries,
        account: Account,
        home: Home,
        sockets: PrivateFolder,
        settings: Settings,
        ending: Ending,
    ) -> Result<Self, PostgresError> {
        let client = Client::new(&binaries, sockets.path());
        let preload = settings.preload(&binaries);
        let start_up = StartUp {
            postgres: binaries.program("postgres"),
            cluster: home.cluster().to_owned(),
            sockets: sockets.path().to_owned(),
            log: home.log().to_owned(),
            arguments: settings.arguments(preload),
            account,
            ending,
        };
        start_up.clear_log()?;
        let server = Some(Server::start(&start_up)?);
        let path = home.cluster().display();
        tracing::info!(data_dir = %path, bin_dir = %binaries.bin_dir().display(), "private postgres started");
        Ok(Self {
            server,
            start_up,
            client,
            binaries,
            preloads_statement_statistics: preload,
            home,
            _sockets: sockets,
        })
    }

    /// The URL of one of its databases, for sqlx and for libpq (`psql <url>`). It changes with every start.
    pub fn url(&self, database: &str) -> String {
        self.client.url(database)
    }

    /// Makes an empty database.
    pub fn create_database(&self, name: &str) -> Result<(), PostgresError> {
        self.psql("postgres", &format!("CREATE DATABASE {}", client::quote_identifier(name))).map(drop)
    }

    /// Runs SQL, any number of statements, up to the first that fails. The answer is the rows as text, one a
    /// line, columns divided by `|`.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, PostgresError> {
        self.client.run(database, sql)
    }

    /// Ends every process of the server with SIGKILL, as a crash would.
    pub fn kill_hard(&mut self) -> Result<(), PostgresError> {
        self.server.take().map_or(Ok(()), Server::kill_hard)
    }

    /// Starts the server again, after it was killed or while it runs, on the same data and with the same URL.
    pub fn restart(&mut self) -> Result<(), PostgresError> {
        if let Some(server) = self.server.take() {
            server.stop()?;
        }
        self.server = Some(Server::start(&self.start_up)?);
        Ok(())
    }

    /// Stops the server and says whether that went well; dropping does the same and keeps silent.
    pub fn stop(mut self) -> Result<(), PostgresError> {
        self.server.take().map_or(Ok(()), Server::stop)
    }

    /// The process id of the server's first process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Server::process_id)
    }

    /// The folder that really holds the data.
    pub fn data_dir(&self) -> &Path {
        self.home.cluster()
    }

    /// The server's log, from its last start on.
    pub fn log_path(&self) -> PathBuf {
        self.home.log().to_owned()
    }

    /// The folder of the Postgres programs in use.
    pub fn bin_dir(&self) -> &Path {
        self.binaries.bin_dir()
    }

    /// Whether `CREATE EXTENSION pg_stat_statements` will work, as [`Settings::statement_statistics`] asked.
    pub const fn has_statement_statistics(&self) -> bool {
        self.preloads_statement_statistics
    }
}

#[cfg(test)]
mod tests;
