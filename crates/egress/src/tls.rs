//! TLS as a client: whom we believe, and which fault is whose.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::{EgressError, Host, Settings, SettingsError, TlsFault};

/// TLS 1.2 and 1.3 on ring, HTTP/1.1, the system's or the configured roots.
///
/// No session is resumed: every connection's certificate is verified, today's.
pub(crate) fn client_config(settings: &Settings) -> Result<ClientConfig, SettingsError> {
    let roots = match &settings.roots {
        Some(file) => configured_roots(file)?,
        None => system_roots()?,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(SettingsError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn configured_roots(file: &Path) -> Result<RootCertStore, SettingsError> {
    let fault = |source| SettingsError::Roots { file: file.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| fault(Some(source)))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(SettingsError::Tls)?;
    }
    if roots.is_empty() { Err(fault(None)) } else { Ok(roots) }
}

/// The system's store can have certificates that are not understood here; what is understood must not be none.
fn system_roots() -> Result<RootCertStore, SettingsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(SettingsError::NoSystemRoots) } else { Ok(roots) }
}

/// The name that the certificate must be for: the host as it was typed.
pub(crate) fn server_name(host: &Host) -> Result<ServerName<'static>, TlsFault> {
    match host {
        Host::Address(address) => Ok(ServerName::from(*address)),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| TlsFault::Name),
    }
}

/// Whose fault a failed handshake is.
pub(crate) fn fault(error: &io::Error) -> EgressError {
    let Some(error) = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) else {
        return EgressError::Unreachable;
    };
    EgressError::Tls(match error {
        rustls::Error::InvalidCertificate(error) => certificate_fault(error),
        _ => TlsFault::Handshake,
    })
}

fn certificate_fault(error: &CertificateError) -> TlsFault {
    use CertificateError as Fault;
    match error {
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => TlsFault::Name,
        Fault::Expired
        | Fault::ExpiredContext { .. }
        | Fault::NotValidYet
        | Fault::NotValidYetContext { .. } => TlsFault::Expired,
        Fault::UnknownIssuer | Fault::BadSignature => TlsFault::Issuer,
        _ => TlsFault::Certificate,
    }
}
