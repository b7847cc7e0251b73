//! From messages to domain types and back. Reading a request collects everything that is wrong with it, by the
//! path of the field; nothing is half read.

mod audit;
mod authorization;
mod connection;
mod grant;
mod oauth_client;
mod page;
mod provider;
mod reader;
mod released;
mod revocation_run;

pub use audit::{audit_event, audit_filter};
pub use authorization::{authorization, completion, start_authorization};
pub use connection::{
    change_filter, connection, connection_filter, connection_update, connection_with, create_connection,
    resume_token, resumed, secrets,
};
pub use grant::{
    AskFields, accessible, ask, check_access_response, create_grant, grant, grant_filter, list_access,
    no_access, rejected, rejection_outcome,
};
pub use oauth_client::{oauth_client, set_oauth_client};
pub use page::{Page, PageToken};
pub use provider::provider;
pub use reader::{Reader, etag, idempotency};
pub use released::resolve_response;
pub use revocation_run::{revocation_run, revoke_all};

use keyholder_domain::Timestamp;

/// A moment on the wire.
fn timestamp(moment: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: moment.unix_timestamp(),
        nanos: i32::try_from(moment.nanosecond()).unwrap_or_default(),
    }
}
