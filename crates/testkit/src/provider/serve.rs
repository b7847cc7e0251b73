//! The way of a call: the history, the gate, the desk, the fault, the answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use keyholder_domain::{Clock, Timestamp};

use super::ask::Ask;
use super::book::GrantNumber;
use super::desk::Desk;
use super::fault::{Effect, Stage, send};
use super::gate::Barrier;
use super::history::{Endpoint, History};
use super::reply::Reply;
use super::socket::Switch;

/// What the provider's handle and its connections share.
pub(super) struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<Everything>,
}

#[derive(Default)]
pub(super) struct Everything {
    pub(super) desk: Desk,
    pub(super) history: History,
    pub(super) faults: VecDeque<Fault>,
    pub(super) gates: VecDeque<(Endpoint, Barrier)>,
    refreshing: BTreeMap<GrantNumber, u64>,
}

pub(super) struct Fault {
    pub(super) endpoint: Endpoint,
    pub(super) stage: Stage,
    pub(super) effect: Effect,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Nothing is left half-done by a panic: no change here waits for another.
    pub(super) fn lock(&self) -> MutexGuard<'_, Everything> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    request: Request,
) -> Response {
    let ask = Ask::read(request).await;
    let (call, fault) = shared.lock().arrive(&ask, &shared);
    let _in_flight = InFlight { shared: Arc::clone(&shared), grant: call.grant };
    let (number, stage) = (call.number, fault.as_ref().map(|fault| fault.stage));
    // What has arrived is worked on, whether or not anybody still waits for it.
    let work = tokio::spawn(work(Arc::clone(&shared), ask, call, fault));
    let Ok((reply, effect)) = work.await else {
        return send(Reply::new(500, "text/plain", "the provider has a bug: it panicked"));
    };
    let answered = !matches!(effect, Some(Effect::Hang | Effect::Reset | Effect::Cut(_)));
    if answered {
        let now = shared.now();
        shared.lock().history.answered(number, now);
    }
    match effect {
        None => send(reply),
        // It was slept off already.
        Some(Effect::Delay(_)) if stage.is_some() => send(reply),
        Some(effect) => effect.spoil(reply, &switch).await,
    }
}

/// A call that has arrived.
struct Arrived {
    number: u64,
    grant: Option<GrantNumber>,
    barrier: Option<Barrier>,
}

async fn work(
    shared: Arc<Shared>,
    mut ask: Ask,
    call: Arrived,
    fault: Option<Fault>,
) -> (Reply, Option<Effect>) {
    let at_gate = async |stage| match &call.barrier {
        Some(barrier) if barrier.stage == stage => barrier.pass().await,
        _ => {}
    };
    let delay = async |stage| match &fault {
        Some(Fault { stage: planned, effect: Effect::Delay(delay), .. }) if *planned == stage => {
            tokio::time::sleep(*delay).await;
        }
        _ => {}
    };
    at_gate(Stage::Before).await;
    delay(Stage::Before).await;
    let works = fault.as_ref().is_none_or(|fault| fault.effect.works(fault.stage));
    let reply = if works { shared.work(&mut ask, call.number) } else { Reply::new(200, "text/plain", "") };
    at_gate(Stage::After).await;
    delay(Stage::After).await;
    (reply, fault.map(|fault| fault.effect))
}

impl Shared {
    fn work(&self, ask: &mut Ask, number: u64) -> Reply {
        let now = self.now();
        let mut state = self.lock();
        ask.rename(&state.desk.manners.names);
        let superseded = ask.get("refresh_token").and_then(|text| state.desk.book.superseded(text));
        let reply = state.desk.answer(ask, now);
        state.history.worked(number, &reply.outcome, superseded);
        reply
    }
}

impl Everything {
    fn arrive(&mut self, ask: &Ask, shared: &Shared) -> (Arrived, Option<Fault>) {
        let now = shared.now();
        let number = self.history.open(ask, self.desk.presented(ask), now);
        let refreshed = self.desk.refreshed(ask, number, now);
        let grant = refreshed.as_ref().map(|refreshed| refreshed.grant);
        self.history.refreshes.extend(refreshed);
        let fault = take(&mut self.faults, |fault| fault.endpoint == ask.endpoint);
        if let Some(Fault { stage, effect, .. }) = &fault {
            self.history.change(number, |call| call.fault = Some((*stage, effect.clone())));
        }
        self.gates.retain(|(_, barrier)| !barrier.is_open());
        let barrier = take(&mut self.gates, |(endpoint, _)| *endpoint == ask.endpoint);
        if let Some(grant) = grant {
            let at_once = self.refreshing.entry(grant).or_default();
            *at_once += 1;
            let counts = &mut self.desk.book.counts;
            counts.most_refreshes_at_once = counts.most_refreshes_at_once.max(*at_once);
        }
        (Arrived { number, grant, barrier: barrier.map(|(_, barrier)| barrier) }, fault)
    }
}

fn take<T>(queue: &mut VecDeque<T>, wanted: impl FnMut(&T) -> bool) -> Option<T> {
    queue.iter().position(wanted).and_then(|at| queue.remove(at))
}

/// A refresh, for as long as its client waits.
struct InFlight {
    shared: Arc<Shared>,
    grant: Option<GrantNumber>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(grant) = self.grant {
            self.shared.lock().refreshing.entry(grant).and_modify(|at_once| *at_once -= 1);
        }
    }
}
