//! OAuth clients as their providers treat them: what is learned from answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use keyholder_store::{Attempt, ClientKey, Pace, Quarantine, RefusedGrants};

use super::{chance, pace, plan};
use crate::{Broker, BrokerError};

/// How long a client is left alone that had too many calls, where the provider does not say it.
const LIMITED: Duration = Duration::from_secs(1);

/// The longest that a client is left alone because it failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After how many seconds a client that the provider does not take is tried with one connection.
const PROBE: f64 = 30.0;

/// After how many seconds one whose many grants were refused is tried with a connection that was not.
const PROBE_OTHERS: f64 = 1.0;

/// For how many seconds refused grants are believed once that one went well.
const BELIEVED: f64 = 600.0;

/// What a provider took in the moment in which it first had too many calls is what it takes.
const JUST_NOW: Duration = Duration::from_secs(2);

/// Refused grants within so many seconds are looked at together.
const WINDOW: f64 = 600.0;

/// So many of them are many, if no more than as many refreshes went well.
const MANY: i32 = 5;

/// How long a client is left to others that this process is not configured for.
const UNFIT: Duration = Duration::from_secs(60);

/// What this process has sent of late.
#[derive(Debug, Default)]
pub(super) struct Seen {
    good: Mutex<HashMap<ClientKey, VecDeque<Instant>>>,
    limited: Mutex<HashMap<ClientKey, Instant>>,
}

impl Seen {
    fn good(&self, key: &ClientKey) {
        let mut seen = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let times = seen.entry(key.clone()).or_default();
        let now = Instant::now();
        times.retain(|time| now - *time < Duration::from_secs(1));
        times.push_back(now);
    }

    fn limited(&self, key: &ClientKey) {
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.insert(key.clone(), Instant::now());
    }

    /// Whether it had too many calls a moment ago.
    fn was_limited(&self, key: &ClientKey) -> bool {
        let limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.get(key).is_some_and(|time| time.elapsed() < JUST_NOW)
    }

    /// Whether it had too many calls after that moment.
    pub(super) fn was_limited_since(&self, key: &ClientKey, moment: Instant) -> bool {
        let limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.get(key).is_some_and(|time| *time > moment)
    }

    /// How many calls went well within the last second.
    fn rate(&self, key: &ClientKey) -> f64 {
        let seen = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let recent = |times: &VecDeque<Instant>| {
            times.iter().filter(|time| now - **time < Duration::from_secs(1)).count()
        };
        seen.get(key).map_or(0.0, |times| recent(times) as f64)
    }
}

/// Clients that this process is not configured for.
#[derive(Debug, Default)]
pub(super) struct Unfit(Mutex<HashMap<ClientKey, Instant>>);

impl Unfit {
    /// Notes one. Returns whether it was not known.
    pub(super) fn note(&self, key: &ClientKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Instant::now()).is_none()
    }

    /// Those that are left to others now. Each is tried again after a while.
    pub(super) fn now(&self) -> Vec<ClientKey> {
        let unfit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unfit.iter().filter(|(_, time)| time.elapsed() < UNFIT).map(|(key, _)| key.clone()).collect()
    }
}

impl Broker {
    /// Notes that a client's provider has just given tokens.
    pub(super) fn client_was_served(&self, key: &ClientKey) {
        self.refresher().seen.good(key);
    }

    pub(super) async fn client_worked(&self, attempt: &Attempt) -> Result<(), BrokerError> {
        let (key, seen) = (&attempt.client, &self.refresher().seen);
        if !attempt.client_is_watched && !seen.was_limited(key) {
            return Ok(());
        }
        let worked = self.store().client_worked(key, attempt.time).await?;
        if let Some(pace) = worked.pace {
            let rate = pace::first(seen.rate(key)).rate;
            if worked.settled {
                self.store().set_pace(key, worked.pace_time, pace::faster(pace, worked.calm)).await?;
            } else if worked.just_limited && pace.bad.is_none() && rate > pace.rate {
                // The first time, and what was on its way went well.
                self.store().set_pace(key, worked.pace_time, Pace { rate, ..pace }).await?;
            }
        }
        if worked.quarantine.as_deref() == Some(Quarantine::ManyGrantsRefused.as_str()) {
            // Others of this client are fine: those that were refused were refused one by one.
            let id = Some(&key.client_id);
            self.store().resume_clients(&key.provider_id, id, Some(key), BELIEVED).await?;
            tracing::warn!(provider_id = %key.provider_id, "a connection of a client in quarantine could be refreshed; the provider is believed");
        }
        Ok(())
    }

    pub(super) async fn client_limited(
        &self,
        attempt: &Attempt,
        retry_after: Option<Duration>,
    ) -> Result<(), BrokerError> {
        let (key, seen) = (&attempt.client, &self.refresher().seen);
        let wait = retry_after.unwrap_or(LIMITED);
        seen.limited(key);
        tracing::info!(provider_id = %key.provider_id, seconds = wait.as_secs_f64(), "the provider wants fewer calls");
        let limited = self.store().client_limited(key, wait.as_secs_f64(), attempt.time).await?;
        if !limited.known {
            let pace = limited.pace.map_or_else(|| pace::first(seen.rate(key)), pace::slower);
            self.store().set_pace(key, limited.pace_time, pace).await?;
        }
        Ok(())
    }

    /// Notes a failure that is not the grant's. Several in a row, of whatever connection, and the client is left alone.
    pub(super) async fn client_failed(
        &self,
        key: &ClientKey,
        retry_after: Option<Duration>,
        failures: i32,
    ) -> Result<(), BrokerError> {
        let wait = retry_after.unwrap_or_else(|| plan::backoff(failures, chance()).min(LONGEST_PAUSE));
        let failures = self.store().client_failed(key, wait.as_secs_f64()).await?;
        if failures == MANY {
            tracing::warn!(provider_id = %key.provider_id, "the provider does not work; its client is left alone for a while");
        }
        Ok(())
    }

    pub(super) async fn client_refused(&self, key: &ClientKey) -> Result<(), BrokerError> {
        let put = self.store().quarantine_client(key, Quarantine::ClientRefused, Some(PROBE)).await?;
        if let Some(waiting) = put {
            tracing::error!(
                provider_id = %key.provider_id, client_id = key.client_id.as_str(), connections = waiting,
                "the provider does not take the OAuth client; it is tried with one connection every 30 seconds, and an operator must look"
            );
        }
        Ok(())
    }

    /// Counts a refused grant. Returns whether refused grants of this client are not to be believed.
    pub(super) async fn grant_refused(&self, key: &ClientKey) -> Result<bool, BrokerError> {
        let refused = self.store().count_refused_grant(key, WINDOW).await?;
        self.judge_refusals(key, refused).await
    }

    /// Whether refused grants of this client are not to be believed.
    pub(super) async fn doubts_refusals(&self, key: &ClientKey) -> Result<bool, BrokerError> {
        let refused = self.store().refused_grants(key).await?;
        self.judge_refusals(key, refused).await
    }

    async fn judge_refusals(&self, key: &ClientKey, refused: RefusedGrants) -> Result<bool, BrokerError> {
        let many = !refused.believed && refused.refused >= MANY && refused.refused > refused.good;
        if !many {
            return Ok(false);
        }
        let put =
            self.store().quarantine_client(key, Quarantine::ManyGrantsRefused, Some(PROBE_OTHERS)).await?;
        if let Some(waiting) = put {
            tracing::error!(
                provider_id = %key.provider_id, client_id = key.client_id.as_str(), refused = refused.refused,
                connections = waiting,
                "the provider refuses the grants of many connections at once; no owner is asked to connect again until an operator has looked"
            );
        }
        Ok(true)
    }
}
