//! What is known of a call while it runs: who calls, and what the log line will say.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use keyholder_broker::{Broker, BrokerError, Denied};
use keyholder_catalog::Provider;
use keyholder_domain::{
    ConnectionId, GrantId, OrganizationId, Principal, ProviderId, Reason, RequestId, WorkloadId,
};
use keyholder_identity::{Peer, Policy, ProviderRule, Role, Workload};
use tonic::{Extensions, Status};

use crate::problem::{Problem, reason_of};

/// What is held back of a call's time to record and say what came of it.
const TO_ANSWER: Duration = Duration::from_millis(300);

/// A call that the gate has let through.
#[derive(Debug, Clone)]
pub struct Call(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peer: Arc<Peer>,
    policy: Arc<Policy>,
    has_role: bool,
    until: Instant,
    facts: Facts,
}

/// What the log line of a call says; each is set at most once.
#[derive(Debug, Default)]
pub struct Facts {
    /// The caller's id of an idempotent request.
    pub request_id: OnceLock<RequestId>,
    /// The tenant.
    pub organization_id: OnceLock<OrganizationId>,
    /// As whom.
    pub actor: OnceLock<Principal>,
    /// The provider.
    pub provider_id: OnceLock<ProviderId>,
    /// The connection.
    pub connection_id: OnceLock<ConnectionId>,
    /// The grant.
    pub grant_id: OnceLock<GrantId>,
    /// Why it was refused.
    pub reason: OnceLock<Reason>,
}

/// Notes a fact; the first one stands.
pub fn note<T: Clone>(fact: &OnceLock<T>, value: &T) {
    // A second value for the same fact says nothing new.
    fact.set(value.clone()).ok();
}

impl Call {
    /// A call of a workload that the policy lists, with or without a role that its method asks for, which may take so
    /// long.
    pub fn new(peer: Arc<Peer>, policy: Arc<Policy>, has_role: bool, allowed: Duration) -> Self {
        let until = Instant::now() + allowed;
        Self(Arc::new(Inner { peer, policy, has_role, until, facts: Facts::default() }))
    }

    /// How long the call can wait for something outside, so that there is still time to say what came of it.
    pub fn patience(&self) -> Duration {
        let left = self.0.until.saturating_duration_since(Instant::now());
        left.saturating_sub(TO_ANSWER.min(left / 4))
    }

    /// The call that a request belongs to. The gate put it there; without it, or without the role, the request is
    /// refused.
    pub fn of(extensions: &Extensions) -> Result<Self, Status> {
        let call = Self::whatever_its_role(extensions)?;
        if call.has_role() { Ok(call) } else { Err(call.fail(Problem::new(Reason::RoleMissing))) }
    }

    /// The same for a handler that records who lacks the role, and must ask [`Self::has_role`].
    pub fn whatever_its_role(extensions: &Extensions) -> Result<Self, Status> {
        extensions.get().cloned().ok_or_else(|| Problem::new(Reason::WorkloadUnknown).into_status())
    }

    /// Whether the caller has a role that the method asks for.
    pub fn has_role(&self) -> bool {
        self.0.has_role
    }

    /// What the log line will say.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// Who calls.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// What the policy says of who calls.
    pub fn workload(&self) -> Result<&Workload, Problem> {
        self.0.policy.find(self.0.peer.workload()).ok_or_else(|| Problem::new(Reason::WorkloadUnknown))
    }

    /// Whether the caller may act for an organization.
    pub fn check_organization(&self, organization_id: &OrganizationId) -> Result<(), Problem> {
        note(&self.facts().organization_id, organization_id);
        if self.workload()?.allows_organization(organization_id) {
            Ok(())
        } else {
            Err(Problem::new(Reason::OrganizationNotAllowed))
        }
    }

    /// Whether the caller may speak as an actor. Only a resolver speaks as anybody; managers and operators ask
    /// about everybody.
    pub fn check_actor(&self, actor: &Principal) -> Result<(), Problem> {
        if self.workload()?.allows_actor(actor) { Ok(()) } else { Err(Problem::new(Reason::ActorNotAllowed)) }
    }

    /// Whether the caller may manage.
    pub fn is_manager(&self) -> Result<bool, Problem> {
        let workload = self.workload()?;
        Ok(workload.has_role(Role::Manager) || workload.has_role(Role::Operator))
    }

    /// Whether the caller may use a provider as an actor; without one, whether it may manage it.
    pub fn may_use(&self, actor: Option<&Principal>, provider: &Provider) -> bool {
        self.workload().is_ok_and(|workload| may_use(workload, actor, provider))
    }

    /// Another workload, or why the policy would refuse it a resolve, whatever the connection.
    pub fn resolver(
        &self,
        workload: &WorkloadId,
        organization_id: &OrganizationId,
        actor: &Principal,
    ) -> Result<&Workload, Reason> {
        let workload = self.0.policy.find(workload).ok_or(Reason::WorkloadUnknown)?;
        if !workload.has_role(Role::Resolver) {
            Err(Reason::RoleMissing)
        } else if !workload.allows_organization(organization_id) {
            Err(Reason::OrganizationNotAllowed)
        } else if !workload.allows_actor(actor) {
            Err(Reason::ActorNotAllowed)
        } else {
            Ok(workload)
        }
    }

    /// Refuses a call: notes the reason for the log, and the cause in it.
    pub fn fail(&self, problem: impl Into<Problem>) -> Status {
        let problem = problem.into();
        self.facts().reason.set(problem.reason()).ok();
        problem.into_status()
    }

    /// Refuses a call that the broker could not do. What caused it goes to the log, here and nowhere else.
    pub fn broke(&self, error: BrokerError) -> Status {
        if matches!(reason_of(&error), Reason::Internal | Reason::CredentialUnreadable) {
            tracing::error!(error = %chain(&error), "a call failed inside");
        } else if matches!(reason_of(&error), Reason::StoreUnavailable | Reason::AuditUnavailable) {
            tracing::warn!(error = %chain(&error), "the database failed");
        }
        self.fail(error)
    }

    /// Records that a resolve was refused before the broker was asked, then refuses it. If it cannot be recorded, that
    /// is the problem.
    pub async fn deny(
        &self,
        broker: &Broker,
        organization_id: &OrganizationId,
        actor: Option<&Principal>,
        provider_id: Option<&ProviderId>,
        problem: Problem,
    ) -> Status {
        let denied = Denied {
            organization_id,
            workload: self.peer().workload(),
            actor,
            provider_id,
            reason: problem.reason(),
        };
        match broker.record_denial(&denied).await {
            Ok(()) => self.fail(problem),
            Err(error) => self.broke(error),
        }
    }
}

/// Whether a workload may use a provider as an actor; without one, whether it may manage it.
pub fn may_use(workload: &Workload, actor: Option<&Principal>, provider: &Provider) -> bool {
    match workload.providers() {
        ProviderRule::Any => true,
        ProviderRule::Only(listed) => listed.contains(&provider.id),
        ProviderRule::ByDefinition => actor.is_none_or(|actor| provider.allows_service(actor)),
    }
}

/// An error and what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
