//! The nouns of Keyholder: ids, principals, connections, grants, and the decision whether a credential
//! may be released. Plain data and pure functions: no async, no IO, no clock of its own.
//!
//! Everything that comes from outside becomes one of these types by parsing, so that a value that exists
//! is a value that is right.
//!
//! The commonest change is a new rule in the access decision. It goes into [`access::decide`], with a
//! [`access::Denial`] variant for its reason:
//!
//! ```
//! use keyholder_domain::{Principal, Scopes};
//!
//! let actor = Principal::parse("agent:roadie")?;
//! assert_eq!(actor.to_string(), "agent:roadie");
//! assert!(Scopes::parse(["mail.read"])?.is_subset(&Scopes::parse(["mail.read", "mail.send"])?));
//! # Ok::<(), keyholder_domain::Invalid>(())
//! ```

pub mod access;
mod audit;
mod auth_method;
mod authorization;
mod clock;
mod connection;
mod grant;
mod id;
mod invalid;
mod last_test;
mod principal;
mod reason;
mod refresh;
mod scope;
mod text;
mod tokens;
mod workload;

pub use audit::{AuditEvent, AuditKind};
pub use auth_method::AuthMethod;
pub use authorization::{Authorization, AuthorizationFailure, AuthorizationState};
pub use clock::{Clock, SystemClock, Timestamp};
pub use connection::{Account, Connection, ConnectionState, TransitionRefused};
pub use grant::{Grant, GrantState, GrantTarget};
pub use id::{
    AuditEventId, AuthorizationId, ConnectionId, Generation, GrantId, OrganizationId, ProviderId, RequestId,
    RevocationRunId,
};
pub use invalid::Invalid;
pub use last_test::{LastTest, TestClass};
pub use principal::{Principal, PrincipalType};
pub use reason::Reason;
pub use refresh::{RefreshState, RefreshStatus};
pub use scope::{Scope, Scopes};
pub use text::{Labels, Text};
pub use tokens::Tokens;
pub use workload::{SpiffeId, TrustDomain, WorkloadId, WorkloadPattern};
