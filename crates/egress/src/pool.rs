//! Connections that wait for the next request, and the count of calls that are under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::settings::Limits;
use crate::vet::Vetted;
use crate::wire::Wire;
use crate::{EgressError, HostPort, Target};

/// How long a connection waits. Shorter than the 5 seconds after which common servers close theirs, so that a
/// request seldom crosses a close on its way, and nobody knows whether it arrived.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// The connections of all hosts.
pub(crate) struct Pool {
    limits: Limits,
    hosts: Mutex<Hosts>,
}

#[derive(Default)]
struct Hosts {
    calls: usize,
    waiting: usize,
    swept: bool,
    by_key: HashMap<Key, Host>,
}

#[derive(Default)]
struct Host {
    calls: usize,
    /// The one that was used last comes last.
    waiting: Vec<Wire>,
}

/// A connection serves no other scheme, host or port than the one it was opened for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    encrypted: bool,
    host_port: HostPort,
}

impl Pool {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, hosts: Mutex::default() })
    }

    /// Counts a call, for as long as the answer lives.
    pub(crate) fn enter(self: &Arc<Self>, target: &Target) -> Result<Call, EgressError> {
        let key = Key { encrypted: target.is_encrypted(), host_port: target.host_port() };
        let mut hosts = self.lock();
        if hosts.calls >= self.limits.calls {
            return Err(EgressError::Busy);
        }
        let host = hosts.by_key.entry(key.clone()).or_default();
        if host.calls >= self.limits.calls_per_host {
            return Err(EgressError::Busy);
        }
        host.calls += 1;
        hosts.calls += 1;
        Ok(Call { pool: self.clone(), key })
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut hosts = self.lock();
        for host in hosts.by_key.values_mut() {
            host.waiting.retain(|wire| now - wire.used < MAX_IDLE);
        }
        hosts.by_key.retain(|_, host| host.calls > 0 || !host.waiting.is_empty());
        hosts.waiting = hosts.by_key.values().map(|host| host.waiting.len()).sum();
        hosts.swept = hosts.waiting > 0;
        hosts.swept
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting
    }
}

/// A call that is under way.
pub(crate) struct Call {
    pool: Arc<Pool>,
    key: Key,
}

impl Call {
    /// Takes a connection to one of the addresses that were vetted for this request. Any other stays where it
    /// is, until its time is over.
    pub(crate) async fn take(&self, vetted: &Vetted) -> Option<Wire> {
        while let Some(mut wire) = self.pick(vetted) {
            if wire.is_ready().await {
                return Some(wire);
            }
        }
        None
    }

    fn pick(&self, vetted: &Vetted) -> Option<Wire> {
        let now = Instant::now();
        let mut hosts = self.pool.lock();
        let host = hosts.by_key.get_mut(&self.key)?;
        let fits = |wire: &Wire| vetted.addresses().contains(&wire.peer) && now - wire.used < MAX_IDLE;
        let at = host.waiting.iter().rposition(fits)?;
        let wire = host.waiting.remove(at);
        hosts.waiting -= 1;
        Some(wire)
    }

    /// Gives a connection back after its answer was read to the end.
    pub(crate) async fn give_back(&self, mut wire: Wire) {
        if !wire.is_ready().await {
            return;
        }
        wire.used = Instant::now();
        let mut hosts = self.pool.lock();
        if hosts.waiting >= self.pool.limits.calls {
            return;
        }
        let Some(host) = hosts.by_key.get_mut(&self.key) else { return };
        host.waiting.push(wire);
        hosts.waiting += 1;
        if !std::mem::replace(&mut hosts.swept, true) {
            tokio::spawn(sweep_until_empty(Arc::downgrade(&self.pool)));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut hosts = self.pool.lock();
        hosts.calls -= 1;
        if let Some(host) = hosts.by_key.get_mut(&self.key) {
            host.calls -= 1;
            if host.calls == 0 && host.waiting.is_empty() {
                hosts.by_key.remove(&self.key);
            }
        }
    }
}

/// Closes connections that have waited long enough. Ends with the last of them.
async fn sweep_until_empty(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(MAX_IDLE).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}
