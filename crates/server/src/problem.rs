//! What a caller is told when a call fails: a canonical code, a stable reason with a fixed sentence, and, where they
//! help, the fields, the preconditions or when to try again. What caused it goes to the log.

use std::collections::HashMap;
use std::time::Duration;

use keyholder_broker::{AmbiguousCandidate, BrokerError, FieldError, FieldReason, Refusal, StoreError};
use keyholder_domain::{AuthorizationFailure, Reason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "keyholder";

/// How many connections an `AMBIGUOUS_CONNECTION` lists; CheckAccess lists more.
const MAX_CANDIDATES: usize = 10;

/// How many characters of an account it shows.
const MAX_ACCOUNT: usize = 48;

/// How many fields a status names.
const MAX_FIELDS: usize = 20;

/// A failed call, before it becomes a status.
#[derive(Debug)]
pub struct Problem {
    reason: Reason,
    fields: Vec<FieldError>,
    candidates: Vec<AmbiguousCandidate>,
    metadata: HashMap<String, String>,
    /// When to try again, if that is known better than by the reason.
    again: Option<Duration>,
}

impl Problem {
    /// A failure that its reason says all about.
    pub fn new(reason: Reason) -> Self {
        Self { reason, fields: Vec::new(), candidates: Vec::new(), metadata: HashMap::new(), again: None }
    }

    /// Fields of the request that are invalid. The whole is `URL_NOT_ALLOWED` only if every field is.
    pub fn fields(fields: Vec<FieldError>) -> Self {
        let urls_only = fields.iter().all(|field| field.reason == FieldReason::UrlNotAllowed);
        let reason =
            if urls_only && !fields.is_empty() { Reason::UrlNotAllowed } else { Reason::InvalidField };
        Self { fields, ..Self::new(reason) }
    }

    /// A field that does not decode.
    pub fn malformed(field: String) -> Self {
        let fields = vec![FieldError::invalid(field, "is not a valid value of its type")];
        Self { fields, ..Self::new(Reason::RequestMalformed) }
    }

    /// A fact for machines, such as the id of the connection that stands in the way. Never a secret.
    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// The stable reason.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The status that goes to the caller.
    pub fn into_status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason.as_str(), DOMAIN, self.metadata);
        if !self.fields.is_empty() {
            let violation = |error: FieldError| FieldViolation::new(error.field, error.problem);
            details
                .set_bad_request(self.fields.into_iter().take(MAX_FIELDS).map(violation).collect::<Vec<_>>());
        }
        if !self.candidates.is_empty() {
            let violation = |candidate: AmbiguousCandidate| {
                let account = candidate.account;
                let known = [account.id, account.name, account.email, candidate.display_name];
                let account =
                    known.iter().map(|part| part.as_str()).find(|part| !part.is_empty()).unwrap_or_default();
                // A name of 256 characters that are not printed as they are is more than all headers may take.
                let account: String = account.chars().take(MAX_ACCOUNT).collect();
                PreconditionViolation::new(
                    Reason::AmbiguousConnection.as_str(),
                    candidate.connection_id.to_string(),
                    format!("owner {}, account {account:?}, {}", candidate.owner, candidate.state),
                )
            };
            // Few enough that the answer stays within the 8 KiB that clients take as headers.
            let shown = self.candidates.into_iter().take(MAX_CANDIDATES).map(violation);
            details.set_precondition_failure(shown.collect::<Vec<_>>());
        }
        if let Some(delay) = self.again.or(retry_after(self.reason)) {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code(self.reason), self.reason.sentence(), details)
    }
}

/// The canonical code of a reason.
pub const fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidField | Reason::UrlNotAllowed | Reason::RequestMalformed | Reason::RequestTooLarge => {
            Code::InvalidArgument
        }
        Reason::ConnectionNotFound
        | Reason::GrantNotFound
        | Reason::ProviderNotFound
        | Reason::RevocationRunNotFound
        | Reason::AuthorizationNotFound => Code::NotFound,
        Reason::ConnectionExists | Reason::RequestIdReused => Code::AlreadyExists,
        Reason::CertificateExpired => Code::Unauthenticated,
        Reason::WorkloadUnknown
        | Reason::RoleMissing
        | Reason::OrganizationNotAllowed
        | Reason::ProviderNotAllowed
        | Reason::ActorNotAllowed
        | Reason::GrantMissing
        | Reason::GrantExpired
        | Reason::GrantRevoked
        | Reason::WorkloadNotGranted
        | Reason::CompletionRefused
        | Reason::ScopeNotGranted => Code::PermissionDenied,
        Reason::ScopeMissing
        | Reason::ConnectionPending
        | Reason::ConnectionDisabled
        | Reason::ConnectionDeleted
        | Reason::ReauthorizationRequired
        | Reason::AmbiguousConnection
        | Reason::EtagMismatch
        | Reason::StateNotAllowed
        | Reason::NotRenewable
        | Reason::TestNotAvailable
        | Reason::TokenExpired
        | Reason::AuthorizationNotReady
        | Reason::AuthorizationFailed
        | Reason::AccountMismatch
        | Reason::ConsentNeeded
        | Reason::PublicUrlMissing
        | Reason::ProviderRefused
        | Reason::OAuthClientRefused
        | Reason::OAuthClientMissing => Code::FailedPrecondition,
        Reason::RateLimited | Reason::Overloaded => Code::ResourceExhausted,
        Reason::CredentialUnreadable => Code::DataLoss,
        Reason::Contended => Code::Aborted,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::StoreUnavailable
        | Reason::AuditUnavailable
        | Reason::ProviderUnavailable
        | Reason::RefreshingFrozen => Code::Unavailable,
        Reason::EncodingNotSupported | Reason::MethodUnknown => Code::Unimplemented,
        Reason::Internal => Code::Internal,
    }
}

/// When it makes sense to try again; `None`: not before something else has changed.
const fn retry_after(reason: Reason) -> Option<Duration> {
    match reason {
        Reason::Contended => Some(Duration::from_millis(50)),
        Reason::RateLimited => Some(Duration::from_secs(15)),
        Reason::Overloaded => Some(Duration::from_millis(500)),
        Reason::ProviderUnavailable => Some(Duration::from_secs(5)),
        Reason::RefreshingFrozen => Some(Duration::from_secs(60)),
        Reason::AuthorizationNotReady => Some(Duration::from_secs(1)),
        Reason::StoreUnavailable | Reason::AuditUnavailable => Some(Duration::from_secs(1)),
        _ => None,
    }
}

/// The reason of a failure: the one place where the broker's errors become what a caller is told.
pub fn reason_of(error: &BrokerError) -> Reason {
    match error {
        BrokerError::Fields(_) => Reason::InvalidField,
        BrokerError::ConnectionNotFound => Reason::ConnectionNotFound,
        BrokerError::GrantNotFound => Reason::GrantNotFound,
        BrokerError::ProviderNotFound => Reason::ProviderNotFound,
        BrokerError::ProviderNotAllowed => Reason::ProviderNotAllowed,
        BrokerError::OAuthClientMissing => Reason::OAuthClientMissing,
        BrokerError::ConnectionExists(_) => Reason::ConnectionExists,
        BrokerError::RequestIdReused => Reason::RequestIdReused,
        BrokerError::EtagMismatch => Reason::EtagMismatch,
        BrokerError::ConnectionPending => Reason::ConnectionPending,
        BrokerError::TestNotAvailable => Reason::TestNotAvailable,
        BrokerError::RateLimited => Reason::RateLimited,
        BrokerError::NotRenewable => Reason::NotRenewable,
        BrokerError::Frozen => Reason::RefreshingFrozen,
        BrokerError::StateNotAllowed(_) => Reason::StateNotAllowed,
        BrokerError::ConnectionDeleted => Reason::ConnectionDeleted,
        BrokerError::Refused(refusal) => refusal.reason(),
        BrokerError::AuthorizationNotFound => Reason::AuthorizationNotFound,
        BrokerError::RevocationRunNotFound => Reason::RevocationRunNotFound,
        BrokerError::AuthorizationNotReady => Reason::AuthorizationNotReady,
        BrokerError::AuthorizationFailed(Some(AuthorizationFailure::AccountMismatch)) => {
            Reason::AccountMismatch
        }
        BrokerError::AuthorizationFailed(_) => Reason::AuthorizationFailed,
        BrokerError::CompletionRefused => Reason::CompletionRefused,
        BrokerError::ConsentNeeded => Reason::ConsentNeeded,
        BrokerError::NoPublicUrl => Reason::PublicUrlMissing,
        BrokerError::OAuthClientRefused => Reason::OAuthClientRefused,
        BrokerError::ProviderUnavailable => Reason::ProviderUnavailable,
        BrokerError::ProviderRefused => Reason::ProviderRefused,
        BrokerError::CredentialUnreadable { .. }
        | BrokerError::SecretUnreadable(_)
        | BrokerError::DataKeyUnreadable(_) => Reason::CredentialUnreadable,
        BrokerError::Contended => Reason::Contended,
        BrokerError::AuditUnavailable(_) => Reason::AuditUnavailable,
        BrokerError::Store(error) => reason_of_store(error),
    }
}

fn reason_of_store(error: &StoreError) -> Reason {
    match error {
        StoreError::Busy => Reason::Overloaded,
        StoreError::Unavailable(_)
        | StoreError::TimedOut
        | StoreError::WriteRefused(_)
        | StoreError::SchemaOlder
        | StoreError::SchemaNewer
        | StoreError::SchemaForked(_)
        | StoreError::Migration(_) => Reason::StoreUnavailable,
        StoreError::Url
        | StoreError::Corrupt { .. }
        | StoreError::RowsAffected { .. }
        | StoreError::Query(_) => Reason::Internal,
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        let reason = reason_of(&error);
        match error {
            BrokerError::Fields(fields) => Self::fields(fields),
            BrokerError::ConnectionExists(id) => Self::new(reason).with("connection_id", id),
            BrokerError::AuthorizationFailed(Some(failure)) => {
                Self::new(reason).with("failure", failure.as_str())
            }
            BrokerError::StateNotAllowed(refused) => Self::new(reason).with("state", refused.from),
            BrokerError::Refused(Refusal::NotRenewed(again)) => Self { again, ..Self::new(reason) },
            BrokerError::Refused(Refusal::Ambiguous(candidates)) => Self { candidates, ..Self::new(reason) },
            _ => Self::new(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use keyholder_domain::ConnectionId;

    use super::*;

    #[test]
    fn a_status_carries_the_reason_and_the_fields_but_no_cause() {
        let error = BrokerError::Fields(vec![FieldError::invalid("credentials.api_key", "must be given")]);
        let status = Problem::from(error).into_status();
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "A field of the request is invalid.")
        );
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELD", "keyholder"));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "credentials.api_key");
    }

    #[test]
    fn candidates_with_the_longest_names_fit_into_the_headers_that_clients_take() {
        use keyholder_domain::{Account, ConnectionState, Principal, Text, Timestamp};
        for character in ["n", "名", "😀", "\u{ad}"] {
            let name = Text::parse(&character.repeat(256)).unwrap();
            let candidate = |number| AmbiguousCandidate {
                connection_id: ConnectionId::new(Timestamp::UNIX_EPOCH, [number; 10]),
                owner: Principal::parse("user:ada").unwrap(),
                account: Account { name: name.clone(), ..Account::default() },
                display_name: name.clone(),
                state: ConnectionState::Active,
            };
            let candidates = (0..20).map(candidate).collect();
            let status = Problem::from(BrokerError::Refused(Refusal::Ambiguous(candidates))).into_status();
            // In base64, beside the other headers.
            let header = status.details().len().div_ceil(3) * 4;
            assert!(header < 7 * 1_024, "{character:?}: {header}");
            let shown = status.get_error_details().precondition_failure().unwrap().violations.len();
            assert_eq!(shown, MAX_CANDIDATES);
        }
    }

    #[test]
    fn an_existing_connection_is_named_for_machines() {
        let id = ConnectionId::new(keyholder_domain::Timestamp::UNIX_EPOCH, [1; 10]);
        let status = Problem::from(BrokerError::ConnectionExists(id)).into_status();
        assert_eq!(
            status.get_error_details().error_info().unwrap().metadata["connection_id"],
            id.to_string()
        );
    }

    #[test]
    fn the_page_on_errors_lists_every_reason_with_its_code_and_sentence() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md")).unwrap();
        for reason in Reason::ALL {
            let row = format!("| `{}` | {:?} | {} |", reason.as_str(), code(*reason), reason.sentence());
            assert!(page.contains(&row), "docs/errors.md lacks: {row}");
        }
    }
}
