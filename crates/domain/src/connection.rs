use std::collections::BTreeMap;

use crate::{
    AuthMethod, ConnectionId, Generation, Labels, LastTest, OrganizationId, Principal, ProviderId, Scopes,
    Text, Timestamp, Tokens,
};

/// Where a connection stands. Only [`ConnectionState::Active`] ever releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionState {
    /// An authorization that is not finished.
    Pending,
    /// In use.
    Active,
    /// Switched off by an operator or a manager; nothing is lost.
    Disabled,
    /// The provider refused the credential for good: the owner must connect again.
    ReauthorizationRequired,
    /// A tombstone: the credential is erased, the id stays.
    Deleted,
}

/// A change of state that the lifecycle does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a connection that is {from} cannot become {to}")]
pub struct TransitionRefused {
    /// The state it is in.
    pub from: ConnectionState,
    /// The state that was asked for.
    pub to: ConnectionState,
}

impl ConnectionState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Active, Self::Disabled, Self::ReauthorizationRequired, Self::Deleted];

    /// The state's name in the database and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Active => "ACTIVE",
            Self::Disabled => "DISABLED",
            Self::ReauthorizationRequired => "REAUTHORIZATION_REQUIRED",
            Self::Deleted => "DELETED",
        }
    }

    /// Reads a state's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Switches off.
    pub fn disable(self) -> Result<Self, TransitionRefused> {
        match self {
            Self::Active | Self::Disabled => Ok(Self::Disabled),
            from => Err(TransitionRefused { from, to: Self::Disabled }),
        }
    }

    /// Switches on again.
    pub fn enable(self) -> Result<Self, TransitionRefused> {
        match self {
            Self::Active | Self::Disabled => Ok(Self::Active),
            from => Err(TransitionRefused { from, to: Self::Active }),
        }
    }

    /// The state after the owner has put a new credential in place of the old one. A connection that was
    /// switched off stays off.
    pub fn replace_credentials(self) -> Result<Self, TransitionRefused> {
        match self {
            Self::Active | Self::ReauthorizationRequired => Ok(Self::Active),
            Self::Disabled => Ok(Self::Disabled),
            from => Err(TransitionRefused { from, to: Self::Active }),
        }
    }

    /// The state after the owner has consented again. A connection that was switched off stays off.
    pub fn authorize(self) -> Result<Self, TransitionRefused> {
        match self {
            Self::Pending => Ok(Self::Active),
            other => other.replace_credentials(),
        }
    }
}

impl std::fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who the provider says the account is. Any part may be unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The provider's stable id of the account.
    pub id: Text,
    /// Its name, for people.
    pub name: Text,
    /// Its e-mail address.
    pub email: Text,
}

/// One account of one owner at one provider. Holds no secret: the sealed credential travels beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The tenant it belongs to.
    pub organization_id: OrganizationId,
    /// Whose account it is.
    pub owner: Principal,
    /// At which provider.
    pub provider_id: ProviderId,
    /// How it was connected.
    pub auth_method: AuthMethod,
    /// A name for people.
    pub display_name: Text,
    /// The account at the provider.
    pub account: Account,
    /// What the credential may do at the provider. Empty: the provider has no scopes, or nobody said.
    pub scopes: Scopes,
    /// Where it stands.
    pub state: ConnectionState,
    /// Why it stands there; empty while nothing is to be said.
    pub state_reason: Text,
    /// For each credential field, that it is there: `configured...[REDACTED]`.
    pub credential_summary: BTreeMap<String, String>,
    /// Settings that are no secret, such as a base URL.
    pub config: BTreeMap<String, String>,
    /// The caller's own marks.
    pub labels: Labels,
    /// What is known of its tokens, if an OAuth server issued its credential.
    pub tokens: Option<Tokens>,
    /// How the last real call with the credential went.
    pub last_test: Option<LastTest>,
    /// Its version number.
    pub generation: Generation,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it last changed.
    pub update_time: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_connection_stays_deleted() {
        let deleted = ConnectionState::Deleted;
        assert!(
            deleted.disable().is_err() && deleted.enable().is_err() && deleted.replace_credentials().is_err()
        );
    }

    #[test]
    fn enabling_never_makes_a_refused_credential_good() {
        assert!(ConnectionState::ReauthorizationRequired.enable().is_err());
        assert!(ConnectionState::Pending.enable().is_err());
        assert_eq!(ConnectionState::Disabled.enable(), Ok(ConnectionState::Active));
    }

    #[test]
    fn a_new_credential_does_not_switch_a_disabled_connection_on() {
        assert_eq!(ConnectionState::Disabled.replace_credentials(), Ok(ConnectionState::Disabled));
        assert_eq!(
            ConnectionState::ReauthorizationRequired.replace_credentials(),
            Ok(ConnectionState::Active)
        );
    }

    #[test]
    fn every_state_is_read_back_from_its_name() {
        for state in ConnectionState::ALL {
            assert_eq!(ConnectionState::parse(state.as_str()), Some(state));
        }
        assert_eq!(ConnectionState::parse("active"), None);
    }
}
