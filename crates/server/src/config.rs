//! `keyholder.toml`, overridden by environment variables.
//!
//! `KEYHOLDER_GRPC__LISTEN=…` stands for `listen` under `[grpc]`, and so on: two underscores for a step down.
//! Three variables have names of their own: `DATABASE_URL`, `KEYHOLDER_ENCRYPTION_KEY` and
//! `KEYHOLDER_ENCRYPTION_KEYS_OLD`. Paths in the file are relative to the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use keyholder_domain::TrustDomain;
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
    /// Postgres.
    #[serde(default)]
    pub database: DatabaseConfig,
    /// The key-encryption keys.
    #[serde(default)]
    pub keys: KeysConfig,
    /// Provider definitions.
    #[serde(default)]
    pub catalog: CatalogConfig,
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

/// Postgres.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// A `postgres://` URL. `DATABASE_URL` overrides it.
    pub url: String,
    /// The most connections that are open at once.
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
    /// A certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Variables under our prefix that are not settings of the file.
const OWN_VARIABLES: &[&str] = &["ENCRYPTION_KEY", "ENCRYPTION_KEYS_OLD", "PG_BIN", "CONFIG"];

impl Config {
    /// Reads the file, then the environment over it.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        if !file.exists() {
            return Err(ConfigError::Missing(file.to_owned()));
        }
        let figment = Figment::new()
            .merge(Toml::file_exact(file))
            .merge(
                Env::prefixed("KEYHOLDER_")
                    .ignore(OWN_VARIABLES)
                    .filter(|key| key.as_str().contains("__"))
                    .split("__"),
            )
            .merge(Env::raw().only(&["DATABASE_URL"]).map(|_| "database.url".into()));
        let mut config: Self = figment.extract().map_err(|error| ConfigError::Invalid(Box::new(error)))?;
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
