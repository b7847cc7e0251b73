//! What the development PKI writes is what the server reads.

use std::sync::Arc;

use keyholder_domain::TrustDomain;
use keyholder_identity::{
    CaBundle, HandshakeLimits, Policy, ServerCertificate, TrustStore, accept, incoming, server_config,
};
use keyholder_testkit::pki::{DevPki, TRUST_DOMAIN, WORKLOADS};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;

use crate::support::{ClientTime, NOW, connect, fixed_clock};

#[tokio::test]
async fn every_development_workload_gets_in_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let pki = DevPki::ensure(dir.path(), NOW).unwrap();
    let certificate = ServerCertificate::load(&pki.certificate("server"), &pki.key("server")).unwrap();
    let ca = CaBundle::load(&[pki.certificate("ca")]).unwrap();
    let mut trust = TrustStore::new();
    trust.add_domain(TrustDomain::parse(TRUST_DOMAIN).unwrap(), ca).unwrap();
    let config = server_config(certificate, trust, &Policy::default(), fixed_clock()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = incoming(accept(listener, 1).remove(0), config, HandshakeLimits::default());

    for name in WORKLOADS {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.certificate("ca")).unwrap()).unwrap();
        let chain = CertificateDer::pem_file_iter(pki.certificate(name)).unwrap();
        let mut client =
            ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(ClientTime))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(
                    chain.collect::<Result<_, _>>().unwrap(),
                    PrivateKeyDer::from_pem_file(pki.key(name)).unwrap(),
                )
                .unwrap();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let (accepted, connected) = tokio::join!(incoming.next(), connect(address, client.into()));
        connected.unwrap();
        let workload = accepted.unwrap().unwrap().peer().workload().to_string();
        assert_eq!(workload, format!("spiffe://keyholder.dev/{name}"));
    }
}
