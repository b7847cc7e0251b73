//! The refresher: access tokens are replaced before they end, and no refresh token is lost on the way.
//!
//! A pool of tasks, in any number of replicas, shares the work through the database (`keyholder_store::Attempt`). Each
//! attempt is on record before its provider is asked, and what the provider answers is made durable, sealed, before
//! anything is made of it: in the database or, while that is away, in a file ([`spool`]). So a process may die at any
//! point. What it leaves behind is finished by another one; if nobody knows whether the provider has replaced the
//! tokens, the connection is *ambiguous*, and the provider's reuse class says what may be done ([`plan::recovery`]).
//!
//! What comes of an attempt is one of three things: the grant is dead (this connection needs its owner), the client is
//! broken (an operator must look; owners are left alone), or it passes (try again). A state changes only for
//! an answer that says so, or once a token that may not be shown any more, and its access token with it, have come to
//! their end.

mod attempt;
mod clients;
mod commit;
mod conclude;
mod counts;
mod demand;
mod guard;
mod notices;
mod pace;
mod plan;
mod pool;
mod refused;
mod spool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use keyholder_catalog::Provider;
use keyholder_domain::{
    AuthMethod, Connection, ConnectionId, OrganizationId, RefreshStatus, Timestamp, Tokens, WorkloadId,
};
use keyholder_store::{Change, ClientKey, Reached, Schedule};
use keyholder_vault::random_bytes;
use tokio::sync::broadcast;

use crate::{Broker, BrokerError, Caller};

pub use counts::RefreshCounts;
pub(crate) use demand::Awaited;
pub use demand::{Rejected, RejectionOutcome};

/// How the refresher works.
#[derive(Debug, Clone)]
pub struct RefresherSettings {
    /// The folder of what must outlive a process: answers that the database could not take, and how far the database has
    /// come. None: nothing is refreshed here.
    pub state_directory: Option<PathBuf>,
    /// The name of this installation; empty: none. A database whose name is another one is a copy.
    pub cluster: String,
    /// How many connections are refreshed at once by this process.
    pub workers: usize,
    /// How many are refreshed at once for one OAuth client, by all processes.
    pub per_client: usize,
}

impl Default for RefresherSettings {
    fn default() -> Self {
        Self { state_directory: None, cluster: String::new(), workers: 64, per_client: 32 }
    }
}

/// What the processes of an installation tell each other about refreshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Somebody waits for one.
    Demanded,
    /// One has ended.
    Ended(ConnectionId),
    /// Something may have been missed.
    Missed,
}

/// What the refresher keeps in memory.
#[derive(Debug)]
pub(crate) struct Refresher {
    settings: RefresherSettings,
    pub(crate) told: broadcast::Sender<Told>,
    waits: demand::Waits,
    counts: counts::Counts,
    seen: clients::Seen,
    unfit: clients::Unfit,
    /// Whether it was said that the installation has no name.
    nameless: AtomicBool,
    /// How far the database had come when this process looked last.
    reached: Mutex<Reached>,
}

impl Refresher {
    pub(crate) fn new(settings: RefresherSettings) -> Self {
        Self {
            settings,
            told: broadcast::Sender::new(1_024),
            waits: demand::Waits::default(),
            counts: counts::Counts::default(),
            seen: clients::Seen::default(),
            unfit: clients::Unfit::default(),
            nameless: AtomicBool::new(false),
            reached: Mutex::default(),
        }
    }

    pub(crate) fn counts(&self) -> RefreshCounts {
        self.counts.read()
    }
}

/// The error of an attempt that was one too many for the provider's liking.
const RATE_LIMITED: &str = "RATE_LIMITED";

/// The errors of an attempt that is left to other processes: this one lacks the installation's client, or the definition.
const CLIENT_MISSING: &str = "CLIENT_MISSING";
const PROVIDER_UNKNOWN: &str = "PROVIDER_UNKNOWN";

/// In whose name the refresher's own steps are on record.
static SELF: LazyLock<WorkloadId> = LazyLock::new(|| WorkloadId::parse("dns:keyholder").expect("a DNS name"));

impl Broker {
    fn refresher(&self) -> &Refresher {
        &self.0.refresher
    }

    /// How connections of an organization stand with the refresher: those whose tokens can be renewed.
    pub async fn refresh_statuses(
        &self,
        caller: &Caller<'_>,
        connections: &[Connection],
    ) -> Result<BTreeMap<ConnectionId, RefreshStatus>, BrokerError> {
        let renewable =
            |connection: &&Connection| connection.tokens.as_ref().is_some_and(|tokens| tokens.renewable);
        let ids: Vec<ConnectionId> =
            connections.iter().filter(renewable).map(|connection| connection.id).collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        Ok(self.store().refreshes(caller.organization_id, &ids).await?)
    }

    /// Says when a connection with new tokens is refreshed next. Inside the change that writes the tokens.
    pub(crate) async fn schedule(
        &self,
        change: &mut Change,
        connection: &Connection,
        provider: &Provider,
    ) -> Result<(), BrokerError> {
        let Some(tokens) = &connection.tokens else { return Ok(()) };
        let client = self.client_key(&connection.organization_id, provider, tokens).await?;
        let schedule = schedule_of(connection, provider, client, self.now());
        Ok(change.schedule_refresh(&schedule).await?)
    }

    /// The client that tokens were issued to, as its provider knows it.
    async fn client_key(
        &self,
        organization_id: &OrganizationId,
        provider: &Provider,
        tokens: &Tokens,
    ) -> Result<ClientKey, BrokerError> {
        let own = self.store().oauth_client(organization_id, &provider.id).await?;
        let is_own = own.is_some_and(|own| own.client_id == tokens.client_id);
        let installed = self.oauth().clients.get(&provider.id);
        let shared = !is_own && installed.is_some_and(|client| client.id == tokens.client_id.as_str());
        Ok(ClientKey {
            organization_id: (!shared).then(|| organization_id.clone()),
            provider_id: provider.id.clone(),
            client_id: tokens.client_id.clone(),
        })
    }
}

/// When a connection with tokens that came at `now` is refreshed next.
fn schedule_of(connection: &Connection, provider: &Provider, client: ClientKey, now: Timestamp) -> Schedule {
    let tokens = connection.tokens.clone().unwrap_or_default();
    let recipe = provider.oauth2.as_deref().map(|recipe| &recipe.refresh);
    let next = recipe.map(|refresh| plan::next(&tokens, refresh, now, chance()));
    let call = recipe.map_or(Duration::from_secs(10), |refresh| plan::call_time(refresh.reuse));
    Schedule {
        connection_id: connection.id,
        client,
        due_time: next.and_then(|next| next.due),
        earliest_time: next.map_or(now, |next| next.earliest),
        deadline: tokens.expire_time,
        call_seconds: i32::try_from(call.as_secs()).unwrap_or(10),
        notice_time: plan::next_notice(&tokens, now),
    }
}

/// Whether the same question can be asked again without harm: nothing in it is used up.
fn repeats(provider: &Provider, method: AuthMethod) -> bool {
    use keyholder_catalog::oauth2::RefreshWith;
    let with_access =
        provider.oauth2.as_deref().is_some_and(|recipe| recipe.refresh.with == RefreshWith::AccessToken);
    with_access || matches!(method, AuthMethod::OAuth2ClientCredentials | AuthMethod::JwtBearer)
}

/// A number from 0 to 1.
fn chance() -> f64 {
    f64::from(u32::from_be_bytes(random_bytes())) / f64::from(u32::MAX)
}

/// Waits for so long, or until refreshing is to stop.
async fn pause(wait: Duration, stop: &mut tokio::sync::watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => false,
        // An error means that the sender is gone, which is the end too.
        _ = stop.wait_for(|stop| *stop) => true,
    }
}
