//! Where a name is. What the name servers say is judged elsewhere.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::Instant;

use self::cache::Cache;
use self::servers::{Found, NameServers};
use crate::{Refusal, Settings, SettingsError};

mod cache;
mod servers;

/// The most addresses of a name, both families together.
pub(crate) const MAX_ADDRESSES: usize = 64;

/// The most aliases on the way to an address.
pub(crate) const MAX_ALIASES: usize = 16;

/// An answer is good for its TTL, but not longer than this.
const MAX_TTL: Duration = Duration::from_secs(60);

/// That a name has no address is believed for its TTL, but not longer than this.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// The name servers could not say where a host is. That says nothing about the host; try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResolverFault {
    /// They answered with a failure, or could not be reached.
    #[error("the name servers fail to resolve the host")]
    Failed,
    /// They did not answer in time.
    #[error("the name servers do not answer in time")]
    TimedOut,
}

impl ResolverFault {
    /// The reason as logs and metrics have it. Stable.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Failed => "resolver_failed",
            Self::TimedOut => "resolver_timed_out",
        }
    }
}

/// What the name servers say about a name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    /// The other names that came up on the way, in lower case, without a final dot.
    pub(crate) aliases: Vec<String>,
}

/// The way to the name servers.
pub(crate) struct Resolver {
    servers: NameServers,
    deadline: Duration,
    known: Mutex<Cache>,
}

impl Resolver {
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let deadline = settings.deadlines.resolve;
        let servers = NameServers::new(&settings.nameservers, deadline)?;
        Ok(Self { servers, deadline, known: Mutex::default() })
    }

    /// Says where a name is: what was said lately, as long as it is good, else what the name servers say now.
    ///
    /// Both families must be answered: half an answer could hide the half that would be refused.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Result<Answer, Refusal>, ResolverFault> {
        if let Some(answer) = self.known().get(name, Instant::now()) {
            return Ok(Ok(answer));
        }
        // With its final dot a name is complete, and no search domain is ever tried.
        let Ok(complete) = Name::from_ascii(format!("{name}.")) else {
            return Ok(Err(Refusal::HostName));
        };
        let both = async {
            let v4 = self.servers.follow(&complete, RecordType::A);
            let v6 = self.servers.follow(&complete, RecordType::AAAA);
            tokio::try_join!(v4, v6)
        };
        let (v4, v6) =
            tokio::time::timeout(self.deadline, both).await.unwrap_or(Err(ResolverFault::TimedOut))?;
        let (lifetime, answer) = (lifetime(&[&v4, &v6]), combine(name, &[&v4, &v6]));
        if let Ok(answer) = &answer {
            self.known().put(name, answer, Instant::now(), lifetime);
        }
        Ok(answer)
    }

    fn known(&self) -> MutexGuard<'_, Cache> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long an answer is good for: its shortest lifetime, within our own bounds. Nothing that came without a
/// lifetime is kept.
fn lifetime(found: &[&Found; 2]) -> Duration {
    let records = found.iter().flat_map(|found| &found.records).map(|record| record.ttl);
    let none = found.iter().filter_map(|found| found.negative_ttl);
    let shortest = records.chain(none).min().unwrap_or(0);
    let has_addresses = found.iter().any(|found| found.has_addresses);
    Duration::from_secs(shortest.into()).min(if has_addresses { MAX_TTL } else { MAX_NEGATIVE_TTL })
}

/// Takes the addresses and the names out of the records, no more of them than are ever judged. The owner of a
/// record counts as much as the alias that leads to it.
fn combine(name: &str, found: &[&Found; 2]) -> Result<Answer, Refusal> {
    let mut answer = Answer::default();
    for record in found.iter().flat_map(|found| &found.records) {
        match &record.data {
            RData::A(address) => answer.addresses.push(address.0.into()),
            RData::AAAA(address) => answer.addresses.push(address.0.into()),
            RData::CNAME(alias) => answer.add_alias(name, &alias.0),
            _ => {}
        }
        answer.add_alias(name, &record.name);
        if answer.addresses.len() > MAX_ADDRESSES || answer.aliases.len() > MAX_ALIASES {
            return Err(Refusal::TooManyAddresses);
        }
    }
    Ok(answer)
}

impl Answer {
    fn add_alias(&mut self, asked: &str, alias: &Name) {
        let alias = plain(alias);
        if alias != asked && !self.aliases.contains(&alias) {
            self.aliases.push(alias);
        }
    }
}

fn plain(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}
