//! The server: opens its ports, waits for the schema, serves until told to stop, and drains.

mod workloads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyholder_broker::{Broker, SchemaState, StoreError, keep_running};
use keyholder_catalog::{Catalog, LoadError};
use keyholder_domain::{Clock, ProviderId, SystemClock};
use keyholder_egress::{Egress, Refusal, Target};
use keyholder_identity::server_config;
use keyholder_store::{Commit, Store, StoreSettings};
use keyholder_upstream::Upstream;
use keyholder_vault::KeyRing;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::{Admin, router};
use crate::call::chain;
use crate::config::{CommitConfig, Config, ConfigError};
use crate::metrics::Metrics;
use workloads::Workloads;

/// The largest request that is read.
pub const MAX_REQUEST_BYTES: usize = 2 * 1024 * 1024;

/// The largest question that health and reflection read.
const MAX_QUESTION_BYTES: usize = 8 * 1024;

/// How long calls in flight may take to finish once the server drains.
const DRAIN: Duration = Duration::from_secs(20);

/// How long the last uses of grants may take to be written down after that.
const LAST_USES: Duration = Duration::from_secs(2);

/// How long database connections may take to close in the end. Together they stay below the 30 seconds that
/// platforms commonly wait before they kill.
const CLOSE: Duration = Duration::from_secs(5);

/// How often the schema is looked at while it is not ours yet.
const SCHEMA_POLL: Duration = Duration::from_secs(1);

/// Why the server did not start, or stopped, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The provider definitions.
    #[error(transparent)]
    Catalog(#[from] LoadError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A provider definition whose base URL may not be called.
    #[error("the base URL of the provider {0} may not be called: {1}")]
    Definition(String, Refusal),
    /// A key-encryption key that the database needs.
    #[error(
        "the database needs the encryption key {0}, which is not configured; KEYHOLDER_ENCRYPTION_KEYS_OLD and old under [keys] take keys that only open"
    )]
    KeyMissing(String),
    /// A certificate or the policy.
    #[error(transparent)]
    Identity(#[from] keyholder_identity::ConfigError),
    /// An argument of a command.
    #[error("{0}: {1}")]
    Argument(&'static str, keyholder_domain::Invalid),
    /// Nothing for a command to do.
    #[error("no client of {0}, as far as it was named, is in quarantine")]
    NothingInQuarantine(ProviderId),
    /// The refresher's folder.
    #[error("[refresher] state_directory: cannot write in {}", .directory.display())]
    StateDirectory {
        /// Which one.
        directory: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A port.
    #[error("cannot listen on {address} ({name})")]
    Listen {
        /// The setting.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The gRPC server.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
    /// A thread cannot be started.
    #[error("the threads of the gRPC server cannot be started")]
    Runtime(#[source] std::io::Error),
    /// Ours: a thread ended before its time.
    #[error("a thread of the gRPC server panicked")]
    Thread,
    /// The descriptor set.
    #[error("the reflection service cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Serves workloads and owners.
    Server,
    /// Refreshes connections.
    Refresher,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The workload port; none without the role.
    pub grpc: Option<SocketAddr>,
    /// Probes and metrics.
    pub admin: SocketAddr,
    /// The pages for owners; none without a public URL.
    pub web: Option<SocketAddr>,
}

/// A server that listens, and is not serving yet.
#[derive(Debug)]
pub struct Listening {
    roles: Vec<Role>,
    grpc: Option<TcpListener>,
    admin: TcpListener,
    web: Option<TcpListener>,
    config: Config,
    broker: Broker,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Listening {
    /// Checks everything that can be wrong at start, and opens the ports.
    pub async fn open(mut config: Config, roles: &[Role]) -> Result<Self, ServeError> {
        let serves = roles.contains(&Role::Server);
        let refreshes = roles.contains(&Role::Refresher);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let directory = config.catalog.directory.as_ref().map(|directory| config.path(directory));
        let catalog = Catalog::load(directory.as_deref())?;
        let keys = config.key_ring()?;
        let store = connect(&config).await?;
        match store.schema_state().await? {
            SchemaState::Newer => return Err(StoreError::SchemaNewer.into()),
            SchemaState::Current => check_keys(&store, &keys).await?,
            SchemaState::Older => {}
        }
        let grpc = if serves { Some(listen("grpc.listen", &mut config.grpc.listen).await?) } else { None };
        let admin = listen("admin.listen", &mut config.admin.listen).await?;
        let web = match config.web.public_url.as_str() {
            "" => None,
            _ if !serves => None,
            _ => Some(listen("web.listen", &mut config.web.listen).await?),
        };
        let egress = config.egress()?;
        check_definitions(&catalog, &egress)?;
        let upstream = Upstream::new(egress);
        let oauth = config.oauth_settings(&catalog)?;
        let refresher = config.refresher_settings(refreshes)?;
        let broker = Broker::new(store, catalog, keys, upstream, oauth, refresher, Arc::clone(&clock));
        broker.prepare_state_directory().map_err(|source| ServeError::StateDirectory {
            directory: config.path(&config.refresher.state_directory),
            source,
        })?;
        let metrics = Arc::new(Metrics::new());
        let listening = Self { roles: roles.to_vec(), grpc, admin, web, config, broker, metrics, clock };
        if let Ok(Addresses { grpc, admin, web }) = listening.addresses() {
            let grpc = grpc.map(|grpc| grpc.to_string());
            let web = web.map(|web| web.to_string());
            tracing::info!(grpc, %admin, web, "listening");
        }
        Ok(listening)
    }

    /// Where the ports are.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            grpc: self.grpc.as_ref().map(TcpListener::local_addr).transpose()?,
            admin: self.admin.local_addr()?,
            web: self.web.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }

    /// Serves until `stop` ends, then drains.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let (drain, draining) = watch::channel(false);
        let (closing_store, store_closed) = watch::channel(());
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, false).await;
        let retention = self.config.audit.retention();
        let grpc = match self.grpc {
            None => None,
            Some(listener) => {
                let parts = Workloads {
                    listener,
                    config: self.config,
                    broker: self.broker.clone(),
                    metrics: Arc::clone(&self.metrics),
                    clock: self.clock,
                };
                Some(parts.serve(health_service, draining.clone(), store_closed))
            }
        };
        let mut ended = draining.clone();
        let grpc = Box::pin(async move {
            match grpc {
                Some(grpc) => grpc.await,
                None => {
                    ended.wait_for(|draining| *draining).await.ok();
                    Ok(())
                }
            }
        });
        let refreshes = self.roles.contains(&Role::Refresher);
        let (broker, ending) = (self.broker.clone(), draining.clone());
        let refreshing = tokio::spawn(async move {
            let refreshing = || refresh_when_migrated(broker.clone(), refreshes, ending.clone());
            keep_running("refresher", refreshing).await;
        });
        let admin = Admin { broker: self.broker.clone(), metrics: self.metrics };
        let (listener, owners) = (self.broker.clone(), self.broker.clone());
        let (tender, ending) = (self.broker.clone(), draining.clone());
        let keeper = self.broker.clone();
        let web = self.web;
        let background = [
            tokio::spawn(async move {
                if let Err(error) = axum::serve(self.admin, router(admin)).await {
                    tracing::error!(%error, "the admin listener failed");
                }
            }),
            tokio::spawn(serve_when_migrated(self.broker.clone(), health.clone(), draining.clone())),
            tokio::spawn(async move {
                keep_running("changes", || listener.listen_for_changes()).await;
            }),
            tokio::spawn(async move {
                keep_running("caches", || keeper.tend_caches()).await;
            }),
            tokio::spawn(tend_when_migrated(tender, retention, ending)),
            tokio::spawn(async move {
                if let Some(web) = web {
                    crate::web::serve(web, owners).await;
                }
            }),
            tokio::spawn(async move {
                stop.await;
                tracing::info!("draining");
                drain.send_replace(true);
                // Until the process ends: dropping the sender would look like draining to whoever starts to watch.
                std::future::pending::<()>().await;
            }),
        ];
        let result = until_drained(grpc, refreshing, draining, &health).await;
        background.iter().for_each(tokio::task::JoinHandle::abort);
        // What is not written in time is told by the audit alone.
        tokio::time::timeout(LAST_USES, self.broker.write_uses()).await.ok();
        until_closed(self.broker.store().close()).await;
        drop(closing_store);
        tracing::info!("stopped");
        result
    }
}

/// Turns health to SERVING once the schema is ours, then ends.
async fn serve_when_migrated(broker: Broker, health: HealthReporter, draining: watch::Receiver<bool>) {
    let mut said = false;
    while !*draining.borrow() {
        match broker.store().schema_state().await {
            Ok(SchemaState::Current) => match check_keys(broker.store(), broker.keys()).await {
                Ok(()) => {
                    set_health(&health, true).await;
                    tracing::info!("serving");
                    return;
                }
                Err(error) => tracing::error!(error = %chain(&error), "not serving"),
            },
            Ok(state) if !said => {
                tracing::warn!(?state, "the database is not migrated; run keyholder migrate");
                said = true;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "the database cannot be reached"),
        }
        tokio::time::sleep(SCHEMA_POLL).await;
    }
}

/// Refreshes connections once the schema is ours. Begins nothing new once the server drains, and ends with what it has
/// begun.
async fn refresh_when_migrated(broker: Broker, refreshes: bool, mut draining: watch::Receiver<bool>) {
    if !refreshes {
        return;
    }
    while !matches!(broker.store().schema_state().await, Ok(SchemaState::Current)) {
        tokio::select! {
            () = tokio::time::sleep(SCHEMA_POLL) => {}
            _ = draining.wait_for(|draining| *draining) => return,
        }
    }
    Box::pin(broker.tend_refreshes(draining)).await;
}

/// Sees to flows, revocations and the audit once the schema is ours. Begins nothing new once the server drains.
async fn tend_when_migrated(
    broker: Broker,
    retention: Option<Duration>,
    mut draining: watch::Receiver<bool>,
) {
    let tending = async {
        while !matches!(broker.store().schema_state().await, Ok(SchemaState::Current)) {
            tokio::time::sleep(SCHEMA_POLL).await;
        }
        tokio::join!(
            broker.tend_authorizations(),
            keep_running("audit", || broker.tend_audit(retention)),
            keep_running("uses", || broker.tend_uses()),
        );
    };
    tokio::select! {
        () = tending => {}
        _ = draining.wait_for(|draining| *draining) => {}
    }
}

/// Runs the gRPC server until it ends by itself or has drained for long enough. Without the limit, a connection
/// that never says anything would keep it for ever.
async fn until_drained(
    grpc: impl Future<Output = Result<(), ServeError>>,
    refreshing: impl Future<Output = Result<(), tokio::task::JoinError>>,
    mut draining: watch::Receiver<bool>,
    health: &HealthReporter,
) -> Result<(), ServeError> {
    let too_long = async {
        // An error means that the sender is gone, which is the end too.
        draining.wait_for(|draining| *draining).await.ok();
        set_health(health, false).await;
        tokio::time::sleep(DRAIN).await;
    };
    let all = async {
        grpc.await?;
        // A panic has said so in the log.
        refreshing.await.ok();
        Ok(())
    };
    tokio::select! {
        result = all => result,
        () = too_long => {
            tracing::warn!("calls were still in flight when the time to drain was over");
            Ok(())
        }
    }
}

/// Waits until the database connections are closed, or for long enough.
async fn until_closed(closing: impl Future<Output = ()>) {
    if tokio::time::timeout(CLOSE, closing).await.is_err() {
        tracing::warn!("a database connection was still in use at the end");
    }
}

/// The services whose health is told, and the empty name, which stands for the whole.
const HEALTH_NAMES: &[&str] = &[
    "",
    "keyholder.v1.ProviderService",
    "keyholder.v1.ConnectionService",
    "keyholder.v1.GrantService",
    "keyholder.v1.OAuthClientService",
    "keyholder.v1.AuditService",
];

async fn set_health(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in HEALTH_NAMES {
        health.set_service_status(*name, status).await;
    }
}

/// Checks everything that a configuration names: files, certificates, keys, definitions, the database.
pub async fn check(config: &Config) -> Result<(), ServeError> {
    let directory = config.catalog.directory.as_ref().map(|directory| config.path(directory));
    let catalog = Catalog::load(directory.as_deref())?;
    check_definitions(&catalog, &config.egress()?)?;
    config.oauth_settings(&catalog)?;
    config.refresher_settings(true)?;
    let keys = config.key_ring()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    server_config(config.server_certificate()?, config.trust_store()?, &config.policy, clock)?;
    let store = connect(config).await?;
    match store.schema_state().await? {
        SchemaState::Current => check_keys(&store, &keys).await,
        SchemaState::Older => Err(StoreError::SchemaOlder.into()),
        SchemaState::Newer => Err(StoreError::SchemaNewer.into()),
    }
}

/// Holds the base URLs of provider definitions to the rules of the way out, as far as they need no lookup.
fn check_definitions(catalog: &Catalog, egress: &Egress) -> Result<(), ServeError> {
    for provider in catalog.iter() {
        let Ok(Some(url)) = provider.render_base_url(&|_| None) else { continue };
        let refused = |refusal: Refusal| ServeError::Definition(provider.id.to_string(), refusal);
        Target::parse(&url, egress.rules()).map_err(refused)?;
    }
    Ok(())
}

/// Refuses to go on without a key that some organization's data key needs: better no server than one that cannot
/// open what it holds, and that seals new credentials under a key that nobody meant.
async fn check_keys(store: &Store, keys: &KeyRing) -> Result<(), ServeError> {
    let missing = store.wrapping_key_ids().await?.into_iter().find(|id| !keys.ids().any(|known| known == id));
    missing.map_or(Ok(()), |id| Err(ServeError::KeyMissing(id)))
}

/// Ends when the process is told to stop: SIGTERM, or Ctrl-C.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be caught; the server will stop without draining");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Connects to the database that a configuration names.
pub async fn connect(config: &Config) -> Result<Store, ServeError> {
    let settings = StoreSettings {
        max_connections: config.database.max_connections,
        release_commit: match config.audit.commit {
            CommitConfig::Durable => Commit::Durable,
            CommitConfig::Async => Commit::Async,
        },
        ..StoreSettings::new(config.database_url()?)
    };
    Ok(Store::connect(&settings).await?)
}

/// Listens at an address, and puts the port that it came to in place of port 0: the way out must know it.
async fn listen(name: &'static str, address: &mut SocketAddr) -> Result<TcpListener, ServeError> {
    let asked = *address;
    let cannot = |source| ServeError::Listen { name, address: asked, source };
    let listener = TcpListener::bind(asked).await.map_err(cannot)?;
    *address = listener.local_addr().map_err(cannot)?;
    Ok(listener)
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(keyholder_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that grpcurl shows the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_and_connections_without_end_do_not_hold_up_the_end_until_platforms_kill() {
        let (_drain, draining) = watch::channel(true);
        let (health, _) = tonic_health::server::health_reporter();
        let end = async {
            until_drained(pending(), pending(), draining, &health).await.unwrap();
            until_closed(pending()).await;
        };
        // The clock is paused: it moves only to the next limit, and only if there is one.
        assert!(tokio::time::timeout(Duration::from_secs(30), end).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_limits_the_server_until_it_drains() {
        let (_drain, draining) = watch::channel(false);
        let (health, _) = tonic_health::server::health_reporter();
        let serving = until_drained(pending(), pending(), draining, &health);
        assert!(tokio::time::timeout(Duration::from_secs(86_400), serving).await.is_err());
    }
}
