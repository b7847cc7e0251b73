//! A server that outlived whoever started it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;

use super::{
    PostgresError, folders,
    process::{command_line, is_running, signal, wait_until},
};

/// Stops the server that still has the data open, if there is one. The caller holds the folder's lock, so it
/// belongs to nobody any more.
pub(super) fn stop(cluster: &Path) -> Result<(), PostgresError> {
    let pid_file = cluster.join("postmaster.pid");
    let Some(Leftover { pid, sockets }) = Leftover::read(&pid_file) else { return Ok(()) };
    if !is_running(pid) {
        return Ok(());
    }
    if !is_server_of(pid, cluster) {
        // The number went to somebody else, after a reboot for instance. Postgres would refuse to start.
        return fs::remove_file(&pid_file).map_err(PostgresError::io("remove", pid_file));
    }
    tracing::info!(pid, data_dir = %cluster.display(), "stopping the postgres that an earlier run left");
    end(pid)?;
    if folders::is_for_sockets(&sockets) {
        // Empty by now, unless its watchdog has removed it already.
        let _ = fs::remove_dir(&sockets);
    }
    Ok(())
}

/// What a server wrote down about itself.
struct Leftover {
    pid: u32,
    sockets: PathBuf,
}

impl Leftover {
    fn read(pid_file: &Path) -> Option<Self> {
        let text = fs::read_to_string(pid_file).ok()?;
        let mut lines = text.lines().map(str::trim);
        let pid = lines.next()?.parse().ok()?;
        Some(Self { pid, sockets: lines.nth(3).unwrap_or_default().into() })
    }
}

fn end(pid: u32) -> Result<(), PostgresError> {
    // First, the watchdog of that run does it.
    let steps = [(None, 2), (Some(Signal::INT), 20), (Some(Signal::QUIT), 10)];
    for (step, seconds) in steps {
        if let Some(step) = step {
            signal(pid, step).map_err(|_| PostgresError::CannotStop { pid })?;
        }
        if wait_until(Duration::from_secs(seconds), || !is_running(pid)) {
            return Ok(());
        }
    }
    Err(PostgresError::CannotStop { pid })
}

fn is_server_of(pid: u32, cluster: &Path) -> bool {
    let cluster = cluster.to_string_lossy();
    command_line(pid).is_some_and(|line| line.contains("postgres") && line.contains(&*cluster))
}
