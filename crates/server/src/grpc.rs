//! The services: each RPC reads its request, asks the broker, and writes the answer.

mod audit;
mod authorizations;
mod connections;
mod grants;
mod oauth_clients;
mod providers;

use std::sync::Arc;

use keyholder_broker::{Broker, Idempotency, ReleaseLane};
use keyholder_catalog::Provider;
use keyholder_domain::{OrganizationId, Principal, ProviderId};
use tonic::{Request, Status};

use crate::call::{Call, note};
use crate::convert::Reader;
use crate::metrics::Metrics;

/// Every service of `keyholder.v1`.
#[derive(Debug, Clone)]
pub struct Services {
    broker: Broker,
    lane: ReleaseLane,
    metrics: Arc<Metrics>,
    /// Turns true when the server drains, so that streams end.
    draining: tokio::sync::watch::Receiver<bool>,
}

impl Services {
    /// The services of a broker, for the runtime of a lane.
    pub fn new(
        broker: Broker,
        lane: ReleaseLane,
        metrics: Arc<Metrics>,
        draining: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        Self { broker, lane, metrics, draining }
    }
}

/// A request whose caller may act for the organization that it names.
struct Admitted<T> {
    call: Call,
    organization_id: OrganizationId,
    message: T,
}

/// Lets a request in if its caller may act for the organization that it names.
fn admit<T>(request: Request<T>, organization_id: impl FnOnce(&T) -> &str) -> Result<Admitted<T>, Status> {
    admit_inside("", request, organization_id)
}

/// The same for a request that names its organization in a message inside it.
fn admit_inside<T>(
    inside: &str,
    request: Request<T>,
    organization_id: impl FnOnce(&T) -> &str,
) -> Result<Admitted<T>, Status> {
    let call = Call::of(request.extensions())?;
    let message = request.into_inner();
    let mut reader = Reader::new();
    let field = format!("{inside}organization_id");
    let organization_id = reader.required(&field, organization_id(&message), OrganizationId::parse);
    let organization_id = reader.finish(organization_id).map_err(|problem| call.fail(problem))?;
    call.check_organization(&organization_id).map_err(|problem| call.fail(problem))?;
    Ok(Admitted { call, organization_id, message })
}

/// Runs a closure with the caller that the broker works for.
macro_rules! as_caller {
    ($call:expr, $organization_id:expr, $actor:expr, |$caller:ident| $work:expr) => {{
        let may_use = crate::grpc::use_of_providers(&$call, $actor);
        let $caller = keyholder_broker::Caller {
            workload: $call.peer().workload(),
            organization_id: &$organization_id,
            may_use: &may_use,
        };
        $work
    }};
}
use as_caller;

/// Whether the caller may use a provider as an actor; without one, whether it may manage it.
fn use_of_providers<'a>(
    call: &'a Call,
    actor: Option<&'a Principal>,
) -> impl Fn(&Provider) -> bool + Send + Sync + 'a {
    move |provider| call.may_use(actor, provider)
}

impl Services {
    /// Notes a provider for the log, if there is such a one: what is in the field may be anything.
    fn note_provider(&self, call: &Call, id: &ProviderId) {
        if self.broker.catalog().get(id).is_some() {
            note(&call.facts().provider_id, id);
        }
    }
}

fn note_connection(call: &Call, connection: &keyholder_domain::Connection) {
    note(&call.facts().connection_id, &connection.id);
    note(&call.facts().provider_id, &connection.provider_id);
}

fn note_request(call: &Call, idempotency: Option<&Idempotency>) {
    if let Some(idempotency) = idempotency {
        note(&call.facts().request_id, &idempotency.request_id);
    }
}
