//! When connections are refreshed, and the attempts that are under way. Any number of replicas share the work through
//! these rows, by the database's clock alone.
//!
//! A connection becomes *ready* when its moment has come, and is *claimed* by one attempt, the one whose access token
//! ends first of those whose client may be used now. The claim stores a lease and a fence before anybody is asked. What
//! an attempt brings counts only while the fence is its own.

mod attempts;
mod claim;
mod schedule;
mod status;

use std::time::Duration;

use keyholder_domain::{ConnectionId, Generation, OrganizationId, ProviderId, Text, Timestamp};
use uuid::Uuid;

pub use status::RefreshRow;

/// A client as its provider knows it: the installation's, or an organization's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// Whose own client it is; none: the installation's.
    pub organization_id: Option<OrganizationId>,
    /// At which provider.
    pub provider_id: ProviderId,
    /// Its public id.
    pub client_id: Text,
}

/// When a connection is refreshed next.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Which connection.
    pub connection_id: ConnectionId,
    /// With which client.
    pub client: ClientKey,
    /// When; none: not by itself.
    pub due_time: Option<Timestamp>,
    /// Not before this, whoever waits.
    pub earliest_time: Timestamp,
    /// When the access token ends, if that is known.
    pub deadline: Option<Timestamp>,
    /// How long one call may take, in seconds.
    pub call_seconds: i32,
    /// When the owner is to be told next that the permission ends.
    pub notice_time: Option<Timestamp>,
}

/// An attempt to refresh a connection.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its id.
    pub attempt_id: Uuid,
    /// Its number among the connection's attempts.
    pub fence: i64,
    /// The tenant.
    pub organization_id: OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The client that the tokens were issued to.
    pub client: ClientKey,
    /// The generation that the tokens are sealed at with which the provider is asked.
    pub generation: Generation,
    /// When it began, by the database's clock.
    pub time: Timestamp,
    /// How long the call may take, in seconds.
    pub call_seconds: i32,
    /// When the access token ends, if that is known.
    pub deadline: Option<Timestamp>,
    /// Since when it is not known whether the provider has replaced the tokens.
    pub ambiguous_time: Option<Timestamp>,
    /// When the provider said that the grant is gone, if it is asked whether that is to be believed.
    pub refused_time: Option<Timestamp>,
    /// How many attempts in a row came to nothing before this one.
    pub failures: i32,
    /// The provider's answer, if it was kept by somebody who went no further.
    pub sealed_answer: Option<String>,
    /// Whether it matters to the client that a call goes well: it failed of late, or is used within a budget.
    pub client_is_watched: bool,
    /// How long after the claim its call is to begin, so that the calls of a client come evenly.
    pub delay: Duration,
}

/// What becomes of a connection whose attempt brought no new tokens.
#[derive(Debug, Clone)]
pub struct Postponed {
    /// When to try again; none: not by itself.
    pub due_time: Option<Timestamp>,
    /// Not before this, whoever waits.
    pub earliest_time: Timestamp,
    /// What went wrong: a stable name.
    pub error: &'static str,
    /// Whether the attempt counts as a failure of this connection.
    pub counts: bool,
    /// Whether the provider's answer is known. If it is not, and has been kept meanwhile, the attempt does not end.
    pub answered: bool,
    /// Whether whoever waits for it keeps its place in front of others.
    pub keeps_place: bool,
    /// Since when it is not known whether the provider has replaced the tokens.
    pub ambiguous_time: Option<Timestamp>,
    /// When the provider said that the grant is gone, while that is not believed.
    pub refused_time: Option<Timestamp>,
}

/// One connection.
#[derive(Debug, Clone, Copy)]
pub struct Only<'a> {
    /// The tenant.
    pub organization_id: &'a OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
}

/// An answer that is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct KeptAnswer<'a> {
    /// The tenant.
    pub organization_id: &'a OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The attempt that it answers.
    pub attempt_id: Uuid,
    /// The generation that it is sealed for.
    pub generation: Generation,
    /// The answer, sealed.
    pub sealed_answer: &'a str,
}
