//! Releases in batches. Those that wait share one statement, and so a round trip and a commit; one that comes alone is
//! sent alone, without a timer.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
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
use tokio::time::{Instant, Sleep};
use uuid::Uuid;

use super::Release;
use crate::error::{is_connection_lost, is_of_the_data, is_write_refused};
use crate::{QUERY_TIMEOUT, Store, StoreError, discard, is_there, live_connection, timed_out};

/// The most releases of one statement.
const BATCH: usize = if cfg!(feature = "plain") { 1 } else { 256 };

/// How many statements of a lane are under way at most. More than one only where one is late or full: two
/// that share the work cost two commits.
const UNDER_WAY: u32 = if cfg!(feature = "plain") { 12 } else { 2 };

/// How long those that wait leave a statement to itself before they are sent beside it.
const LATE: Duration = Duration::from_millis(if cfg!(feature = "plain") { 0 } else { 20 });

/// How long a statement waits at most for those who are about to ask.
const GATHER: Duration = Duration::from_millis(2);

/// How long a connection may be unused before it is asked whether it is still there: what lies between may have forgotten it.
const UNUSED: Duration = Duration::from_secs(60);

/// How many may wait: what comes in half a second, so that a moment in which nothing moves refuses nobody. More are refused: a
/// slow database costs no more memory than so many calls take. A debug build does a tenth in that time.
const WAITING: usize = if cfg!(debug_assertions) { 1_024 } else { 8_192 };

/// Where releases wait for each other. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReleaseLane(mpsc::Sender<Waiting>);

/// What sends one statement at a time.
struct Link {
    /// Kept from one statement to the next: to give it back to the pool and take it again costs as much as to encode a batch.
    connection: Option<Kept>,
    /// Those who are in the statement.
    batch: Vec<Waiting>,
    patience: Patience,
}

struct Kept {
    connection: PoolConnection<Postgres>,
    used: Instant,
}

/// Waits for an answer so long and no longer. Its timer is not set for each wait but when it has gone off: to set one for a lone
/// call is two system calls.
struct Patience(Pin<Box<Sleep>>);

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
            // Closed when it is given back, which happens after a panic and at the end: else the pool asks it without end
            // whether it is there.
            .after_release(|_, _| Box::pin(async { Ok(false) }))
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
    // Those with a connection are behind those without, and are taken first.
    let mut idle: Vec<_> = (0..UNDER_WAY).map(|_| Link::new()).collect();
    let mut under_way = FuturesUnordered::new();
    let mut youngest = Instant::now();
    // Whether more than one was in the last statement, or somebody has come while it was under way.
    let mut several = false;
    // Goes off at `youngest + LATE` or before, never after: it is set when it has gone off, not for each statement.
    let mut late = pin!(tokio::time::sleep_until(youngest + LATE));
    loop {
        let due = under_way.is_empty() || waiting.len() == BATCH || youngest.elapsed() >= LATE;
        if due
            && !waiting.is_empty()
            && let Some(mut link) = idle.pop()
        {
            several |= waiting.len() > 1;
            // Where one is late, those that wait have waited enough; one that is alone has nobody to wait for.
            if under_way.is_empty() && several {
                gather(queue, &mut waiting).await;
            }
            several = waiting.len() > 1;
            youngest = Instant::now();
            batches.fetch_add(1, Ordering::Relaxed);
            fail_point!("batch");
            std::mem::swap(&mut link.batch, &mut waiting);
            under_way.push(link.send(pool));
        }
        let (some, more) = (!waiting.is_empty(), BATCH - waiting.len());
        tokio::select! {
            biased;
            Some(link) = under_way.next() => {
                several |= some;
                let place = if link.connection.is_some() { idle.len() } else { 0 };
                idle.insert(place, link);
            }
            received = queue.recv_many(&mut waiting, more), if more > 0 => {
                if received == 0 {
                    break;
                }
            }
            () = late.as_mut(), if some && !idle.is_empty() => late.as_mut().reset(youngest + LATE),
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

impl Link {
    fn new() -> Self {
        let patience = Patience(Box::pin(tokio::time::sleep(QUERY_TIMEOUT)));
        Self { connection: None, batch: Vec::with_capacity(BATCH), patience }
    }

    /// Sends the batch, and is ready for another then.
    async fn send(mut self, pool: &PgPool) -> Self {
        let mut batch = std::mem::take(&mut self.batch);
        // Where nobody waits any more, nothing leaves, so nothing is to be recorded.
        batch.retain(|waiting| !waiting.answer.is_closed());
        match self.record(pool, &batch).await {
            Err(error) if is_of_the_data(&error) && batch.len() > 1 => {
                let mut rest = batch.drain(..);
                while let Some(waiting) = rest.next() {
                    if waiting.answer.is_closed() {
                        continue;
                    }
                    let written = self.record(pool, std::slice::from_ref(&waiting)).await;
                    // What stops one now stops them all.
                    if written.as_ref().is_err_and(|error| !is_of_the_data(error)) {
                        answer(written, std::iter::once(waiting).chain(rest));
                        break;
                    }
                    answer(written, [waiting]);
                }
            }
            written => answer(written, batch.drain(..)),
        }
        self.batch = batch;
        self
    }

    /// The ids of the events that were recorded. Keeps the connection, if it is good for another batch.
    async fn record(&mut self, pool: &PgPool, batch: &[Waiting]) -> Result<Vec<Uuid>, sqlx::Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut kept = self.connect(pool).await?;
        let mut recorded = insert_new(&mut kept.connection, &mut self.patience, batch).await;
        if recorded.as_ref().is_err_and(is_connection_lost) {
            discard(kept.connection).await;
            kept = Kept::new(live_connection(pool).await?);
            recorded = insert_missing(&mut kept.connection, &mut self.patience, batch).await;
        }
        match &recorded {
            Err(error) if !is_of_the_data(error) && !is_write_refused(error) => {
                discard(kept.connection).await
            }
            _ => self.connection = Some(Kept { used: Instant::now(), ..kept }),
        }
        recorded
    }

    /// The connection that it has, if that is still good, or another.
    async fn connect(&mut self, pool: &PgPool) -> Result<Kept, sqlx::Error> {
        if let Some(mut kept) = self.connection.take() {
            if kept.used.elapsed() < UNUSED || is_there(&mut kept.connection).await {
                return Ok(kept);
            }
            discard(kept.connection).await;
        }
        Ok(Kept::new(pool.acquire().await?))
    }
}

impl Kept {
    fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, used: Instant::now() }
    }
}

/// The ids of the events that were recorded.
async fn insert_new(
    connection: &mut PgConnection,
    patience: &mut Patience,
    batch: &[Waiting],
) -> Result<Vec<Uuid>, sqlx::Error> {
    if let [Waiting { release, .. }] = batch {
        let inserted = patience.wait_for(insert_one(connection, release)).await?;
        return Ok(if inserted == 0 { Vec::new() } else { ids(batch) });
    }
    let columns = Columns::of(batch);
    match patience.wait_for(insert(connection, &columns)).await? {
        0 => Ok(Vec::new()),
        number if number == batch.len() as u64 => Ok(columns.events),
        _ => patience.wait_for(those_there(connection, &columns)).await,
    }
}

/// The same after an attempt that may have gone through, or may yet do so: an event that is there is the proof that everything
/// stood when it came to be.
async fn insert_missing(
    connection: &mut PgConnection,
    patience: &mut Patience,
    batch: &[Waiting],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let columns = Columns::of(batch);
    patience.wait_for(insert_if_missing(connection, &columns)).await?;
    patience.wait_for(those_there(connection, &columns)).await
}

impl Patience {
    /// What a query answers, or that its connection is lost.
    async fn wait_for<T>(
        &mut self,
        query: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let timer = &mut self.0;
        let until = Instant::now() + QUERY_TIMEOUT;
        // If it has not gone off, it does so too early, and is set to the right moment then.
        if timer.is_elapsed() {
            timer.as_mut().reset(until);
        }
        let mut query = pin!(query);
        loop {
            tokio::select! {
                biased;
                answer = &mut query => return answer,
                () = timer.as_mut() => {
                    if Instant::now() >= until {
                        return Err(timed_out());
                    }
                    timer.as_mut().reset(until);
                }
            }
        }
    }
}

fn answer(written: Result<Vec<Uuid>, sqlx::Error>, batch: impl IntoIterator<Item = Waiting>) {
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

/// A batch, column by column.
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
        let releases = || batch.iter().map(|waiting| &waiting.release);
        let any = |has: fn(&Release) -> bool| releases().any(has);
        Self {
            organizations: releases().map(|release| release.organization_id.as_str()).collect(),
            events: ids(batch),
            connections: releases().map(|release| release.connection.0.as_uuid()).collect(),
            generations: releases().map(|release| release.connection.1.get()).collect(),
            versions: releases().map(|release| release.version).collect(),
            grants: releases().map(|release| release.grant_id.map(GrantId::as_uuid)).collect(),
            providers: releases().map(|release| release.provider_id.as_str()).collect(),
            workloads: releases().map(|release| release.workload.to_string()).collect(),
            actors: releases().map(|release| release.actor.as_str()).collect(),
            provider_generations: any(|release| release.provider_generation.is_some())
                .then(|| releases().map(|release| release.provider_generation).collect()),
            before: any(|release| release.before.is_some())
                .then(|| releases().map(|release| release.before).collect()),
            purposes: any(|release| !release.purpose.is_empty())
                .then(|| releases().map(|release| release.purpose.as_str()).collect()),
        }
    }
}

/// The ids of a batch's events.
fn ids(batch: &[Waiting]) -> Vec<Uuid> {
    batch.iter().map(|waiting| waiting.release.audit_event_id.as_uuid()).collect()
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

/// The release statement of one that comes alone, which costs Postgres a quarter less than a batch of one.
async fn insert_one(connection: &mut PgConnection, release: &Release) -> Result<u64, sqlx::Error> {
    let (connection_id, generation) = release.connection;
    sqlx::query!(
        "INSERT INTO audit_events (organization_id, audit_event_id, kind, workload, actor, connection_id,
             generation, grant_id, provider_id, purpose)
         SELECT $1, $2, 'CREDENTIAL_RELEASED', $10, $11, v.connection_id, $4, $6, $7, $12
         FROM connection_versions v
         WHERE v.connection_id = $3 AND v.version = $5
           AND ($9::timestamptz IS NULL OR $9 > statement_timestamp())
           AND ($8::bigint IS NULL OR EXISTS (
               SELECT FROM provider_generations p
               WHERE p.organization_id = $1 AND p.provider_id = $7 AND p.generation = $8))",
        release.organization_id.as_str(),
        release.audit_event_id.as_uuid(),
        connection_id.as_uuid(),
        generation.get(),
        release.version,
        release.grant_id.map(GrantId::as_uuid),
        release.provider_id.as_str(),
        release.provider_generation,
        release.before,
        release.workload.to_string(),
        release.actor.as_str(),
        release.purpose.as_str(),
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_all_of_its_time_whenever_the_timer_was_set() {
        let mut patience = Patience(Box::pin(tokio::time::sleep(QUERY_TIMEOUT)));
        for before in [0, 3, 3, 9, 60, 0] {
            let apart = Duration::from_secs(before);
            patience.wait_for(tokio::time::sleep(Duration::from_secs(1)).map(Ok)).await.unwrap();
            tokio::time::sleep(apart).await;
            let began = Instant::now();
            let ended = patience.wait_for(std::future::pending::<Result<(), _>>()).await;
            assert!(is_connection_lost(&ended.unwrap_err()));
            assert_eq!(began.elapsed(), QUERY_TIMEOUT, "{apart:?} after another");
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_long_unused_is_used_only_if_it_is_still_there() {
        let postgres = keyholder_testkit::postgres::PrivatePostgres::temporary().unwrap();
        let url = postgres.url("postgres");
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy(&url).unwrap();
        let mut link = Link::new();
        let backend = async |connection: &mut PgConnection| {
            sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(connection).await.unwrap()
        };
        let long_ago = || Instant::now().checked_sub(UNUSED).unwrap();

        let mut kept = link.connect(&pool).await.unwrap();
        let first = backend(&mut kept.connection).await;
        link.connection = Some(Kept { used: long_ago(), ..kept });
        let mut kept = link.connect(&pool).await.unwrap();
        assert_eq!(backend(&mut kept.connection).await, first);

        link.connection = Some(Kept { used: long_ago(), ..kept });
        postgres.psql("postgres", &format!("SELECT pg_terminate_backend({first}, 5000)")).unwrap();
        let mut kept = link.connect(&pool).await.unwrap();
        assert_ne!(backend(&mut kept.connection).await, first);
    }
}
