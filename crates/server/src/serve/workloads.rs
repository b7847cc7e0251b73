//! The gRPC server: one thread for each processor, each with a runtime, a share of the connections and a lane of releases of
//! its own. What a call needs stays on one thread; a runtime of several threads would make a call about twice as dear.

use std::convert::Infallible;
use std::num::NonZero;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::{Either, try_join_all};
use http::{Request, Response};
use keyholder_broker::Broker;
use keyholder_domain::Clock;
use keyholder_identity::{Accepted, HandshakeLimits, MtlsStream, accept, incoming, server_config};
use keyholder_proto::v1::audit_service_server::AuditServiceServer;
use keyholder_proto::v1::connection_service_server::ConnectionServiceServer;
use keyholder_proto::v1::grant_service_server::GrantServiceServer;
use keyholder_proto::v1::o_auth_client_service_server::OAuthClientServiceServer;
use keyholder_proto::v1::provider_service_server::ProviderServiceServer;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};

use tower::Service;

use super::{MAX_QUESTION_BYTES, MAX_REQUEST_BYTES, ServeError, reflection};
use crate::config::Config;
use crate::gate::GateLayer;
use crate::grpc::Services;
use crate::methods::RESOLVE_CREDENTIAL;
use crate::metrics::Metrics;

/// What serves workloads.
pub(super) struct Workloads {
    pub(super) listener: TcpListener,
    pub(super) config: Config,
    pub(super) broker: Broker,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Workloads {
    /// Serves until `draining`, and until the calls in flight are answered. Its threads end once the sender of
    /// `store_closed` is gone.
    pub(super) async fn serve<H: Health>(
        self,
        health: HealthServer<H>,
        draining: watch::Receiver<bool>,
        store_closed: watch::Receiver<()>,
    ) -> Result<(), ServeError> {
        let certificate = self.config.server_certificate()?;
        let trust = self.config.trust_store()?;
        self.metrics
            .certificate(&self.config.grpc.certificate.display().to_string(), certificate.not_after());
        for (file, not_after) in trust.expirations() {
            self.metrics.certificate(&file.display().to_string(), not_after);
        }
        let tls = server_config(certificate, trust, &self.config.policy, Arc::clone(&self.clock))?;
        let gate = GateLayer {
            policy: Arc::new(self.config.policy),
            clock: self.clock,
            metrics: Arc::clone(&self.metrics),
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let mut serving = Vec::new();
        for accepted in accept(self.listener, threads) {
            let one = Thread {
                accepted,
                tls: Arc::clone(&tls),
                limits: HandshakeLimits::default().divided_by(threads),
                gate: gate.clone(),
                broker: self.broker.clone(),
                draining: draining.clone(),
                store_closed: store_closed.clone(),
            };
            serving.push(one.start(health.clone())?);
        }
        try_join_all(
            serving.into_iter().map(|ended| async { ended.await.unwrap_or(Err(ServeError::Thread)) }),
        )
        .await?;
        Ok(())
    }
}

/// A thread that serves.
struct Thread {
    accepted: Accepted,
    tls: Arc<ServerConfig>,
    limits: HandshakeLimits,
    gate: GateLayer,
    broker: Broker,
    draining: watch::Receiver<bool>,
    store_closed: watch::Receiver<()>,
}

impl Thread {
    fn start<H: Health>(
        self,
        health: HealthServer<H>,
    ) -> Result<oneshot::Receiver<Result<(), ServeError>>, ServeError> {
        let (done, ended) = oneshot::channel();
        let mut store_closed = self.store_closed.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ServeError::Runtime)?;
        let work = move || {
            runtime.block_on(async move {
                // Nobody waits for it any more: the process is about to end.
                done.send(self.serve(health).await).ok();
                // Others may be using a database connection that was opened here.
                store_closed.changed().await.ok();
            });
        };
        thread::Builder::new().name("grpc".to_owned()).spawn(work).map_err(ServeError::Runtime)?;
        Ok(ended)
    }

    async fn serve<H: Health>(self, health: HealthServer<H>) -> Result<(), ServeError> {
        let (lane, released) = self.broker.store().release_lane();
        let metrics = Arc::clone(&self.gate.metrics);
        let services = Services::new(self.broker, lane, metrics, self.draining.clone());
        let grants = GrantServiceServer::new(services.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
        let mut routes = Routes::builder();
        routes
            .add_service(health.max_decoding_message_size(MAX_QUESTION_BYTES))
            .add_service(reflection().build_v1()?.max_decoding_message_size(MAX_QUESTION_BYTES))
            .add_service(reflection().build_v1alpha()?.max_decoding_message_size(MAX_QUESTION_BYTES))
            .add_service(
                ProviderServiceServer::new(services.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(
                ConnectionServiceServer::new(services.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(grants.clone())
            .add_service(
                OAuthClientServiceServer::new(services.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(AuditServiceServer::new(services).max_decoding_message_size(MAX_REQUEST_BYTES));
        let mut ended = self.draining;
        let connections = incoming(self.accepted, self.tls, self.limits).map_ok(MtlsStream::corked);
        Server::builder()
            .layer(self.gate)
            .layer(tower::layer::layer_fn(move |others| Direct { grants: grants.clone(), others }))
            .max_concurrent_streams(1_024)
            // As many as may be open: whoever cancels many calls at once ends those alone, not all that share the connection.
            .http2_max_pending_accept_reset_streams(Some(1_024))
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .http2_max_header_list_size(16 * 1024)
            .max_connection_age(Duration::from_secs(3_600))
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(connections, async move {
                ended.wait_for(|draining| *draining).await.ok();
            })
            .await?;
        // Every call is answered, and so every clone of the lane gone.
        released.await.ok();
        Ok(())
    }
}

/// The services, and a short cut to the one method that is called before every call to a provider: the way through all routes
/// is a fortieth of what it costs.
#[derive(Clone)]
struct Direct {
    grants: GrantServiceServer<Services>,
    others: Routes,
}

impl Service<Request<Body>> for Direct {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <GrantServiceServer<Services> as Service<Request<Body>>>::Future,
        <Routes as Service<Request<Body>>>::Future,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(Service::<Request<Body>>::poll_ready(&mut self.grants, cx))?;
        Service::<Request<Body>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match request.uri().path() {
            RESOLVE_CREDENTIAL => Either::Left(self.grants.call(request)),
            _ => Either::Right(self.others.call(request)),
        }
    }
}
