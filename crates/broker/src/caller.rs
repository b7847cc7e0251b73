use std::fmt;

use keyholder_catalog::Provider;
use keyholder_domain::{OrganizationId, ProviderId, RequestId, WorkloadId};
use zeroize::Zeroizing;

use crate::{Broker, BrokerError};

/// For whom the broker works: a workload whose certificate was verified, acting for an organization that its
/// policy lets it act for.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The process that calls.
    pub workload: &'a WorkloadId,
    /// The tenant it acts for.
    pub organization_id: &'a OrganizationId,
    /// Whether its policy lets it use a provider.
    pub may_use: &'a (dyn Fn(&Provider) -> bool + Send + Sync),
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.workload, self.organization_id)
    }
}

/// What makes a create idempotent.
pub struct Idempotency {
    /// The caller's id of the request.
    pub request_id: RequestId,
    /// The whole request, without the id, in one canonical form. Only a keyed hash of it is kept.
    pub body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Idempotency({})", self.request_id.as_str())
    }
}

impl Broker {
    /// The provider of an id, if the caller may use it.
    pub(crate) fn provider(&self, caller: &Caller<'_>, id: &ProviderId) -> Result<&Provider, BrokerError> {
        let provider = self.catalog().get(id).ok_or(BrokerError::ProviderNotFound)?;
        if (caller.may_use)(provider) { Ok(provider) } else { Err(BrokerError::ProviderNotAllowed) }
    }

    /// Whether the caller may change what is at a provider. One that has left the catalog is in nobody's way:
    /// what is there can still be switched off, taken back and deleted.
    pub(crate) fn check_provider(&self, caller: &Caller<'_>, id: &ProviderId) -> Result<(), BrokerError> {
        match self.provider(caller, id) {
            Err(BrokerError::ProviderNotFound) => Ok(()),
            found => found.map(drop),
        }
    }
}
