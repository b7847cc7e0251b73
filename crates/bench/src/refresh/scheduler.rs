//! What it costs to find out what is due, as the table grows: it must depend on what is due, and not on what exists.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::AHEAD;
use crate::Outcome;
use crate::plan::Plan;
use crate::report::{Report, say};
use crate::rig::{Rig, Server};
use crate::statements::{self, Statements};

/// So many connections are real; a few of them are due, again and again.
const REAL: u64 = 400;

pub(super) async fn measure(rig: &Rig, server: &Server, plan: &Plan, report: &mut Report) -> Outcome<()> {
    rig.until_quiet().await?;
    // Whatever was measured before is not among what exists.
    rig.sql("DELETE FROM refreshes; DELETE FROM late_answers; VACUUM FULL refreshes")?;
    rig.import(server, "few", usize::try_from(REAL)?).await?;
    let mut seeded = REAL;
    for &(name, size) in plan.sizes {
        say(&format!("refresh: {size} connections"));
        rig.seed(seeded, size)?;
        std::thread::sleep(AHEAD);
        seeded = size;
        for _ in 0..plan.rounds {
            watch(rig, server, plan, name, report).await?;
        }
        for _ in 0..plan.rounds {
            let started = Instant::now();
            scrape(server.admin)?;
            report.add(&format!("metrics_ms_{name}"), "ms for one scrape", milliseconds(started.elapsed()));
        }
    }
    Ok(())
}

/// Watches for a while in which nothing is due, and for a while in which a few are.
async fn watch(rig: &Rig, server: &Server, plan: &Plan, name: &str, report: &mut Report) -> Outcome<()> {
    rig.until_quiet().await?;
    let mut add = |what: &str, unit, value: f64| report.add(&format!("scheduler_{what}_{name}"), unit, value);
    let idle = observe(rig, server, plan.watch).await?;
    let list = statements::list(&rig.postgres, plan.watch.as_secs_f64())?;
    add("cost", "ms of processor a second, nothing due", idle.processor);
    add("statement_ms", "ms of statements a second, nothing due", idle.statements.milliseconds);
    add("statements", "statements a second, nothing due", idle.statements.calls);
    report.note(&format!("statements_of_an_idle_second_{name}"), list);
    let every = Duration::from_secs(1) / plan.due_per_second;
    let due = f64::from(plan.due_per_second) * plan.watch.as_secs_f64();
    let few = format!(
        "(organization_id, connection_id) IN (SELECT organization_id, connection_id FROM refreshes
             WHERE organization_id LIKE 'few-%' AND attempt_id IS NULL ORDER BY 1, 2 LIMIT {due})"
    );
    let (_, moment) = rig.let_come_due(&few, AHEAD, every)?;
    tokio::time::sleep_until(moment.into()).await;
    let busy = observe(rig, server, plan.watch).await?;
    let mut add = |what: &str, unit, value: f64| report.add(&format!("scheduler_{what}_{name}"), unit, value);
    add("busy_cost", "ms of processor a second, some due", busy.processor);
    add("busy_statement_ms", "ms of statements a second, some due", busy.statements.milliseconds);
    Ok(())
}

/// What happened in a second, on average.
struct Second {
    /// Milliseconds of processor, of the server and Postgres.
    processor: f64,
    statements: Statements,
}

async fn observe(rig: &Rig, server: &Server, time: Duration) -> Outcome<Second> {
    statements::reset(&rig.postgres)?;
    // Until what psql has started in Postgres is gone.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (before, started) = (rig.usage(server), Instant::now());
    tokio::time::sleep(time).await;
    let (usage, elapsed) = (rig.usage(server) - before, started.elapsed());
    let asked = statements::read(&rig.postgres)?;
    Ok(Second {
        processor: milliseconds(usage.sum()) / elapsed.as_secs_f64(),
        statements: asked.each(elapsed.as_secs_f64()),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Reads the metrics, as a scraper does.
fn scrape(admin: SocketAddr) -> Outcome<()> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err("no metrics".into()) }
}
