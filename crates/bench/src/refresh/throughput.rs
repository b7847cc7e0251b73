//! How many refreshes one core does, for server and Postgres together, and what each costs.

use std::time::{Duration, Instant};

use super::{AHEAD, until_refreshed};
use crate::Outcome;
use crate::plan::Plan;
use crate::report::{Report, say};
use crate::rig::{Rig, Server};
use crate::statements;

pub(super) async fn measure(rig: &Rig, server: &Server, plan: &Plan, report: &mut Report) -> Outcome<()> {
    say("refresh: connecting accounts");
    rig.import(server, "real", plan.refreshed).await?;
    for round in 0..plan.rounds {
        say(&format!("refresh: round {} of {}", round + 1, plan.rounds));
        let every = run(rig, server, "organization_id LIKE 'real-%'", report).await?;
        let number = every.number as f64;
        let cost = |used: Duration| used.as_secs_f64() * 1e6 / number;
        let (server_us, postgres_us) = (cost(every.usage.server), cost(every.usage.postgres));
        report.add("refreshes_per_second", "on one core with Postgres", every.per_second());
        report.add("refreshes_per_second_per_core", "by processor time", 1e6 / (server_us + postgres_us));
        report.add("refresh_server_cpu_us", "us of processor", server_us);
        report.add("refresh_postgres_cpu_us", "us of processor", postgres_us);
        report.add("statements_per_refresh", "statements", every.statements / number);
        // The changes of one organization come one after the other.
        let one = run(rig, server, "organization_id = 'real-0'", report).await?;
        report.add("refreshes_per_second_one_organization", "on one core with Postgres", one.per_second());
    }
    Ok(())
}

/// Many refreshes that came due at once.
struct Run {
    number: u64,
    first: Instant,
    last: Instant,
    usage: crate::cpu::Usage,
    statements: f64,
}

impl Run {
    /// From the first to the last: what comes before is waiting, and not work.
    fn per_second(&self) -> f64 {
        self.number.saturating_sub(1) as f64 / (self.last - self.first).as_secs_f64()
    }
}

async fn run(rig: &Rig, server: &Server, which: &str, report: &mut Report) -> Outcome<Run> {
    rig.until_quiet().await?;
    let refreshed = rig.provider.counts().refreshes;
    let (number, moment) = rig.let_come_due(which, AHEAD, Duration::ZERO)?;
    statements::reset(&rig.postgres)?;
    tokio::time::sleep_until(moment.into()).await;
    let before = rig.usage(server);
    let first = until_refreshed(&rig.provider, refreshed + 1).await?;
    let last = until_refreshed(&rig.provider, refreshed + number).await?;
    rig.until_quiet().await?;
    let usage = rig.usage(server) - before;
    let statements = statements::read(&rig.postgres)?.calls;
    report.note("statements_of_a_refresh", statements::list(&rig.postgres, number as f64)?);
    Ok(Run { number, first, last, usage, statements })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_steps_between_the_first_and_the_last() {
        let first = Instant::now();
        let last = first + Duration::from_secs(10);
        let run = Run { number: 1_001, first, last, usage: Default::default(), statements: 0.0 };
        assert_eq!(run.per_second(), 100.0);
    }
}
