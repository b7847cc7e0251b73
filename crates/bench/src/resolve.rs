//! Resolves against the baseline.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyholder_domain::{Clock as _, SystemClock};
use keyholder_proto::v1;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::{create_grant_request, resolve_credential_request};

use crate::Outcome;
use crate::cpu::Usage;
use crate::load::{self, Latencies, Measured};
use crate::plan::{Plan, SHAPES, Shape, Span};
use crate::report::{Report, say};
use crate::rig::{Rig, Server, create};
use crate::statements::{self, Calls};
use crate::wire::{Connection, PREFIX, framed};

/// Who resolves, by a grant.
const ACTOR: &str = "agent:bench";

/// How long an access token is, in bytes.
const TOKEN: usize = 800;

/// Those who are compared, each with connections of its own.
struct Side {
    name: &'static str,
    server: Server,
    connections: Vec<Connection>,
}

pub(crate) async fn measure(rig: &Rig, plan: &Plan, report: &mut Report) -> Outcome<()> {
    say("resolve: connecting accounts");
    // Nothing is due, and nobody looks.
    let server = rig.server("server").await?;
    let requests = prepare(rig, &server, plan).await?;
    let idle = idle_statements(rig, plan).await?;
    cold(rig, plan, &requests, &idle, report).await?;
    let most = SHAPES.iter().map(|shape| shape.connections).max().unwrap_or(1);
    let open = |server: &Server| Connection::open(server.grpc, &rig.pki, "gateway", most);
    let connections = open(&server).await?;
    for request in requests.iter() {
        connections[0].call(request.clone()).await?;
    }
    let answer = connections[0].call(requests[0].clone()).await?;
    report.note("request_bytes", (requests[0].len() - PREFIX).into());
    report.note("answer_bytes", (answer.len() - PREFIX).into());
    std::fs::write(rig.dir().join("answer"), &answer[PREFIX..])?;
    warm(rig, plan, &connections, &requests, &idle, report).await?;
    let echo = start_echo(rig)?;
    let echo = Side { name: "echo", connections: open(&echo).await?, server: echo };
    let resolve = Side { name: "resolve", connections, server };
    for round in 0..plan.rounds {
        say(&format!("resolve: round {} of {}", round + 1, plan.rounds));
        for shape in SHAPES {
            compare(rig, plan, [&echo, &resolve], &requests, shape, round, report).await?;
        }
        for side in in_turn([&echo, &resolve], round) {
            let latencies = load::open(&side.connections, &requests, plan.rate, plan.span).await?;
            for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p999", 99.9)] {
                report.add(
                    &format!("{}_open_{name}_us", side.name),
                    "from the intended moment on",
                    latencies.percentile(percent),
                );
            }
        }
    }
    Ok(())
}

/// Connects accounts, grants them, and returns the requests that resolve them.
async fn prepare(rig: &Rig, server: &Server, plan: &Plan) -> Outcome<Arc<[Bytes]>> {
    let tomorrow = SystemClock.now().unix_timestamp() + 86_400;
    let tokens = |number: usize| (format!("{number:0TOKEN$}"), format!("refresh-{number}"));
    let accounts = (0..plan.resolved).map(|number| create("resolved", number, tokens(number), tomorrow));
    let made = rig.connect(server, accounts).await?;
    let mut grants = GrantServiceClient::new(rig.channel(server, "console")?);
    let mut requests = Vec::new();
    for connection in made {
        let target = create_grant_request::Target::ConnectionId(connection.connection_id.clone());
        let grant = v1::CreateGrantRequest {
            organization_id: connection.organization_id.clone(),
            grantee: ACTOR.to_owned(),
            target: Some(target),
            ..Default::default()
        };
        grants.create_grant(grant).await?;
        let target = resolve_credential_request::Target::ConnectionId(connection.connection_id);
        requests.push(framed(&v1::ResolveCredentialRequest {
            organization_id: connection.organization_id,
            actor: ACTOR.to_owned(),
            target: Some(target),
            ..Default::default()
        }));
    }
    Ok(requests.into())
}

fn start_echo(rig: &Rig) -> Outcome<Server> {
    let bench = std::env::current_exe()?;
    let start = || {
        Ok(Command::new(bench)
            .arg("echo")
            .arg(rig.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?)
    };
    let mut child = rig.pins.as_server(start)?;
    let told = child.stdout.take().ok_or("the baseline says nothing")?;
    let mut line = String::new();
    BufReader::new(told).read_line(&mut line)?;
    let address = line.trim().parse()?;
    Ok(Server::new(child, address, address))
}

/// Each side goes first in every other round.
fn in_turn<T>([first, second]: [T; 2], round: usize) -> [T; 2] {
    if round.is_multiple_of(2) { [first, second] } else { [second, first] }
}

async fn compare(
    rig: &Rig,
    plan: &Plan,
    sides: [&Side; 2],
    requests: &Arc<[Bytes]>,
    shape: Shape,
    round: usize,
    report: &mut Report,
) -> Outcome<()> {
    let mut measured: [Option<Measured>; 2] = [None, None];
    for place in in_turn([0, 1], round) {
        let side = sides[place];
        let usage = || rig.usage(&side.server);
        measured[place] = Some(load::closed(&side.connections, requests, shape, plan.span, usage).await?);
    }
    let [Some(echo), Some(resolve)] = measured else { return Err("a side was not measured".into()) };
    let in_flight = shape.in_flight;
    for (name, measured) in [("echo", &echo), ("resolve", &resolve)] {
        let mut add =
            |what: &str, unit, value| report.add(&format!("{name}_{what}_{in_flight}"), unit, value);
        add("rps", "calls a second", measured.per_second());
        add("p50_us", "us", measured.latencies.percentile(50.0));
        add("p99_us", "us", measured.latencies.percentile(99.0));
        add("p999_us", "us", measured.latencies.percentile(99.9));
        add("server_cpu_us", "us of processor a call", measured.server_us());
    }
    let mut add = |what: &str, value: f64| report.add(&format!("{what}_{in_flight}"), "ratio", value);
    add("resolve_over_echo_rps", resolve.per_second() / echo.per_second());
    add("resolve_over_echo_cpu", resolve.server_us() / echo.server_us());
    add("postgres_cpu_over_echo_cpu", resolve.postgres_us() / echo.server_us());
    report.add(
        &format!("resolve_postgres_cpu_us_{in_flight}"),
        "us of processor a call",
        resolve.postgres_us(),
    );
    Ok(())
}

// === Statements ===

/// What a server asks Postgres in a second while nobody calls it.
async fn idle_statements(rig: &Rig, plan: &Plan) -> Outcome<Calls> {
    statements::reset(&rig.postgres)?;
    let started = Instant::now();
    tokio::time::sleep(plan.watch).await;
    let elapsed = started.elapsed().as_secs_f64();
    let calls = statements::calls(&rig.postgres)?;
    Ok(calls.into_iter().map(|(id, calls)| (id, calls / elapsed)).collect())
}

/// Resolves that a server has never made, one after the other.
async fn cold(
    rig: &Rig,
    plan: &Plan,
    requests: &Arc<[Bytes]>,
    idle: &Calls,
    report: &mut Report,
) -> Outcome<()> {
    for _ in 0..plan.rounds {
        let server = rig.server("server").await?;
        let connections = Connection::open(server.grpc, &rig.pki, "gateway", 1).await?;
        let mut latencies = Latencies::new();
        statements::reset(&rig.postgres)?;
        let started = Instant::now();
        for request in requests.iter().take(plan.cold) {
            let sent = Instant::now();
            connections[0].call(request.clone()).await?;
            latencies.add(sent.elapsed());
        }
        // Two servers are up.
        let seconds = 2.0 * started.elapsed().as_secs_f64();
        let asked = statements::beyond(&statements::calls(&rig.postgres)?, idle, seconds);
        report.add("statements_per_cold_resolve", "statements", asked / latencies.count() as f64);
        report.add("resolve_cold_p50_us", "us", latencies.percentile(50.0));
    }
    Ok(())
}

/// Resolves that a server has made before: alone, and with many others.
async fn warm(
    rig: &Rig,
    plan: &Plan,
    connections: &[Connection],
    requests: &Arc<[Bytes]>,
    idle: &Calls,
    report: &mut Report,
) -> Outcome<()> {
    let span = Span { warm_up: Duration::ZERO, ..plan.span };
    for _ in 0..plan.rounds {
        for (name, shape) in [("", SHAPES[0]), ("_64", SHAPES[2])] {
            statements::reset(&rig.postgres)?;
            let started = Instant::now();
            let measured = load::closed(connections, requests, shape, span, Usage::default).await?;
            let seconds = started.elapsed().as_secs_f64();
            let asked = statements::beyond(&statements::calls(&rig.postgres)?, idle, seconds);
            // Those that were in flight at the end are not in the latencies, but are in the statements.
            let calls = measured.latencies.count() as f64 + shape.in_flight as f64;
            report.add(&format!("statements_per_warm_resolve{name}"), "statements", asked / calls);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_goes_first_in_every_other_round() {
        assert_eq!(in_turn([1, 2], 0), [1, 2]);
        assert_eq!(in_turn([1, 2], 1), [2, 1]);
    }
}
