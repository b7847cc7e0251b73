use std::collections::HashSet;
use std::hash::Hash;

use keyholder_domain::{Invalid, OrganizationId, Principal, PrincipalType, ProviderId, WorkloadId};
use serde::Deserialize;

use super::{ActorRule, OrganizationRule, ProviderRule, Role, Workload};

/// One `[[workload]]` of `keyholder.toml`, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadEntry {
    /// One exact identity: `spiffe://keyholder.dev/gateway`, or `dns:gateway.example.com`.
    pub id: String,
    /// At least one of `manager`, `resolver`, `operator`, `auditor`.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Organizations by id, or `*` alone for all of them.
    #[serde(default)]
    pub organizations: Vec<String>,
    /// Providers by id, or `*` alone for all of them. Left out: those whose definition allows its services
    /// by default.
    pub providers: Option<Vec<String>>,
    /// For resolvers, as whom they may speak: `service:ai-gateway`, `agent:*`, or `*` alone for everybody.
    #[serde(default)]
    pub actors: Vec<String>,
}

/// A field, and what is wrong with it.
type Wrong = (&'static str, String);

/// An item of a list that stands for everything.
const ANY: &str = "*";

impl WorkloadEntry {
    pub(super) fn read(&self) -> Result<Workload, Wrong> {
        let id = WorkloadId::parse(&self.id).map_err(|Invalid(rule)| ("id", rule.into()))?;
        let roles = self.roles()?;
        let actors = self.actors(roles.contains(&Role::Resolver))?;
        Ok(Workload { id, roles, organizations: self.organizations()?, providers: self.providers()?, actors })
    }

    fn roles(&self) -> Result<HashSet<Role>, Wrong> {
        const RULE: Invalid = Invalid("must be manager, resolver, operator or auditor");
        set("roles", &self.roles, |text| Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or(RULE))
    }

    fn organizations(&self) -> Result<OrganizationRule, Wrong> {
        Ok(match *self.organizations {
            [ref only] if only == ANY => OrganizationRule::Any,
            ref listed => OrganizationRule::Only(set("organizations", listed, OrganizationId::parse)?),
        })
    }

    fn providers(&self) -> Result<ProviderRule, Wrong> {
        Ok(match self.providers.as_deref() {
            None => ProviderRule::ByDefinition,
            Some([only]) if only == ANY => ProviderRule::Any,
            Some(listed) => ProviderRule::Only(set("providers", listed, ProviderId::parse)?),
        })
    }

    fn actors(&self, is_resolver: bool) -> Result<ActorRule, Wrong> {
        const FIELD: &str = "actors";
        match (&self.actors[..], is_resolver) {
            ([], false) => return Ok(ActorRule::Only { exact: HashSet::new(), types: HashSet::new() }),
            (_, false) => return Err((FIELD, "only a resolver speaks as somebody; leave it out".into())),
            ([only], true) if only == ANY => return Ok(ActorRule::Any),
            _ => {}
        }
        let (mut exact, mut types) = (HashSet::new(), HashSet::new());
        for actor in set(FIELD, &self.actors, Actor::parse)? {
            match actor {
                Actor::Exact(principal) => drop(exact.insert(principal)),
                Actor::Type(kind) => drop(types.insert(kind)),
            }
        }
        Ok(ActorRule::Only { exact, types })
    }
}

/// One item of `actors`.
#[derive(PartialEq, Eq, Hash)]
enum Actor {
    Exact(Principal),
    Type(PrincipalType),
}

impl Actor {
    fn parse(text: &str) -> Result<Self, Invalid> {
        let Some(kind) = text.strip_suffix(":*") else { return Principal::parse(text).map(Self::Exact) };
        let kind = PrincipalType::ALL.into_iter().find(|known| known.as_str() == kind);
        kind.map(Self::Type).ok_or(Invalid(
            "must be type:*; the type one of user, site, organization, service, agent, session",
        ))
    }
}

/// Reads a list that must name something, and nothing twice.
fn set<T: Eq + Hash>(
    field: &'static str,
    items: &[String],
    parse: impl Fn(&str) -> Result<T, Invalid>,
) -> Result<HashSet<T>, Wrong> {
    if items.is_empty() {
        return Err((field, "must name at least one".into()));
    }
    let mut read = HashSet::new();
    for item in items {
        if item == ANY {
            return Err((field, "\"*\" must stand alone".into()));
        }
        let value = parse(item).map_err(|Invalid(rule)| (field, format!("{item:?}: {rule}")))?;
        if !read.insert(value) {
            return Err((field, format!("{item:?} is there twice")));
        }
    }
    Ok(read)
}
