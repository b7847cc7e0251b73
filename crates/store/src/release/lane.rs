//! Releases in batches. Those that wait share one statement, and so a round trip and a commit; one that comes alone is
//! sent alone, without a timer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fail::fail_point;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use keyholder_domain::{GrantId, Timestamp};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::Release;
use crate::error::{is_connection_lost, is_of_the_data};
use crate::{Store, StoreError, discard, in_time, live_connection};

/// The most releases of one statement.
const BATCH: usize = if cfg!(feature = "plain") { 1 } else { 256 };

/// How many statements of a lane are under way at most. More than one only where one is late or full: two
/// that share the work cost two commits.
const UNDER_WAY: u32 = if cfg!(feature = "plain") { 12 } else { 2 };

/// How long those that wait leave a statement to itself before they are sent beside it.
const LATE: Duration = Duration::from_millis(if cfg!(feature = "plain") { 0 } else { 20 });

/// How long a statement waits at most for those who are about to ask.
const GATHER: Duration = Duration::from_millis(2);

/// How long a connection stays with a lane before the pool has it again, which renews it when it is old.
const KEEP: Duration = Duration::from_secs(60);

/// How many may wait: what comes in half a second, so that a moment in which nothing moves refuses nobody. More are refused: a
/// slow database costs no more memory than so many calls take. A debug build does a tenth in that time.
const WAITING: usize = if cfg!(debug_assertions) { 1_024 } else { 8_192 };

/// Where releases wait for each other. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReleaseLane(mpsc::Sender<Waiting>);

/// A connection that no statement is under way on, if there is one, and when it was taken from the pool.
type Connection = Option<(PoolConnection<Postgres>, Instant)>;

#[derive(Debug)]
struct Waiting {
    release: Release,
    answer: oneshot::Sender<Result<bool, StoreError>>,
}

impl Store {
    /// A lane for the releases of the runtime that this is called in, and the task that sends them, which ends after the
    /// last clone of the lane. Each lane has connections of its own, opened when they are needed.
    pub fn release_lane(&self) -> (ReleaseLane, JoinHandle<()>) {
        let pool = PgPoolOptions::new()
            .max_connections(UNDER_WAY)
            .acquire_timeout(self.acquire_timeout)
            .test_before_acquire(false)
            .connect_lazy_with(self.releases.0.clone());
        let (sender, queue) = mpsc::channel(WAITING);
        (ReleaseLane(sender), tokio::spawn(run(pool, queue, Arc::clone(&self.batches))))
    }

    /// How many statements have recorded releases, through all lanes.
    pub fn release_statements(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }
}

impl ReleaseLane {
    /// How many releases may wait.
    pub const WAITING: usize = WAITING;

    /// Releases: records the release if, and only if, everything that was decided on still stands. `false`: something
    /// changed; nothing was recorded and nothing may leave.
    ///
    /// The statement begins after this was called, and sees every revocation that was committed before it began, on
    /// whatever replica.
    pub async fn release(&self, release: Release) -> Result<bool, StoreError> {
        let (answer, answered) = oneshot::channel();
        match self.0.try_send(Waiting { release, answer }) {
            Ok(()) => answered.await.unwrap_or(Err(StoreError::TimedOut)),
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Closed(_)) => Err(StoreError::TimedOut),
        }
    }
}

/// Runs a lane to its end. Those who were in hand when it panics get an error, those who wait in the queue do not notice.
async fn run(pool: PgPool, mut queue: mpsc::Receiver<Waiting>, batches: Arc<AtomicU64>) {
    while AssertUnwindSafe(send_batches(&pool, &mut queue, &batches)).catch_unwind().await.is_err() {
        tracing::error!("a lane of releases panicked; it begins anew");
    }
    pool.close().await;
}

async fn send_batches(pool: &PgPool, queue: &mut mpsc::Receiver<Waiting>, batches: &AtomicU64) {
    let mut waiting = Vec::with_capacity(BATCH);
    // Kept from one statement to the next: to give one back to the pool and take it again costs as much as to encode a batch.
    let mut connections = Vec::new();
    let mut under_way = FuturesUnordered::new();
    let mut youngest = Instant::now();
    loop {
        let room = under_way.len() < UNDER_WAY as usize;
        let due = under_way.is_empty() || waiting.len() == BATCH || youngest.elapsed() >= LATE;
        if room && due && !waiting.is_empty() {
            // Where one is late, those that wait have waited enough.
            if under_way.is_empty() {
                gather(queue, &mut waiting).await;
            }
            youngest = Instant::now();
            batches.fetch_add(1, Ordering::Relaxed);
            fail_point!("batch");
            let batch = std::mem::replace(&mut waiting, Vec::with_capacity(BATCH));
            connections.retain(|(_, taken): &(_, Instant)| taken.elapsed() < KEEP);
            under_way.push(send(pool, connections.pop(), batch));
        }
        let room = under_way.len() < UNDER_WAY as usize;
        let (some, more) = (!waiting.is_empty(), BATCH - waiting.len());
        tokio::select! {
            biased;
            Some(connection) = under_way.next() => connections.extend(connection),
            received = queue.recv_many(&mut waiting, more), if more > 0 => {
                if received == 0 {
                    break;
                }
            }
            () = tokio::time::sleep_until(youngest + LATE), if room && some => {}
        }
    }
    // Whoever waited has gone, and its lane with it.
}

/// Lets everybody in this runtime who can go on now do so first, as long as that brings more: those who have just been
/// answered ask again, and a statement for all costs less than one for each half.
async fn gather(queue: &mut mpsc::Receiver<Waiting>, waiting: &mut Vec<Waiting>) {
    let until = Instant::now() + GATHER;
    while waiting.len() < BATCH && Instant::now() < until {
        // Once for the connections that have something to read, and once for the calls that they begin.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let before = waiting.len();
        while waiting.len() < BATCH
            && let Ok(more) = queue.try_recv()
        {
            waiting.push(more);
        }
        if waiting.len() == before {
            return;
        }
    }
}

/// Returns the connection, if it is good for another batch.
async fn send(pool: &PgPool, mut connection: Connection, mut batch: Vec<Waiting>) -> Connection {
    // Where nobody waits any more, nothing leaves, so nothing is to be recorded.
    batch.retain(|waiting| !waiting.answer.is_closed());
    match record(pool, &mut connection, &batch).await {
        Err(error) if is_of_the_data(&error) && batch.len() > 1 => {
            for waiting in batch {
                let written = record(pool, &mut connection, std::slice::from_ref(&waiting)).await;
                answer(written, vec![waiting]);
            }
        }
        written => answer(written, batch),
    }
    connection
}

fn answer(written: Result<Vec<Uuid>, sqlx::Error>, batch: Vec<Waiting>) {
    let written = written.map_err(Arc::new).map(|mut written| {
        written.sort_unstable();
        written
    });
    for Waiting { release, answer } in batch {
        let released = match &written {
            Ok(written) => Ok(written.binary_search(&release.audit_event_id.as_uuid()).is_ok()),
            Err(error) => Err(StoreError::from(Arc::clone(error))),
        };
        // Whoever went away meanwhile gets nothing; what is on record is that it was to be released.
        answer.send(released).ok();
    }
}

/// The ids of the events that were recorded. Leaves a connection that is good for another batch, if there is one.
async fn record(pool: &PgPool, kept: &mut Connection, batch: &[Waiting]) -> Result<Vec<Uuid>, sqlx::Error> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(batch);
    let (mut connection, mut taken) = match kept.take() {
        Some(kept) => kept,
        None => (pool.acquire().await?, Instant::now()),
    };
    let recorded = match in_time(insert(&mut connection, &columns)).await {
        Ok(number) if number == batch.len() as u64 => columns.events,
        Ok(0) => Vec::new(),
        Ok(_) => in_time(those_there(&mut connection, &columns)).await?,
        Err(error) if is_connection_lost(&error) => {
            discard(connection).await;
            (connection, taken) = (live_connection(pool).await?, Instant::now());
            // The first attempt may have gone through, or may yet do so: an event that is there is the proof that
            // everything stood when it came to be.
            in_time(insert_if_missing(&mut connection, &columns)).await?;
            in_time(those_there(&mut connection, &columns)).await?
        }
        Err(error) => {
            if is_of_the_data(&error) {
                *kept = Some((connection, taken));
            }
            return Err(error);
        }
    };
    *kept = Some((connection, taken));
    Ok(recorded)
}

/// A batch, column by column.
#[derive(Default)]
struct Columns<'a> {
    organizations: Vec<&'a str>,
    events: Vec<Uuid>,
    connections: Vec<Uuid>,
    generations: Vec<i64>,
    versions: Vec<Uuid>,
    grants: Vec<Option<Uuid>>,
    providers: Vec<&'a str>,
    workloads: Vec<String>,
    actors: Vec<&'a str>,
    // Nothing where no release has one: the others are not read then.
    provider_generations: Option<Vec<Option<i64>>>,
    before: Option<Vec<Option<Timestamp>>>,
    purposes: Option<Vec<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [Waiting]) -> Self {
        let mut columns = Self::default();
        for Waiting { release, .. } in batch {
            let (connection, generation) = release.connection;
            columns.organizations.push(release.organization_id.as_str());
            columns.events.push(release.audit_event_id.as_uuid());
            columns.connections.push(connection.as_uuid());
            columns.generations.push(generation.get());
            columns.versions.push(release.version);
            columns.grants.push(release.grant_id.map(GrantId::as_uuid));
            columns.providers.push(release.provider_id.as_str());
            columns.workloads.push(release.workload.to_string());
            columns.actors.push(release.actor.as_str());
        }
        let releases = || batch.iter().map(|waiting| &waiting.release);
        if releases().any(|release| release.provider_generation.is_some()) {
            columns.provider_generations =
                Some(releases().map(|release| release.provider_generation).collect());
        }
        if releases().any(|release| release.before.is_some()) {
            columns.before = Some(releases().map(|release| release.before).collect());
        }
        if releases().any(|release| !release.purpose.is_empty()) {
            columns.purposes = Some(releases().map(|release| release.purpose.as_str()).collect());
        }
        columns
    }
}

/// The release statement, with what follows the insert. Answers how many events it recorded.
macro_rules! insert {
    ($connection:ident, $columns:ident, $conflict:literal) => {
        sqlx::query!(
            "INSERT INTO audit_events (organization_id, audit_event_id, kind, workload, actor, connection_id,
                 generation, grant_id, provider_id, purpose)
             SELECT r.organization_id, r.audit_event_id, 'CREDENTIAL_RELEASED', r.workload, r.actor, r.connection_id,
                    r.generation, r.grant_id, r.provider_id, coalesce(r.purpose, '')
             FROM (SELECT unnest($1::text[]) AS organization_id, unnest($2::uuid[]) AS audit_event_id,
                          unnest($3::uuid[]) AS connection_id, unnest($4::bigint[]) AS generation,
                          unnest($5::uuid[]) AS version, unnest($6::uuid[]) AS grant_id,
                          unnest($7::text[]) AS provider_id, unnest($8::bigint[]) AS provider_generation,
                          unnest($9::timestamptz[]) AS before, unnest($10::text[]) AS workload,
                          unnest($11::text[]) AS actor, unnest($12::text[]) AS purpose) r
             JOIN connection_versions v ON v.connection_id = r.connection_id AND v.version = r.version
             -- Not looked for where it does not matter.
             LEFT JOIN provider_generations p ON p.provider_id = r.provider_id
                 AND p.organization_id = CASE WHEN r.provider_generation IS NULL THEN NULL ELSE r.organization_id END
             WHERE (r.before IS NULL OR r.before > statement_timestamp())
               AND (r.provider_generation IS NULL OR p.generation = r.provider_generation) "
                + $conflict,
            &$columns.organizations as &[&str],
            &$columns.events,
            &$columns.connections,
            &$columns.generations,
            &$columns.versions,
            &$columns.grants as &[Option<Uuid>],
            &$columns.providers as &[&str],
            $columns.provider_generations.as_deref() as Option<&[Option<i64>]>,
            $columns.before.as_deref() as Option<&[Option<Timestamp>]>,
            &$columns.workloads,
            &$columns.actors as &[&str],
            $columns.purposes.as_deref() as Option<&[&str]>,
        )
        .execute($connection)
        .await
        .map(|done| done.rows_affected())
    };
}

async fn insert(connection: &mut PgConnection, columns: &Columns<'_>) -> Result<u64, sqlx::Error> {
    insert!(connection, columns, "")
}

async fn insert_if_missing(connection: &mut PgConnection, columns: &Columns<'_>) -> Result<u64, sqlx::Error> {
    insert!(connection, columns, "ON CONFLICT DO NOTHING")
}

/// Those of a batch that are there.
async fn those_there(connection: &mut PgConnection, columns: &Columns<'_>) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT audit_event_id FROM audit_events WHERE organization_id = ANY($1) AND audit_event_id = ANY($2)",
        &columns.organizations as &[&str],
        &columns.events,
    )
    .fetch_all(connection)
    .await
}
