use std::collections::{HashMap, HashSet};

use keyholder_domain::{OrganizationId, Principal, PrincipalType, ProviderId, WorkloadId};
use serde::Deserialize;

use crate::ConfigError;

mod entry;

pub use entry::WorkloadEntry;

/// What a workload may do. Each RPC names the roles that may call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Connects, lists, tests, revokes, hands out grants.
    Manager,
    /// Exchanges grants for credentials.
    Resolver,
    /// Runs the platform.
    Operator,
    /// Reads the audit.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Manager, Self::Resolver, Self::Operator, Self::Auditor];

    /// The role as the policy writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Resolver => "resolver",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }
}

/// For which providers a workload may act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderRule {
    /// For all of them.
    Any,
    /// For those that are listed.
    Only(HashSet<ProviderId>),
    /// The policy says nothing: for those whose definition allows its services by default.
    ByDefinition,
}

/// For which organizations a workload may act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrganizationRule {
    /// For all of them.
    Any,
    /// For those that are listed.
    Only(HashSet<OrganizationId>),
}

/// As which principals a workload may speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorRule {
    /// As anybody.
    Any,
    /// As those that are listed, and as all of the types that are.
    Only {
        /// Principals that are listed one by one.
        exact: HashSet<Principal>,
        /// Types of which every principal is meant.
        types: HashSet<PrincipalType>,
    },
}

/// One workload, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    id: WorkloadId,
    roles: HashSet<Role>,
    organizations: OrganizationRule,
    providers: ProviderRule,
    actors: ActorRule,
}

impl Workload {
    /// Who it is.
    pub const fn id(&self) -> &WorkloadId {
        &self.id
    }

    /// Whether it has a role.
    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Its roles, in the order of [`Role::ALL`].
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(|role| self.has_role(*role))
    }

    /// Whether it may act for an organization.
    pub fn allows_organization(&self, organization: &OrganizationId) -> bool {
        match &self.organizations {
            OrganizationRule::Any => true,
            OrganizationRule::Only(listed) => listed.contains(organization),
        }
    }

    /// Whether it may speak as a principal. Only a resolver ever may.
    pub fn allows_actor(&self, actor: &Principal) -> bool {
        match &self.actors {
            ActorRule::Any => true,
            ActorRule::Only { exact, types } => types.contains(&actor.kind()) || exact.contains(actor),
        }
    }

    /// For which organizations it may act.
    pub const fn organizations(&self) -> &OrganizationRule {
        &self.organizations
    }

    /// For which providers it may act.
    pub const fn providers(&self) -> &ProviderRule {
        &self.providers
    }

    /// As which principals it may speak.
    pub const fn actors(&self) -> &ActorRule {
        &self.actors
    }
}

/// Which workload may do what. A workload that is not listed may do nothing.
///
/// Deserialises from the `[[workload]]` entries of `keyholder.toml`; see [`WorkloadEntry`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "Vec<WorkloadEntry>")]
pub struct Policy {
    workloads: Vec<Workload>,
    by_id: HashMap<WorkloadId, usize>,
}

impl Policy {
    /// What a workload may do, if it is listed.
    pub fn find(&self, id: &WorkloadId) -> Option<&Workload> {
        self.by_id.get(id).map(|index| &self.workloads[*index])
    }

    /// Every workload, in the order of the file.
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The DNS names by which workloads are known.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.workloads.iter().filter_map(|workload| match &workload.id {
            WorkloadId::Dns(name) => Some(&**name),
            WorkloadId::Spiffe(_) => None,
        })
    }
}

impl TryFrom<Vec<WorkloadEntry>> for Policy {
    type Error = ConfigError;

    fn try_from(entries: Vec<WorkloadEntry>) -> Result<Self, ConfigError> {
        let mut policy = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            let wrong = |(field, problem)| ConfigError::Workload {
                entry: index + 1,
                id: entry.id.clone(),
                field,
                problem,
            };
            let workload = entry.read().map_err(wrong)?;
            if let Some(first) = policy.by_id.insert(workload.id.clone(), index) {
                return Err(wrong(("id", format!("is already that of workload {}", first + 1))));
            }
            policy.workloads.push(workload);
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests;
