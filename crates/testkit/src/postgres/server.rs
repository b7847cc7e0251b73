use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use super::{
    Account, PostgresError,
    client::PORT,
    process::{children_of, is_running, signal, tail, wait_until},
};

/// How long a server may take to become ready: it may have to recover from a crash first.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Becomes the server, and leaves the watchdog behind.
const WATCHDOG: &str = include_str!("watchdog.sh");

/// How a server is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Ends its sessions and writes everything down.
    Fast,
    /// Drops everything: the data is not needed any more.
    Immediate,
}

impl Ending {
    const fn name(self) -> &'static str {
        match self {
            Self::Fast => "INT",
            Self::Immediate => "QUIT",
        }
    }

    /// Signals, each with the time that it gets, the mildest first.
    fn steps(self) -> impl Iterator<Item = (Signal, Duration)> {
        let all = [(Signal::INT, 20), (Signal::QUIT, 10), (Signal::KILL, 5)];
        let first = usize::from(self == Self::Immediate);
        all.into_iter().skip(first).map(|(signal, seconds)| (signal, Duration::from_secs(seconds)))
    }
}

/// What it takes to start a server, any number of times.
#[derive(Debug)]
pub(super) struct StartUp {
    pub(super) account: Account,
    pub(super) postgres: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) cluster: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) log: PathBuf,
    pub(super) ending: Ending,
}

impl StartUp {
    pub(super) fn clear_log(&self) -> Result<(), PostgresError> {
        File::create(&self.log).map(drop).map_err(PostgresError::io("make", &self.log))
    }

    fn spawn(&self, log: File) -> Result<Child, PostgresError> {
        let failed = || PostgresError::io("run", &self.postgres);
        let also_log = log.try_clone().map_err(failed())?;
        let mut command = self.account.command("/bin/sh");
        command.args(["-c", WATCHDOG, "keyholder-postgres", self.ending.name()]);
        command.arg(&self.cluster).arg(&self.sockets);
        command.arg(&self.postgres).arg("-D").arg(&self.cluster);
        command.args(["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]);
        command.args(["-c", &format!("port={PORT}"), "-c"]);
        command.arg(format!("unix_socket_directories={}", self.sockets.display()));
        command.args(&self.arguments);
        command.stdin(Stdio::piped()).stdout(log).stderr(also_log).spawn().map_err(failed())
    }
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    /// The server's first process. Its standard input is the pipe that the watchdog reads.
    child: Child,
    ending: Ending,
}

impl Server {
    /// Starts a server and waits until it can be used.
    pub(super) fn start(start_up: &StartUp) -> Result<Self, PostgresError> {
        let failed = || PostgresError::io("open", &start_up.log);
        let log = OpenOptions::new().append(true).create(true).open(&start_up.log).map_err(failed())?;
        let begin = log.metadata().map_err(failed())?.len();
        let mut server = Self { child: start_up.spawn(log)?, ending: start_up.ending };
        let mut ended = None;
        let ready = wait_until(START_PATIENCE, || {
            ended = server.child.try_wait().ok().flatten();
            ended.is_some() || server.is_ready(&start_up.cluster)
        });
        let log = start_up.log.clone();
        match ended {
            Some(status) => Err(PostgresError::DidNotStart { status, output: log_tail(&log, begin), log }),
            None if ready => Ok(server),
            None => {
                Err(PostgresError::NotReady { after: START_PATIENCE, output: log_tail(&log, begin), log })
            }
        }
    }

    pub(super) fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn stop(mut self) -> Result<(), PostgresError> {
        self.end()
    }

    pub(super) fn kill_hard(mut self) -> Result<(), PostgresError> {
        let pid = self.process_id();
        let failed = |_| PostgresError::CannotStop { pid };
        // Held still first, so that it starts no child that is not on the list.
        signal(pid, Signal::STOP).map_err(failed)?;
        let children = children_of(pid);
        for victim in std::iter::once(pid).chain(children.iter().copied()) {
            signal(victim, Signal::KILL).map_err(failed)?;
        }
        // Before waiting, which closes the pipe.
        self.dismiss_watchdog();
        self.child.wait().map_err(failed)?;
        let gone = |child: &u32| wait_until(Duration::from_secs(10), || !is_running(*child));
        children
            .into_iter()
            .find(|child| !gone(child))
            .map_or(Ok(()), |pid| Err(PostgresError::CannotStop { pid }))
    }

    /// Whether the server says in its own file that it is ready, which is what `pg_ctl --wait` goes by.
    fn is_ready(&self, cluster: &Path) -> bool {
        let text = fs::read_to_string(cluster.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(&self.process_id().to_string()) && lines.nth(6) == Some("ready")
    }

    fn end(&mut self) -> Result<(), PostgresError> {
        let pid = self.process_id();
        for (step, patience) in self.ending.steps() {
            if self.exit_status().is_some() {
                break;
            }
            signal(pid, step).map_err(|_| PostgresError::CannotStop { pid })?;
            wait_until(patience, || self.exit_status().is_some());
        }
        if self.exit_status().is_none() {
            return Err(PostgresError::CannotStop { pid });
        }
        self.dismiss_watchdog();
        Ok(())
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Tells the watchdog that there is nothing left to do.
    fn dismiss_watchdog(&mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            // Failing means that it is gone already.
            let _ = pipe.write_all(b"\n");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "a private postgres did not stop");
        }
    }
}

/// The last lines of a log, from a position on.
fn log_tail(log: &Path, begin: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log)
        && file.seek(SeekFrom::Start(begin)).is_ok()
    {
        // What could be read is what can be shown.
        let _ = file.read_to_end(&mut text);
    }
    tail(&text)
}
