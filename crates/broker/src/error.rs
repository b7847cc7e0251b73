use keyholder_domain::{AuthorizationFailure, ConnectionId, TransitionRefused};
use keyholder_store::StoreError;
use keyholder_vault::OpenError;

use crate::Refusal;

/// A field of a request that cannot be what it is. Names the field, never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path in the request, such as `credentials.api_key`.
    pub field: String,
    /// Which kind of problem.
    pub reason: FieldReason,
    /// A sentence for the person who filled the field in.
    pub problem: String,
}

/// Which kind of problem a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldReason {
    /// It breaks the field's rules.
    Invalid,
    /// It is a URL that may not be used.
    UrlNotAllowed,
}

impl FieldError {
    /// A field that breaks its rules.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), reason: FieldReason::Invalid, problem: problem.into() }
    }
}

/// Why the broker did not do what it was asked. Variants say who is at fault; none holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The caller's: fields of the request.
    #[error("{} field(s) of the request are invalid", .0.len())]
    Fields(Vec<FieldError>),
    /// The caller's: no such connection in this organization.
    #[error("no such connection")]
    ConnectionNotFound,
    /// The caller's: no such grant in this organization.
    #[error("no such grant")]
    GrantNotFound,
    /// The caller's: no such provider.
    #[error("no such provider")]
    ProviderNotFound,
    /// The caller's: its policy does not list the provider.
    #[error("the workload may not use this provider")]
    ProviderNotAllowed,
    /// The operator's: the auth method needs an OAuth client, and none is configured.
    #[error("no OAuth client is configured for this provider")]
    OAuthClientMissing,
    /// The caller's: the same account is connected already.
    #[error("the same account is connected already, as {0}")]
    ConnectionExists(ConnectionId),
    /// The caller's: the request id was used for another request.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// The caller's: what it read is no longer what is stored.
    #[error("the etag is not the current one")]
    EtagMismatch,
    /// The caller's: the connection's state does not allow it.
    #[error(transparent)]
    StateNotAllowed(#[from] TransitionRefused),
    /// The caller's: the connection's authorization is not finished.
    #[error("the connection's authorization is not finished")]
    ConnectionPending,
    /// The caller's: nothing would prove this credential and change nothing.
    #[error("the provider's definition has no test for this connection")]
    TestNotAvailable,
    /// The caller's: too often.
    #[error("asked for too often")]
    RateLimited,
    /// The caller's: nothing but its owner can renew it.
    #[error("there is nothing to get a newer credential with")]
    NotRenewable,
    /// The operator's: nothing is refreshed.
    #[error("refreshing is frozen")]
    Frozen,
    /// The caller's: the connection is deleted.
    #[error("the connection is deleted")]
    ConnectionDeleted,
    /// The caller's: no such authorization in this organization.
    #[error("no such authorization")]
    AuthorizationNotFound,
    /// The caller's: no such run in this organization.
    #[error("no such revocation run")]
    RevocationRunNotFound,
    /// The caller's: the authorization is not where it can be completed.
    #[error("the authorization is not ready")]
    AuthorizationNotReady,
    /// Nobody's: the authorization came to nothing.
    #[error("the authorization came to nothing")]
    AuthorizationFailed(Option<AuthorizationFailure>),
    /// The caller's: not the verifier of the challenge.
    #[error("the verifier is not the challenge's")]
    CompletionRefused,
    /// The caller's: a token is not typed in; its owner consents anew.
    #[error("the credential is issued by the provider; the owner must consent anew")]
    ConsentNeeded,
    /// The operator's: nobody knows where browsers reach us.
    #[error("no public_url is configured under [web]")]
    NoPublicUrl,
    /// The operator's: the provider does not take the OAuth client.
    #[error("the provider does not take the OAuth client")]
    OAuthClientRefused,
    /// The provider's, and passing: it cannot be reached or does not work.
    #[error("the provider is not available")]
    ProviderUnavailable,
    /// The provider's: it issued nothing for what it was given.
    #[error("the provider issued no token")]
    ProviderRefused,
    /// Ours: a sealed value that is no connection's credential does not open.
    #[error("a sealed value does not open")]
    SecretUnreadable(#[source] OpenError),
    /// The caller's: no credential for this actor.
    #[error("the credential is refused")]
    Refused(Refusal),
    /// Ours: a stored credential does not open. Somebody changed the row, or a key is missing.
    #[error("the credential of {connection_id} does not open")]
    CredentialUnreadable {
        /// Whose credential.
        connection_id: ConnectionId,
        /// Why.
        source: OpenError,
    },
    /// Ours: the organization's data key does not open, so nothing can be sealed.
    #[error("the data key of the organization does not open")]
    DataKeyUnreadable(#[source] OpenError),
    /// Nobody's: the connection changed on every try.
    #[error("the connection keeps changing")]
    Contended,
    /// The database's: a release could not be recorded, so nothing left.
    #[error("the release could not be recorded")]
    AuditUnavailable(#[source] StoreError),
    /// The database's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BrokerError {
    /// The same error for a request whose fields are in a message inside it, such as `connection.`.
    #[must_use]
    pub fn inside(self, inside: &str) -> Self {
        match self {
            Self::Fields(fields) => {
                let put =
                    |error: FieldError| FieldError { field: format!("{inside}{}", error.field), ..error };
                Self::Fields(fields.into_iter().map(put).collect())
            }
            other => other,
        }
    }
}

impl From<FieldError> for BrokerError {
    fn from(error: FieldError) -> Self {
        Self::Fields(vec![error])
    }
}
