//! Resolves against the baseline.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
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
struct Side<'a> {
    name: &'static str,
    rig: &'a Rig,
    server: Server,
    connections: Vec<Connection>,
    requests: Arc<[Bytes]>,
    /// The numbers of calls in flight that it is measured with.
    in_flight: &'static [usize],
}

/// All of [`SHAPES`].
const EVERY: &[usize] = &[1, 16, 64, 256];

pub(crate) async fn measure(
    rig: &Rig,
    plan: &Plan,
    plain: Option<&Path>,
    report: &mut Report,
) -> Outcome<()> {
    // Nothing is due, and nobody looks.
    let server = rig.server("server").await?;
    report.add("memory_idle_mib", "MiB resident", server.memory()?);
    say("resolve: connecting accounts");
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
    let side = |name, server, connections, in_flight| Side {
        name,
        rig,
        server,
        connections,
        requests: Arc::clone(&requests),
        in_flight,
    };
    let connections_of_echo = open(&echo).await?;
    let mut sides =
        vec![side("echo", echo, connections_of_echo, EVERY), side("resolve", server, connections, EVERY)];
    let commit = [("KEYHOLDER_AUDIT__COMMIT", "async")];
    let server = rig.server_as("server", rig.keyholder(), &commit).await?;
    let connections = open(&server).await?;
    sides.push(side("resolve_async", server, connections, &[1, 64, 256]));
    if let Some(plain) = plain {
        let server = rig.server_as("server", plain, &[]).await?;
        let connections = open(&server).await?;
        sides.push(side("plain", server, connections, &[64]));
    }
    for round in 0..plan.rounds {
        say(&format!("resolve: round {} of {}", round + 1, plan.rounds));
        for shape in SHAPES {
            compare(plan, &sides, shape, round, report).await?;
        }
        for side in in_turn(&sides[..2], round) {
            let latencies = load::open(&side.connections, &side.requests, plan.rate, plan.span).await?;
            for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p999", 99.9)] {
                report.add(
                    &format!("{}_open_{name}_us", side.name),
                    "from the intended moment on",
                    latencies.percentile(percent),
                );
            }
        }
    }
    drop(sides);
    scale(rig, plan, report).await
}

/// Those who resolve beside a great many other connections, against others who resolve the same without, in turns.
async fn scale(rig: &Rig, plan: &Plan, report: &mut Report) -> Outcome<()> {
    let (name, size) = plan.scale;
    say(&format!("resolve: {size} connections"));
    let (small, large) = (rig.another()?, rig.another()?);
    // First, as the server ends connections on which the client is silent for as long as the seeding takes.
    let beside_many = prepared(&large, plan, "large", size).await?;
    let sides = [prepared(&small, plan, "small", 0).await?, beside_many];
    for round in 0..plan.rounds {
        let measured = each(plan, &sides, SHAPES[2], round).await?;
        let [(_, small), (_, large)] = &measured[..] else { return Err("a side was not measured".into()) };
        let ratio = large.per_second() / small.per_second();
        report.add(&format!("scale_{name}_over_1k_rps"), "ratio", ratio);
    }
    if plan.many > 0 {
        say("resolve: filling the cache");
        let Side { server, connections, requests, .. } = &sides[1];
        load::closed(connections, requests, SHAPES[3], plan.span, Usage::default).await?;
        let accounts = (0..plan.many).map(|number| account("many", number));
        for connection in large.connect(server, accounts).await? {
            // Its owner needs no grant.
            let request = framed(&resolve_message(&connection.owner, &connection));
            connections[0].call(request).await?;
        }
        report.add("memory_full_mib", "MiB resident, with the cache full", server.memory()?);
    }
    Ok(())
}

/// A server whose connections have been resolved once, beside so many others.
async fn prepared<'a>(rig: &'a Rig, plan: &Plan, name: &'static str, others: u64) -> Outcome<Side<'a>> {
    let server = rig.server("server").await?;
    let requests = prepare(rig, &server, plan).await?;
    rig.seed(0, others)?;
    let connections = Connection::open(server.grpc, &rig.pki, "gateway", SHAPES[3].connections).await?;
    for request in requests.iter() {
        connections[0].call(request.clone()).await?;
    }
    Ok(Side { name, rig, server, connections, requests, in_flight: &[64] })
}

/// Connects accounts, grants them, and returns the requests that resolve them.
pub(crate) async fn prepare(rig: &Rig, server: &Server, plan: &Plan) -> Outcome<Arc<[Bytes]>> {
    let made = rig.connect(server, (0..plan.resolved).map(|number| account("resolved", number))).await?;
    let mut grants = GrantServiceClient::new(rig.channel(server, "console")?);
    let mut requests = Vec::new();
    for connection in made {
        grants.create_grant(grant_request(&connection)).await?;
        requests.push(framed(&resolve_message(ACTOR, &connection)));
    }
    Ok(requests.into())
}

/// An account whose token is good until tomorrow.
pub(crate) fn account(name: &str, number: usize) -> v1::CreateConnectionRequest {
    let tomorrow = SystemClock.now().unix_timestamp() + 86_400;
    create(name, number, (format!("{name}{number:0TOKEN$}"), format!("refresh-{name}-{number}")), tomorrow)
}

/// A grant of a connection to whoever resolves.
pub(crate) fn grant_request(connection: &v1::Connection) -> v1::CreateGrantRequest {
    v1::CreateGrantRequest {
        organization_id: connection.organization_id.clone(),
        grantee: ACTOR.to_owned(),
        target: Some(create_grant_request::Target::ConnectionId(connection.connection_id.clone())),
        ..Default::default()
    }
}

pub(crate) fn resolve_message(actor: &str, connection: &v1::Connection) -> v1::ResolveCredentialRequest {
    let target = resolve_credential_request::Target::ConnectionId(connection.connection_id.clone());
    v1::ResolveCredentialRequest {
        organization_id: connection.organization_id.clone(),
        actor: actor.to_owned(),
        target: Some(target),
        ..Default::default()
    }
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

/// The sides, beginning with another one in each round.
fn in_turn<T>(sides: &[T], round: usize) -> impl Iterator<Item = &T> {
    let first = round % sides.len();
    sides[first..].iter().chain(&sides[..first])
}

/// What came of each side that is measured with so many calls in flight, by its name, in the order of the sides.
async fn each(
    plan: &Plan,
    sides: &[Side<'_>],
    shape: Shape,
    round: usize,
) -> Outcome<Vec<(&'static str, Measured)>> {
    let mut measured = Vec::new();
    for side in in_turn(sides, round).filter(|side| side.in_flight.contains(&shape.in_flight)) {
        let usage = || side.rig.usage(&side.server);
        measured.push((
            side.name,
            load::closed(&side.connections, &side.requests, shape, plan.span, usage).await?,
        ));
    }
    measured.sort_by_key(|(name, _)| sides.iter().position(|side| side.name == *name));
    Ok(measured)
}

async fn compare(
    plan: &Plan,
    sides: &[Side<'_>],
    shape: Shape,
    round: usize,
    report: &mut Report,
) -> Outcome<()> {
    let in_flight = shape.in_flight;
    let measured = each(plan, sides, shape, round).await?;
    let mut of_echo = (0.0, 0.0);
    for (name, measured) in &measured {
        let mut add =
            |what: &str, unit, value| report.add(&format!("{name}_{what}_{in_flight}"), unit, value);
        add("rps", "calls a second", measured.per_second());
        add("p50_us", "us", measured.latencies.percentile(50.0));
        add("p99_us", "us", measured.latencies.percentile(99.0));
        add("p999_us", "us", measured.latencies.percentile(99.9));
        add("server_cpu_us", "us of processor a call", measured.server_us());
        if *name == "echo" {
            of_echo = (measured.per_second(), measured.server_us());
            continue;
        }
        add("postgres_cpu_us", "us of processor a call", measured.postgres_us());
        add("over_echo_rps", "ratio", measured.per_second() / of_echo.0);
        add("over_echo_cpu", "ratio", measured.server_us() / of_echo.1);
        if *name == "resolve" {
            let ratio = measured.postgres_us() / of_echo.1;
            report.add(&format!("postgres_cpu_over_echo_cpu_{in_flight}"), "ratio", ratio);
        }
    }
    let rate = |name| measured.iter().find(|side| side.0 == name).map(|side| side.1.per_second());
    if let (Some(resolve), Some(plain)) = (rate("resolve"), rate("plain")) {
        report.add(&format!("resolve_over_plain_rps_{in_flight}"), "ratio", resolve / plain);
    }
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
            if shape.in_flight > 1 {
                report.add(&format!("batch_size_mean{name}"), "releases a statement", calls / asked);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_goes_first_in_its_turn() {
        let order = |round| in_turn(&[1, 2, 3], round).copied().collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(5)], [[1, 2, 3], [2, 3, 1], [3, 1, 2]]);
    }
}
