//! A world of its own for a test: a private Postgres, an authority, and real Keyholder processes.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyholder_domain::{Clock as _, SystemClock};
use keyholder_proto::v1::audit_service_client::AuditServiceClient;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::provider_service_client::ProviderServiceClient;
use keyholder_proto::v1::{
    CreateConnectionRequest, CreateGrantRequest, ResolveCredentialRequest, create_grant_request,
    resolve_credential_request,
};
use keyholder_testkit::client::channel;
use keyholder_testkit::pki::{Authority, LeafRequest};
use keyholder_testkit::postgres::{PrivatePostgres, Settings};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// The workloads of every test, by the last segment of their SPIFFE ID, with the rest of their policy.
const POLICY: &[(&str, &str)] = &[
    ("operator", r#"roles = ["operator"]"#),
    ("console", r#"roles = ["manager"]"#),
    ("gateway", r#"roles = ["resolver"], providers = ["*"], actors = ["*"]"#),
    ("auditor", r#"roles = ["auditor"]"#),
    // Only for acme, only as one agent and one service, only for openai.
    ("narrow", r#"roles = ["resolver"], providers = ["openai"], actors = ["agent:roadie", "service:*"]"#),
    // Names no providers: those whose definition allows it.
    ("plain", r#"roles = ["resolver"], actors = ["*"]"#),
    // Manages acme and nothing else.
    ("acme-console", r#"roles = ["manager"]"#),
    // Manages what is at openai.
    ("openai-console", r#"roles = ["manager"], providers = ["openai"]"#),
    // Two roles at once.
    ("several", r#"roles = ["manager", "resolver"], providers = ["*"], actors = ["*"]"#),
];

/// Everything that a test needs. Processes and files are gone when it is dropped.
pub(crate) struct World {
    /// The database server; a test may kill it.
    pub(crate) postgres: PrivatePostgres,
    /// Who signs every certificate.
    pub(crate) authority: Authority,
    /// Where certificates, configurations and logs are.
    pub(crate) dir: TempDir,
    /// The first server; [`World::server`] starts more.
    pub(crate) server: Server,
    /// Variables of every server.
    environment: Environment,
}

/// Variables of a process, by name.
pub(crate) type Environment = Vec<(String, String)>;

/// A running `keyholder serve`.
pub(crate) struct Server {
    /// The process.
    pub(crate) child: Child,
    /// Its workload port.
    pub(crate) grpc: SocketAddr,
    /// Its probes and metrics.
    pub(crate) admin: SocketAddr,
    /// Everything it logged.
    pub(crate) log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The name of the database.
pub(crate) const DATABASE: &str = "keyholder";

/// The organization of most tests.
pub(crate) const ACME: &str = "acme";

impl World {
    /// A world with one server that is ready.
    pub(crate) fn start() -> Self {
        Self::start_with(|_, _| String::new())
    }

    /// The same, with more configuration: what `prepare` returns, and the files that it writes into the folder.
    pub(crate) fn start_with(prepare: impl FnOnce(&Authority, &Path) -> String) -> Self {
        Self::start_in(Environment::new(), prepare)
    }

    /// The same, with more variables.
    pub(crate) fn start_in(
        environment: Environment,
        prepare: impl FnOnce(&Authority, &Path) -> String,
    ) -> Self {
        let postgres = PrivatePostgres::temporary_with(&Settings::default().statement_statistics()).unwrap();
        postgres.create_database(DATABASE).unwrap();
        let authority = Authority::root("Keyholder test CA", SystemClock.now()).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        fs::write(dir.path().join("encryption.key"), "S2V5aG9sZGVyLXRlc3Qta2V5LTMyLWJ5dGVzLWxvbmc=").unwrap();
        restrict(&dir.path().join("encryption.key"));
        let leaf = LeafRequest::dns("localhost", SystemClock.now()).unwrap();
        let issued = authority.issue(leaf).unwrap();
        write_pair(dir.path(), "server", &issued.pem(), &issued.key_pem());
        let more = prepare(&authority, dir.path());
        fs::write(dir.path().join("keyholder.toml"), config() + &more).unwrap();
        run(&binary(), &["migrate"], dir.path(), &postgres.url(DATABASE));
        let server = Server::start(dir.path(), &postgres.url(DATABASE), "first", &environment);
        Self { postgres, authority, dir, server, environment }
    }

    /// Starts another server on the same database, and waits until it is ready.
    pub(crate) fn server(&self, name: &str) -> Server {
        Server::start(self.dir.path(), &self.postgres.url(DATABASE), name, &self.environment)
    }

    /// The same, with settings of its own, such as `KEYHOLDER_WEB__LISTEN`.
    pub(crate) fn server_with(&self, name: &str, variables: &[(&str, &str)]) -> Server {
        let mut environment = self.environment.clone();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Server::start(self.dir.path(), &self.postgres.url(DATABASE), name, &environment)
    }

    /// Starts a server on any database, and waits only until it listens.
    pub(crate) fn spawn(&self, name: &str, database_url: &str) -> Server {
        Server::spawn(self.dir.path(), database_url, name, &self.environment)
    }

    /// Holds what a query locks until it is released.
    pub(crate) fn lock(&self, query: &str) -> Locked {
        let url = self.postgres.url(DATABASE);
        let mut psql = Command::new(self.postgres.bin_dir().join("psql"))
            .args(["--quiet", "--no-psqlrc", "--tuples-only", "--no-align", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = psql.stdin.as_mut().unwrap();
        writeln!(stdin, "BEGIN; {query}; SELECT 'held';").unwrap();
        let mut lines = BufReader::new(psql.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap() == "held").unwrap().unwrap();
        Locked { psql }
    }

    /// A channel to the first server as a workload, such as `console`.
    pub(crate) fn channel(&self, workload: &str) -> Channel {
        self.channel_to(&self.server, workload)
    }

    /// A channel to any server as a workload.
    pub(crate) fn channel_to(&self, server: &Server, workload: &str) -> Channel {
        let (pem, key) = self.certificate(workload);
        channel(server.grpc, &self.dir.path().join("ca.pem"), &pem, &key).unwrap()
    }

    /// The certificate and the key of a workload, made on first use.
    pub(crate) fn certificate(&self, workload: &str) -> (PathBuf, PathBuf) {
        let pem = self.dir.path().join(format!("{workload}.pem"));
        let key = self.dir.path().join(format!("{workload}-key.pem"));
        if !pem.exists() {
            let id = format!("spiffe://test.example/{workload}");
            let issued = self.authority.issue(LeafRequest::spiffe(&id, SystemClock.now()).unwrap()).unwrap();
            write_pair(self.dir.path(), workload, &issued.pem(), &issued.key_pem());
        }
        (pem, key)
    }

    /// A channel to the first server as a workload whose certificate ends soon.
    pub(crate) fn short_lived_channel(&self, workload: &str, lifetime: time::Duration) -> Channel {
        let now = SystemClock.now();
        let id = format!("spiffe://test.example/{workload}");
        let leaf = LeafRequest::spiffe(&id, now).unwrap().valid(now - time::Duration::HOUR, now + lifetime);
        let issued = self.authority.issue(leaf).unwrap();
        let name = format!("short-lived-{workload}");
        write_pair(self.dir.path(), &name, &issued.pem(), &issued.key_pem());
        let (pem, key) = self.certificate(&name);
        channel(self.server.grpc, &self.dir.path().join("ca.pem"), &pem, &key).unwrap()
    }

    /// The connections, as the console sees them.
    pub(crate) fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.channel("console"))
    }

    /// The grants, as a workload sees them.
    pub(crate) fn grants(&self, workload: &str) -> GrantServiceClient<Channel> {
        GrantServiceClient::new(self.channel(workload))
    }

    /// The audit, as the auditor sees it.
    pub(crate) fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel("auditor"))
    }

    /// The catalog, as the console sees it.
    pub(crate) fn providers(&self) -> ProviderServiceClient<Channel> {
        ProviderServiceClient::new(self.channel("console"))
    }

    /// Connects an OpenAI account of an owner and returns its id.
    pub(crate) async fn connect(&self, owner: &str, key: &str) -> String {
        let made = self.connections().create_connection(openai(owner, key)).await.unwrap().into_inner();
        made.connection.unwrap().connection_id
    }

    /// Gives a principal a grant for a connection and returns its id.
    pub(crate) async fn grant(&self, grantee: &str, connection_id: &str) -> String {
        let made = self.grants("console").create_grant(grant_request(grantee, connection_id)).await.unwrap();
        made.into_inner().grant.unwrap().grant_id
    }

    /// Runs SQL on the database and returns what psql prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.postgres.psql(DATABASE, sql).unwrap().trim().to_owned()
    }
}

/// A transaction that holds a lock.
pub(crate) struct Locked {
    psql: Child,
}

impl Locked {
    /// Lets go.
    pub(crate) fn release(&mut self) {
        self.psql.stdin.take();
        self.psql.wait().unwrap();
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.psql.kill().ok();
        self.psql.wait().ok();
    }
}

/// The variables that name a proxy, for programs that take notice of them.
const PROXIES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

impl Server {
    fn start(dir: &Path, database_url: &str, name: &str, environment: &Environment) -> Self {
        let mut server = Self::spawn(dir, database_url, name, environment);
        server.wait_for_log("serving");
        server
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        send_signal(self.child.id(), signal);
    }

    fn spawn(dir: &Path, database_url: &str, name: &str, environment: &Environment) -> Self {
        let log = dir.join(format!("{name}.log"));
        let child = Command::new(binary())
            .args(["serve"])
            .current_dir(dir)
            .env("DATABASE_URL", database_url)
            // Nobody listens there: whatever took notice of them would not reach a provider.
            .envs(PROXIES.map(|name| (name, "http://127.0.0.1:9")))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut server =
            Self { child, grpc: SocketAddr::from(([0; 4], 0)), admin: SocketAddr::from(([0; 4], 0)), log };
        let listening = server.wait_for_log("listening");
        server.grpc = listening["grpc"].as_str().unwrap().parse().unwrap();
        server.admin = listening["admin"].as_str().unwrap().parse().unwrap();
        server
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for a log line with a message, and returns it.
    pub(crate) fn wait_for_log(&mut self, message: &str) -> serde_json::Value {
        eventually(&format!("the log line {message:?}"), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("keyholder ended with {status}: {}", fs::read_to_string(&self.log).unwrap());
            }
            log_lines(&self.log).into_iter().find(|line| line["message"] == message)
        })
    }
}

/// Sends a process a signal. The shell does it: a bare machine has no program for it.
pub(crate) fn send_signal(process_id: u32, signal: &str) {
    let kill = format!("kill -s {signal} {process_id}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// The JSON lines of a log.
pub(crate) fn log_lines(log: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Asks the admin port, and returns the status and the body.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Waits until a condition holds.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let binary =
        std::env::var_os("KEYHOLDER_BIN").map_or_else(|| target.join("debug/keyholder"), PathBuf::from);
    assert!(binary.exists(), "there is no {}: cargo build -p keyholder-server makes it", binary.display());
    binary
}

/// The root of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Runs the binary to its end, which must be a good one.
pub(crate) fn run(binary: &Path, arguments: &[&str], dir: &Path, database_url: &str) -> String {
    try_run(binary, arguments, dir, database_url).unwrap_or_else(|said| panic!("{said}"))
}

/// Runs the binary to its end: what it prints, or what it says is wrong.
pub(crate) fn try_run(
    binary: &Path,
    arguments: &[&str],
    dir: &Path,
    database_url: &str,
) -> Result<String, String> {
    let output = Command::new(binary)
        .args(arguments)
        .current_dir(dir)
        .env("DATABASE_URL", database_url)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A request that connects an OpenAI account.
pub(crate) fn openai(owner: &str, key: &str) -> CreateConnectionRequest {
    CreateConnectionRequest {
        organization_id: ACME.into(),
        owner: owner.into(),
        provider_id: "openai".into(),
        credentials: [("api_key".to_owned(), key.to_owned())].into(),
        ..Default::default()
    }
}

/// A request that gives a grant for a connection.
pub(crate) fn grant_request(grantee: &str, connection_id: &str) -> CreateGrantRequest {
    CreateGrantRequest {
        organization_id: ACME.into(),
        grantee: grantee.into(),
        target: Some(create_grant_request::Target::ConnectionId(connection_id.into())),
        ..Default::default()
    }
}

/// A request to resolve a connection.
pub(crate) fn resolve_request(actor: &str, connection_id: &str) -> ResolveCredentialRequest {
    ResolveCredentialRequest {
        organization_id: ACME.into(),
        actor: actor.into(),
        target: Some(resolve_credential_request::Target::ConnectionId(connection_id.into())),
        ..Default::default()
    }
}

/// The stable reason of a refusal.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The paths of the fields that a refusal names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let violations =
        status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// Asserts the code and the reason of a refusal.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    expected: &str,
) -> Status {
    let status = result.err().unwrap_or_else(|| panic!("expected {expected}, got an answer"));
    assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{status:?}");
    status
}

fn config() -> String {
    let workload = |(name, rest): &(&str, &str)| {
        let organizations =
            if matches!(*name, "narrow" | "acme-console") { r#"["acme"]"# } else { r#"["*"]"# };
        format!("{{ id = \"spiffe://test.example/{name}\", organizations = {organizations}, {rest} }},\n")
    };
    format!(
        r#"workload = [
{}]
[grpc]
listen = "127.0.0.1:0"
certificate = "server.pem"
key = "server-key.pem"
[[trust]]
domain = "test.example"
ca = ["ca.pem"]
[admin]
listen = "127.0.0.1:0"
[keys]
primary = "encryption.key"
[log]
format = "json"
level = "trace"
"#,
        POLICY.iter().map(workload).collect::<String>()
    )
}

fn write_pair(dir: &Path, name: &str, pem: &str, key_pem: &str) {
    fs::write(dir.join(format!("{name}.pem")), pem).unwrap();
    let key = dir.join(format!("{name}-key.pem"));
    fs::write(&key, key_pem).unwrap();
    restrict(&key);
}

fn restrict(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
