//! Asking the name servers.
//!
//! hickory carries the questions: UDP with random ids and ports, TCP where an answer does not fit, the next
//! server when one fails. Its cache and its following of aliases are left aside, because they forget the
//! aliases on the way to what is known already, and every alias is judged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, FirstAnswer as _, RetryDnsHandle};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::{MAX_ALIASES, ResolverFault};
use crate::SettingsError;

/// How often a question is asked within the deadline.
const TRIES: u32 = 3;

/// What there is for one name and family.
#[derive(Default)]
pub(super) struct Found {
    /// All records that came on the way, aliases among them.
    pub(super) records: Vec<Record>,
    pub(super) has_addresses: bool,
    /// For how many seconds it is so that there are none, if that was said.
    pub(super) negative_ttl: Option<u32>,
}

/// The name servers, asked in parallel by twos, the quicker ones first.
pub(super) struct NameServers {
    handle: RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>,
}

impl NameServers {
    /// The configured name servers; the system's, if there are none.
    pub(super) fn new(configured: &[SocketAddr], deadline: Duration) -> Result<Self, SettingsError> {
        let fault = |error: NetError| SettingsError::Nameservers(Box::new(error));
        let servers = match configured {
            [] => read_system_conf().map_err(fault)?.0.name_servers,
            configured => configured.iter().map(at_port).collect(),
        };
        let mut options = ResolverOpts::default();
        options.timeout = deadline / TRIES;
        let context = PoolContext::new(options, TlsConfig::new().map_err(fault)?);
        let pool = NameServerPool::from_config(servers, Arc::new(context), TokioRuntimeProvider::default());
        Ok(Self { handle: RetryDnsHandle::new(pool, TRIES as usize - 1) })
    }

    /// Asks for a name's addresses, and follows its aliases until there are some, or no more aliases.
    pub(super) async fn follow(&self, name: &Name, kind: RecordType) -> Result<Found, ResolverFault> {
        let (mut found, mut at) = (Found::default(), name.clone());
        // One alias too many is enough to be refused.
        for _ in 0..=MAX_ALIASES {
            let Some(answers) = self.ask(&at, kind, &mut found).await? else { break };
            let end = end_of_aliases(&at, &answers);
            let is_address = |record: &Record| record.name == end && record.record_type() == kind;
            found.has_addresses = answers.iter().any(is_address);
            found.records.extend(answers);
            if found.has_addresses || end == at {
                break;
            }
            at = end;
        }
        Ok(found)
    }

    async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        found: &mut Found,
    ) -> Result<Option<Vec<Record>>, ResolverFault> {
        let mut options = DnsRequestOptions::default();
        (options.use_edns, options.recursion_desired) = (true, true);
        let answer = self.handle.lookup(Query::query(name.clone(), kind), options).first_answer().await;
        match answer.and_then(|response| Ok(DnsError::from_response(response)?)) {
            Ok(response) => Ok(Some(take_answers(response))),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                found.negative_ttl = none.negative_ttl;
                Ok(None)
            }
            Err(NetError::Timeout) => Err(ResolverFault::TimedOut),
            Err(_) => Err(ResolverFault::Failed),
        }
    }
}

fn at_port(address: &SocketAddr) -> NameServerConfig {
    let ways = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
        way.port = address.port();
        way
    });
    NameServerConfig::new(address.ip(), true, ways.to_vec())
}

fn take_answers(response: DnsResponse) -> Vec<Record> {
    response.into_message().answers
}

/// The last name of the chain of aliases that begins at a name. A chain that bites its tail ends somewhere in
/// it, where no address is.
fn end_of_aliases(name: &Name, answers: &[Record]) -> Name {
    let mut end = name;
    for _ in answers {
        let next = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == *end => Some(&alias.0),
            _ => None,
        });
        match next {
            Some(next) => end = next,
            None => break,
        }
    }
    end.clone()
}
