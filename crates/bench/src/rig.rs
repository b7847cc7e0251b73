//! Everything that a bench runs against: Postgres on a disk, the server, the provider.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyholder_domain::{Clock as _, SystemClock};
use keyholder_proto::v1;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_testkit::client::channel;
use keyholder_testkit::pki::DevPki;
use keyholder_testkit::postgres::{PrivatePostgres, Settings};
use keyholder_testkit::provider::{Client, Provider, Reuse};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::cpu::{self, Usage};
use crate::pins::Pins;
use crate::plan::ORGANIZATIONS;
use crate::{Failure, Outcome};

/// The name of the database.
pub(crate) const DATABASE: &str = "keyholder";

/// The client's id and secret at the provider.
const CLIENT: (&str, &str) = ("keyholder", "a secret of the bench");

/// So many rows are made at once.
const SEEDED_AT_ONCE: u64 = 100_000;

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// Processes and data are gone when it is dropped.
pub(crate) struct Rig {
    pub(crate) provider: Provider,
    pub(crate) postgres: PrivatePostgres,
    pub(crate) pki: DevPki,
    pub(crate) pins: Pins,
    keyholder: PathBuf,
    // Last: nobody works in it any more.
    dir: TempDir,
}

/// Where the data of the private Postgres really is; it is kept when that is dropped.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
        // Nothing but the data was in it, if it is not in a folder of ours.
        self.0.parent().map(fs::remove_dir);
    }
}

/// A process that answers over mTLS: Keyholder, or the baseline.
pub(crate) struct Server {
    child: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    /// A process whose addresses are known.
    pub(crate) const fn new(child: Child, grpc: SocketAddr, admin: SocketAddr) -> Self {
        Self { child, grpc, admin }
    }

    /// What it has used of the processors.
    pub(crate) fn usage(&self) -> Duration {
        cpu::of_process(self.child.id())
    }

    /// How much memory it has, in MiB.
    pub(crate) fn memory(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(resident.ok_or("no VmRSS")?.parse::<f64>()? / 1_024.0)
    }
}

impl Rig {
    /// Starts Postgres and the provider in a folder, which must be on a disk.
    pub(crate) fn start(out: &Path, keyholder: Option<&Path>, pins: &Pins) -> Outcome<Self> {
        let keyholder = match keyholder {
            Some(binary) => binary.to_owned(),
            None => std::env::current_exe()?.with_file_name("keyholder"),
        };
        if !keyholder.exists() {
            return Err(format!("there is no {}: make bench builds it", keyholder.display()).into());
        }
        // The server is started in another folder.
        let keyholder = keyholder.canonicalize()?;
        fs::create_dir_all(out)?;
        let dir = tempfile::Builder::new().prefix("work-").tempdir_in(out.canonicalize()?)?;
        let provider = Provider::start(Arc::new(SystemClock))?;
        provider.register(Client::confidential(CLIENT.0, CLIENT.1, "http://127.0.0.1:9/back"));
        provider.behave(|manners| manners.reuse = Reuse::None);
        provider.remember(0);
        let pki = DevPki::ensure(dir.path(), SystemClock.now())?;
        write_files(dir.path(), &provider)?;
        let settings = Settings::default()
            .set("shared_buffers", "512MB")
            .set("max_wal_size", "8GB")
            .statement_statistics();
        let folder = dir.path().join("postgres");
        let postgres = pins.as_server(|| Ok(PrivatePostgres::start_with(&folder, &settings)?))?;
        postgres.create_database(DATABASE)?;
        let rig = Self { provider, postgres, pki, pins: *pins, keyholder, dir };
        if !rig.postgres.has_statement_statistics() {
            return Err("this Postgres has no pg_stat_statements (postgresql-contrib has it)".into());
        }
        rig.sql("CREATE EXTENSION pg_stat_statements")?;
        rig.migrate()?;
        Ok(rig)
    }

    /// Another one of the same binary, with a database of its own.
    pub(crate) fn another(&self) -> Outcome<Self> {
        let out = self.dir.path().parent().ok_or("a folder at the root")?;
        Self::start(out, Some(&self.keyholder), &self.pins)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.keyholder, arguments)
    }

    fn command_of(&self, keyholder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(keyholder);
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("DATABASE_URL", self.postgres.url(DATABASE)).env_remove("KEYHOLDER_CONFIG");
        command
    }

    fn migrate(&self) -> Outcome<()> {
        let status = self.command(&["migrate"]).status()?;
        if status.success() { Ok(()) } else { Err(format!("keyholder migrate ended with {status}").into()) }
    }

    /// Starts the server in these roles on its processor, and waits until it is ready.
    pub(crate) async fn server(&self, roles: &str) -> Outcome<Server> {
        self.server_as(roles, &self.keyholder, &[]).await
    }

    /// The same, of any binary and with variables.
    pub(crate) async fn server_as(
        &self,
        roles: &str,
        keyholder: &Path,
        variables: &[(&str, &str)],
    ) -> Outcome<Server> {
        let log = tempfile::Builder::new().suffix(".log").tempfile_in(self.dir.path())?.into_temp_path();
        let log = log.keep()?;
        let file = File::create(&log)?;
        let start = || {
            let mut command = self.command_of(keyholder, &["serve", "--roles", roles]);
            Ok(command.envs(variables.iter().copied()).stderr(file).spawn()?)
        };
        let child = self.pins.as_server(start)?;
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut server = Server::new(child, nowhere, nowhere);
        let listening = until_logged(&mut server, &log, "listening").await?;
        let address = |name: &str| listening[name].as_str().and_then(|text| text.parse().ok());
        server.grpc = address("grpc").ok_or("the log does not say where gRPC is")?;
        server.admin = address("admin").ok_or("the log does not say where the admin port is")?;
        until_logged(&mut server, &log, "serving").await?;
        Ok(server)
    }

    /// The binary.
    pub(crate) fn keyholder(&self) -> &Path {
        &self.keyholder
    }

    /// The folder of certificates.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the server and Postgres have used so far.
    pub(crate) fn usage(&self, server: &Server) -> Usage {
        let postgres = self.postgres.process_id().map_or(Duration::ZERO, cpu::of_family);
        Usage { server: server.usage(), postgres }
    }

    /// A channel to a server as a workload.
    pub(crate) fn channel(&self, server: &Server, workload: &str) -> Outcome<Channel> {
        let (certificate, key) = (self.pki.certificate(workload), self.pki.key(workload));
        Ok(channel(server.grpc, &self.pki.certificate("ca"), &certificate, &key)?)
    }

    /// Runs SQL, and returns what psql prints.
    pub(crate) fn sql(&self, sql: &str) -> Outcome<String> {
        Ok(self.postgres.psql(DATABASE, sql)?.trim().to_owned())
    }

    /// Runs SQL whose answer is one number.
    pub(crate) fn number(&self, sql: &str) -> Outcome<u64> {
        let told = self.sql(sql)?;
        told.parse().map_err(|_| format!("not a number: {told}").into())
    }

    /// Connects so many accounts whose tokens the provider has issued already, in organizations whose names begin with
    /// `name-`.
    pub(crate) async fn import(
        &self,
        server: &Server,
        name: &str,
        number: usize,
    ) -> Outcome<Vec<v1::Connection>> {
        let requests = (0..number).map(|number| {
            let tokens = self.provider.issue(CLIENT.0, &format!("{name}-{number}"), &["read"]);
            let refresh = tokens.refresh.unwrap_or_default();
            create(name, number, (tokens.access, refresh), tokens.ends.unix_timestamp())
        });
        self.connect(server, requests).await
    }

    /// Adds connections that are like a real one, with a sealed credential of the same length that nobody can open, due a
    /// month or two from now. The rows go in as quickly as may be: no checks, no triggers, no waiting for the disk.
    pub(crate) fn seed(&self, from: u64, to: u64) -> Outcome<()> {
        for first in (from..to).step_by(usize::try_from(SEEDED_AT_ONCE)?) {
            let last = (first + SEEDED_AT_ONCE).min(to) - 1;
            self.sql(&format!(
                "SET session_replication_role = replica; SET synchronous_commit = off;
                 INSERT INTO organizations (organization_id, change)
                 SELECT 'seeded-' || number, 1000000000 FROM generate_series(0, 99) number ON CONFLICT DO NOTHING;
                 WITH made AS (
                     INSERT INTO connections (organization_id, connection_id, owner, provider_id, auth_method, display_name,
                         account_id, account_name, account_email, scopes, state, state_reason, sealed_credential,
                         sealed_generation, credential_fingerprint, credential_fields, config, labels, change, generation,
                         create_time, update_time, token_client_id, token_scopes_asked, token_expire_time,
                         token_renewal_missing, sealed_renewal)
                     SELECT 'seeded-' || number % 100,
                         ('01900000-0000-7000-8000-' || lpad(to_hex(number), 12, '0'))::uuid, 'user:' || number,
                         c.provider_id, c.auth_method, c.display_name, 'account-' || number, c.account_name,
                         c.account_email, c.scopes, c.state, c.state_reason, c.sealed_credential, c.sealed_generation,
                         c.credential_fingerprint, c.credential_fields, c.config, c.labels, number + 1, c.generation,
                         c.create_time, c.update_time, c.token_client_id, c.token_scopes_asked,
                         now() + interval '90 days', c.token_renewal_missing, c.sealed_renewal
                     FROM generate_series({first}, {last}) number,
                         (SELECT * FROM connections ORDER BY organization_id, connection_id LIMIT 1) c
                     RETURNING organization_id, connection_id, token_expire_time
                 ), versions AS (
                     INSERT INTO connection_versions (connection_id) SELECT connection_id FROM made
                 )
                 INSERT INTO refreshes (organization_id, connection_id, client_organization_id, provider_id, client_id,
                     due_time, earliest_time, deadline, call_seconds, last_success_time)
                 SELECT made.organization_id, made.connection_id, r.client_organization_id, r.provider_id, r.client_id,
                     now() + interval '30 days' * (1 + random()), now(), made.token_expire_time, r.call_seconds, now()
                 FROM made, (SELECT * FROM refreshes ORDER BY organization_id, connection_id LIMIT 1) r"
            ))?;
        }
        // So that nobody does this while it is measured.
        self.sql(
            "VACUUM (ANALYZE) connections; VACUUM (ANALYZE) connection_versions; VACUUM (ANALYZE) refreshes",
        )?;
        self.sql("CHECKPOINT")?;
        Ok(())
    }

    /// Connects accounts, a few at once.
    pub(crate) async fn connect(
        &self,
        server: &Server,
        requests: impl Iterator<Item = v1::CreateConnectionRequest>,
    ) -> Outcome<Vec<v1::Connection>> {
        let console = ConnectionServiceClient::new(self.channel(server, "console")?);
        let (mut made, mut under_way) = (Vec::new(), JoinSet::new());
        for request in requests {
            if under_way.len() >= ORGANIZATIONS
                && let Some(one) = under_way.join_next().await
            {
                made.push(one??);
            }
            let mut console = console.clone();
            under_way.spawn(async move {
                let answer = console.create_connection(request).await?.into_inner();
                answer.connection.ok_or_else(|| Failure::from("an answer without a connection"))
            });
        }
        while let Some(one) = under_way.join_next().await {
            made.push(one??);
        }
        Ok(made)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _data = Data(self.postgres.data_dir().to_owned());
        // The server must have ended before its data goes.
        self.postgres.kill_hard().ok();
    }
}

/// A request that connects an account whose tokens, an access token and a refresh token, were issued elsewhere.
pub(crate) fn create(
    name: &str,
    number: usize,
    (access, refresh): (String, String),
    seconds: i64,
) -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest {
        organization_id: format!("{name}-{}", number % ORGANIZATIONS),
        owner: format!("user:{name}-{number}"),
        provider_id: "demo".to_owned(),
        auth_method: v1::AuthMethod::Oauth2Code.into(),
        credentials: [("access_token".to_owned(), access), ("refresh_token".to_owned(), refresh)].into(),
        token_expire_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        ..Default::default()
    }
}

async fn until_logged(server: &mut Server, log: &Path, message: &str) -> Outcome<serde_json::Value> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let text = fs::read_to_string(log)?;
        let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        if let Some(line) = lines.find(|line: &serde_json::Value| line["message"] == message) {
            return Ok(line);
        }
        if let Some(status) = server.child.try_wait()? {
            return Err(format!("keyholder ended with {status}: {text}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("keyholder did not say {message:?}").into())
}

// === Files ===

fn write_files(dir: &Path, provider: &Provider) -> Outcome<()> {
    fs::write(dir.join("keyholder.toml"), config(provider))?;
    fs::write(dir.join("demo.secret"), CLIENT.1)?;
    fs::write(dir.join("encryption.key"), "S2V5aG9sZGVyLXRlc3Qta2V5LTMyLWJ5dGVzLWxvbmc=")?;
    restrict(&dir.join("encryption.key"))?;
    fs::create_dir(dir.join("providers"))?;
    fs::write(dir.join("providers/demo.yaml"), definition(provider))?;
    Ok(())
}

fn restrict(file: &Path) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
}

fn config(provider: &Provider) -> String {
    format!(
        r#"
[grpc]
listen = "127.0.0.1:0"
certificate = "server.pem"
key = "server-key.pem"
[admin]
listen = "127.0.0.1:0"
[[trust]]
domain = "keyholder.dev"
ca = ["ca.pem"]
[[workload]]
id = "spiffe://keyholder.dev/console"
organizations = ["*"]
roles = ["manager"]
[[workload]]
id = "spiffe://keyholder.dev/gateway"
organizations = ["*"]
roles = ["resolver"]
providers = ["*"]
actors = ["*"]
[keys]
primary = "encryption.key"
[catalog]
directory = "providers"
[oauth.demo]
client_id = "{}"
client_secret_file = "demo.secret"
[danger]
egress = ["{}"]
"#,
        CLIENT.0,
        provider.address(),
    )
}

fn definition(provider: &Provider) -> String {
    let at = provider.issuer();
    format!(
        "id: demo
name: Demo
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: {at}
auth_methods:
  - method: oauth2_code
    title: Sign in
oauth2:
  issuer: {at}
  sends_iss: true
  client_authentication: basic
  authorize: {{ url: '{at}/authorize' }}
  token: {{ url: '{at}/token' }}
  refresh: {{ reuse: none }}
scopes:
  - {{ name: read, title: Read }}
default_scopes: [read]
"
    )
}
