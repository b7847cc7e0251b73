use crate::{
    AuditEventId, ConnectionId, Generation, GrantId, OrganizationId, Principal, ProviderId, Text, Timestamp,
    WorkloadId,
};

/// Declares the kinds of audit event with their names.
macro_rules! audit_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What an audit event is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AuditKind {
            $($(#[$doc])* $kind,)*
        }

        impl AuditKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The kind's name in the database.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

audit_kinds! {
    /// A credential left.
    CredentialReleased = "CREDENTIAL_RELEASED",
    /// A credential was asked for and refused; the reason says why.
    CredentialDenied = "CREDENTIAL_DENIED",
    /// A connection was made.
    ConnectionCreated = "CONNECTION_CREATED",
    /// A connection's settings changed.
    ConnectionUpdated = "CONNECTION_UPDATED",
    /// A connection got a new credential.
    CredentialsReplaced = "CREDENTIALS_REPLACED",
    /// A connection was switched off.
    ConnectionDisabled = "CONNECTION_DISABLED",
    /// A connection was switched on again.
    ConnectionEnabled = "CONNECTION_ENABLED",
    /// A connection was deleted and its credential erased.
    ConnectionDeleted = "CONNECTION_DELETED",
    /// A connection's credential was tried at the provider; the reason says how it went.
    ConnectionTested = "CONNECTION_TESTED",
    /// A URL in a connection's settings was refused where it entered; nothing changed.
    UrlRefused = "URL_REFUSED",
    /// An authorization was begun.
    AuthorizationStarted = "AUTHORIZATION_STARTED",
    /// An authorization came to nothing; the reason says why.
    AuthorizationFailed = "AUTHORIZATION_FAILED",
    /// An owner consented again: a connection got new tokens.
    ConnectionReauthorized = "CONNECTION_REAUTHORIZED",
    /// A connection's access token was replaced by a newer one.
    ConnectionRefreshed = "CONNECTION_REFRESHED",
    /// Somebody asked for a connection to be refreshed now.
    RefreshRequested = "REFRESH_REQUESTED",
    /// A workload said that the provider does not take a credential.
    CredentialRejected = "CREDENTIAL_REJECTED",
    /// A connection can only be mended by its owner; the reason says why.
    ReauthorizationRequired = "REAUTHORIZATION_REQUIRED",
    /// A connection stops working soon unless its owner consents again; the reason says how soon.
    ConnectionExpiring = "CONNECTION_EXPIRING",
    /// A token was given back to its provider, or could not be; the reason says how it went.
    TokenRevoked = "TOKEN_REVOKED",
    /// Everything, or everything of one provider or workload, is revoked.
    RevocationRunStarted = "REVOCATION_RUN_STARTED",
    /// An organization's OAuth client was set or removed.
    OAuthClientChanged = "OAUTH_CLIENT_CHANGED",
    /// A grant was given.
    GrantCreated = "GRANT_CREATED",
    /// A grant was taken back.
    GrantRevoked = "GRANT_REVOKED",
}

impl AuditKind {
    /// Reads a kind's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

/// One line of the audit: who did what to which connection, through which workload, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its id; ids made later sort later.
    pub id: AuditEventId,
    /// The tenant it belongs to.
    pub organization_id: OrganizationId,
    /// What happened.
    pub kind: AuditKind,
    /// The process that called.
    pub workload: WorkloadId,
    /// As whom it acted; nobody for a manager's call.
    pub actor: Option<Principal>,
    /// The connection, if one was found.
    pub connection_id: Option<ConnectionId>,
    /// The connection's generation that was released or made.
    pub generation: Option<Generation>,
    /// The grant that decided or that changed.
    pub grant_id: Option<GrantId>,
    /// The provider that was meant.
    pub provider_id: Option<ProviderId>,
    /// For a denial and a refused URL, the stable reason.
    pub reason: Text,
    /// What the caller said it wanted the credential for.
    pub purpose: Text,
    /// When, by the database's clock.
    pub create_time: Timestamp,
}
