//! Which connection is meant, and whether it may be used: decided on what was read.

use std::time::Duration;

use keyholder_catalog::{Method, Provider};
use keyholder_domain::access::{Denial, Permit, Question, Right, decide, right_to_use};
use keyholder_domain::{
    Account, ConnectionId, ConnectionState, Grant, Principal, ProviderId, Reason, Text, WorkloadId,
};
use keyholder_store::{Candidate, Found, Target};

use super::Ask;
use crate::credentials::check_config;
use crate::{Broker, BrokerError, Caller};

/// Why nothing is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// By the access decision.
    Denied(Denial),
    /// No connection is meant.
    ConnectionNotFound,
    /// More than one is.
    Ambiguous(Vec<AmbiguousCandidate>),
    /// The provider is not in the catalog.
    ProviderNotFound,
    /// The workload's policy does not list the provider.
    ProviderNotAllowed,
    /// A setting of the connection, such as its base URL, no longer passes the rules.
    UrlNotAllowed,
    /// The token has ended, or ends too soon, and a newer one could not be got in time: the provider does not answer, or
    /// not yet. After how long to ask again, if that is known.
    NotRenewed(Option<Duration>),
    /// The same, because the provider does not take the OAuth client.
    ClientRefused,
    /// The same, because nothing is refreshed at present.
    Frozen,
}

/// One of several connections that could be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmbiguousCandidate {
    /// Its id.
    pub connection_id: ConnectionId,
    /// Whose it is.
    pub owner: Principal,
    /// The account at the provider.
    pub account: Account,
    /// Its name, for people.
    pub display_name: Text,
    /// Where it stands.
    pub state: ConnectionState,
}

/// A candidate that is permitted.
pub(crate) struct Chosen<'a> {
    pub(crate) candidate: &'a Candidate,
    pub(super) provider: &'a Provider,
    pub(super) method: &'a Method,
    pub(crate) permit: Permit,
}

impl Chosen<'_> {
    /// The grant by which it is permitted; none: the actor owns the connection.
    pub(super) fn grant(&self) -> Option<&Grant> {
        let Right::Grant(id, _) = self.permit.right else { return None };
        self.candidate.grants.iter().find(|grant| grant.id == id)
    }
}

impl Broker {
    /// The one candidate that is meant and permitted.
    pub(crate) fn choose<'a>(
        &'a self,
        caller: &Caller<'_>,
        ask: &Ask,
        workload: &WorkloadId,
        found: &'a Found,
    ) -> Result<Chosen<'a>, Refusal> {
        if let Target::Provider { provider_id, .. } = &ask.target {
            self.usable_provider(caller, provider_id)?;
        }
        let question = self.question(ask, workload);
        let candidate = meant(&question, &ask.target, found)?;
        let connection = &candidate.stored.connection;
        if connection.state == ConnectionState::Deleted {
            return Err(Refusal::ConnectionNotFound);
        }
        let decision = decide(&question, connection, &candidate.grants);
        // The right first, the provider second, the state last: each tells only those who passed the one before.
        if let Err(denial) = decision
            && denial.is_of_right()
        {
            return Err(Refusal::Denied(denial));
        }
        let provider = self.usable_provider(caller, &connection.provider_id)?;
        let permit = decision.map_err(Refusal::Denied)?;
        let method = provider.method(connection.auth_method).ok_or(Refusal::ProviderNotFound)?;
        let mut errors = Vec::new();
        check_config(provider, self.url_rules(), &connection.config, &mut errors);
        if self.note_refused_urls(&connection.config, &errors) {
            return Err(Refusal::UrlNotAllowed);
        }
        Ok(Chosen { candidate, provider, method, permit })
    }

    pub(crate) fn question<'a>(&self, ask: &'a Ask, workload: &'a WorkloadId) -> Question<'a> {
        let now = self.now();
        Question { actor: &ask.actor, workload, scopes: &ask.scopes, until: now + ask.min_ttl, now }
    }

    fn usable_provider(&self, caller: &Caller<'_>, id: &ProviderId) -> Result<&Provider, Refusal> {
        let provider = self.catalog().get(id).ok_or(Refusal::ProviderNotFound)?;
        if (caller.may_use)(provider) { Ok(provider) } else { Err(Refusal::ProviderNotAllowed) }
    }

    /// Tells "you have no grant" from "there is no such connection", where nothing was found.
    pub(crate) async fn exact(
        &self,
        caller: &Caller<'_>,
        ask: &Ask,
        refusal: Refusal,
    ) -> Result<Refusal, BrokerError> {
        let (Refusal::ConnectionNotFound, Target::Provider { provider_id, owner, account_id }) =
            (&refusal, &ask.target)
        else {
            return Ok(refusal);
        };
        let there = self
            .store()
            .has_connection(caller.organization_id, provider_id, owner.as_ref(), account_id.as_ref())
            .await?;
        Ok(if there { Refusal::Denied(Denial::GrantMissing) } else { refusal })
    }
}

/// The one candidate that is meant, if its token can be renewed.
pub(crate) fn renewable<'a>(question: &Question<'_>, ask: &Ask, found: &'a Found) -> Option<&'a Candidate> {
    let candidate = meant(question, &ask.target, found).ok()?;
    let tokens = candidate.stored.connection.tokens.as_ref();
    tokens.is_some_and(|tokens| tokens.renewable).then_some(candidate)
}

/// The one candidate that a target means. Connections that the actor has no right to do not count; if it has
/// a right to none, the one it came closest to says why.
fn meant<'a>(question: &Question<'_>, target: &Target, found: &'a Found) -> Result<&'a Candidate, Refusal> {
    if matches!(target, Target::Connection(_)) {
        return found.candidates.first().ok_or(Refusal::ConnectionNotFound);
    }
    let right =
        |candidate: &Candidate| right_to_use(question, &candidate.stored.connection, &candidate.grants);
    let rightful: Vec<&Candidate> =
        found.candidates.iter().filter(|candidate| right(candidate).is_ok()).collect();
    match rightful.as_slice() {
        [only] => Ok(only),
        [] => Err(found
            .candidates
            .iter()
            .filter_map(|candidate| right(candidate).err())
            .max()
            .map_or(Refusal::ConnectionNotFound, Refusal::Denied)),
        several => Err(Refusal::Ambiguous(several.iter().map(|candidate| candidate.into()).collect())),
    }
}

impl From<&&Candidate> for AmbiguousCandidate {
    fn from(candidate: &&Candidate) -> Self {
        let connection = &candidate.stored.connection;
        Self {
            connection_id: connection.id,
            owner: connection.owner.clone(),
            account: connection.account.clone(),
            display_name: connection.display_name.clone(),
            state: connection.state,
        }
    }
}

impl Refusal {
    /// The stable reason.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Denied(denial) => denial.reason(),
            Self::ConnectionNotFound => Reason::ConnectionNotFound,
            Self::Ambiguous(_) => Reason::AmbiguousConnection,
            Self::ProviderNotFound => Reason::ProviderNotFound,
            Self::ProviderNotAllowed => Reason::ProviderNotAllowed,
            Self::UrlNotAllowed => Reason::UrlNotAllowed,
            Self::NotRenewed(_) => Reason::ProviderUnavailable,
            Self::ClientRefused => Reason::OAuthClientRefused,
            Self::Frozen => Reason::RefreshingFrozen,
        }
    }
}
