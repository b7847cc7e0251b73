//! Which processor does what.

use crate::Outcome;

/// The two processors in use; none, if there is but one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pins {
    cores: Option<[usize; 2]>,
}

impl Pins {
    /// The first two processors that this process may use.
    pub(crate) fn find() -> Self {
        let mut usable = usable().into_iter();
        Self { cores: usable.next().zip(usable.next()).map(|(first, second)| [first, second]) }
    }

    pub(crate) const fn are_set(&self) -> bool {
        self.cores.is_some()
    }

    /// Keeps this thread, and what it starts, to the client's processor.
    pub(crate) fn hold_client(&self) -> Outcome<()> {
        self.cores.map_or(Ok(()), |[_, client]| hold(client))
    }

    /// Starts something on the server's processor: a process has the processors of the thread that starts it.
    pub(crate) fn as_server<T>(&self, start: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let Some([server, client]) = self.cores else { return start() };
        hold(server)?;
        let started = start();
        hold(client)?;
        started
    }
}

#[cfg(target_os = "linux")]
fn usable() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

#[cfg(target_os = "linux")]
fn hold(core: usize) -> Outcome<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

#[cfg(not(target_os = "linux"))]
fn usable() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn hold(_core: usize) -> Outcome<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_gets_the_processor_of_the_thread_that_starts_it() {
        let pins = Pins::find();
        let Some([server, client]) = pins.cores else { return };
        // A thread of its own: the test's may be used again.
        std::thread::spawn(move || {
            pins.hold_client().unwrap();
            let status = pins
                .as_server(|| Ok(std::process::Command::new("cat").arg("/proc/self/status").output()?))
                .unwrap();
            let status = String::from_utf8(status.stdout).unwrap();
            assert!(status.contains(&format!("Cpus_allowed_list:\t{server}\n")), "{status}");
            assert_eq!(usable(), [client]);
        })
        .join()
        .unwrap();
    }
}
