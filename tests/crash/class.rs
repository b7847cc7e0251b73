//! A provider of each reuse class, and what is known of the calls it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyholder_domain::{SystemClock, Timestamp};
use keyholder_testkit::provider::{Client, Effect, Provider, Refreshed, Reuse, Stage};

use crate::oauth::world::CLIENT;

/// How long an access token lives while there are faults, and once there are none.
pub(super) const SHORT: Duration = Duration::from_secs(10);
pub(super) const LONG: Duration = Duration::from_secs(3_600);

/// How long an old token stays good where it does for a while: longer than several kills in a row take.
const WINDOW: Duration = Duration::from_secs(120);

/// HERE is the provider, and PROCESS whoever reads the definition: each process has a catalog of its own,
/// and so each call says who makes it.
const DEFINITION: &str = "id: ID
name: ID
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - method: oauth2_code
    title: Sign in
    test:
      request: GET /userinfo
      good: [200]
      dead: [401]
      account: { id: /sub }
oauth2:
  client_authentication: basic
  authorize: { url: HERE/authorize }
  token: { url: HERE/token }
  revoke: { url: HERE/revoke }
  refresh: { REUSE, parameters: { process: PROCESS } }
scopes:
  - { name: read, title: Read }
default_scopes: [read]
";

/// A provider of a reuse class, and the connections at it.
pub(super) struct Class {
    pub(super) id: &'static str,
    pub(super) reuse: Reuse,
    pub(super) provider: Provider,
    recipe: &'static str,
    /// By grant: they count from 0, and each account has one.
    pub(super) made: BTreeMap<usize, Made>,
    /// How many grants there are.
    pub(super) grants: usize,
    /// Who made a call, by its number, and how it was spoilt.
    pub(super) callers: BTreeMap<u64, Caller>,
    /// How many processes were killed on purpose while they dealt with it.
    pub(super) kills: usize,
    /// Calls whose answer was seen to be durable.
    pub(super) durable: Vec<u64>,
}

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) account: String,
    pub(super) connection_id: String,
    /// The first tokens: the refresh token's id, and when the access token ended.
    pub(super) first: (String, Timestamp),
}

/// Who made a call.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) process: String,
    pub(super) fault: Option<(Stage, Effect)>,
}

impl Class {
    /// All four.
    pub(super) fn all() -> Vec<Self> {
        vec![
            Self::new("static", Reuse::Static, "reuse: static"),
            Self::new("window", Reuse::Window(WINDOW), "reuse: window, reuse_seconds: 120"),
            Self::new("untilused", Reuse::UntilUsed(Duration::from_secs(86_400)), "reuse: until_used"),
            Self::new("none", Reuse::None, "reuse: none"),
        ]
    }

    fn new(id: &'static str, reuse: Reuse, recipe: &'static str) -> Self {
        let provider = Provider::start(Arc::new(SystemClock)).unwrap();
        provider.register(Client::confidential(CLIENT.0, CLIENT.1, "http://127.0.0.1:9/callback"));
        provider.behave(|manners| {
            manners.reuse = reuse;
            manners.access_lifetime = SHORT;
        });
        // What was seen is noted, so that a long run does not keep it all.
        provider.remember(2_000);
        Self {
            id,
            reuse,
            provider,
            recipe,
            made: BTreeMap::new(),
            grants: 0,
            callers: BTreeMap::new(),
            kills: 0,
            durable: Vec::new(),
        }
    }

    /// Its definition, as one process reads it.
    pub(super) fn definition(&self, process: &str) -> String {
        let text = DEFINITION.replace("HERE", &self.provider.issuer()).replace("PROCESS", process);
        text.replace("REUSE", self.recipe).replace("ID", self.id)
    }

    /// Notes who made the latest calls.
    pub(super) fn note(&mut self) {
        for call in self.provider.history() {
            if call.is_refresh() {
                let process = call.parameter("process").unwrap().to_owned();
                self.callers.insert(call.number, Caller { process, fault: call.fault });
            }
        }
    }

    /// The call that waits for its answer, and who made it.
    pub(super) fn waiting(&mut self) -> Option<(Refreshed, String)> {
        self.note();
        let last = self.provider.refreshes().into_iter().rev().find(|call| call.answered.is_none())?;
        let process = self.callers.get(&last.number)?.process.clone();
        Some((last, process))
    }

    /// The latest call for a grant.
    pub(super) fn latest(&self, grant: usize) -> Option<u64> {
        let calls = self.provider.refreshes();
        calls.iter().rev().find(|call| call.grant == grant).map(|call| call.number)
    }
}
