//! `keyholder dev`: everything that Keyholder needs, made on the spot and kept in one folder.

mod demo;
mod walk;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use keyholder_domain::{Clock as _, SystemClock};
use keyholder_testkit::pki::{DevPki, PkiError};
use keyholder_testkit::postgres::{PostgresError, PrivatePostgres};
use keyholder_testkit::provider::Provider;
use keyholder_vault::{KeyEncryptionKey, KeyError};

use crate::config::Config;
use crate::serve::{Addresses, Listening, Role, ServeError, connect, stop_signal};
use crate::telemetry;

/// The name of the database.
const DATABASE: &str = "keyholder";

/// How to try Keyholder out.
#[derive(Debug, clap::Args)]
pub struct DevOptions {
    /// Where everything is kept: database, certificates, key, configuration, log.
    #[arg(long, default_value = ".keyholder")]
    dir: PathBuf,
    /// Walk once through connect, grant, resolve, revoke, refused, and print every step.
    #[arg(long)]
    walk: bool,
}

/// Why it does not run, in one line.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file of the folder.
    #[error("cannot use {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Postgres.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The server.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The demo provider.
    #[error("the demo provider cannot start")]
    Demo(#[source] io::Error),
    /// The walk.
    #[error("the walk failed at: {0}")]
    Walk(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The runtime.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

/// Starts everything, serves until Ctrl-C, and stops everything.
pub fn run(options: &DevOptions) -> Result<(), DevError> {
    let dir = &options.dir;
    std::fs::create_dir_all(dir).map_err(|error| DevError::File(dir.clone(), error))?;
    let file = dir.join("keyholder.toml");
    if !file.exists() {
        std::fs::write(&file, CONFIG).map_err(|error| DevError::File(file.clone(), error))?;
    }
    let mut config = Config::load(&file).map_err(ServeError::from)?;
    let log = dir.join("keyholder.log");
    telemetry::start_in(&config.log, append(&log)?);
    let pki = DevPki::ensure(&dir.join("pki"), SystemClock.now())?;
    let key = dir.join("encryption.key");
    if !key.exists() {
        KeyEncryptionKey::generate().create_file(&key)?;
    }
    say(&format!("Starting Postgres in {}", dir.join("postgres").display()));
    let postgres = PrivatePostgres::start(&dir.join("postgres"))?;
    // A database of your own is for `keyholder serve`; what is tried out here stays here.
    config.database.url = postgres.url(DATABASE);
    let there =
        postgres.psql("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"))?;
    if there.trim().is_empty() {
        postgres.create_database(DATABASE)?;
    }
    let provider = demo::start(&mut config, dir)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(DevError::Runtime)?;
    let served = runtime.block_on(serve(options, config, &pki, &postgres, &provider));
    postgres.stop()?;
    served
}

async fn serve(
    options: &DevOptions,
    config: Config,
    pki: &DevPki,
    postgres: &PrivatePostgres,
    provider: &Provider,
) -> Result<(), DevError> {
    let store = connect(&config).await?;
    store.migrate().await.map_err(ServeError::from)?;
    store.close().await;
    let listening = Listening::open(config, &[Role::Server, Role::Refresher]).await?;
    let Addresses { grpc, admin, web } = listening.addresses().map_err(DevError::Runtime)?;
    let grpc = grpc.expect("it has the role of a server");
    let dir = options.dir.display();
    // As it was found: it is on nobody's PATH yet.
    let keyholder = std::env::current_exe().unwrap_or_else(|_| "keyholder".into());
    let keyholder = keyholder.display();
    let serving = listening.serve(stop_signal());
    let walking = async {
        if options.walk {
            walk::walk(grpc, pki, postgres, provider, &options.dir).await?;
        }
        say(&format!(
            "\nServing gRPC on {grpc}, the pages for owners on http://{}, probes and metrics on http://{admin}.\n\
             The log is in {dir}/keyholder.log, the configuration in {dir}/keyholder.toml. Ctrl-C stops it; everything is kept for the next time.\n\
             Only the demo provider forgets: its accounts must be connected again then.\n\
             How tokens are kept fresh: DATABASE_URL='{}' {keyholder} refresh status --config {dir}/keyholder.toml",
            web.map(|web| web.to_string()).unwrap_or_default(),
            postgres.url(DATABASE),
        ));
        std::future::pending::<Result<(), DevError>>().await
    };
    tokio::select! {
        served = serving => Ok(served?),
        walked = walking => walked,
    }
}

fn append(file: &Path) -> Result<File, DevError> {
    let open = OpenOptions::new().create(true).append(true).open(file);
    open.map_err(|error| DevError::File(file.to_owned(), error))
}

#[expect(clippy::print_stdout, reason = "what a person who tries it out reads")]
fn say(text: &str) {
    println!("{text}");
}

/// The configuration that is written into the folder, to be read and changed.
const CONFIG: &str = r#"# The configuration of `keyholder dev`. Change it as you like; it is written only once.
# Paths are relative to this file.

[grpc]
listen = "127.0.0.1:7443"
certificate = "pki/server.pem"
key = "pki/server-key.pem"

[[trust]]
domain = "keyholder.dev"
ca = ["pki/ca.pem"]

[admin]
listen = "127.0.0.1:7490"

# Where browsers reach the pages for owners: http://127.0.0.1:7480 here. In production an https URL.
[web]
listen = "127.0.0.1:7480"
return_urls = []

[keys]
primary = "encryption.key"

[log]
format = "pretty"
level = "info"

# Who may do what. Each workload is known by the SPIFFE ID in its certificate, in pki/<name>.pem.

[[workload]]
id = "spiffe://keyholder.dev/operator"
roles = ["operator"]
organizations = ["*"]

[[workload]]
id = "spiffe://keyholder.dev/console"
roles = ["manager"]
organizations = ["*"]

[[workload]]
id = "spiffe://keyholder.dev/gateway"
roles = ["resolver"]
organizations = ["*"]
providers = ["*"]
actors = ["*"]

[[workload]]
id = "spiffe://keyholder.dev/auditor"
roles = ["auditor"]
organizations = ["*"]
"#;
