//! Other processes: signals, the process table, programs run to their end.

use std::{
    fs, io,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::PostgresError;

/// Sends a signal; a process that is gone already is no failure.
pub(super) fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    match kill_process(pid, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether a process is there and not a zombie.
pub(super) fn is_running(pid: u32) -> bool {
    status(pid).is_some_and(|status| !status.zombie)
}

/// The processes that a process has started and that still run.
pub(super) fn children_of(parent: u32) -> Vec<u32> {
    let mut table = table();
    table.retain(|(_, status)| status.parent == parent && !status.zombie);
    table.into_iter().map(|(pid, _)| pid).collect()
}

/// Every process.
#[cfg(test)]
pub(super) fn every_process() -> Vec<u32> {
    table().into_iter().map(|(pid, _)| pid).collect()
}

/// The program and the arguments of a process, divided by spaces.
pub(super) fn command_line(pid: u32) -> Option<String> {
    if cfg!(target_os = "linux") {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    } else {
        let output = Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Waits for something to become true; `false` if the time is over first.
pub(super) fn wait_until(patience: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_true() {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program to its end.
pub(super) fn run(program: &'static str, command: &mut Command) -> Result<(), PostgresError> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .map_err(PostgresError::io("run", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(PostgresError::Failed { program, status: output.status, output: tail(&output.stderr) })
}

/// The last lines of a text.
pub(super) fn tail(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// What the process table says of a process.
struct Status {
    parent: u32,
    zombie: bool,
}

fn status(pid: u32) -> Option<Status> {
    if cfg!(target_os = "linux") {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    } else {
        table().into_iter().find(|(other, _)| *other == pid).map(|(_, status)| status)
    }
}

/// Every process. On Linux without `ps`, which small containers lack.
fn table() -> Vec<(u32, Status)> {
    if cfg!(target_os = "linux") {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Some((pid, status(pid)?))).collect()
    } else {
        let output = Command::new("ps").args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "stat="]).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter_map(parse_ps).collect()
    }
}

/// Reads `/proc/<pid>/stat`: `pid (name) state parent …`; the name may hold brackets and spaces.
fn parse_stat(text: &str) -> Option<Status> {
    let mut words = text.rsplit_once(") ")?.1.split(' ');
    let zombie = matches!(words.next()?, "Z" | "X");
    Some(Status { parent: words.next()?.parse().ok()?, zombie })
}

/// Reads a line `pid parent state`.
fn parse_ps(line: &str) -> Option<(u32, Status)> {
    let mut words = line.split_whitespace();
    let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((pid, Status { parent, zombie: words.next()?.starts_with('Z') }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_process_tables() {
        let status = parse_stat("7 (a) (b) Z 42 7 7 0").unwrap();
        assert!(status.zombie && status.parent == 42);
        let (pid, status) = parse_ps("  7    42 Ss+").unwrap();
        assert!(pid == 7 && status.parent == 42 && !status.zombie);
    }

    #[test]
    fn sees_its_own_child_until_that_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        assert!(is_running(pid) && children_of(std::process::id()).contains(&pid));
        assert!(wait_until(Duration::from_secs(5), || command_line(pid).unwrap().contains("sleep 60")));
        signal(pid, Signal::KILL).unwrap();
        assert!(wait_until(Duration::from_secs(5), || !is_running(pid)), "a zombie does not run");
        child.wait().unwrap();
        assert!(signal(pid, Signal::KILL).is_ok(), "a process that is gone is no failure");
    }

    #[test]
    fn shows_the_last_lines_only() {
        let text: String = (0..100).map(|line| format!("{line}\n")).collect();
        assert!(tail(text.as_bytes()).starts_with("80\n") && tail(text.as_bytes()).ends_with("\n99"));
        assert_eq!(tail(b""), "");
    }
}
