//! What an actor may do, told in one answer: so that an agent can be told what it has.

use keyholder_catalog::{Capability, Provider};
use keyholder_domain::access::{Permit, Question, Right, right_to_use};
use keyholder_domain::{Connection, ConnectionId, Grant, Principal, Scopes, WorkloadId};

use crate::connections::setting;
use crate::{Broker, BrokerError, Caller};

/// A connection that an actor has a right to.
#[derive(Debug)]
pub struct Usable {
    /// The connection, in whatever state it is.
    pub connection: Connection,
    /// By what right, and for which scopes.
    pub permit: Permit,
    /// The grant that decides, if the actor does not own the connection.
    pub grant: Option<Grant>,
    /// The provider's name for people.
    pub provider_name: String,
    /// Where its API is; empty where that is a part of the credential.
    pub base_url: String,
    /// What the scopes amount to: the id, the name, and where its API is.
    pub capabilities: Vec<UsableCapability>,
}

/// One of a provider's services that can be used.
#[derive(Debug)]
pub struct UsableCapability {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// Where its API is.
    pub base_url: String,
}

impl Broker {
    /// The connections that an actor may use through a workload, from behind one of them on, and the last one that was
    /// looked at if there may be more.
    pub async fn list_access(
        &self,
        caller: &Caller<'_>,
        actor: &Principal,
        workload: &WorkloadId,
        after: Option<ConnectionId>,
        limit: i64,
    ) -> Result<(Vec<Usable>, Option<ConnectionId>), BrokerError> {
        let found = self.store().usable(caller.organization_id, actor, after, limit).await?;
        let full = i64::try_from(found.len()).is_ok_and(|found| found == limit);
        let more = found.last().map(|last| last.stored.connection.id).filter(|_| full);
        let now = self.now();
        let none = Scopes::default();
        let question = Question { actor, workload, scopes: &none, until: now, now };
        let usable = found.into_iter().filter_map(|candidate| {
            let connection = candidate.stored.connection;
            let permit = right_to_use(&question, &connection, &candidate.grants).ok()?;
            let provider = self.catalog().get(&connection.provider_id)?;
            if !(caller.may_use)(provider) {
                return None;
            }
            let grant = match permit.right {
                Right::Ownership => None,
                Right::Grant(id, _) => candidate.grants.into_iter().find(|grant| grant.id == id),
            };
            let base_url = base_url(provider, &connection);
            let capabilities = capabilities(provider, &permit.scopes, &base_url);
            Some(Usable {
                provider_name: provider.name.clone(),
                connection,
                permit,
                grant,
                base_url,
                capabilities,
            })
        });
        Ok((usable.collect(), more))
    }
}

fn base_url(provider: &Provider, connection: &Connection) -> String {
    let rendered = provider.render_base_url(&|name| setting(connection, name));
    rendered.ok().flatten().map(|url| url.to_string()).unwrap_or_default()
}

fn capabilities(provider: &Provider, scopes: &Scopes, base_url: &str) -> Vec<UsableCapability> {
    let covered = |capability: &&Capability| capability.scopes.is_subset(scopes);
    let tell = |capability: &Capability| UsableCapability {
        id: capability.id.clone(),
        title: capability.title.clone(),
        base_url: capability.base_url.clone().unwrap_or_else(|| base_url.to_owned()),
    };
    provider.capabilities.iter().filter(covered).map(tell).collect()
}
