/// Declares the reasons with their names and sentences.
macro_rules! reasons {
    ($($reason:ident = $name:literal, $sentence:literal;)*) => {
        /// Why something was refused: the stable name that callers and auditors can rely on, and a fixed sentence for
        /// people. What a reason was caused by goes to the log, never into either.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $sentence] $reason,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)*];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }

            /// The sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$reason => $sentence,)*
                }
            }
        }
    };
}

reasons! {
    InvalidField = "INVALID_FIELD", "A field of the request is invalid.";
    UrlNotAllowed = "URL_NOT_ALLOWED", "A URL in the request or in the connection's settings may not be used.";
    RequestMalformed = "REQUEST_MALFORMED", "The request is not a valid message of its type.";
    RequestTooLarge = "REQUEST_TOO_LARGE", "The request is larger than 2 MiB.";
    ConnectionNotFound = "CONNECTION_NOT_FOUND", "There is no such connection in this organization.";
    GrantNotFound = "GRANT_NOT_FOUND", "There is no such grant in this organization.";
    ProviderNotFound = "PROVIDER_NOT_FOUND", "There is no such provider in the catalog.";
    ConnectionExists = "CONNECTION_EXISTS", "The same account of this owner is connected already.";
    RequestIdReused = "REQUEST_ID_REUSED", "The request id was used before, for another request.";
    CertificateExpired = "CERTIFICATE_EXPIRED", "The client certificate has expired since the connection was opened.";
    WorkloadUnknown = "WORKLOAD_UNKNOWN", "The policy does not list the calling workload.";
    RoleMissing = "ROLE_MISSING", "The calling workload has no role that may call this method.";
    OrganizationNotAllowed = "ORGANIZATION_NOT_ALLOWED", "The calling workload may not act for this organization.";
    ProviderNotAllowed = "PROVIDER_NOT_ALLOWED", "The calling workload may not use this provider.";
    ActorNotAllowed = "ACTOR_NOT_ALLOWED", "The calling workload may not speak as this actor.";
    GrantMissing = "GRANT_MISSING", "The actor neither owns the connection nor holds a grant for it.";
    GrantExpired = "GRANT_EXPIRED", "The actor's grant has expired.";
    GrantRevoked = "GRANT_REVOKED", "The actor's grant was revoked.";
    WorkloadNotGranted = "WORKLOAD_NOT_GRANTED", "The actor's grant may not be used through the calling workload.";
    ScopeNotGranted = "SCOPE_NOT_GRANTED", "The actor's grant does not cover a scope that is asked for.";
    ScopeMissing = "SCOPE_MISSING", "The connection lacks a scope that is asked for.";
    ConnectionPending = "CONNECTION_PENDING", "The connection's authorization is not finished.";
    ConnectionDisabled = "CONNECTION_DISABLED", "The connection is disabled.";
    ConnectionDeleted = "CONNECTION_DELETED", "The connection is deleted.";
    ReauthorizationRequired = "REAUTHORIZATION_REQUIRED", "The provider refused the credential for good; its owner must connect again.";
    TokenExpired = "TOKEN_EXPIRED", "The access token has ended, or ends sooner than asked for, and there is no newer one yet.";
    NotRenewable = "NOT_RENEWABLE", "There is nothing to get a newer credential with but its owner's consent.";
    RefreshingFrozen = "REFRESHING_FROZEN", "Nothing is refreshed until an operator has looked: the database was restored or copied.";
    AmbiguousConnection = "AMBIGUOUS_CONNECTION", "More than one connection could be meant; name one.";
    EtagMismatch = "ETAG_MISMATCH", "It has changed since the etag was read.";
    StateNotAllowed = "STATE_NOT_ALLOWED", "The connection's state does not allow this.";
    TestNotAvailable = "TEST_NOT_AVAILABLE", "There is no request that would prove this connection's credential and change nothing.";
    RateLimited = "RATE_LIMITED", "This was asked for too often; try again later.";
    Overloaded = "OVERLOADED", "More is asked of the server than it can answer in time; try again shortly.";
    OAuthClientMissing = "OAUTH_CLIENT_MISSING", "No OAuth client is configured for this provider.";
    AuthorizationNotFound = "AUTHORIZATION_NOT_FOUND", "There is no such authorization in this organization.";
    RevocationRunNotFound = "REVOCATION_RUN_NOT_FOUND", "There is no such revocation run in this organization.";
    AuthorizationNotReady = "AUTHORIZATION_NOT_READY", "The authorization is not at the point where it can be completed.";
    AuthorizationFailed = "AUTHORIZATION_FAILED", "The authorization came to nothing; begin a new one.";
    CompletionRefused = "COMPLETION_REFUSED", "The verifier is not the one that the authorization was begun with.";
    AccountMismatch = "ACCOUNT_MISMATCH", "The owner consented with another account than the connected one.";
    ProviderUnavailable = "PROVIDER_UNAVAILABLE", "The provider could not be reached, or did not work.";
    ProviderRefused = "PROVIDER_REFUSED", "The provider did not issue a token for what it was given.";
    OAuthClientRefused = "OAUTH_CLIENT_REFUSED", "The provider does not take the OAuth client that is configured, or refuses many of its grants at once; an operator must look.";
    ConsentNeeded = "CONSENT_NEEDED", "The provider issues this credential; its owner must consent anew with StartAuthorization.";
    PublicUrlMissing = "PUBLIC_URL_MISSING", "No public_url is configured, so that no browser could come back.";
    CredentialUnreadable = "CREDENTIAL_UNREADABLE", "The stored credential cannot be opened or put on a request; an operator must look.";
    Contended = "CONTENDED", "The connection changed while it was read; try again.";
    DeadlineExceeded = "DEADLINE_EXCEEDED", "The call took longer than it may.";
    StoreUnavailable = "STORE_UNAVAILABLE", "The database does not answer in time; nothing was released.";
    AuditUnavailable = "AUDIT_UNAVAILABLE", "The audit cannot be written; nothing was released.";
    EncodingNotSupported = "ENCODING_NOT_SUPPORTED", "Compressed requests are not read; send it as it is.";
    MethodUnknown = "METHOD_UNKNOWN", "There is no such method.";
    Internal = "INTERNAL", "Something went wrong inside; the log says what.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_reasons_share_a_name() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
