//! What an actor may do, told in one answer: so that an agent can be told what it has.

use keyholder_catalog::{Capability, Provider};
use keyholder_domain::access::{Denial, Permit, Question, Right, right_to_use};
use keyholder_domain::{Connection, ConnectionId, Grant, Principal, Scopes, WorkloadId};
use keyholder_store::Candidate;

use crate::connections::setting;
use crate::resolve::{Ask, Refusal, renewable};
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

/// The answer to whether an actor may use a connection.
#[derive(Debug)]
pub struct Access {
    /// The connection that is meant, if exactly one is and the actor has a right to it.
    pub connection: Option<Connection>,
    /// Yes or no.
    pub answer: Answer,
}

/// Yes or no.
#[derive(Debug)]
pub enum Answer {
    /// A resolve would release.
    Allowed(Permit),
    /// It would not.
    Refused(Refusal),
}

impl Broker {
    /// Answers whether a resolve through a workload would release. Releases and records nothing.
    pub async fn check_access(
        &self,
        caller: &Caller<'_>,
        ask: &Ask,
        workload: &WorkloadId,
    ) -> Result<Access, BrokerError> {
        let found = self.store().find(caller.organization_id, &ask.actor, &ask.target).await?;
        let question = self.question(ask, workload);
        let rightful = |candidate: &&Candidate| {
            right_to_use(&question, &candidate.stored.connection, &candidate.grants).is_ok()
        };
        let known = || found.candidates.iter().find(rightful).map(|found| found.stored.connection.clone());
        match self.choose(caller, ask, workload, &found) {
            Ok(chosen) => Ok(Access {
                connection: Some(chosen.candidate.stored.connection.clone()),
                answer: Answer::Allowed(chosen.permit),
            }),
            Err(Refusal::Denied(Denial::TokenExpired)) if renewable(&question, ask, &found).is_some() => {
                // A resolve would have it renewed first.
                let candidate = renewable(&question, ask, &found).ok_or(BrokerError::Contended)?;
                let connection = candidate.stored.connection.clone();
                let permit = right_to_use(&question, &connection, &candidate.grants)
                    .map_err(|denial| BrokerError::Refused(Refusal::Denied(denial)))?;
                Ok(Access { connection: Some(connection), answer: Answer::Allowed(permit) })
            }
            Err(refusal) => {
                let refusal = self.exact(caller, ask, refusal).await?;
                let untold = matches!(refusal, Refusal::Ambiguous(_) | Refusal::ProviderNotAllowed);
                let connection = if untold { None } else { known() };
                Ok(Access { connection, answer: Answer::Refused(refusal) })
            }
        }
    }

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
