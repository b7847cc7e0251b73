//! The processes, and a ledger of what was done to them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use keyholder_domain::{Clock as _, SystemClock, Timestamp};

use super::class::Class;
use crate::harness::{DATABASE, Server, World, binary, log_lines};
use crate::oauth::world::CLIENT;

/// How many processes there are.
const SLOTS: usize = 3;

/// One process. Each has a folder of its own for what must outlive it, by its slot, and is another database
/// user.
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) slot: usize,
    pub(super) server: Server,
    is_serving: bool,
    stopped: Option<Timestamp>,
}

/// What was done to whom.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// When each process was dead at the latest.
    pub(super) deaths: BTreeMap<String, Timestamp>,
    /// From when to when each process stood still.
    pub(super) stops: Vec<(String, Timestamp, Timestamp)>,
}

#[derive(Default)]
pub(super) struct Fleet {
    pub(super) replicas: Vec<Replica>,
    pub(super) ledger: Ledger,
    pub(super) kills: usize,
    made: usize,
    /// Further definitions, by provider.
    others: Vec<(&'static str, String)>,
}

impl Ledger {
    /// Whether a process stood still at some moment between two.
    pub(super) fn stood_still(&self, process: &str, from: Timestamp, to: Timestamp) -> bool {
        self.stops.iter().any(|(name, begin, end)| name == process && *begin <= to && from <= *end)
    }
}

impl Fleet {
    /// Nobody yet. `others` are further definitions, by provider.
    pub(super) fn with(others: Vec<(&'static str, String)>) -> Self {
        Self { others, ..Self::default() }
    }

    /// Starts a process in each place that is empty.
    pub(super) fn fill(&mut self, world: &World, classes: &[Class]) {
        for slot in 0..SLOTS {
            if self.replicas.iter().all(|replica| replica.slot != slot) {
                self.start(world, classes, slot);
            }
        }
    }

    /// Starts a process, and does not wait for it.
    pub(super) fn start(&mut self, world: &World, classes: &[Class], slot: usize) {
        self.made += 1;
        let name = format!("p{}", self.made);
        let dir = world.dir.path();
        let catalog = dir.join(format!("providers-{name}"));
        fs::create_dir(&catalog).unwrap();
        for class in classes {
            fs::write(catalog.join(format!("{}.yaml", class.id)), class.definition(&name)).unwrap();
        }
        for (id, definition) in &self.others {
            fs::write(catalog.join(format!("{id}.yaml")), definition).unwrap();
        }
        world.sql(&format!("CREATE ROLE {name} SUPERUSER LOGIN"));
        let url = world.postgres.url(DATABASE).replace("//postgres@", &format!("//{name}@"));
        let server = spawn(dir, &name, slot, &url);
        self.replicas.push(Replica { name, slot, server, is_serving: false, stopped: None });
    }

    /// Takes those out that did not come up, because the database was away or busy: somebody starts them
    /// again. One that serves must not end by itself.
    pub(super) fn take_out_the_unborn(&mut self) {
        for at in (0..self.replicas.len()).rev() {
            let replica = &mut self.replicas[at];
            let Some(status) = replica.server.child.try_wait().unwrap() else { continue };
            let log = fs::read_to_string(&replica.server.log).unwrap();
            assert!(
                !log.contains("\"message\":\"serving\""),
                "{} ended by itself with {status}: {log}",
                replica.name
            );
            let replica = self.replicas.remove(at);
            self.ledger.deaths.insert(replica.name, SystemClock.now());
        }
    }

    /// Whether a process serves.
    pub(super) fn is_serving(&mut self, at: usize) -> bool {
        let replica = &mut self.replicas[at];
        if !replica.is_serving {
            let lines = log_lines(&replica.server.log);
            let said = |message: &str| lines.iter().find(|line| line["message"] == message);
            if let (Some(listening), Some(_)) = (said("listening"), said("serving")) {
                replica.server.grpc = listening["grpc"].as_str().unwrap().parse().unwrap();
                replica.server.admin = listening["admin"].as_str().unwrap().parse().unwrap();
                replica.is_serving = true;
            }
        }
        replica.is_serving
    }

    /// A process that serves and does not stand still.
    pub(super) fn serving(&mut self) -> Option<&Replica> {
        let at = (0..self.replicas.len())
            .find(|&at| self.replicas[at].stopped.is_none() && self.is_serving(at))?;
        self.replicas.get(at)
    }

    pub(super) fn position(&self, process: &str) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.name == process)
    }

    /// Kills a process as a power cut would.
    pub(super) fn kill(&mut self, at: usize) {
        let mut replica = self.replicas.remove(at);
        self.end_of_stop(&mut replica);
        replica.server.child.kill().unwrap();
        replica.server.child.wait().unwrap();
        self.ledger.deaths.insert(replica.name, SystemClock.now());
        self.kills += 1;
    }

    /// Makes a process stand still.
    pub(super) fn stop(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        if replica.stopped.is_none() {
            replica.stopped = Some(SystemClock.now());
            replica.server.signal("STOP");
        }
    }

    /// Lets a process go on that stood still.
    pub(super) fn go_on(&mut self, at: usize) {
        let mut replica = self.replicas.remove(at);
        if replica.stopped.is_some() {
            replica.server.signal("CONT");
        }
        self.end_of_stop(&mut replica);
        self.replicas.insert(at, replica);
    }

    fn end_of_stop(&mut self, replica: &mut Replica) {
        if let Some(from) = replica.stopped.take() {
            self.ledger.stops.push((replica.name.clone(), from, SystemClock.now()));
        }
    }

    /// Those that stand still, and since when.
    pub(super) fn stopped(&self) -> Vec<(usize, Timestamp)> {
        let every = self.replicas.iter().enumerate();
        every.filter_map(|(at, replica)| Some((at, replica.stopped?))).collect()
    }
}

fn spawn(dir: &Path, name: &str, slot: usize, url: &str) -> Server {
    let log = dir.join(format!("{name}.log"));
    let mut command = Command::new(binary());
    command.arg("serve").current_dir(dir).env("DATABASE_URL", url);
    for (id, client_id, secret) in clients() {
        let id = id.to_ascii_uppercase();
        command.env(format!("KEYHOLDER_OAUTH_{id}_CLIENT_ID"), client_id);
        command.env(format!("KEYHOLDER_OAUTH_{id}_CLIENT_SECRET"), secret);
    }
    let child = command
        .env("KEYHOLDER_CATALOG__DIRECTORY", format!("providers-{name}"))
        .env("KEYHOLDER_REFRESHER__STATE_DIRECTORY", format!("state-{slot}"))
        .env("KEYHOLDER_WEB__LISTEN", "127.0.0.1:0")
        .env("KEYHOLDER_DATABASE__MAX_CONNECTIONS", "10")
        .env("KEYHOLDER_LOG__LEVEL", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let nowhere = SocketAddr::from(([0; 4], 0));
    Server { child, grpc: nowhere, admin: nowhere, log }
}

/// The clients, by provider.
pub(super) fn clients() -> [(&'static str, &'static str, &'static str); 5] {
    let ours = |id| (id, CLIENT.0, CLIENT.1);
    let oidc = ("oidc", "broker", "broker-secret");
    [ours("static"), ours("window"), ours("untilused"), ours("none"), oidc]
}
