use std::collections::BTreeMap;

use crate::{
    AuthMethod, AuthorizationId, ConnectionId, Labels, OrganizationId, Principal, ProviderId, Scopes, Text,
    Timestamp, WorkloadId,
};

/// Where an authorization stands. It is used once and goes one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthorizationState {
    /// Waits for the owner to consent.
    Pending,
    /// The owner has consented; the provider is being asked for tokens.
    Exchanging,
    /// The tokens are here; the app that began it must confirm that its own user finished it.
    AwaitingCompletion,
    /// There is a connection.
    Completed,
    /// It came to nothing; a new one can be begun.
    Failed,
}

impl AuthorizationState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Exchanging, Self::AwaitingCompletion, Self::Completed, Self::Failed];

    /// The state's name in the database and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Exchanging => "EXCHANGING",
            Self::AwaitingCompletion => "AWAITING_COMPLETION",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }

    /// Reads a state's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Declares why authorizations fail, with their names and sentences.
macro_rules! failures {
    ($($(#[$doc:meta])* $failure:ident = $name:literal, $sentence:literal;)*) => {
        /// Why an authorization came to nothing: a stable name, and a fixed sentence for people.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AuthorizationFailure {
            $($(#[$doc])* #[doc = $sentence] $failure,)*
        }

        impl AuthorizationFailure {
            /// Every failure.
            pub const ALL: &'static [Self] = &[$(Self::$failure,)*];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$failure => $name,)*
                }
            }

            /// The sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$failure => $sentence,)*
                }
            }
        }
    };
}

failures! {
    AccessDenied = "ACCESS_DENIED", "The owner, or the provider for them, said no.";
    Expired = "EXPIRED", "Nobody finished it in time.";
    IssuerMismatch = "ISSUER_MISMATCH", "The answer came from another server than the one that was asked.";
    ProviderError = "PROVIDER_ERROR", "The provider reported an error instead of asking for consent.";
    CodeRefused = "CODE_REFUSED", "The provider did not take the code that it had issued.";
    ClientRefused = "CLIENT_REFUSED", "The provider did not take the OAuth client; the operator must look.";
    ProviderUnavailable = "PROVIDER_UNAVAILABLE", "The provider could not be reached, or did not work.";
    AnswerUnusable = "ANSWER_UNUSABLE", "The provider's answer held no token that can be used.";
    AccountMismatch = "ACCOUNT_MISMATCH", "The owner consented with another account than the connected one.";
    ConfigRefused = "CONFIG_REFUSED", "The provider returned data that is not allowed for it.";
    Interrupted = "INTERRUPTED", "Keyholder was stopped before the provider's answer was kept; a code is not sent twice.";
    ConnectionGone = "CONNECTION_GONE", "The connection was deleted meanwhile.";
}

impl AuthorizationFailure {
    /// Reads a failure's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|failure| failure.as_str() == text)
    }
}

/// One OAuth flow. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Its id.
    pub id: AuthorizationId,
    /// The tenant it belongs to.
    pub organization_id: OrganizationId,
    /// Whose account is being connected.
    pub owner: Principal,
    /// At which provider.
    pub provider_id: ProviderId,
    /// How.
    pub auth_method: AuthMethod,
    /// The connection that is authorized anew or, once it is completed, the one that came of it.
    pub connection_id: Option<ConnectionId>,
    /// Whether a connection that was there is authorized anew.
    pub reauthorizes: bool,
    /// A name for people, for a new connection.
    pub display_name: Text,
    /// The caller's own marks, for a new connection.
    pub labels: Labels,
    /// The provider's settings.
    pub config: BTreeMap<String, String>,
    /// The scopes that are asked for.
    pub scopes: Scopes,
    /// The public id of the OAuth client that asks.
    pub client_id: Text,
    /// Where the provider sends the browser back to; empty where there is no browser.
    pub redirect_uri: String,
    /// Where the browser goes in the end; empty: it stays on our page.
    pub return_url: String,
    /// What must be known to complete it (RFC 7636, section 4.2: S256); empty: nothing.
    pub completion_challenge: Text,
    /// Where it stands.
    pub state: AuthorizationState,
    /// Why it failed.
    pub failure: Option<AuthorizationFailure>,
    /// For a device: the code that the owner types in.
    pub user_code: Text,
    /// For a device: where they type it in.
    pub verification_uri: String,
    /// For a device: the same with the code in it, if the provider gives one.
    pub verification_uri_complete: String,
    /// The process that began it.
    pub started_by: WorkloadId,
    /// When it began.
    pub create_time: Timestamp,
    /// When it ends by itself.
    pub expire_time: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_failure_is_read_back_from_its_name() {
        for state in AuthorizationState::ALL {
            assert_eq!(AuthorizationState::parse(state.as_str()), Some(state));
        }
        for failure in AuthorizationFailure::ALL {
            assert_eq!(AuthorizationFailure::parse(failure.as_str()), Some(*failure));
        }
        assert_eq!(AuthorizationFailure::parse("expired"), None);
    }
}
