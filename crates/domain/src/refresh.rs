use crate::{Text, Timestamp};

/// How a connection stands with the refresher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshStatus {
    /// In one word.
    pub state: RefreshState,
    /// When the provider was last asked.
    pub last_attempt_time: Option<Timestamp>,
    /// When it last gave new tokens.
    pub last_success_time: Option<Timestamp>,
    /// When it is asked next; none: now, or not by itself.
    pub next_attempt_time: Option<Timestamp>,
    /// What went wrong last: a stable name; empty: nothing since the last success.
    pub error: Text,
    /// How many attempts in a row came to nothing.
    pub failures: i32,
}

/// How a connection stands with the refresher, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefreshState {
    /// All is well.
    Scheduled,
    /// It waits for its turn, or is being refreshed.
    UnderWay,
    /// The last attempt did not go through; it is tried again.
    Failing,
    /// It is not known whether the provider has replaced the tokens.
    Ambiguous,
    /// The provider says that the permission is gone, which is not believed yet.
    Refused,
    /// The provider does not take the OAuth client.
    ClientQuarantined,
    /// Nothing is refreshed at present.
    Frozen,
}
