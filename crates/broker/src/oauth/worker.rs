//! What is done by itself: devices that are polled, flows whose process is gone, flows that nobody finished, and tokens
//! that are given back. Any number of replicas share it through the database.

use std::time::Duration;

use fail::fail_point;
use futures::future::join_all;
use keyholder_domain::{AuthorizationFailure, AuthorizationState};
use keyholder_store::StoredAuthorization;

use super::browser::LEASE;
use crate::tasks::keep_running;
use crate::{Broker, BrokerError};

/// How often it is looked.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How much is taken at once.
const BATCH: i64 = 16;

impl Broker {
    /// Sees to flows, revocations and runs of them, for ever.
    pub async fn tend_authorizations(&self) {
        futures::future::join(
            keep_running("flows", || self.tend_flows()),
            keep_running("revocation-runs", || self.tend_runs()),
        )
        .await;
    }

    async fn tend_runs(&self) {
        loop {
            fail_point!("revocation-runs");
            let worked = self.run_revocations().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "a run of revocations stopped; it goes on when its lease ends");
                false
            });
            if !worked {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    async fn tend_flows(&self) {
        loop {
            fail_point!("flows");
            let (flows, revocations) = futures::future::join(self.tend_due(), self.revoke_due()).await;
            let full = [flows, revocations].into_iter().any(|taken| match taken {
                Ok(taken) => taken > 0,
                Err(error) => {
                    tracing::debug!(%error, "flows could not be looked after");
                    false
                }
            });
            if !full {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    async fn tend_due(&self) -> Result<usize, BrokerError> {
        let due = self.store().take_due_authorizations(LEASE, BATCH).await?;
        for outcome in join_all(due.iter().map(|stored| self.tend(stored))).await {
            if let Err(error) = outcome {
                tracing::warn!(%error, "a flow could not be looked after; trying again");
            }
        }
        Ok(due.len())
    }

    async fn tend(&self, stored: &StoredAuthorization) -> Result<(), BrokerError> {
        let authorization = &stored.authorization;
        let over = authorization.expire_time <= self.now();
        let failure = match authorization.state {
            AuthorizationState::Exchanging if stored.sealed_answer.is_some() && !over => {
                return self.finish_authorization(stored, false).await.map(drop);
            }
            AuthorizationState::Exchanging if stored.sealed_answer.is_some() => {
                // The tokens were here all the time, and whose they are could not be learned.
                AuthorizationFailure::ProviderUnavailable
            }
            AuthorizationState::Exchanging if stored.poll_seconds.is_some() && !over => {
                return self.poll_device(stored.clone()).await;
            }
            AuthorizationState::Exchanging if stored.poll_seconds.is_none() => {
                AuthorizationFailure::Interrupted
            }
            _ => AuthorizationFailure::Expired,
        };
        self.fail(stored, failure).await.map(drop)
    }
}
