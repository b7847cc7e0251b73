//! The rig: connections that are refreshed all the time, and what is done to those who refresh them.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use keyholder_proto::v1;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_testkit::provider::{Effect, Stage};
use tonic::Code;
use tonic::transport::Channel;

use super::class::{Class, Made};
use super::dice::Dice;
use super::fleet::{Fleet, clients};
use super::oidc::Oidc;
use crate::harness::{DATABASE, Locked, binary, try_run};
use crate::oauth::world::{CLIENT, ClientFrom, OAuth, Setup, create};

/// How long a point may take to be reached. One that is not is passed over: it decides nothing.
const PATIENCE: Duration = Duration::from_secs(12);

/// The key of the lock that a COMMIT of new tokens passes.
const COMMIT: &str = "4711";

/// Lets a COMMIT of new tokens stand still for as long as somebody holds the lock.
const SLOW_COMMIT: &str = "CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER wait_at_commit AFTER UPDATE ON refreshes DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.done_attempt_id IS DISTINCT FROM OLD.done_attempt_id)
    EXECUTE FUNCTION wait_at_commit()";

/// What is done to the processes, the database and the providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    // === A process is killed ===
    /// At any moment.
    Kill,
    /// All of them.
    PowerCut,
    /// It has claimed, and asked nobody.
    Claimed,
    /// The provider was asked, and does nothing about it.
    Unheard(usize),
    /// The provider was asked, and does its work when nobody waits any more.
    HeardLater(usize),
    /// The provider did its work and has not answered.
    Unanswered(usize),
    /// The answer is there, and not kept.
    Unkept(usize),
    /// The same; and what it sent to the database is lost as well.
    UnkeptAndSevered(usize),
    /// The database does not keep the answer; a file does.
    Spooled(usize),
    /// The answer is kept, and nothing is made of it yet.
    Uncommitted,
    /// COMMIT is sent, and not answered.
    Committing,
    /// The same, and it does not go through.
    CommittingAndSevered,
    /// A server that is not ours did its work and has not answered.
    AtOidc,
    // === Nobody is killed ===
    /// COMMIT is sent; the connection breaks.
    CommitSevered,
    /// A process stands still for longer than its leases.
    Pause,
    /// The same while its call is answered.
    PauseInCall(usize),
    /// The same with what it has claimed and not asked for yet. Others take over.
    PauseClaimed,
    /// Every connection to the database breaks.
    Sever,
    /// The database crashes.
    RestartPostgres,
    /// Answers are late or lost.
    Spoil(usize),
    /// The same at the server that is not ours.
    SpoilOidc,
}

/// Everything there is.
pub(super) struct Rig {
    pub(super) oauth: OAuth,
    pub(super) classes: Vec<Class>,
    pub(super) oidc: Oidc,
    pub(super) fleet: Fleet,
    pub(super) dice: Dice,
    /// How often a fault struck, and how often its point was not reached.
    pub(super) struck: BTreeMap<String, (usize, usize)>,
    /// How often an operator let a client go on.
    pub(super) resumed: usize,
    per_class: usize,
}

/// Waits until a condition holds, and says whether it does.
pub(super) fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if started.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Rig {
    /// A world with so many connections of each class, and three processes.
    pub(super) async fn start(seed: u64, per_class: usize) -> Self {
        let classes = Class::all();
        let oidc = Oidc::start();
        let mut definitions: Vec<(&str, String)> =
            classes.iter().map(|class| (class.id, class.definition("first"))).collect();
        definitions.push(("oidc", oidc.definition()));
        let others: Vec<(&str, &str)> = definitions.iter().map(|(id, text)| (*id, text.as_str())).collect();
        let mut egress: Vec<String> =
            classes.iter().map(|class| class.provider.address().to_string()).collect();
        egress.push(oidc.host());
        let egress: Vec<&str> = egress.iter().map(String::as_str).collect();
        let variables: Vec<(String, &str)> = clients()
            .into_iter()
            .flat_map(|(id, client_id, secret)| {
                let start = format!("KEYHOLDER_OAUTH_{}_CLIENT", id.to_ascii_uppercase());
                [(format!("{start}_ID"), client_id), (format!("{start}_SECRET"), secret)]
            })
            .collect();
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let mut oauth = OAuth::start_with(&Setup {
            others: &others,
            egress: &egress,
            client: ClientFrom::Variables(&variables),
            ..Setup::default()
        });
        oauth.world.server.child.kill().unwrap();
        oauth.world.server.child.wait().unwrap();
        oauth.world.sql(SLOW_COMMIT);
        let fleet = Fleet::with(vec![("oidc", oidc.definition())]);
        let dice = Dice::new(seed);
        let struck = BTreeMap::new();
        let mut rig = Self { oauth, classes, oidc, fleet, dice, struck, resumed: 0, per_class };
        rig.mend();
        rig.replenish().await;
        rig
    }

    fn sql(&self, sql: &str) -> String {
        self.oauth.world.sql(sql)
    }

    // === Connections ===

    /// A client of a process that serves.
    fn connections(&mut self) -> ConnectionServiceClient<Channel> {
        let mut channel = None;
        let world = &self.oauth.world;
        let found = until(Duration::from_secs(60), || {
            self.fleet.take_out_the_unborn();
            self.fleet.fill(world, &self.classes);
            channel = self.fleet.serving().map(|replica| world.channel_to(&replica.server, "console"));
            channel.is_some()
        });
        assert!(found, "no process serves");
        ConnectionServiceClient::new(channel.unwrap())
    }

    /// Connects an account. A request that did not go through is sent again; if the token has ended
    /// meanwhile, nothing is connected.
    async fn connect(&mut self, request: v1::CreateConnectionRequest) -> Option<String> {
        let started = Instant::now();
        loop {
            match self.connections().create_connection(request.clone()).await {
                Ok(made) => return Some(made.into_inner().connection.unwrap().connection_id),
                Err(status) if status.code() == Code::FailedPrecondition => return None,
                Err(status) => assert!(started.elapsed() < Duration::from_secs(60), "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Lets owners whose connection is lost connect again, so that there are always as many.
    pub(super) async fn replenish(&mut self) {
        for at in 0..self.classes.len() {
            let mut living = self.living(self.classes[at].id);
            while living < self.per_class {
                living += usize::from(self.connect_at(at).await);
            }
        }
        let mut living = self.living("oidc");
        while living < self.per_class / 4 {
            let request = self.oidc.account().await;
            let made = self.connect(request).await;
            living += usize::from(made.is_some());
            self.oidc.made.extend(made);
        }
    }

    fn living(&self, provider_id: &str) -> usize {
        let active = format!(
            "SELECT count(*) FROM connections WHERE provider_id = '{provider_id}' AND state = 'ACTIVE'"
        );
        self.sql(&active).parse().unwrap()
    }

    async fn connect_at(&mut self, at: usize) -> bool {
        let class = &mut self.classes[at];
        let grant = class.grants;
        class.grants += 1;
        let account = format!("{}-{grant}", class.id);
        let tokens = class.provider.issue(CLIENT.0, &account, &["read"]);
        let refresh = tokens.refresh.unwrap();
        let fields = [("access_token", tokens.access.as_str()), ("refresh_token", refresh.as_str())];
        let ends = prost_types::Timestamp {
            seconds: tokens.ends.unix_timestamp(),
            nanos: i32::try_from(tokens.ends.nanosecond()).unwrap(),
        };
        let request = v1::CreateConnectionRequest {
            owner: format!("user:{account}"),
            account: Some(v1::Account { id: account.clone(), ..Default::default() }),
            request_id: account.clone(),
            token_expire_time: Some(ends),
            ..create(class.id, v1::AuthMethod::Oauth2Code, &fields)
        };
        let first = (refresh.split('.').next().unwrap().to_owned(), tokens.ends);
        let made = self.connect(request).await;
        let made = made.map(|connection_id| Made { account, connection_id, first });
        let connected = made.is_some();
        self.classes[at].made.extend(made.map(|made| (grant, made)));
        connected
    }

    // === Between two faults ===

    /// Starts a process in each place that is empty, and lets those go on that stood still for long enough.
    pub(super) fn mend(&mut self) {
        self.fleet.take_out_the_unborn();
        self.fleet.fill(&self.oauth.world, &self.classes);
        for (at, since) in self.fleet.stopped() {
            // Its leases have run out by themselves, and others have made of them what can be made of them.
            let since = format!("to_timestamp({})", since.unix_timestamp_nanos() as f64 / 1e9);
            let left = format!(
                "SELECT count(*) FROM refreshes WHERE attempt_time < {since} OR ambiguous_time < {since}"
            );
            if self.sql(&left) == "0" {
                self.fleet.go_on(at);
            }
        }
        for at in 0..self.fleet.replicas.len() {
            self.fleet.is_serving(at);
        }
        for class in &mut self.classes {
            class.note();
        }
    }

    /// What an operator does whose providers refuse many grants: looks, and lets it go on.
    pub(super) fn operate(&mut self) {
        let quarantined = "SELECT provider_id FROM provider_clients WHERE quarantine IS NOT NULL";
        for provider_id in self.sql(quarantined).lines() {
            let url = self.oauth.world.postgres.url(DATABASE);
            let arguments = ["refresh", "resume", provider_id];
            match try_run(&binary(), &arguments, self.oauth.world.dir.path(), &url) {
                Ok(_) => self.resumed += 1,
                // A refresh that went through may have ended it meanwhile.
                Err(said) => assert!(said.contains("is in quarantine"), "{said}"),
            }
        }
    }

    // === Faults ===

    /// Does one thing to somebody.
    pub(super) fn strike(&mut self, fault: Fault) {
        let name = format!("{fault:?}").split('(').next().unwrap().to_owned();
        let began = Instant::now();
        let reached = self.try_strike(fault).is_some();
        if std::env::var_os("CRASH_TRACE").is_some() {
            super::say(&format!("{fault:?}, reached: {reached}, after {:.1?}", began.elapsed()));
        }
        let counts = self.struck.entry(name).or_default();
        if reached {
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
        self.mend();
    }

    fn try_strike(&mut self, fault: Fault) -> Option<()> {
        match fault {
            Fault::Kill => {
                let at = self.dice.below(self.fleet.replicas.len());
                let runs = self.fleet.stopped().iter().all(|(stopped, _)| *stopped != at);
                runs.then(|| self.fleet.kill(at))
            }
            Fault::PowerCut => {
                self.power_cut();
                Some(())
            }
            Fault::Claimed => self.at_claim(),
            Fault::Unheard(class) => self.at_provider(class, Stage::Before, true),
            Fault::HeardLater(class) => self.at_provider(class, Stage::Before, false),
            Fault::Unanswered(class) => self.at_provider(class, Stage::After, false),
            Fault::Unkept(class) => self.unkept(class, false, false),
            Fault::UnkeptAndSevered(class) => self.unkept(class, false, true),
            Fault::Spooled(class) => self.unkept(class, true, true),
            Fault::Uncommitted => self.uncommitted(),
            Fault::Committing => self.committing(true, false),
            Fault::CommittingAndSevered => self.committing(true, true),
            Fault::CommitSevered => self.committing(false, true),
            Fault::AtOidc => self.at_oidc(),
            Fault::Pause => {
                let at = self.dice.below(self.fleet.replicas.len());
                let alone = self.fleet.stopped().is_empty();
                alone.then(|| self.fleet.stop(at))
            }
            Fault::PauseInCall(class) => self.pause_in_call(class),
            Fault::PauseClaimed => self.pause_claimed(),
            Fault::Sever => {
                self.sever("p%");
                Some(())
            }
            Fault::RestartPostgres => {
                self.oauth.world.postgres.kill_hard().unwrap();
                self.oauth.world.postgres.restart().unwrap();
                Some(())
            }
            Fault::Spoil(class) => {
                self.spoil(class);
                Some(())
            }
            Fault::SpoilOidc => {
                self.oidc.spoil(&mut self.dice);
                Some(())
            }
        }
    }

    pub(super) fn power_cut(&mut self) {
        while !self.fleet.replicas.is_empty() {
            self.fleet.kill(0);
        }
    }

    /// Breaks the database connections of processes.
    fn sever(&self, who: &str) {
        self.sql(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE usename LIKE '{who}' AND usename <> 'postgres'"
        ));
    }

    /// Waits until a process waits for something in the database, and returns it.
    fn blocked(&self, sessions: &str) -> Option<String> {
        self.blocked_within(PATIENCE, sessions)
    }

    fn blocked_within(&self, patience: Duration, sessions: &str) -> Option<String> {
        let query = format!(
            "SELECT usename FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND usename <> 'postgres' AND {sessions}
             ORDER BY query_start LIMIT 1"
        );
        let mut found = String::new();
        until(patience, || {
            found = self.sql(&query);
            self.fleet.position(&found).is_some()
        })
        .then_some(found)
    }

    fn spoil(&mut self, class: usize) {
        let calls = 1 + self.dice.below(2);
        let stage = if self.dice.coin() { Stage::Before } else { Stage::After };
        let delay = Duration::from_millis(u64::try_from(100 + self.dice.below(1_500)).unwrap());
        let (stage, effect) = match self.dice.below(8) {
            0..=2 => (stage, Effect::Delay(delay)),
            3..=4 => (stage, Effect::Reset),
            5 => (Stage::After, Effect::Cut(self.dice.below(200))),
            6 => (Stage::Before, Effect::Status(503)),
            _ => (stage, Effect::Hang),
        };
        self.classes[class].provider.spoil(calls, stage, effect);
    }

    /// Kills whoever asks a provider.
    fn at_provider(&mut self, class: usize, stage: Stage, resets: bool) -> Option<()> {
        let asked = &mut self.classes[class];
        asked.provider.forgive();
        if resets {
            asked.provider.spoil(1, Stage::Before, Effect::Reset);
        }
        let gate = asked.provider.hold(stage);
        let victim = gate.wait_until_held(PATIENCE).then(|| asked.waiting()).flatten();
        let at = victim.and_then(|(_, process)| self.fleet.position(&process));
        let killed = at.map(|at| self.fleet.kill(at));
        gate.release();
        let asked = &mut self.classes[class];
        asked.kills += usize::from(killed.is_some());
        if killed.is_none() {
            asked.provider.forgive();
        }
        killed
    }

    /// Kills whoever has an answer that the database does not take.
    fn unkept(&mut self, class: usize, spooled: bool, severed: bool) -> Option<()> {
        let asked = &mut self.classes[class];
        asked.provider.forgive();
        let gate = asked.provider.hold(Stage::After);
        if !gate.wait_until_held(PATIENCE) {
            return None;
        }
        let (call, process) = asked.waiting()?;
        let id = uuid(&asked.made.get(&call.grant)?.connection_id);
        let row = format!("SELECT 1 FROM refreshes WHERE connection_id = '{id}' FOR UPDATE");
        let mut lock = self.oauth.world.lock(&row);
        gate.release();
        let keeps = "query LIKE 'UPDATE refreshes SET sealed_answer%'";
        self.blocked(&format!("usename = '{process}' AND {keeps}"))?;
        let at = self.fleet.position(&process)?;
        let spool = self.oauth.world.dir.path().join(format!("state-{}/spool", self.fleet.replicas[at].slot));
        let attempt =
            format!("SELECT replace(attempt_id::text, '-', '') FROM refreshes WHERE connection_id = '{id}'");
        let file = spool.join(format!("{}.answer", self.sql(&attempt)));
        if spooled {
            until(PATIENCE, || file.exists()).then_some(())?;
        }
        self.fleet.kill(at);
        self.classes[class].kills += 1;
        if severed {
            self.sever(&process);
        }
        if spooled {
            lock.release();
            self.fleet.fill(&self.oauth.world, &self.classes);
            let taken = until(PATIENCE, || !file.exists());
            self.classes[class].durable.extend(taken.then_some(call.number));
            return Some(());
        }
        lock.release();
        Some(())
    }

    /// Kills somebody who has kept an answer and cannot go on.
    fn uncommitted(&mut self) -> Option<()> {
        let mut lock = self.oauth.world.lock("SELECT 1 FROM organizations FOR UPDATE");
        let kept = "SELECT connection_id FROM refreshes WHERE sealed_answer IS NOT NULL";
        let mut rows = String::new();
        until(PATIENCE, || {
            rows = self.sql(kept);
            !rows.is_empty()
        })
        .then_some(())?;
        let process = self.blocked("true")?;
        self.note_durable(&rows);
        let at = self.fleet.position(&process)?;
        self.fleet.kill(at);
        lock.release();
        Some(())
    }

    /// Notes that the answers of connections are in the database.
    fn note_durable(&mut self, rows: &str) {
        for row in rows.lines() {
            for class in &mut self.classes {
                let made = class.made.iter().find(|(_, made)| uuid(&made.connection_id) == plain(row));
                if let Some(call) = made.and_then(|(grant, _)| class.latest(*grant)) {
                    class.durable.push(call);
                }
            }
        }
    }

    /// Kills or cuts off somebody who has sent COMMIT.
    fn committing(&mut self, kills: bool, severs: bool) -> Option<()> {
        let mut lock = self.oauth.world.lock(&format!("SELECT pg_advisory_xact_lock({COMMIT})"));
        let process = self.blocked("wait_event = 'advisory'")?;
        let at = self.fleet.position(&process)?;
        if kills {
            self.fleet.kill(at);
        }
        if severs {
            self.sever(&process);
        }
        lock.release();
        Some(())
    }

    /// Holds somebody who has claimed and is about to ask: the first thing that they do is to read the connection. Who
    /// claims is held, too, so there has to be one who has just done so; mostly there is none.
    fn claimed(&self) -> Option<(Locked, String)> {
        let reads = "query LIKE '%FROM connections WHERE organization_id = $1 AND connection_id = $2'";
        (0..60).find_map(|_| {
            let lock = self.oauth.world.lock("LOCK TABLE connections IN ACCESS EXCLUSIVE MODE");
            let process = self.blocked_within(Duration::from_millis(30), reads);
            process.map(|process| (lock, process))
        })
    }

    /// Kills somebody who has claimed and is about to ask.
    fn at_claim(&mut self) -> Option<()> {
        let (mut lock, process) = self.claimed()?;
        let at = self.fleet.position(&process)?;
        self.fleet.kill(at);
        lock.release();
        Some(())
    }

    fn at_oidc(&mut self) -> Option<()> {
        let before = self.oidc.asked();
        self.oidc.lose_late();
        until(PATIENCE, || self.oidc.asked() > before).then_some(())?;
        self.power_cut();
        Some(())
    }

    /// Stops somebody whose call is answered meanwhile, until others have taken over.
    fn pause_in_call(&mut self, class: usize) -> Option<()> {
        let waits = self.dice.coin();
        let asked = &mut self.classes[class];
        asked.provider.forgive();
        let gate = asked.provider.hold(Stage::After);
        if !gate.wait_until_held(PATIENCE) {
            return None;
        }
        let (call, process) = asked.waiting()?;
        let connection = uuid(&asked.made.get(&call.grant)?.connection_id);
        let at = self.fleet.position(&process)?;
        let alone = self.fleet.stopped().is_empty();
        alone.then(|| self.fleet.stop(at))?;
        // Whoever holds it stands still: for all that it knows, the time has passed.
        self.end_lease(&format!("connection_id = '{connection}'"));
        let taken = format!(
            "SELECT count(*) FROM refreshes WHERE connection_id = '{connection}' AND attempt_id IS NOT NULL
             AND attempt_time < to_timestamp({})",
            call.at.unix_timestamp_nanos() as f64 / 1e9
        );
        let taken_over = until(PATIENCE, || self.sql(&taken) == "0");
        if waits {
            let asked = &self.classes[class];
            until(PATIENCE, || asked.latest(call.grant) > Some(call.number));
        }
        gate.release();
        if let Some(at) = self.fleet.position(&process) {
            self.fleet.go_on(at);
        }
        taken_over.then_some(())
    }

    fn end_lease(&self, of: &str) {
        self.sql(&format!(
            "UPDATE refreshes SET lease_expire_time = clock_timestamp() - interval '1 second'
             WHERE lease_expire_time IS NOT NULL AND {of}"
        ));
    }

    /// Stops somebody with what it has claimed and not asked for, until somebody else has asked for it.
    fn pause_claimed(&mut self) -> Option<()> {
        if !self.fleet.stopped().is_empty() {
            return None;
        }
        let (mut lock, process) = self.claimed()?;
        let at = self.fleet.position(&process)?;
        self.fleet.stop(at);
        lock.release();
        Some(())
    }

    // === The end ===

    /// Waits until nobody stands still any more.
    pub(super) fn wake(&mut self) {
        until(Duration::from_secs(60), || {
            self.mend();
            self.fleet.stopped().is_empty()
        });
    }

    /// Ends all faults, and waits until everything is as it should be.
    pub(super) async fn heal(&mut self) {
        for class in &self.classes {
            class.provider.forgive();
        }
        self.power_cut();
        // Nobody is left who could hold one.
        self.end_lease("true");
        for class in &self.classes {
            class.provider.behave(|manners| manners.access_lifetime = super::class::LONG);
        }
        self.sql("UPDATE provider_clients SET pause_time = NULL, failures = 0");
        self.mend();
        self.settle();
        self.replenish().await;
        self.settle();
    }

    /// Refreshes every connection once more, and waits until that is done: what each holds is its newest
    /// token.
    pub(super) fn prove(&mut self) {
        let mark = self.sql("SELECT clock_timestamp()");
        self.sql(
            "UPDATE refreshes SET due_time = clock_timestamp(), earliest_time = clock_timestamp()
             WHERE provider_id <> 'oidc'",
        );
        let left = format!(
            "SELECT provider_id, connection_id, last_error, failures, due_time FROM refreshes
             WHERE provider_id <> 'oidc' AND (last_success_time IS NULL OR last_success_time < '{mark}')"
        );
        let mut unproven = String::new();
        let proven = until(Duration::from_secs(120), || {
            unproven = self.sql(&left);
            unproven.is_empty()
        });
        assert!(proven, "these were not refreshed any more:\n{unproven}\n{}", self.logs());
        self.settle();
        self.mend();
    }

    /// Waits until nothing is under way, nothing waits, and nothing is in doubt.
    fn settle(&mut self) {
        let unsettled =
            "SELECT provider_id, connection_id, ready, due_time, lease_expire_time, ambiguous_time,
                refused_time, failures, last_error, clock_timestamp()
            FROM refreshes WHERE ambiguous_time IS NOT NULL OR refused_time IS NOT NULL
                OR provider_id <> 'oidc' AND (ready OR lease_expire_time IS NOT NULL OR deadline IS NULL
                    OR deadline < clock_timestamp() + interval '20 minutes')";
        let mut left = String::new();
        let settled = until(Duration::from_secs(180), || {
            self.operate();
            self.mend();
            left = self.sql(unsettled);
            if !left.is_empty() {
                std::thread::sleep(Duration::from_millis(100));
            }
            left.is_empty()
        });
        assert!(settled, "this is not settled:\n{left}\n{}", self.logs());
    }

    /// What the processes that live have logged: for a failure.
    pub(super) fn logs(&self) -> String {
        let logs = self.fleet.replicas.iter().map(|replica| {
            let text = fs::read_to_string(&replica.server.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains("danger")).collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            format!("{}:\n{last}\n", replica.name)
        });
        let rows = "SELECT provider_id, connection_id, ready, due_time, attempt_time, lease_expire_time,
                sealed_answer IS NOT NULL, ambiguous_time, refused_time, failures, last_error,
                clock_timestamp()
            FROM refreshes WHERE attempt_id IS NOT NULL OR failures > 0";
        let clients = "SELECT provider_id, failures, pause_time, quarantine FROM provider_clients";
        format!("{}\n{}\n{}", logs.collect::<String>(), self.sql(rows), self.sql(clients))
    }
}

/// The id as the database has it, without dashes.
pub(super) fn uuid(connection_id: &str) -> String {
    plain(connection_id.split_once('_').map_or(connection_id, |(_, id)| id))
}

fn plain(uuid: &str) -> String {
    uuid.replace('-', "")
}
