//! The demo provider: a real OAuth 2.0 server on this machine, so that an account can be connected without registering
//! anywhere. It forgets everything when it stops.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use keyholder_domain::SystemClock;
use keyholder_egress::HostPort;
use keyholder_testkit::provider::{Client, Consent, Provider};
use keyholder_vault::random_bytes;

use super::DevError;
use crate::config::{Config, OAuthClientConfig};

/// The id of the provider in the catalog.
pub(super) const PROVIDER: &str = "demo";

/// The folder of provider definitions, in the folder of `keyholder dev`.
const DEFINITIONS: &str = "providers";

/// The file of the client's secret.
const SECRET: &str = "demo-client.secret";

/// Starts the provider, and tells the configuration of it: its definition, our client there, and that it may be called.
pub(super) fn start(config: &mut Config, dir: &Path) -> Result<Provider, DevError> {
    let provider = Provider::start(Arc::new(SystemClock)).map_err(DevError::Demo)?;
    let definitions = config.catalog.directory.get_or_insert_with(|| DEFINITIONS.into()).clone();
    let definitions = config.path(&definitions);
    write(&definitions.join(format!("{PROVIDER}.yaml")), &definition(&provider))?;
    let secret: String = random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    write(&dir.join(SECRET), &secret)?;
    let client = OAuthClientConfig {
        client_id: "keyholder-dev".into(),
        client_secret_file: Some(SECRET.into()),
        ..Default::default()
    };
    let address = provider.address().to_string();
    config.danger.egress.push(
        address
            .parse::<HostPort>()
            .map_err(|error| DevError::Serve(crate::config::ConfigError::from(error).into()))?,
    );
    if config.web.public_url.is_empty() {
        if config.web.listen.port() == 0 {
            // The public URL has the port in it, so it must be known before it is opened.
            let free = TcpListener::bind(config.web.listen).and_then(|listener| listener.local_addr());
            config.web.listen = free.map_err(DevError::Demo)?;
        }
        config.web.public_url = format!("http://{}", config.web.listen);
    }
    let redirect_uri = format!("{}/oauth/callback/{PROVIDER}", config.web.public_url);
    provider.register(Client::confidential(&client.client_id, &secret, &redirect_uri));
    config.oauth.insert(PROVIDER.into(), client);
    Ok(provider)
}

/// Answers the provider's question for a person who is not there.
pub(super) fn answer_by_itself(provider: &Provider, by_itself: bool) {
    provider.behave(|manners| {
        manners.consent = if by_itself { Consent::Allow } else { Consent::Ask };
        manners.account = "ada".into();
    });
}

fn write(file: &Path, text: &str) -> Result<(), DevError> {
    let failed = |error| DevError::File(file.to_owned(), error);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(file, text).map_err(failed)
}

fn definition(provider: &Provider) -> String {
    let issuer = provider.issuer();
    format!(
        "# The demo provider of keyholder dev. Written anew at every start.\n\
         id: {PROVIDER}\nname: Demo provider\ndocumentation_url: https://example.com/demo\nfacts_checked: 2026-11-26\n\
         base_url: {issuer}\nauth_methods:\n  - method: oauth2_code\n    title: Sign in with the demo provider\n    test:\n\
         \x20     request: GET /userinfo\n      good: [200]\n      dead: [401]\n\
         \x20     account: {{ id: /sub, name: /name, email: /email }}\n\
         oauth2:\n  issuer: {issuer}\n  sends_iss: true\n  client_authentication: basic\n\
         \x20 authorize: {{ url: '{issuer}/authorize' }}\n  token: {{ url: '{issuer}/token' }}\n\
         \x20 revoke: {{ url: '{issuer}/revoke' }}\n  refresh: {{ reuse: none }}\n\
         scopes:\n  - {{ name: read, title: Read }}\n  - {{ name: write, title: Write }}\ndefault_scopes: [read, write]\n"
    )
}
