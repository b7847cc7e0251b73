//! The gRPC server.

use std::sync::Arc;
use std::time::Duration;

use keyholder_broker::Broker;
use keyholder_domain::Clock;
use keyholder_identity::{HandshakeLimits, incoming, server_config};
use keyholder_proto::v1::audit_service_server::AuditServiceServer;
use keyholder_proto::v1::connection_service_server::ConnectionServiceServer;
use keyholder_proto::v1::grant_service_server::GrantServiceServer;
use keyholder_proto::v1::o_auth_client_service_server::OAuthClientServiceServer;
use keyholder_proto::v1::provider_service_server::ProviderServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{MAX_QUESTION_BYTES, MAX_REQUEST_BYTES, ServeError, reflection};
use crate::config::Config;
use crate::gate::GateLayer;
use crate::grpc::Services;
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
    /// The gRPC server, which ends when it has drained.
    pub(super) fn serve<H>(
        self,
        health: HealthServer<H>,
        draining: watch::Receiver<bool>,
    ) -> Result<impl Future<Output = Result<(), tonic::transport::Error>>, ServeError>
    where
        H: Health,
    {
        let certificate = self.config.server_certificate()?;
        let trust = self.config.trust_store()?;
        self.metrics
            .certificate(&self.config.grpc.certificate.display().to_string(), certificate.not_after());
        for (file, not_after) in trust.expirations() {
            self.metrics.certificate(&file.display().to_string(), not_after);
        }
        let tls = server_config(certificate, trust, &self.config.policy, Arc::clone(&self.clock))?;
        let services = Services::new(self.broker, Arc::clone(&self.metrics), draining.clone());
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
            .add_service(
                GrantServiceServer::new(services.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(
                OAuthClientServiceServer::new(services.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
            )
            .add_service(AuditServiceServer::new(services).max_decoding_message_size(MAX_REQUEST_BYTES));
        let gate = GateLayer {
            policy: Arc::new(self.config.policy),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
        };
        let mut ended = draining;
        Ok(Server::builder()
            .layer(gate)
            .max_concurrent_streams(1_024)
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .http2_max_header_list_size(16 * 1024)
            .max_connection_age(Duration::from_secs(3_600))
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(
                incoming(self.listener, tls, HandshakeLimits::default()),
                async move {
                    ended.wait_for(|draining| *draining).await.ok();
                },
            ))
    }
}
