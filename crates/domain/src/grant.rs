use crate::{
    ConnectionId, Generation, GrantId, OrganizationId, Principal, ProviderId, Scopes, Text, Timestamp,
    WorkloadId, WorkloadPattern,
};

/// Which connections a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantTarget {
    /// One connection, for as long as it lives.
    Connection(ConnectionId),
    /// Every connection of an owner at a provider, also those that come later.
    Selector {
        /// Whose connections.
        owner: Principal,
        /// At which provider.
        provider_id: ProviderId,
    },
}

/// Permission for a principal to use connections: scoped, expiring, revocable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The tenant it belongs to.
    pub organization_id: OrganizationId,
    /// Who may use the connections.
    pub grantee: Principal,
    /// Which connections.
    pub target: GrantTarget,
    /// What may be asked for. Empty: all that the connection has.
    pub scopes: Scopes,
    /// Through which workloads. Empty: any that the policy lets speak for the grantee.
    pub workloads: Vec<WorkloadPattern>,
    /// When it ends by itself.
    pub expire_time: Option<Timestamp>,
    /// Why it was given, in the giver's words.
    pub reason: Text,
    /// The workload that gave it.
    pub created_by: WorkloadId,
    /// When it was revoked.
    pub revoke_time: Option<Timestamp>,
    /// When a credential was last released through it.
    pub last_used_time: Option<Timestamp>,
    /// Its version number.
    pub generation: Generation,
    /// When it was made.
    pub create_time: Timestamp,
}

/// Where a grant stands at a given moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantState {
    /// May be used.
    Active,
    /// Its time is over.
    Expired,
    /// Taken back.
    Revoked,
}

impl Grant {
    /// Where the grant stands. A grant is over from its expiry on, not only after it.
    pub fn state(&self, now: Timestamp) -> GrantState {
        if self.revoke_time.is_some() {
            GrantState::Revoked
        } else if self.expire_time.is_some_and(|end| end <= now) {
            GrantState::Expired
        } else {
            GrantState::Active
        }
    }

    /// Whether one of its workload patterns covers a workload.
    pub fn covers_workload(&self, workload: &WorkloadId) -> bool {
        self.workloads.is_empty() || self.workloads.iter().any(|pattern| pattern.covers(workload))
    }
}
