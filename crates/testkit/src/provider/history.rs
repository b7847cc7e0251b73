use std::collections::VecDeque;

use keyholder_domain::Timestamp;
use serde_json::Value;

use super::ask::Ask;
use super::fault::{Effect, Stage};

/// How many calls are kept, until another number is asked for.
const KEPT: usize = 10_000;

/// A part of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `/authorize` and the buttons of its page.
    Authorize,
    /// `/token`.
    Token,
    /// `/device_authorization`.
    DeviceAuthorization,
    /// `/device`, the page for the person.
    Device,
    /// `/revoke`.
    Revoke,
    /// `/userinfo`.
    UserInfo,
    /// `/exchange`, a short-lived token for a long-lived one.
    Exchange,
    /// `/refresh_long_lived`.
    RefreshLongLived,
    /// `/app/installations/{id}/access_tokens`.
    Installation,
    /// `/.well-known/…`.
    Metadata,
    /// Anything else.
    Other,
}

/// A call to the provider, in the order of arrival.
#[derive(Debug, Clone)]
pub struct Call {
    /// Counts the calls, from 1.
    pub number: u64,
    /// When it arrived.
    pub at: Timestamp,
    /// When its answer was given to the network. Nothing if it never was: held, hanging, reset.
    pub answered: Option<Timestamp>,
    /// Where it went.
    pub endpoint: Endpoint,
    /// The HTTP method.
    pub method: String,
    /// The parameters of the URL as they came, secrets included: for a test to look at, never for a log.
    pub query: Vec<(String, String)>,
    /// The parameters of the body, likewise.
    pub form: Vec<(String, String)>,
    /// The headers, likewise.
    pub headers: Vec<(String, String)>,
    /// The id of the code or token that was presented, such as `rt-7`; `unknown` if it is none of ours.
    pub presented: Option<String>,
    /// The claims of the assertion that was presented.
    pub claims: Option<Value>,
    /// What the provider did, whatever became of its answer.
    pub outcome: Outcome,
    /// What became of the answer.
    pub fault: Option<(Stage, Effect)>,
}

impl Call {
    /// A parameter of the body or of the URL.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut all = self.form.iter().chain(&self.query);
        all.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it asked for a refresh.
    pub fn is_refresh(&self) -> bool {
        self.endpoint == Endpoint::Token && self.parameter("grant_type") == Some("refresh_token")
    }
}

/// What the provider did about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing, or nothing yet.
    Nothing,
    /// It gave tokens out; the ids of both.
    Issued {
        /// The access token.
        access: String,
        /// The refresh token that the answer carries.
        refresh: Option<String>,
    },
    /// It refused, with the error of OAuth.
    Refused(&'static str),
    /// Something else, with this status.
    Answered(u16),
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of the token endpoint.
    pub token_calls: u64,
    /// Those of them that were refused by the [`Limit`](super::Limit).
    pub limited: u64,
    /// Grants that a person gave, that a device got, or that a test had issued.
    pub grants: u64,
    /// Refreshes that gave tokens out.
    pub refreshes: u64,
    /// Refresh tokens that came again when they must not.
    pub replays: u64,
    /// Codes that came again.
    pub code_replays: u64,
    /// Revocations of a token that was alive.
    pub revocations: u64,
    /// The most refreshes of one grant at one time.
    pub most_refreshes_at_once: u64,
}

/// A call that presented a refresh token of ours at the token endpoint, without the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// The call's number.
    pub number: u64,
    /// When it arrived.
    pub at: Timestamp,
    /// When its answer was given to the network, spoilt or not. Nothing if it never was.
    pub answered: Option<Timestamp>,
    /// The grant that it is of; they count from 0.
    pub grant: usize,
    /// The id of the token that was presented, such as `rt-7`.
    pub presented: String,
    /// What had become of that when the work on the call began, or when it arrived if no work was done.
    /// Nothing if it had not been replaced.
    pub superseded: Option<Superseded>,
    /// What the provider did, whatever became of its answer.
    pub outcome: Outcome,
}

/// What had become of a refresh token that was replaced. Only
/// [`RefreshTokens::Rotate`](super::RefreshTokens::Rotate) replaces a token, and not where it stays good,
/// under [`Reuse::Static`](super::Reuse::Static).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superseded {
    /// When it was first used.
    pub since: Timestamp,
    /// Whether its replacement had been used, too.
    pub replacement_used: bool,
}

pub(super) struct History {
    kept: usize,
    calls: VecDeque<Call>,
    made: u64,
    /// Never cut, and in the order of their numbers.
    pub(super) refreshes: Vec<Refreshed>,
}

impl Default for History {
    fn default() -> Self {
        Self { kept: KEPT, calls: VecDeque::new(), made: 0, refreshes: Vec::new() }
    }
}

impl History {
    /// Keeps so many calls.
    pub(super) fn keep(&mut self, calls: usize) {
        self.kept = calls;
        self.cut();
    }

    fn cut(&mut self) {
        self.calls.drain(..self.calls.len().saturating_sub(self.kept));
    }

    pub(super) fn open(&mut self, ask: &Ask, presented: Option<String>, now: Timestamp) -> u64 {
        self.made += 1;
        self.calls.push_back(Call {
            number: self.made,
            at: now,
            answered: None,
            endpoint: ask.endpoint,
            method: ask.method.to_string(),
            query: ask.query.clone(),
            form: ask.form.clone(),
            headers: ask.headers(),
            presented,
            claims: ask.claims(),
            outcome: Outcome::Nothing,
            fault: None,
        });
        self.cut();
        self.made
    }

    /// Changes a call, unless it is forgotten already.
    pub(super) fn change(&mut self, number: u64, change: impl FnOnce(&mut Call)) {
        let first = self.calls.front().map_or(0, |call| call.number);
        let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(call) = place.and_then(|place| self.calls.get_mut(place)) {
            change(call);
        }
    }

    /// Says what the provider did about a call.
    pub(super) fn worked(&mut self, number: u64, outcome: &Outcome, superseded: Option<Superseded>) {
        self.change(number, |call| call.outcome = outcome.clone());
        if let Some(refreshed) = self.refreshed(number) {
            refreshed.outcome = outcome.clone();
            refreshed.superseded = superseded;
        }
    }

    /// Says when the answer of a call was given to the network.
    pub(super) fn answered(&mut self, number: u64, at: Timestamp) {
        self.change(number, |call| call.answered = Some(at));
        if let Some(refreshed) = self.refreshed(number) {
            refreshed.answered = Some(at);
        }
    }

    fn refreshed(&mut self, number: u64) -> Option<&mut Refreshed> {
        let place = self.refreshes.binary_search_by_key(&number, |refreshed| refreshed.number).ok()?;
        self.refreshes.get_mut(place)
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }
}
