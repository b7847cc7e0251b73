//! What must hold of a release: one statement, never without its audit event, never after a revoke returned.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use keyholder_proto::v1::{
    self, DeleteConnectionRequest, DisableConnectionRequest, ProviderTarget, RevokeGrantRequest,
    resolve_credential_request,
};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::harness::{ACME, World, assert_refused, eventually, reason, resolve_request};

/// How many statements ran against Keyholder's tables and functions since the last reset, but for the note that is written
/// once a minute of a grant that is used.
fn statements(world: &World) -> u64 {
    let sum = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
               WHERE d.datname = 'keyholder' AND query NOT LIKE '%pg_stat_statements%'
                 AND query NOT LIKE '%grant_uses (%'
                 -- What goes on beside, by itself.
                 AND query !~ 'refreshes|installation|provider_clients|authorizations|revocation|late_answers'";
    world.sql(sum).parse().unwrap()
}

fn count_from_now(world: &World) {
    world.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements");
    world.sql("SELECT pg_stat_statements_reset()");
}

fn resolve_by_provider(actor: &str) -> v1::ResolveCredentialRequest {
    v1::ResolveCredentialRequest {
        organization_id: ACME.into(),
        actor: actor.into(),
        target: Some(resolve_credential_request::Target::Provider(ProviderTarget {
            provider_id: "openai".into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_cold_resolve_costs_two_statements_and_a_warm_one_costs_one() {
    let world = World::start();
    assert!(world.postgres.has_statement_statistics(), "this test needs pg_stat_statements");
    let connection_id = world.connect("user:ada", "sk-ada").await;
    world.grant("agent:roadie", &connection_id).await;
    let mut gateway = world.grants("gateway");
    // What a server does once when it starts.
    world.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements");
    let weeks =
        "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE 'SELECT make_audit_week%'";
    eventually("the weeks of the audit", || (world.sql(weeks) == "5").then_some(()));
    for request in [resolve_request("agent:roadie", &connection_id), resolve_by_provider("agent:roadie")] {
        count_from_now(&world);
        gateway.resolve_credential(request.clone()).await.unwrap();
        assert_eq!(statements(&world), 2, "cold");
        count_from_now(&world);
        for _ in 0..10 {
            gateway.resolve_credential(request.clone()).await.unwrap();
        }
        assert_eq!(statements(&world), 10, "warm");
    }
}

/// What a call that withdraws access does.
#[derive(Debug, Clone, Copy)]
enum Withdrawal {
    Revoke,
    Disable,
    Delete,
}

/// The order of what was observed: a number is drawn before a call is sent and after its answer is there, so a
/// release whose first number is greater than a withdrawal's second began after the withdrawal returned.
#[derive(Debug, Default)]
struct History(AtomicU64);

impl History {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

async fn hammer(
    mut gateway: GrantServiceClient<Channel>,
    request: v1::ResolveCredentialRequest,
    history: Arc<History>,
) -> Vec<(u64, Result<String, String>)> {
    let mut seen = Vec::new();
    loop {
        let began = history.next();
        match gateway.resolve_credential(request.clone()).await {
            Ok(released) => seen.push((began, Ok(released.into_inner().audit_event_id))),
            Err(status) => {
                seen.push((began, Err(reason(&status))));
                // Some more, to give a stale replica the chance to err.
                if seen.iter().filter(|(_, result)| result.is_err()).count() >= 25 {
                    return seen;
                }
            }
        }
    }
}

async fn withdraw(world: &World, withdrawal: Withdrawal, connection_id: &str, grant_id: &str) {
    let organization_id = ACME.to_owned();
    let connection_id = connection_id.to_owned();
    match withdrawal {
        Withdrawal::Revoke => {
            let request =
                RevokeGrantRequest { organization_id, grant_id: grant_id.to_owned(), etag: String::new() };
            world.grants("console").revoke_grant(request).await.unwrap();
        }
        Withdrawal::Disable => {
            let request = DisableConnectionRequest { organization_id, connection_id, ..Default::default() };
            world.connections().disable_connection(request).await.unwrap();
        }
        Withdrawal::Delete => {
            let request = DeleteConnectionRequest { organization_id, connection_id, ..Default::default() };
            world.connections().delete_connection(request).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_released_on_any_replica_after_a_withdrawal_returned() {
    let world = World::start();
    let servers = [&world.server, &world.server("second"), &world.server("third")];
    let history = Arc::new(History::default());
    // All the while every replica has as much to do as it can, for somebody else.
    let other = world.connect("user:eve", "sk-eve").await;
    let over = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..12)
        .map(|caller| {
            let gateway = GrantServiceClient::new(world.channel_to(servers[caller % 3], "gateway"));
            let request = resolve_request("user:eve", &other);
            tokio::spawn(resolve_until(gateway, request, Arc::clone(&over)))
        })
        .collect();
    let mut releases = 0;
    for (round, withdrawal) in
        [Withdrawal::Revoke, Withdrawal::Disable, Withdrawal::Delete].into_iter().cycle().take(18).enumerate()
    {
        let connection_id = world.connect(&format!("user:u{round}"), &format!("sk-{round}")).await;
        let grant_id = world.grant("agent:roadie", &connection_id).await;
        let callers: Vec<_> = (0..9)
            .map(|caller| {
                let gateway = GrantServiceClient::new(world.channel_to(servers[caller % 3], "gateway"));
                let request = resolve_request("agent:roadie", &connection_id);
                tokio::spawn(hammer(gateway, request, Arc::clone(&history)))
            })
            .collect();
        // Let every caller have its answer from a warm cache before access is withdrawn.
        while history.0.load(Ordering::SeqCst) < releases + 160 {
            tokio::task::yield_now().await;
        }
        withdraw(&world, withdrawal, &connection_id, &grant_id).await;
        let returned = history.next();
        for caller in callers {
            for (began, result) in caller.await.unwrap() {
                assert!(
                    began < returned || result.is_err(),
                    "{withdrawal:?}: released {result:?} after it returned"
                );
            }
        }
        releases = history.0.load(Ordering::SeqCst);
    }
    assert!(releases > 2_000, "only {releases} calls raced");
    over.store(true, Ordering::SeqCst);
    for caller in load {
        let (released, refused) = caller.await.unwrap();
        assert!(released.len() > 50, "{}", released.len());
        assert!(refused.is_empty(), "{refused:?}");
    }
}

/// Resolves again and again, and returns the audit events of what was released and the reasons of what was not.
async fn resolve_until(
    mut gateway: GrantServiceClient<Channel>,
    request: v1::ResolveCredentialRequest,
    over: Arc<AtomicBool>,
) -> (Vec<String>, Vec<String>) {
    let (mut released, mut refused) = (Vec::new(), Vec::new());
    while !over.load(Ordering::SeqCst) {
        match gateway.resolve_credential(request.clone()).await {
            Ok(answer) => released.push(answer.into_inner().audit_event_id),
            Err(status) => refused.push(format!("{:?} {}", status.code(), status.message())),
        }
    }
    (released, refused)
}

/// The audit events of releases.
fn recorded(world: &World) -> BTreeSet<String> {
    let all = "SELECT 'audit_' || replace(audit_event_id::text, '-', '') FROM audit_events
               WHERE kind = 'CREDENTIAL_RELEASED'";
    world.sql(all).lines().map(str::to_owned).collect()
}

/// Waits until there are so many more releases on record.
fn until_recorded(world: &World, more: usize) {
    let count = || world.sql("SELECT count(*) FROM audit_events").parse::<usize>().ok();
    let before = count().unwrap();
    eventually("releases", || count().filter(|count| *count >= before + more));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_released_is_on_record_whoever_was_killed_meanwhile() {
    let mut world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    for round in 0..3 {
        let mut server = world.server(&format!("killed-{round}"));
        let over = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..32)
            .map(|_| {
                let gateway = GrantServiceClient::new(world.channel_to(&server, "gateway"));
                let request = resolve_request("user:ada", &connection_id);
                tokio::spawn(resolve_until(gateway, request, Arc::clone(&over)))
            })
            .collect();
        until_recorded(&world, 500);
        if round == 1 {
            // Postgres goes and comes back; the server finds it again by itself.
            world.postgres.kill_hard().unwrap();
            world.postgres.restart().unwrap();
            until_recorded(&world, 500);
        }
        server.kill();
        over.store(true, Ordering::SeqCst);
        let mut released = Vec::new();
        for caller in callers {
            released.extend(caller.await.unwrap().0);
        }
        if round == 2 {
            world.postgres.kill_hard().unwrap();
            world.postgres.restart().unwrap();
        }
        let recorded = recorded(&world);
        assert!(released.len() > 300, "{}", released.len());
        let missing: Vec<_> = released.iter().filter(|id| !recorded.contains(*id)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let different: BTreeSet<_> = released.iter().collect();
        assert_eq!(different.len(), released.len(), "each release has an event of its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_can_wait_is_refused_at_once_while_health_answers_and_the_rest_is_answered() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let request = resolve_request("user:ada", &connection_id);
    world.grants("gateway").resolve_credential(request.clone()).await.unwrap();
    // A thread for each processor has a queue of its own; a connection has a thousand calls at most.
    let threads = std::thread::available_parallelism().unwrap().get();
    let channels: Vec<_> = (0..12 * threads).map(|_| world.channel("gateway")).collect();
    let mut lock = world.lock("LOCK TABLE audit_events IN ACCESS EXCLUSIVE MODE");
    let mut calls = JoinSet::new();
    let mut refused = None;
    for number in 0_usize.. {
        let mut gateway = GrantServiceClient::new(channels[number % channels.len()].clone());
        let request = request.clone();
        calls.spawn(async move { gateway.resolve_credential(request).await });
        if number.is_multiple_of(100) {
            // Nothing else is answered before the lock is released, for as long as a statement may take.
            let answer = tokio::time::timeout(Duration::from_millis(10), calls.join_next());
            refused = answer.await.ok().flatten();
        }
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.unwrap().unwrap();
    let mut health = HealthClient::new(world.channel("operator"));
    let healthy = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(healthy.status(), ServingStatus::Serving);
    let refused = assert_refused(refused, Code::ResourceExhausted, "OVERLOADED");
    let again = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(again > Duration::ZERO && again < Duration::from_secs(5));
    lock.release();
    let mut released = 0;
    while let Some(call) = calls.join_next().await {
        match call.unwrap() {
            Ok(_) => released += 1,
            Err(status) if reason(&status) == "OVERLOADED" => {}
            Err(status) => panic!("{status:?}"),
        }
    }
    // The queue that was full had no fewer.
    assert!(released >= 1_024, "{released} released");
    assert_eq!(recorded(&world).len(), released + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_release_has_exactly_one_audit_event_and_every_event_a_release() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let grant_id = world.grant("agent:roadie", &connection_id).await;
    let history = Arc::new(History::default());
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let request = resolve_request("agent:roadie", &connection_id);
            tokio::spawn(hammer(world.grants("gateway"), request, Arc::clone(&history)))
        })
        .collect();
    while history.0.load(Ordering::SeqCst) < 400 {
        tokio::task::yield_now().await;
    }
    withdraw(&world, Withdrawal::Revoke, &connection_id, &grant_id).await;
    let mut released = Vec::new();
    for caller in callers {
        released.extend(caller.await.unwrap().into_iter().filter_map(|(_, result)| result.ok()));
    }
    released.sort();
    let recorded = world.sql(
        "SELECT 'audit_' || replace(audit_event_id::text, '-', '') FROM audit_events
         WHERE kind = 'CREDENTIAL_RELEASED' ORDER BY 1",
    );
    assert_eq!(released, recorded.lines().map(str::to_owned).collect::<Vec<_>>());
}
