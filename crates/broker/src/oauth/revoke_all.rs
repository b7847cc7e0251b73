//! Everything of an organization, of one provider or of what one workload got, revoked in one go: for the day on which
//! somebody's keys were stolen.

use keyholder_domain::{AuditKind, ConnectionId, ProviderId, RevocationRunId, WorkloadId};
use keyholder_store::{NewAuditEvent, RevocationCounts, RevocationRun};
use keyholder_vault::random_bytes;

use crate::connections::same_request;
use crate::{Broker, BrokerError, Caller, Idempotency};

/// How long a replica has a run to itself before another one goes on, in seconds; renewed with each batch.
const LEASE: f64 = 60.0;

/// How many connections are deleted between two notes of how far it has come.
const BATCH: i64 = 50;

/// What is revoked.
#[derive(Debug)]
pub struct RevokeAll {
    /// Only connections at this provider.
    pub provider_id: Option<ProviderId>,
    /// Only connections whose credential this workload got, ever.
    pub workload: Option<WorkloadId>,
    /// What makes the call idempotent.
    pub idempotency: Option<Idempotency>,
}

impl Broker {
    /// Begins to delete every connection that is meant and to give its tokens back. Goes on by itself, on whichever replica
    /// is there.
    pub async fn revoke_all(
        &self,
        caller: &Caller<'_>,
        revoke: RevokeAll,
    ) -> Result<(RevocationRun, RevocationCounts), BrokerError> {
        match &revoke.provider_id {
            Some(id) => self.check_provider(caller, id)?,
            // Whoever may not manage every provider cannot revoke at all of them.
            None if self.catalog().iter().any(|provider| !(caller.may_use)(provider)) => {
                return Err(BrokerError::ProviderNotAllowed);
            }
            None => {}
        }
        let now = self.now();
        let mut run = RevocationRun {
            id: RevocationRunId::new(now, random_bytes()),
            organization_id: caller.organization_id.clone(),
            provider_id: revoke.provider_id,
            workload: None,
            requested_by: caller.workload.clone(),
            reached: None,
            deleted: 0,
            done_time: None,
            create_time: now,
        };
        // A provider that has left the catalog may still have connections here. One that has none is a slip of the pen,
        // and "done, 0 deleted" would be a bad answer to it on the day of a theft.
        let nowhere = match &run.provider_id {
            Some(id) if self.catalog().get(id).is_none() => {
                self.store().connections_of_run(&run, 1).await?.is_empty()
            }
            _ => false,
        };
        run.workload = revoke.workload;
        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let fingerprint =
            revoke.idempotency.as_ref().map(|request| key.fingerprint_bytes("revoke_all", &request.body));
        if let (Some(request), Some(fingerprint)) = (&revoke.idempotency, &fingerprint)
            && let Some(found) = change.remembered_run(&request.request_id).await?
        {
            drop(change);
            let id = same_request(found.fingerprint == *fingerprint, found.made)?;
            return self.get_revocation_run(caller, id).await;
        }
        if nowhere {
            return Err(BrokerError::ProviderNotFound);
        }
        let request =
            revoke.idempotency.as_ref().map(|request| &request.request_id).zip(fingerprint.as_deref());
        change.insert_revocation_run(&run, request).await?;
        change
            .record(&NewAuditEvent {
                id: self.audit_event_id(),
                organization_id: caller.organization_id,
                kind: AuditKind::RevocationRunStarted,
                workload: caller.workload,
                actor: None,
                connection: None,
                grant_id: None,
                provider_id: run.provider_id.as_ref(),
                reason: &run.id.to_string(),
                purpose: "",
            })
            .await?;
        change.commit().await?;
        Ok((run, RevocationCounts::default()))
    }

    /// How far a run has come.
    pub async fn get_revocation_run(
        &self,
        caller: &Caller<'_>,
        id: RevocationRunId,
    ) -> Result<(RevocationRun, RevocationCounts), BrokerError> {
        let found = self.store().revocation_run(caller.organization_id, id).await?;
        found.ok_or(BrokerError::RevocationRunNotFound)
    }

    /// Takes a run on to its end, if there is one to take. Returns whether there was.
    pub(crate) async fn run_revocations(&self) -> Result<bool, BrokerError> {
        let Some(mut run) = self.store().take_revocation_run(LEASE).await? else { return Ok(false) };
        loop {
            let batch = self.store().connections_of_run(&run, BATCH).await?;
            for id in &batch {
                self.delete_in_run(&run, *id).await?;
                run.reached = Some(*id);
            }
            let done = batch.is_empty();
            self.store().advance_revocation_run(&run, done, LEASE).await?;
            if done {
                return Ok(true);
            }
        }
    }

    async fn delete_in_run(&self, run: &RevocationRun, id: ConnectionId) -> Result<(), BrokerError> {
        let caller =
            Caller { workload: &run.requested_by, organization_id: &run.organization_id, may_use: &|_| true };
        match self.delete(&caller, id, None, Some(run.id)).await {
            // Somebody was faster.
            Ok(_) | Err(BrokerError::ConnectionNotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
