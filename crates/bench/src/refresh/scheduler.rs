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

/// So many rows are made at once.
const BATCH: u64 = 100_000;

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
        seed(rig, seeded, size)?;
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

/// Adds connections that are like a real one, with a sealed credential of the same length that nobody can open, due a
/// month or two from now. The rows go in as quickly as may be: no checks, no waiting for the disk.
fn seed(rig: &Rig, from: u64, to: u64) -> Outcome<()> {
    for first in (from..to).step_by(usize::try_from(BATCH)?) {
        let last = (first + BATCH).min(to) - 1;
        rig.sql(&format!(
            "SET session_replication_role = replica; SET synchronous_commit = off;
             INSERT INTO organizations (organization_id, change)
             SELECT 'seeded-' || number, 1000000000 FROM generate_series(0, 99) number ON CONFLICT DO NOTHING;
             WITH made AS (
                 INSERT INTO connections (organization_id, connection_id, owner, provider_id, auth_method, display_name,
                     account_id, account_name, account_email, scopes, state, state_reason, sealed_credential,
                     sealed_generation, credential_fingerprint, credential_fields, config, labels, change, generation,
                     create_time, update_time, token_client_id, token_scopes_asked, token_expire_time,
                     token_renewal_missing, sealed_renewal)
                 SELECT 'seeded-' || number % 100,
                     ('01900000-0000-7000-8000-' || lpad(to_hex(number), 12, '0'))::uuid, 'user:' || number,
                     c.provider_id, c.auth_method, c.display_name, 'account-' || number, c.account_name,
                     c.account_email, c.scopes, c.state, c.state_reason, c.sealed_credential, c.sealed_generation,
                     c.credential_fingerprint, c.credential_fields, c.config, c.labels, number + 1, c.generation,
                     c.create_time, c.update_time, c.token_client_id, c.token_scopes_asked,
                     now() + interval '90 days', c.token_renewal_missing, c.sealed_renewal
                 FROM generate_series({first}, {last}) number,
                     (SELECT * FROM connections WHERE organization_id = 'few-0' LIMIT 1) c
                 RETURNING organization_id, connection_id, token_expire_time
             )
             INSERT INTO refreshes (organization_id, connection_id, client_organization_id, provider_id, client_id,
                 due_time, earliest_time, deadline, call_seconds, last_success_time)
             SELECT made.organization_id, made.connection_id, r.client_organization_id, r.provider_id, r.client_id,
                 now() + interval '30 days' * (1 + random()), now(), made.token_expire_time, r.call_seconds, now()
             FROM made, (SELECT * FROM refreshes WHERE organization_id = 'few-0' LIMIT 1) r"
        ))?;
    }
    // So that nobody does this while it is measured.
    rig.sql("VACUUM (ANALYZE) connections; VACUUM (ANALYZE) refreshes")?;
    rig.sql("CHECKPOINT")?;
    std::thread::sleep(AHEAD);
    Ok(())
}
