use std::collections::VecDeque;

use keyholder_domain::Timestamp;
use serde_json::Value;

use super::ask::Ask;
use super::fault::{Effect, Stage};

/// How many calls are kept.
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
    /// Grants that a person gave, or that a device got.
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

#[derive(Default)]
pub(super) struct History {
    calls: VecDeque<Call>,
    made: u64,
}

impl History {
    pub(super) fn open(&mut self, ask: &Ask, presented: Option<String>, now: Timestamp) -> u64 {
        self.made += 1;
        if self.calls.len() == KEPT {
            self.calls.pop_front();
        }
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
        self.made
    }

    /// Changes a call, unless it is forgotten already.
    pub(super) fn change(&mut self, number: u64, change: impl FnOnce(&mut Call)) {
        if let Some(call) = self.calls.iter_mut().rev().find(|call| call.number == number) {
            change(call);
        }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }
}
