//! The pool: claims what is due, and sees it through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fail::fail_point;
use futures::future::join_all;
use keyholder_store::Attempt;
use tokio::sync::{Semaphore, watch};
use tracing::Instrument as _;

use super::{RATE_LIMITED, Told, pause};
use crate::tasks::keep_running;
use crate::{Broker, BrokerError};

/// How often it is looked while something waits for its turn, and while nothing does.
const BUSY: Duration = Duration::from_millis(25);
const IDLE: Duration = Duration::from_millis(500);

/// How many connections become ready at once.
const BATCH: i64 = 1_000;

/// For how many seconds an attempt that was left behind belongs to whoever takes it over.
const TAKE_OVER: f64 = 20.0;

/// How long the last attempts may take when the process is to end.
const LAST: Duration = Duration::from_secs(18);

/// How often late answers are looked at, and for how many days they are kept.
const LATE: (Duration, i32) = (Duration::from_secs(2), 30);

impl Broker {
    /// Refreshes connections until `stop` turns true, and then sees through what it has begun.
    pub async fn tend_refreshes(&self, mut stop: watch::Receiver<bool>) {
        // Before anything else: a token of the past must not be shown.
        self.guard_first(&mut stop).await;
        if let Err(error) = self.store().probe_clients().await {
            tracing::warn!(%error, "clients in quarantine could not be looked at");
        }
        // What is here already is nothing that others must take over.
        self.replay_spooled().await;
        let slots = Arc::new(Semaphore::new(self.refresher().settings.workers));
        tokio::join!(
            keep_running("claims", || self.claim_for_ever(&slots, stop.clone())),
            keep_running("interrupted-refreshes", || self.take_over_for_ever(stop.clone())),
            keep_running("late-answers", || self.adopt_for_ever(stop.clone())),
            keep_running("spool", || self.replay_spool(stop.clone())),
            keep_running("guard", || self.guard_for_ever(stop.clone())),
            keep_running("notices", || self.notify_for_ever(stop.clone())),
        );
    }

    async fn claim_for_ever(&self, slots: &Arc<Semaphore>, mut stop: watch::Receiver<bool>) {
        let mut told = self.refresher().told.subscribe();
        while !*stop.borrow() {
            let worked = match self.claim(slots, &stop).await {
                Ok(worked) => worked,
                Err(error) => {
                    tracing::warn!(%error, "what is to be refreshed could not be claimed; trying again");
                    false
                }
            };
            tokio::select! {
                () = tokio::time::sleep(if worked { BUSY } else { IDLE }) => {}
                () = demanded(&mut told) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        let every = u32::try_from(self.refresher().settings.workers).unwrap_or(u32::MAX);
        if tokio::time::timeout(LAST, slots.acquire_many(every)).await.is_err() {
            tracing::warn!("refreshes were still under way at the end; others take them over");
        }
    }

    /// Claims as much as there is room for, and begins it. Returns whether there may be more soon.
    async fn claim(&self, slots: &Arc<Semaphore>, stop: &watch::Receiver<bool>) -> Result<bool, BrokerError> {
        let room = i64::try_from(slots.available_permits()).unwrap_or(0);
        if room == 0 {
            return Ok(true);
        }
        self.store().ready_refreshes(BATCH).await?;
        if !self.store().has_ready_refreshes().await? {
            return Ok(false);
        }
        let per_client = i64::try_from(self.refresher().settings.per_client).unwrap_or(i64::MAX);
        // Before the claim: the lease must not outlast what we think it does.
        let since = Instant::now();
        let unfit = self.refresher().unfit.now();
        let claimed = self.store().claim_refreshes(room, per_client, self.reached(), &unfit).await?;
        let claim_time = Instant::now();
        // What is ready may be nothing that this process can see to.
        let more = unfit.is_empty() || !claimed.is_empty();
        fail_point!("claims");
        if *stop.borrow() {
            // Nothing is begun any more; others have them at once.
            join_all(claimed.iter().map(|attempt| self.give_back_claim(attempt, since, "INTERRUPTED"))).await;
            return Ok(false);
        }
        for attempt in claimed {
            let Ok(slot) = Arc::clone(slots).try_acquire_owned() else { break };
            let (broker, stop) = (self.clone(), stop.clone());
            let span = tracing::debug_span!("refresh", connection_id = %attempt.connection_id);
            tokio::spawn(
                async move {
                    broker.begin_attempt(&attempt, since, claim_time, &stop).await;
                    drop(slot);
                }
                .instrument(span),
            );
        }
        Ok(more)
    }

    /// Sees an attempt through when its turn has come.
    async fn begin_attempt(
        &self,
        attempt: &Attempt,
        since: Instant,
        claim_time: Instant,
        stop: &watch::Receiver<bool>,
    ) {
        if !attempt.delay.is_zero() {
            tokio::time::sleep_until((claim_time + attempt.delay).into()).await;
            if *stop.borrow() {
                self.give_back_claim(attempt, since, "INTERRUPTED").await;
                return;
            }
            if self.refresher().seen.was_limited_since(&attempt.client, since)
                && attempt.sealed_answer.is_none()
            {
                // The client is left alone by now.
                self.give_claim_back(attempt, since, RATE_LIMITED, Duration::ZERO, true).await;
                return;
            }
        }
        self.see_through(attempt, since).await;
    }

    async fn take_over_for_ever(&self, mut stop: watch::Receiver<bool>) {
        loop {
            match self.store().take_abandoned_refreshes(TAKE_OVER, 16).await {
                Ok(abandoned) => {
                    fail_point!("interrupted-refreshes");
                    let since = Instant::now();
                    for attempt in abandoned {
                        // Each on its own: one that gets no answer from the database must not hold up the others.
                        let broker = self.clone();
                        tokio::spawn(async move { broker.take_over(&attempt, since).await });
                    }
                }
                Err(error) => tracing::debug!(%error, "interrupted refreshes could not be looked at"),
            }
            if pause(Duration::from_secs(1), &mut stop).await {
                return;
            }
        }
    }

    /// Makes late answers count where nothing newer came, and forgets them where something did.
    async fn adopt_for_ever(&self, mut stop: watch::Receiver<bool>) {
        let mut passes: u32 = 0;
        loop {
            fail_point!("late-answers");
            if let Err(error) = self.adopt().await {
                tracing::warn!(%error, "late answers could not be looked at");
            }
            if passes.is_multiple_of(300)
                && let Err(error) = self.store().forget_late_answers(LATE.1).await
            {
                tracing::debug!(%error, "old late answers could not be forgotten");
            }
            passes = passes.wrapping_add(1);
            if pause(LATE.0, &mut stop).await {
                return;
            }
        }
    }

    async fn adopt(&self) -> Result<(), BrokerError> {
        for late in self.store().late_answers(16).await? {
            let only = keyholder_store::Only {
                organization_id: &late.organization_id,
                connection_id: late.connection_id,
            };
            let since = Instant::now();
            let Some(mut attempt) = self.store().claim_refresh(only).await? else { continue };
            // A process that does not know the provider can make nothing of it.
            let known = self.known_provider(&attempt.client.provider_id).is_ok();
            if attempt.generation != late.generation || !known {
                self.give_back_claim(&attempt, since, "INTERRUPTED").await;
                continue;
            }
            tracing::info!(connection_id = %attempt.connection_id, "a late answer is used after all");
            attempt.sealed_answer = Some(late.sealed_answer.clone());
            if self.see_through(&attempt, since).await {
                self.store().see_late_answer(&late).await?;
            }
        }
        Ok(())
    }
}

/// Returns when somebody waits for a refresh.
async fn demanded(told: &mut tokio::sync::broadcast::Receiver<Told>) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match told.recv().await {
            Ok(Told::Ended(_)) => {}
            Ok(Told::Demanded | Told::Missed) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
