//! The refresher.

mod herd;
mod scheduler;
mod throughput;

use std::time::{Duration, Instant};

use keyholder_testkit::provider::Provider;

use crate::Outcome;
use crate::plan::Plan;
use crate::report::Report;
use crate::rig::Rig;
use crate::statements::OURS;

/// How far ahead the moment is when connections come due: time to make everything else ready.
const AHEAD: Duration = Duration::from_secs(1);

/// How often it is looked whether something has happened.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(900);

/// A part of what is measured of the refresher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Refreshes a second, and what each costs.
    Throughput,
    /// Tokens that end in the same minute.
    Herd,
    /// Looking for what is due, as the table grows.
    Scheduler,
}

pub(crate) async fn measure(rig: &Rig, plan: &Plan, parts: &[Part], report: &mut Report) -> Outcome<()> {
    if parts.is_empty() {
        return Ok(());
    }
    let server = rig.server("server,refresher").await?;
    if parts.contains(&Part::Throughput) {
        throughput::measure(rig, &server, plan, report).await?;
    }
    if parts.contains(&Part::Herd) {
        herd::measure(rig, &server, plan, report).await?;
    }
    if parts.contains(&Part::Scheduler) {
        // Last: it leaves a large table behind.
        scheduler::measure(rig, &server, plan, report).await?;
    }
    rig.check_nothing_failed()
}

impl Rig {
    /// Lets every connection of which a condition is true come due some time `ahead`, each `every` later than the one
    /// before. Returns how many there are, and the moment of the first.
    fn let_come_due(&self, condition: &str, ahead: Duration, every: Duration) -> Outcome<(u64, Instant)> {
        let moment = Instant::now() + ahead;
        let due = self.number(&format!(
            "WITH numbered AS (
                 SELECT organization_id, connection_id, row_number() OVER () AS number FROM refreshes
                 WHERE {condition} AND attempt_id IS NULL AND NOT ready
             ), due AS (
                 UPDATE refreshes r SET earliest_time = clock_timestamp(),
                     due_time = now() + make_interval(secs => {ahead} + {every} * numbered.number)
                 FROM numbered
                 WHERE r.organization_id = numbered.organization_id AND r.connection_id = numbered.connection_id
                 RETURNING 1
             )
             SELECT {OURS} count(*) FROM due",
            ahead = ahead.as_secs_f64(),
            every = every.as_secs_f64(),
        ))?;
        if Instant::now() > moment {
            return Err("it took too long to let connections come due".into());
        }
        Ok((due, moment))
    }

    /// Waits until nothing is under way, waits for its turn, or is due soon.
    async fn until_quiet(&self) -> Outcome<()> {
        let count = |condition: &str| format!("(SELECT count(*) FROM refreshes WHERE {condition})");
        let busy = format!(
            "SELECT {OURS} {} + {} + {}",
            count("ready"),
            count("lease_expire_time IS NOT NULL"),
            count("NOT ready AND due_time < now() + interval '3 seconds'"),
        );
        let started = Instant::now();
        while self.number(&busy)? > 0 {
            if started.elapsed() > PATIENCE {
                return Err("refreshes do not come to an end".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Figures of refreshes that failed are worth nothing.
    fn check_nothing_failed(&self) -> Outcome<()> {
        let failed = self.number(&format!(
            "SELECT {OURS} count(*) FROM refreshes WHERE last_error IS NOT NULL OR ambiguous_time IS NOT NULL"
        ))?;
        let replays = self.provider.counts().replays;
        if failed == 0 && replays == 0 {
            return Ok(());
        }
        Err(format!("{failed} connections are in trouble and {replays} refresh tokens came twice").into())
    }
}

/// Waits until the provider has refreshed so many, and returns when that was.
async fn until_refreshed(provider: &Provider, number: u64) -> Outcome<Instant> {
    let started = Instant::now();
    while provider.counts().refreshes < number {
        if started.elapsed() > PATIENCE {
            return Err(format!("{} refreshes of {number} came about", provider.counts().refreshes).into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(Instant::now())
}
