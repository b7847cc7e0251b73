//! `keyholder.toml`, overridden by environment variables.
//!
//! `KEYHOLDER_GRPC__LISTEN=…` stands for `listen` under `[grpc]`, and so on: two underscores for a step down.
//! Three variables have names of their own: `DATABASE_URL`, `KEYHOLDER_ENCRYPTION_KEY` and
//! `KEYHOLDER_ENCRYPTION_KEYS_OLD`. Paths in the file are relative to the file.

mod oauth;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use keyholder_broker::RefresherSettings;
use keyholder_domain::TrustDomain;
use keyholder_egress::{
    Danger, Egress, SelfAddress, Settings as EgressSettings, SettingsError as EgressSettingsError,
};
use keyholder_identity::{CaBundle, ConfigError as IdentityError, Policy, ServerCertificate, TrustStore};
use keyholder_vault::{KeyEncryptionKey, KeyError, KeyRing, SecretString};
use serde::Deserialize;

use crate::telemetry::LogConfig;

/// The whole configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The workload port.
    pub grpc: GrpcConfig,
    /// The trust domains whose certificates are accepted.
    #[serde(default)]
    pub trust: Vec<TrustConfig>,
    /// The authorities of workloads that are known by a DNS name.
    #[serde(default)]
    pub dns_trust: Option<DnsTrustConfig>,
    /// Probes and metrics.
    #[serde(default)]
    pub admin: AdminConfig,
    /// The pages for owners, and who may be sent where.
    #[serde(default)]
    pub web: WebConfig,
    /// The installation's OAuth clients, by provider.
    #[serde(default)]
    pub oauth: BTreeMap<String, OAuthClientConfig>,
    /// Postgres.
    #[serde(default)]
    pub database: DatabaseConfig,
    /// The audit.
    #[serde(default)]
    pub audit: AuditConfig,
    /// The key-encryption keys.
    #[serde(default)]
    pub keys: KeysConfig,
    /// Provider definitions.
    #[serde(default)]
    pub catalog: CatalogConfig,
    /// The refresher.
    #[serde(default)]
    pub refresher: RefresherConfig,
    /// What may be called outside.
    #[serde(default)]
    pub egress: EgressSettings,
    /// What must not be in production.
    #[serde(default)]
    pub danger: Danger,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
    /// Which workload may do what.
    #[serde(default, rename = "workload")]
    pub policy: Policy,
    /// The folder that relative paths start from.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// The workload port.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcConfig {
    /// Where to listen.
    #[serde(default = "GrpcConfig::default_listen")]
    pub listen: SocketAddr,
    /// Our certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl GrpcConfig {
    fn default_listen() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 7443))
    }
}

/// A trust domain.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    /// Its name, as in `spiffe://<name>/…`.
    pub domain: String,
    /// Its authorities' certificates, PEM; several during a rotation.
    pub ca: Vec<PathBuf>,
}

/// The authorities of workloads that are known by a DNS name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsTrustConfig {
    /// Their certificates, PEM.
    pub ca: Vec<PathBuf>,
}

/// Probes and metrics.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where to listen.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7490)) }
    }
}

/// The pages for owners.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebConfig {
    /// Where to listen. Put a proxy that speaks https in front of it.
    pub listen: SocketAddr,
    /// Where browsers reach it, such as `https://connect.example.com`. Empty: nothing listens, and owners cannot be asked
    /// for consent in a browser.
    pub public_url: String,
    /// Where a browser may be sent in the end: URLs, or everything below a path with `/*` at the end.
    pub return_urls: Vec<String>,
    /// Redirect URIs of apps that forward code and state to CompleteAuthorization themselves.
    pub app_redirect_uris: Vec<String>,
    /// Whether every authorization must be completed by the app that began it.
    pub require_completion: bool,
    /// How many minutes an owner has to consent.
    pub consent_minutes: u16,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7480)),
            public_url: String::new(),
            return_urls: Vec::new(),
            app_redirect_uris: Vec::new(),
            require_completion: false,
            consent_minutes: 10,
        }
    }
}

/// An OAuth client of the installation.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuthClientConfig {
    /// Its public id.
    pub client_id: String,
    /// The file of its secret.
    pub client_secret_file: Option<PathBuf>,
    /// During a change, the file of the secret before.
    pub previous_client_secret_file: Option<PathBuf>,
    /// For `private_key_jwt`: the file of its private key, PEM.
    pub private_key_file: Option<PathBuf>,
    /// For `private_key_jwt`: RS256 or ES256.
    pub private_key_algorithm: Option<KeyAlgorithm>,
    /// For `private_key_jwt`: the key's id at the provider.
    #[serde(default)]
    pub private_key_id: String,
}

/// A signature's algorithm.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum KeyAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
}

/// Postgres.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// A `postgres://` URL. `DATABASE_URL` overrides it.
    pub url: String,
    /// The most connections that are open at once, besides two for each processor that are for releases alone.
    pub max_connections: u32,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: String::new(), max_connections: 16 }
    }
}

impl std::fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// The audit.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Whether the event of a release must be on Postgres's disk before the credential leaves.
    pub commit: CommitConfig,
    /// For how many days events are kept at least; left out: for ever.
    pub retention_days: Option<NonZeroU16>,
}

impl AuditConfig {
    /// How long events are kept at least.
    pub fn retention(&self) -> Option<Duration> {
        self.retention_days.map(|days| Duration::from_secs(u64::from(days.get()) * 86_400))
    }
}

/// When an audit event counts as committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitConfig {
    /// When it is on the disk.
    #[default]
    Durable,
    /// When it is in Postgres's memory: a crash of Postgres itself may lose the events of the last moments, of releases that
    /// were made.
    Async,
}

/// The key-encryption keys: 32 random bytes in base64 each.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// The file of the key that wraps. `KEYHOLDER_ENCRYPTION_KEY` overrides it with the key itself.
    pub primary: Option<PathBuf>,
    /// Files of keys that only open. `KEYHOLDER_ENCRYPTION_KEYS_OLD` adds keys, separated by commas.
    pub old: Vec<PathBuf>,
}

/// Provider definitions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatalogConfig {
    /// A folder of definitions besides the built-in ones.
    pub directory: Option<PathBuf>,
}

/// The refresher.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RefresherConfig {
    /// The folder of what must outlive a process: answers that the database could not take, and how far the database has
    /// come. On a disk that stays; replicas may share it.
    pub state_directory: PathBuf,
    /// The name of this installation, such as `prod-eu`. A database with another name is a copy, and nothing in it is
    /// refreshed until an operator says so.
    pub cluster: String,
    /// How many connections are refreshed at once by one process.
    pub workers: u16,
    /// How many are refreshed at once for one OAuth client, by all processes.
    pub per_client: u16,
}

impl Default for RefresherConfig {
    fn default() -> Self {
        Self { state_directory: "state".into(), cluster: String::new(), workers: 64, per_client: 32 }
    }
}

/// What is wrong with the configuration, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("there is no configuration file {}; --config names another, and keyholder dev needs none", .0.display())]
    Missing(PathBuf),
    /// The file or a variable does not fit.
    #[error("{}", one_line(.0))]
    Invalid(Box<figment::Error>),
    /// No database is named.
    #[error("no database: set DATABASE_URL, or url under [database]")]
    NoDatabase,
    /// Not enough for the server's own needs.
    #[error("max_connections under [database] must be at least {MIN_CONNECTIONS}")]
    TooFewConnections,
    /// A variable under our prefix that means nothing.
    #[error(
        "{0} is not a variable that Keyholder knows; a setting of the file is KEYHOLDER_<SECTION>__<SETTING>, with two underscores"
    )]
    UnknownVariable(String),
    /// No key is named.
    #[error(
        "no encryption key: set KEYHOLDER_ENCRYPTION_KEY (openssl rand -base64 32 makes one), or primary under [keys]"
    )]
    NoKey,
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A trust domain's name is no name.
    #[error("[[trust]] domain {0:?}: {1}")]
    TrustDomain(String, keyholder_domain::Invalid),
    /// `[web]` is wrong.
    #[error("[web] {0}: {1}")]
    Web(&'static str, &'static str),
    /// An OAuth client is for a provider that there is not, or that has no OAuth.
    #[error("the OAuth client for {0:?} is for no provider with OAuth in the catalog")]
    OAuthProvider(String),
    /// An OAuth client lacks something.
    #[error("the OAuth client for {0}: {1}")]
    OAuthClient(String, &'static str),
    /// A file of an OAuth client cannot be read.
    #[error("the OAuth client for {provider}: cannot read {}", .file.display())]
    OAuthFile {
        /// Whose client.
        provider: String,
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `[egress]` or `[danger]` is wrong.
    #[error("[egress] {0}")]
    Egress(#[from] EgressSettingsError),
    /// `[refresher]` is wrong.
    #[error("[refresher] {0}")]
    Refresher(&'static str),
    /// A certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Variables under our prefix that are not settings of the file.
const OWN_VARIABLES: &[&str] = &["ENCRYPTION_KEY", "ENCRYPTION_KEYS_OLD", "PG_BIN", "CONFIG", "BIN"];

/// The fewest database connections: one listens for changes, one changes, two release.
const MIN_CONNECTIONS: u32 = 4;

/// Refuses a variable that was meant for us and would be passed over.
fn refuse_unknown_variables() -> Result<(), ConfigError> {
    let unknown = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).find(|name| {
        name.strip_prefix("KEYHOLDER_").is_some_and(|rest| {
            !rest.contains("__") && !OWN_VARIABLES.contains(&rest) && !rest.starts_with("OAUTH_")
        })
    });
    unknown.map_or(Ok(()), |name| Err(ConfigError::UnknownVariable(name)))
}

impl Config {
    /// Reads the file, then the environment over it.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        if !file.exists() {
            return Err(ConfigError::Missing(file.to_owned()));
        }
        let figment = Figment::new()
            .merge(Toml::file_exact(file))
            .merge(Env::prefixed("KEYHOLDER_").filter(|key| key.as_str().contains("__")).split("__"))
            .merge(Env::raw().only(&["DATABASE_URL"]).map(|_| "database.url".into()));
        refuse_unknown_variables()?;
        let mut config: Self = figment.extract().map_err(|error| ConfigError::Invalid(Box::new(error)))?;
        if config.database.max_connections < MIN_CONNECTIONS {
            return Err(ConfigError::TooFewConnections);
        }
        config.folder = file.parent().map(Path::to_owned).unwrap_or_default();
        Ok(config)
    }

    /// Where Postgres is.
    pub fn database_url(&self) -> Result<&str, ConfigError> {
        if self.database.url.is_empty() { Err(ConfigError::NoDatabase) } else { Ok(&self.database.url) }
    }

    /// The key-encryption keys, from the environment or from files.
    pub fn key_ring(&self) -> Result<KeyRing, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let primary = match (variable("KEYHOLDER_ENCRYPTION_KEY"), &self.keys.primary) {
            (Some(text), _) => KeyEncryptionKey::from_base64(&SecretString::from(text))?,
            (None, Some(file)) => KeyEncryptionKey::from_file(&self.path(file))?,
            (None, None) => return Err(ConfigError::NoKey),
        };
        let mut old = Vec::new();
        for text in variable("KEYHOLDER_ENCRYPTION_KEYS_OLD").iter().flat_map(|keys| keys.split(',')) {
            old.push(KeyEncryptionKey::from_base64(&SecretString::from(text.trim().to_owned()))?);
        }
        for file in &self.keys.old {
            old.push(KeyEncryptionKey::from_file(&self.path(file))?);
        }
        Ok(KeyRing::new(primary, old)?)
    }

    /// The authorities that are trusted.
    pub fn trust_store(&self) -> Result<TrustStore, ConfigError> {
        let mut store = TrustStore::new();
        for trust in &self.trust {
            let domain = TrustDomain::parse(&trust.domain)
                .map_err(|error| ConfigError::TrustDomain(trust.domain.clone(), error))?;
            store.add_domain(domain, CaBundle::load(&self.paths(&trust.ca))?)?;
        }
        if let Some(trust) = &self.dns_trust {
            store.set_dns(CaBundle::load(&self.paths(&trust.ca))?);
        }
        Ok(store)
    }

    /// The way out: `[egress]` with the entries of `[danger]` and our own listeners, which are never called.
    pub fn egress(&self) -> Result<Egress, ConfigError> {
        let mut settings = self.egress.clone();
        settings.roots = settings.roots.map(|roots| self.path(&roots));
        settings.danger.clone_from(&self.danger.egress);
        for entry in &settings.danger {
            tracing::warn!(%entry, "[danger]: may be called in the clear and on this machine; never in production");
        }
        let own = [self.grpc.listen, self.admin.listen, self.web.listen];
        settings.self_addresses.extend(own.map(SelfAddress::from));
        Ok(Egress::new(&settings)?)
    }

    /// How connections are refreshed. `here`: by this process.
    pub fn refresher_settings(&self, here: bool) -> Result<RefresherSettings, ConfigError> {
        let config = &self.refresher;
        if config.workers == 0 || config.per_client == 0 {
            return Err(ConfigError::Refresher("workers and per_client must be at least 1"));
        }
        if config.cluster.len() > 64 || config.cluster.chars().any(char::is_control) {
            return Err(ConfigError::Refresher(
                "cluster must be at most 64 characters, without control characters",
            ));
        }
        Ok(RefresherSettings {
            state_directory: here.then(|| self.path(&config.state_directory)),
            cluster: config.cluster.clone(),
            workers: config.workers.into(),
            per_client: config.per_client.into(),
        })
    }

    /// Our own certificate.
    pub fn server_certificate(&self) -> Result<ServerCertificate, ConfigError> {
        Ok(ServerCertificate::load(&self.path(&self.grpc.certificate), &self.path(&self.grpc.key))?)
    }

    /// A path of the file, from the file's folder.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    fn paths(&self, paths: &[PathBuf]) -> Vec<PathBuf> {
        paths.iter().map(|path| self.path(path)).collect()
    }
}

/// The first problem of a configuration, on one line and without the lines of the file that the TOML parser quotes:
/// a line may hold a password.
fn one_line(error: &figment::Error) -> String {
    let text = error.clone().into_iter().next().map(|first| first.to_string()).unwrap_or_default();
    let told: Vec<&str> = text.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
    let line = told.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
    // The library's name for the part of the file that is always read.
    line.replace("\"default.", "\"")
}
