//! Hours in minutes: resolves at most of what the server can do, while connections and grants come and go.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyholder_proto::v1;
use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_proto::v1::grant_service_client::GrantServiceClient;
use tonic::Code;

use crate::Outcome;
use crate::cpu::Usage;
use crate::load;
use crate::plan::{Plan, SHAPES, Span};
use crate::report::{Report, say};
use crate::resolve::{account, grant_request, prepare, resolve_message};
use crate::rig::{Rig, Server};
use crate::wire::Connection;

/// How much of what it can do is asked of the server.
const SHARE: f64 = 0.7;

/// How long one run of the open loop lasts, after which its latencies and the memory are written down.
const SLICE: Duration = Duration::from_secs(15);

/// How long whoever changes things rests between two changes.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs for so many minutes. Fails if a call that should have been answered was not, if one that should have been refused was
/// answered, or if the audit has not exactly one event for each release.
pub(crate) async fn measure(rig: &Rig, plan: &Plan, minutes: u32, report: &mut Report) -> Outcome<()> {
    let server = rig.server("server").await?;
    say("soak: connecting accounts");
    let requests = prepare(rig, &server, plan).await?;
    let connections = Connection::open(server.grpc, &rig.pki, "gateway", SHAPES[2].connections).await?;
    // Long enough for what the machine does besides.
    let span = Span { warm_up: Duration::from_secs(5), window: Duration::from_secs(60) };
    let able = load::closed(&connections, &requests, SHAPES[2], span, Usage::default).await?.per_second();
    let rate = able * SHARE;
    report.add("soak_rate", "calls a second", rate);
    say(&format!("soak: {rate:.0} resolves a second for {minutes} minutes"));
    let before = rig.number(RELEASES)?;
    let over = Cell::new(false);
    let (steady, changed) = tokio::try_join!(
        async {
            let released = resolve(&server, &connections, &requests, rate, minutes, report).await;
            over.set(true);
            released
        },
        change(rig, &server, &over),
    )?;
    let recorded = rig.number(RELEASES)? - before;
    report.add("soak_releases", "releases", (steady + changed) as f64);
    report.add("soak_audit_events", "audit events", recorded as f64);
    if recorded != steady + changed {
        return Err(format!("{} releases, {recorded} of them on record", steady + changed).into());
    }
    Ok(())
}

const RELEASES: &str = "SELECT count(*) FROM audit_events WHERE kind = 'CREDENTIAL_RELEASED'";

/// Resolves what never changes at a fixed rate. Returns how often.
async fn resolve(
    server: &Server,
    connections: &[Connection],
    requests: &Arc<[Bytes]>,
    rate: f64,
    minutes: u32,
    report: &mut Report,
) -> Outcome<u64> {
    let until = Instant::now() + Duration::from_secs(60) * minutes;
    let mut released = 0;
    while Instant::now() < until {
        let span = Span { warm_up: Duration::ZERO, window: SLICE };
        let latencies = load::open(connections, requests, rate, span).await?;
        released += latencies.count();
        report.add("soak_p50_us", "from the intended moment on", latencies.percentile(50.0));
        report.add("soak_p99_us", "from the intended moment on", latencies.percentile(99.0));
        report.add("soak_memory_mib", "MiB resident", server.memory()?);
    }
    Ok(released)
}

/// Connects, grants, resolves, revokes, is refused, and deletes, until it is over. Returns how often something was released.
async fn change(rig: &Rig, server: &Server, over: &Cell<bool>) -> Outcome<u64> {
    let mut accounts = ConnectionServiceClient::new(rig.channel(server, "console")?);
    let mut grants = GrantServiceClient::new(rig.channel(server, "console")?);
    let mut gateway = GrantServiceClient::new(rig.channel(server, "gateway")?);
    let mut released = 0;
    for number in 0.. {
        if over.get() {
            break;
        }
        let made = accounts.create_connection(account("soaked", number)).await?.into_inner();
        let made = made.connection.ok_or("an answer without a connection")?;
        let granted = grants.create_grant(grant_request(&made)).await?.into_inner();
        let grant_id = granted.grant.ok_or("an answer without a grant")?.grant_id;
        for _ in 0..3 {
            gateway.resolve_credential(resolve_message("agent:bench", &made)).await?;
            released += 1;
        }
        let organization_id = made.organization_id.clone();
        grants
            .revoke_grant(v1::RevokeGrantRequest { organization_id, grant_id, ..Default::default() })
            .await?;
        match gateway.resolve_credential(resolve_message("agent:bench", &made)).await {
            Ok(_) => return Err("released after it was revoked".into()),
            Err(status) if status.code() == Code::PermissionDenied => {}
            Err(status) => return Err(status.into()),
        }
        let delete = v1::DeleteConnectionRequest {
            organization_id: made.organization_id,
            connection_id: made.connection_id,
            ..Default::default()
        };
        accounts.delete_connection(delete).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(released)
}
