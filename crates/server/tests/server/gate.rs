//! The gate in front of a service that fails in a way that no service should.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use keyholder_domain::{Clock as _, SystemClock, TrustDomain};
use keyholder_identity::{
    CaBundle, HandshakeLimits, Policy, ServerCertificate, TrustStore, accept, incoming, server_config,
};
use keyholder_proto::v1::provider_service_client::ProviderServiceClient;
use keyholder_proto::v1::provider_service_server::{ProviderService, ProviderServiceServer};
use keyholder_proto::v1::{
    GetProviderRequest, GetProviderResponse, ListProvidersRequest, ListProvidersResponse,
};
use keyholder_server::gate::GateLayer;
use keyholder_server::metrics::Metrics;
use keyholder_server::telemetry::{self, LogConfig};
use keyholder_testkit::client::channel;
use keyholder_testkit::pki::{Authority, Issued, LeafRequest};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

const SECRET: &str = "sk-canary";

/// Panics over one method, with a secret in the message, as a slice of a text would; answers the other.
struct Panicking;

#[tonic::async_trait]
impl ProviderService for Panicking {
    async fn list_providers(
        &self,
        _: Request<ListProvidersRequest>,
    ) -> Result<Response<ListProvidersResponse>, Status> {
        Ok(Response::new(ListProvidersResponse::default()))
    }

    async fn get_provider(
        &self,
        _: Request<GetProviderRequest>,
    ) -> Result<Response<GetProviderResponse>, Status> {
        panic!("cannot cut {SECRET}")
    }
}

#[tokio::test]
async fn a_panic_is_internal_to_its_caller_harms_no_other_call_and_tells_the_log_no_secret() {
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    telemetry::start_in(&LogConfig::default(), fs::File::create(&log).unwrap());
    let mut client = ProviderServiceClient::new(serve(dir.path()).await);

    let failed = client.get_provider(GetProviderRequest::default()).await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::Internal, "Something went wrong inside; the log says what.")
    );
    assert_eq!(failed.get_details_error_info().unwrap().reason, "INTERNAL");
    assert!(!format!("{failed:?}").contains(SECRET));
    client.list_providers(ListProvidersRequest::default()).await.unwrap();

    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains(SECRET), "{log}");
    assert!(log.contains("tests/server/gate.rs:"), "the place of the panic is missing: {log}");
    assert!(log.contains("a call panicked") && log.contains(r#""reason":"INTERNAL""#), "{log}");
}

/// Serves on a port of this machine, and returns a channel of a workload that may call.
async fn serve(dir: &Path) -> Channel {
    let now = SystemClock.now();
    let authority = Authority::root("Keyholder test CA", now).unwrap();
    let write = |name: &str, issued: &Issued| {
        let (pem, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")));
        fs::write(&pem, issued.pem()).unwrap();
        fs::write(&key, issued.key_pem()).unwrap();
        (pem, key)
    };
    let ca = dir.join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let server = authority.issue(LeafRequest::dns("localhost", now).unwrap()).unwrap();
    let (server_pem, server_key) = write("server", &server);
    let id = "spiffe://test.example/console";
    let console = authority.issue(LeafRequest::spiffe(id, now).unwrap()).unwrap();
    let (console_pem, console_key) = write("console", &console);

    let mut trust = TrustStore::new();
    let bundle = CaBundle::load(std::slice::from_ref(&ca)).unwrap();
    trust.add_domain(TrustDomain::parse("test.example").unwrap(), bundle).unwrap();
    let policy = format!("workload = [{{ id = {id:?}, roles = [\"manager\"], organizations = [\"*\"] }}]");
    let policy: Policy = Figment::from(Toml::string(&policy)).extract_inner("workload").unwrap();
    let certificate = ServerCertificate::load(&server_pem, &server_key).unwrap();
    let tls = server_config(certificate, trust, &policy, Arc::new(SystemClock)).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gate = GateLayer {
        policy: Arc::new(policy),
        clock: Arc::new(SystemClock),
        metrics: Arc::new(Metrics::new()),
    };
    let serving = Server::builder()
        .layer(gate)
        .add_service(ProviderServiceServer::new(Panicking))
        .serve_with_incoming(incoming(accept(listener, 1).remove(0), tls, HandshakeLimits::default()));
    tokio::spawn(serving);
    channel(address, &ca, &console_pem, &console_key).unwrap()
}
