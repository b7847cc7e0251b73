//! The access decision: may this actor, through this workload, use this connection, now?
//!
//! [`decide`] is a pure function of what was read. It knows nothing of policy files (which workload may
//! speak as whom), which is asked elsewhere and can only refuse.

use crate::{
    Connection, ConnectionState, Generation, Grant, GrantId, GrantState, GrantTarget, Principal, Reason,
    Scopes, Timestamp, WorkloadId,
};

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// As whom the caller acts.
    pub actor: &'a Principal,
    /// The process that calls.
    pub workload: &'a WorkloadId,
    /// The scopes that the caller needs.
    pub scopes: &'a Scopes,
    /// Until when the credential must be good, at least: now, or later if the caller needs more life than that.
    pub until: Timestamp,
    /// When.
    pub now: Timestamp,
}

/// By what right a connection may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// The actor owns the connection.
    Ownership,
    /// A grant, at the generation that was decided on.
    Grant(GrantId, Generation),
}

/// The answer yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// By what right.
    pub right: Right,
    /// The scopes the actor may count on: the connection's, cut down to the grant's.
    pub scopes: Scopes,
}

/// The answer no, and the exact reason. Ordered by how much it tells: of several grants that each refuse,
/// the reason that got furthest is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Denial {
    /// The actor neither owns the connection nor was ever given a grant for it.
    GrantMissing,
    /// The grant was taken back.
    GrantRevoked,
    /// The grant's time is over.
    GrantExpired,
    /// The grant may not be used through this workload.
    WorkloadNotGranted,
    /// The grant does not cover a scope that is needed.
    ScopeNotGranted,
    /// The authorization is not finished.
    ConnectionPending,
    /// The connection is switched off.
    ConnectionDisabled,
    /// The provider refused the credential for good.
    ReauthorizationRequired,
    /// The connection itself lacks a scope that is needed.
    ScopeMissing,
    /// The access token has ended, or ends too soon.
    TokenExpired,
    /// The connection is deleted.
    ConnectionDeleted,
}

impl Denial {
    /// Whether the actor has no right to the connection, whatever state it is in.
    pub const fn is_of_right(self) -> bool {
        matches!(
            self,
            Self::GrantMissing
                | Self::GrantRevoked
                | Self::GrantExpired
                | Self::WorkloadNotGranted
                | Self::ScopeNotGranted
        )
    }

    /// The stable reason. A deleted connection looks like one that never was.
    pub const fn reason(self) -> Reason {
        match self {
            Self::GrantMissing => Reason::GrantMissing,
            Self::GrantRevoked => Reason::GrantRevoked,
            Self::GrantExpired => Reason::GrantExpired,
            Self::WorkloadNotGranted => Reason::WorkloadNotGranted,
            Self::ScopeNotGranted => Reason::ScopeNotGranted,
            Self::ConnectionPending => Reason::ConnectionPending,
            Self::ConnectionDisabled => Reason::ConnectionDisabled,
            Self::ReauthorizationRequired => Reason::ReauthorizationRequired,
            Self::ScopeMissing => Reason::ScopeMissing,
            Self::TokenExpired => Reason::TokenExpired,
            Self::ConnectionDeleted => Reason::ConnectionNotFound,
        }
    }
}

/// Decides.
///
/// Grants that are not about this connection, or not for this actor, count for nothing, so a caller may
/// pass more than it needs. Whoever has no right to the connection is not told in which state it is.
pub fn decide(question: &Question<'_>, connection: &Connection, grants: &[Grant]) -> Result<Permit, Denial> {
    if connection.state == ConnectionState::Deleted {
        return Err(Denial::ConnectionDeleted);
    }
    let permit = right_to_use(question, connection, grants)?;
    match connection.state {
        ConnectionState::Active => {}
        ConnectionState::Pending => return Err(Denial::ConnectionPending),
        ConnectionState::Disabled => return Err(Denial::ConnectionDisabled),
        ConnectionState::ReauthorizationRequired => return Err(Denial::ReauthorizationRequired),
        ConnectionState::Deleted => return Err(Denial::ConnectionDeleted),
    }
    if !question.scopes.is_subset(&connection.scopes) {
        return Err(Denial::ScopeMissing);
    }
    let end = connection.tokens.as_ref().and_then(|tokens| tokens.expire_time);
    if end.is_some_and(|end| end <= question.until) { Err(Denial::TokenExpired) } else { Ok(permit) }
}

/// Whether the actor has any right to the connection, whatever state the connection is in.
pub fn right_to_use(
    question: &Question<'_>,
    connection: &Connection,
    grants: &[Grant],
) -> Result<Permit, Denial> {
    if connection.owner == *question.actor {
        return Ok(Permit { right: Right::Ownership, scopes: connection.scopes.clone() });
    }
    let mut furthest = Denial::GrantMissing;
    for grant in grants.iter().filter(|grant| is_about(grant, connection, question.actor)) {
        match exercise(question, connection, grant) {
            Ok(permit) => return Ok(permit),
            Err(denial) => furthest = furthest.max(denial),
        }
    }
    Err(furthest)
}

fn is_about(grant: &Grant, connection: &Connection, actor: &Principal) -> bool {
    let target = match &grant.target {
        GrantTarget::Connection(id) => *id == connection.id,
        GrantTarget::Selector { owner, provider_id } => {
            *owner == connection.owner && *provider_id == connection.provider_id
        }
    };
    target && grant.grantee == *actor && grant.organization_id == connection.organization_id
}

fn exercise(question: &Question<'_>, connection: &Connection, grant: &Grant) -> Result<Permit, Denial> {
    match grant.state(question.now) {
        GrantState::Revoked => return Err(Denial::GrantRevoked),
        GrantState::Expired => return Err(Denial::GrantExpired),
        GrantState::Active => {}
    }
    if !grant.covers_workload(question.workload) {
        return Err(Denial::WorkloadNotGranted);
    }
    if grant.scopes.is_empty() {
        return Ok(Permit {
            right: Right::Grant(grant.id, grant.generation),
            scopes: connection.scopes.clone(),
        });
    }
    if !question.scopes.is_subset(&grant.scopes) {
        return Err(Denial::ScopeNotGranted);
    }
    Ok(Permit {
        right: Right::Grant(grant.id, grant.generation),
        scopes: connection.scopes.intersection(&grant.scopes),
    })
}

#[cfg(test)]
mod tests;
