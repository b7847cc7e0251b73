//! What processes have used of the processors, as the kernel counts it.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

/// The ticks of a second in `/proc/<pid>/stat`: 100 on every Linux that we are built for.
const TICKS: u64 = 100;

/// What the two sides of the server have used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// The server, or the baseline in its place.
    pub(crate) server: Duration,
    /// Postgres, with everything it has started.
    pub(crate) postgres: Duration,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            server: self.server.saturating_sub(before.server),
            postgres: self.postgres.saturating_sub(before.postgres),
        }
    }
}

impl Usage {
    /// Both sides together.
    pub(crate) fn sum(&self) -> Duration {
        self.server + self.postgres
    }
}

/// What one process has used.
pub(crate) fn of_process(pid: u32) -> Duration {
    let stat = stat(pid).map_or(Duration::ZERO, |stat| stat.own);
    // To the nanosecond, but without the threads that have ended.
    stat.max(of_threads(pid))
}

/// What a process and those that it has started have used, also those that have ended.
pub(crate) fn of_family(parent: u32) -> Duration {
    let ended = stat(parent).map_or(Duration::ZERO, |stat| stat.ended_children);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = pids.filter(|&pid| stat(pid).is_some_and(|stat| stat.parent == parent));
    ended + of_process(parent) + children.map(of_process).sum::<Duration>()
}

fn of_threads(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let told = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    told.filter_map(|text| parse_schedstat(&text)).sum()
}

/// Reads `/proc/<pid>/task/<tid>/schedstat`: nanoseconds run, nanoseconds waited, turns.
fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads `/proc/<pid>/stat` (proc_pid_stat(5)). The name, the second field, may hold spaces and brackets.
fn parse_stat(text: &str) -> Option<Stat> {
    // From the third field on.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let time = |ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS);
    Some(Stat {
        parent: u32::try_from(field(4)?).ok()?,
        own: time(field(14)? + field(15)?),
        ended_children: time(field(16)? + field(17)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes_of_a_process() {
        let text = "7 (a b) c) S 42 7 7 0 -1 4194560 1 2 3 4 150 30 25 5 20 0 1 0 9 1 2 3";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            stat,
            Stat {
                parent: 42,
                own: Duration::from_millis(1_800),
                ended_children: Duration::from_millis(300)
            }
        );
        assert_eq!(parse_stat("7 (a) S 42"), None);
        assert_eq!(parse_schedstat("1500 20 3\n"), Some(Duration::from_nanos(1_500)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_burnt_is_seen_on_this_process_and_in_its_family() {
        let pid = std::process::id();
        let before = of_process(pid);
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(60) {}
        assert!(of_process(pid) > before);
        let family = of_family(pid);
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        std::process::Command::new("sh").args(["-c", burn]).status().unwrap();
        assert!(of_family(pid) > family + Duration::from_millis(10), "a child that has ended counts");
    }

    #[test]
    fn a_difference_is_never_less_than_nothing() {
        let less = Usage { server: Duration::from_secs(1), postgres: Duration::from_secs(5) };
        let more = Usage { server: Duration::from_secs(3), postgres: Duration::from_secs(4) };
        assert_eq!((more - less).sum(), Duration::from_secs(2));
    }
}
