//! A herd: tokens that end in the same minute, at a provider that takes only so many calls a second; and a resolve now
//! and then that has to wait for a token, and must not wait for the herd.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keyholder_proto::v1;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::resolve_credential_request::Target;
use keyholder_testkit::provider::Limit;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{LOOK_AGAIN, PATIENCE};
use crate::Outcome;
use crate::load::Latencies;
use crate::plan::Plan;
use crate::report::{Report, say};
use crate::rig::{Rig, Server};
use crate::statements::OURS;

/// How far ahead the moment is when the herd comes due: time to write so many rows.
fn ahead(herd: usize) -> Duration {
    Duration::from_secs(2) + Duration::from_micros(300 * herd as u64)
}

pub(super) async fn measure(rig: &Rig, server: &Server, plan: &Plan, report: &mut Report) -> Outcome<()> {
    say(&format!("refresh: connecting a herd of {}", plan.herd));
    rig.import(server, "herd", plan.herd).await?;
    let waiting = rig.import(server, "waiting", plan.waiting()).await?;
    end_waiting(rig)?;
    rig.until_quiet().await?;
    let limit = Limit { per_second: plan.herd_limit, retry_after: true };
    rig.provider.behave(|manners| manners.limit = Some(limit));
    end_herd(rig)?;
    let before = rig.provider.counts();
    let (herd, moment) =
        rig.let_come_due("organization_id LIKE 'herd-%'", ahead(plan.herd), Duration::ZERO)?;
    say(&format!("refresh: the herd of {herd} is due"));
    tokio::time::sleep_until(moment.into()).await;
    let waited = Waited::default();
    let mut resolves = JoinSet::new();
    let grants = GrantServiceClient::new(rig.channel(server, "gateway")?);
    let mut waiting = waiting.into_iter();
    let every = Duration::from_secs(1) / plan.waiting_per_second;
    let mut next = moment + every;
    let cleared = loop {
        let refreshed = rig.provider.counts().refreshes - before.refreshes;
        // Those who waited were refreshed besides.
        if refreshed >= herd + waited.renewed() {
            break refreshed;
        }
        if moment.elapsed() > PATIENCE {
            return Err(format!("{refreshed} of a herd of {herd} were refreshed").into());
        }
        if Instant::now() >= next
            && let Some(connection) = waiting.next()
        {
            next += every;
            resolves.spawn(resolve(grants.clone(), connection, waited.clone()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    let elapsed = moment.elapsed().as_secs_f64();
    while let Some(ended) = resolves.join_next().await {
        ended?;
    }
    rig.until_quiet().await?;
    rig.provider.behave(|manners| manners.limit = None);
    let counts = rig.provider.counts();
    report.add("herd_seconds", "s until it was refreshed", elapsed);
    report.add("herd_over_theory", "ratio", elapsed / theory(cleared, plan.herd_limit));
    report.add("herd_limited_calls", "answers 429", (counts.limited - before.limited) as f64);
    waited.report(report);
    Ok(())
}

/// How long it takes at least to make so many calls.
fn theory(calls: u64, per_second: u32) -> f64 {
    calls as f64 / f64::from(per_second)
}

/// Lets the access tokens of those who wait have ended, with nobody to renew them until somebody asks.
fn end_waiting(rig: &Rig) -> Outcome<()> {
    rig.sql(&format!(
        "UPDATE connections SET token_expire_time = now() - interval '1 second'
         WHERE organization_id LIKE 'waiting-%';
         UPDATE refreshes SET deadline = now() - interval '1 second', earliest_time = now(),
             due_time = now() + interval '1 day'
         WHERE organization_id LIKE 'waiting-%';
         SELECT {OURS} 1"
    ))?;
    Ok(())
}

/// Lets the access tokens of the herd end in the same minute.
fn end_herd(rig: &Rig) -> Outcome<()> {
    rig.sql(&format!(
        "UPDATE refreshes SET deadline = now() + interval '10 minutes' + random() * interval '1 minute'
         WHERE organization_id LIKE 'herd-%';
         VACUUM (ANALYZE) refreshes; CHECKPOINT;
         SELECT {OURS} 1"
    ))?;
    Ok(())
}

async fn resolve(mut grants: GrantServiceClient<Channel>, connection: v1::Connection, waited: Waited) {
    let request = v1::ResolveCredentialRequest {
        organization_id: connection.organization_id,
        actor: connection.owner,
        target: Some(Target::ConnectionId(connection.connection_id)),
        ..Default::default()
    };
    let sent = Instant::now();
    let answer = grants.resolve_credential(request).await;
    waited.add(sent.elapsed(), answer.err().map(|status| status.to_string()));
}

/// What came of those who waited.
#[derive(Clone)]
struct Waited(Arc<Mutex<Told>>);

struct Told {
    latencies: Latencies,
    failed: u64,
    first_failure: Option<String>,
}

impl Default for Waited {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Told { latencies: Latencies::new(), failed: 0, first_failure: None })))
    }
}

impl Waited {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, latency: Duration, failure: Option<String>) {
        let mut told = self.lock();
        // One that failed waited, too.
        told.latencies.add(latency);
        if let Some(failure) = failure {
            told.failed += 1;
            told.first_failure.get_or_insert(failure);
        }
    }

    /// How many got a new token.
    fn renewed(&self) -> u64 {
        let told = self.lock();
        told.latencies.count() - told.failed
    }

    fn report(&self, report: &mut Report) {
        let told = self.lock();
        for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("max", 100.0)] {
            let value = told.latencies.percentile(percent) / 1_000.0;
            report.add(&format!("herd_waiting_resolve_{name}_ms"), "ms", value);
        }
        report.add("herd_waiting_resolves", "resolves", told.latencies.count() as f64);
        report.add("herd_waiting_resolves_failed", "resolves", told.failed as f64);
        if let Some(failure) = &told.first_failure {
            report.note("herd_first_failure", failure.as_str().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_herd_takes_as_long_as_its_provider_wants() {
        assert_eq!(theory(20_000, 200), 100.0);
    }

    #[test]
    fn who_failed_has_waited_but_has_no_new_token() {
        let waited = Waited::default();
        waited.add(Duration::from_millis(10), None);
        waited.add(Duration::from_millis(30), Some("no".to_owned()));
        assert_eq!(waited.renewed(), 1);
        assert_eq!(waited.lock().latencies.count(), 2);
        let mut report = Report::new(&Plan::new(true, None), &crate::pins::Pins::find());
        waited.report(&mut report);
        assert!(report.table().contains("herd_waiting_resolves_failed"));
    }
}
