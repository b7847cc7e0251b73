use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyholder_domain::OrganizationId;

/// How much of something scarce each organization takes at present, so that none crowds the others out.
#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    taken: Mutex<HashMap<OrganizationId, usize>>,
}

/// One of an organization's places, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    organization_id: OrganizationId,
}

impl Shares {
    /// So many places for each organization.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// Takes a place; none if the organization has all of its own.
    pub(crate) fn take(self: &Arc<Self>, organization_id: &OrganizationId) -> Option<Share> {
        let mut taken = self.lock();
        let number = taken.entry(organization_id.clone()).or_default();
        if *number >= self.most {
            return None;
        }
        *number += 1;
        Some(Share { shares: Arc::clone(self), organization_id: organization_id.clone() })
    }

    /// A panic while a number changes leaves nothing half-done.
    fn lock(&self) -> MutexGuard<'_, HashMap<OrganizationId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        match taken.get_mut(&self.organization_id) {
            Some(number) if *number > 1 => *number -= 1,
            _ => drop(taken.remove(&self.organization_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_from_its_own_organization_and_given_back() {
        let (shares, [acme, beta]) =
            (Shares::new(2), ["acme", "beta"].map(|id| OrganizationId::parse(id).unwrap()));
        let (one, two) = (shares.take(&acme), shares.take(&acme));
        assert!(one.is_some() && two.is_some() && shares.take(&acme).is_none());
        let other = shares.take(&beta);
        assert!(other.is_some());
        drop(one);
        let again = shares.take(&acme);
        assert!(again.is_some() && shares.take(&acme).is_none());
        drop((two, again, other));
        assert!(shares.lock().is_empty(), "nothing is kept of who takes nothing");
    }
}
