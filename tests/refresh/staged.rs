//! One connection that is refreshed when a test says so, and servers that die and are replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use keyholder_proto::v1;
use keyholder_testkit::provider::{Gate, Reuse, Stage};

use crate::harness::{Server, World, binary, eventually, http_get, log_lines};
use crate::oauth::world::{OAuth, Setup, free_port};

/// What becomes of a refresh token that comes again: as the recipe says it, and as the provider does it.
#[derive(Clone, Copy)]
pub(crate) struct Class {
    /// In the recipe.
    pub(crate) recipe: &'static str,
    /// At the provider.
    pub(crate) reuse: Reuse,
}

pub(crate) const STATIC: Class = Class { recipe: "reuse: static", reuse: Reuse::Static };
pub(crate) const WINDOW: Class =
    Class { recipe: "reuse: window, reuse_seconds: 60", reuse: Reuse::Window(Duration::from_secs(60)) };
pub(crate) const UNTIL_USED: Class =
    Class { recipe: "reuse: until_used", reuse: Reuse::UntilUsed(Duration::from_secs(3_600)) };
pub(crate) const NONE: Class = Class { recipe: "reuse: none", reuse: Reuse::None };

/// A connection that is refreshed when a test says so: its access token lives for an hour.
pub(crate) struct Staged {
    pub(crate) oauth: OAuth,
    /// As it was made.
    pub(crate) made: v1::Connection,
}

impl Staged {
    pub(crate) async fn start(class: Class) -> Self {
        Self::start_with(class, Setup::default()).await
    }

    pub(crate) async fn start_with(class: Class, setup: Setup<'_>) -> Self {
        let recipe = format!("  refresh: {{ {} }}", class.recipe);
        let oauth = OAuth::start_with(&Setup { recipe: &recipe, ..setup });
        oauth.provider.behave(|manners| manners.reuse = class.reuse);
        let made = oauth.connect("user:ada").await;
        Self { oauth, made }
    }

    // === What happens ===

    /// The moment to refresh has come, for every connection.
    pub(crate) fn make_due(&self) {
        self.oauth.world.sql("UPDATE refreshes SET due_time = clock_timestamp() WHERE attempt_id IS NULL");
    }

    /// Lets a refresh begin, and holds the provider on it.
    pub(crate) fn hold(&self, stage: Stage) -> Gate {
        let gate = self.oauth.provider.hold(stage);
        self.make_due();
        eventually("a refresh that is held", || gate.is_held().then_some(()));
        gate
    }

    /// Kills the first server as a power cut would.
    pub(crate) fn power_cut(&mut self) {
        self.oauth.world.server.child.kill().unwrap();
        self.oauth.world.server.child.wait().unwrap();
    }

    /// Puts another server in the place of the first, with settings of its own.
    pub(crate) fn succeed_with(&mut self, name: &str, settings: &[(&str, &str)]) {
        let listen = format!("127.0.0.1:{}", free_port());
        let web = [("KEYHOLDER_WEB__LISTEN", listen.as_str())];
        let settings: Vec<(&str, &str)> = web.iter().chain(settings).copied().collect();
        self.oauth.world.server = self.oauth.world.server_with(name, &settings);
    }

    /// Starts a server in the place of the first, where the first was.
    pub(crate) fn start_again(&mut self, name: &str) {
        self.oauth.world.server = self.oauth.world.server(name);
    }

    /// Lets the leases of whoever was refreshing end now, and not in seconds.
    pub(crate) fn end_leases(&self) {
        self.oauth.world.sql(
            "UPDATE refreshes SET lease_expire_time = clock_timestamp() - interval '1 second'
             WHERE attempt_id IS NOT NULL",
        );
    }

    /// Lets the access token end now, and not in an hour. Whatever waited for that moment is due.
    pub(crate) fn end_access_token(&self) {
        self.oauth.world.sql(
            "UPDATE connections SET token_expire_time = clock_timestamp() - interval '1 second';
             UPDATE refreshes SET due_time = clock_timestamp() WHERE due_time = deadline;
             UPDATE refreshes SET deadline = clock_timestamp() - interval '1 second',
                                  earliest_time = least(earliest_time, clock_timestamp())",
        );
    }

    /// Lets the time be over in which a refused grant is not believed.
    pub(crate) fn end_doubt(&self) {
        let refused = "UPDATE refreshes SET due_time = clock_timestamp() WHERE refused_time IS NOT NULL";
        self.oauth.world.sql(refused);
    }

    // === What is so ===

    /// What SQL says about the row of the connection.
    pub(crate) fn row(&self, expression: &str) -> String {
        self.oauth.world.sql(&format!("SELECT {expression} FROM refreshes"))
    }

    /// Waits until a condition holds for the row.
    pub(crate) fn until_row(&self, condition: &str) {
        eventually(condition, || (self.row(condition) == "t").then_some(()));
    }

    /// Waits until nobody knows what the provider did.
    pub(crate) fn until_ambiguous(&self) {
        self.until_row("ambiguous_time IS NOT NULL AND attempt_id IS NULL");
    }

    /// The connection as it is.
    pub(crate) async fn now(&self) -> v1::Connection {
        self.oauth.connection(&self.made.connection_id).await
    }

    /// The access token that its owner gets.
    pub(crate) async fn token(&self) -> String {
        self.oauth.token(&self.made).await
    }

    /// How often the provider was asked to refresh.
    pub(crate) fn asked(&self) -> usize {
        self.oauth.provider.refreshes().len()
    }

    /// Waits until the connection was refreshed for the first time, and asserts that all is well with it.
    pub(crate) async fn assert_refreshed(&self) -> v1::Connection {
        self.until_row("done_attempt_id IS NOT NULL AND attempt_id IS NULL");
        let now = self.now().await;
        assert_eq!(now.state(), v1::ConnectionState::Active);
        assert_eq!(now.generation, self.made.generation + 1, "one refresh is one generation");
        let refresh = now.refresh.clone().unwrap();
        let told = (refresh.state(), refresh.error.as_str(), refresh.failures);
        assert_eq!(told, (v1::RefreshState::Scheduled, "", 0));
        let token = self.token().await;
        assert_eq!(
            self.oauth.provider.account_of(&token).as_deref(),
            Some("ada"),
            "what is released is good"
        );
        assert_eq!(self.oauth.provider.counts().replays, 0);
        now
    }

    /// Waits until the connection needs its owner.
    pub(crate) async fn until_lost(&self) -> v1::Connection {
        let state = "SELECT state FROM connections";
        eventually("a connection that needs its owner", || {
            (self.oauth.world.sql(state) == "REAUTHORIZATION_REQUIRED").then_some(())
        });
        self.now().await
    }

    /// The folder of spooled answers.
    pub(crate) fn spool(&self) -> PathBuf {
        self.oauth.world.dir.path().join("state/spool")
    }

    /// The spooled answers.
    pub(crate) fn spooled(&self) -> Vec<PathBuf> {
        files_named(&self.spool(), "answer")
    }
}

/// The files of a folder with such an ending.
pub(crate) fn files_named(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == ending)).collect()
}

/// A number among the metrics of a server, by its name and labels as they are printed; 0 if it is not there.
pub(crate) fn number(server: &Server, name: &str) -> f64 {
    let (_, text) = http_get(server.admin, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.map_or(0.0, |number| number.parse().unwrap())
}

/// How often a process came to an outcome at the provider `demo`.
pub(crate) fn outcomes(server: &Server, outcome: &str) -> f64 {
    number(server, &format!("keyholder_refreshes{{provider=\"demo\",outcome=\"{outcome}\"}}"))
}

/// How often a server has logged a message.
pub(crate) fn times_logged(server: &Server, message: &str) -> usize {
    log_lines(&server.log).iter().filter(|line| line["message"] == message).count()
}

/// Starts `keyholder serve` on any database, with more arguments and variables, and waits until it listens.
pub(crate) fn serve(
    world: &World,
    name: &str,
    database_url: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Server {
    let log = world.dir.path().join(format!("{name}.log"));
    let child = Command::new(binary())
        .arg("serve")
        .args(arguments)
        .current_dir(world.dir.path())
        .env("DATABASE_URL", database_url)
        .env("KEYHOLDER_WEB__LISTEN", format!("127.0.0.1:{}", free_port()))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let nowhere = ([0; 4], 0).into();
    let mut server = Server { child, grpc: nowhere, admin: nowhere, log };
    let listening = server.wait_for_log("listening");
    let address = |name: &str| listening[name].as_str().map_or(nowhere, |text| text.parse().unwrap());
    (server.grpc, server.admin) = (address("grpc"), address("admin"));
    server
}
