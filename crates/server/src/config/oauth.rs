//! OAuth clients, out of variables and files, and the way through a browser.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyholder_broker::{Client, ClientKey, OAuthSettings};
use keyholder_catalog::{Catalog, Provider, check_https_url};
use keyholder_domain::ProviderId;
use keyholder_vault::{SecretString, SigningAlgorithm, SigningKey};
use zeroize::Zeroizing;

use super::{Config, ConfigError, KeyAlgorithm, OAuthClientConfig};

/// What every variable of an OAuth client begins with.
const PREFIX: &str = "KEYHOLDER_OAUTH_";

/// What one ends with, each a part of the client.
const ID: &str = "_CLIENT_ID";
const SECRET: &str = "_CLIENT_SECRET";
const PREVIOUS_SECRET: &str = "_PREVIOUS_CLIENT_SECRET";

impl Config {
    /// How owners are asked for consent, and as which clients.
    pub fn oauth_settings(&self, catalog: &Catalog) -> Result<OAuthSettings, ConfigError> {
        let web = &self.web;
        let public_url = web.public_url.trim_end_matches('/').to_owned();
        if !public_url.is_empty() {
            check_https_url(&public_url).map_err(|problem| ConfigError::Web("public_url", problem))?;
        }
        for url in &web.return_urls {
            check_return_url(url).map_err(|problem| ConfigError::Web("return_urls", problem))?;
        }
        for url in &web.app_redirect_uris {
            check_https_url(url).map_err(|problem| ConfigError::Web("app_redirect_uris", problem))?;
        }
        if !(1..=60).contains(&web.consent_minutes) {
            return Err(ConfigError::Web("consent_minutes", "must be from 1 to 60"));
        }
        Ok(OAuthSettings {
            clients: self.oauth_clients(catalog)?,
            public_url,
            return_urls: web.return_urls.clone(),
            app_redirect_uris: web.app_redirect_uris.clone(),
            require_completion: web.require_completion,
            lifetime: Duration::from_secs(u64::from(web.consent_minutes) * 60),
        })
    }

    fn oauth_clients(&self, catalog: &Catalog) -> Result<BTreeMap<ProviderId, Arc<Client>>, ConfigError> {
        let mut clients = BTreeMap::new();
        for (name, config) in &self.oauth {
            let provider = ProviderId::parse(name).ok().and_then(|id| catalog.get(&id));
            let provider = provider.filter(|provider| provider.oauth2.is_some());
            let provider = provider.ok_or_else(|| ConfigError::OAuthProvider(name.clone()))?;
            clients.insert(provider.id.clone(), self.client_of_file(&provider.id, config)?);
        }
        let mut variables: BTreeMap<String, Zeroizing<String>> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .map(|(name, value)| (name, Zeroizing::new(value)))
            .collect();
        for provider in catalog.iter().filter(|provider| provider.oauth2.is_some()) {
            if let Some(client) = client_of_variables(provider, &mut variables)? {
                clients.insert(provider.id.clone(), client);
            }
        }
        match variables.into_keys().next() {
            Some(name) => Err(ConfigError::OAuthProvider(name)),
            None => Ok(clients.into_iter().map(|(id, client)| (id, Arc::new(client))).collect()),
        }
    }

    fn client_of_file(&self, id: &ProviderId, config: &OAuthClientConfig) -> Result<Client, ConfigError> {
        let wrong = |problem| ConfigError::OAuthClient(id.to_string(), problem);
        if config.client_id.is_empty() {
            return Err(wrong("client_id must be given"));
        }
        let files = [&config.client_secret_file, &config.previous_client_secret_file];
        let secrets = files.into_iter().flatten().map(|file| secret_of_file(id, &self.path(file)));
        let key = match (&config.private_key_file, config.private_key_algorithm) {
            (None, None) => None,
            (Some(file), Some(algorithm)) => {
                let algorithm = match algorithm {
                    KeyAlgorithm::Rs256 => SigningAlgorithm::Rs256,
                    KeyAlgorithm::Es256 => SigningAlgorithm::Es256,
                };
                let pem = secret_of_file(id, &self.path(file))?;
                let key = SigningKey::from_pem(algorithm, &pem)
                    .map_err(|_| wrong("private_key_file holds no key of that algorithm"))?;
                Some(ClientKey { algorithm, key, id: config.private_key_id.clone() })
            }
            _ => return Err(wrong("private_key_file and private_key_algorithm go together")),
        };
        Ok(Client { id: config.client_id.clone(), secrets: secrets.collect::<Result<_, _>>()?, key })
    }
}

/// Takes the variables of a provider's client out of all those that are there.
fn client_of_variables(
    provider: &Provider,
    variables: &mut BTreeMap<String, Zeroizing<String>>,
) -> Result<Option<Client>, ConfigError> {
    let name = provider.id.as_str().to_ascii_uppercase().replace('-', "_");
    let mut take =
        |suffix: &str| variables.remove(&format!("{PREFIX}{name}{suffix}")).filter(|value| !value.is_empty());
    let (id, secret, previous) = (take(ID), take(SECRET), take(PREVIOUS_SECRET));
    let secrets = [secret, previous].into_iter().flatten().map(|secret| SecretString::from(secret.as_str()));
    let secrets: Vec<SecretString> = secrets.collect();
    match id {
        Some(id) => Ok(Some(Client { id: id.as_str().to_owned(), secrets, key: None })),
        None if secrets.is_empty() => Ok(None),
        None => Err(ConfigError::OAuthClient(provider.id.to_string(), "there is a secret, and no client id")),
    }
}

fn secret_of_file(id: &ProviderId, file: &Path) -> Result<SecretString, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::OAuthFile {
        provider: id.to_string(),
        file: file.to_owned(),
        source,
    })?;
    let text = Zeroizing::new(text);
    // An editor's line break at the end is no part of the secret.
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}

/// A URL, or everything below a path.
fn check_return_url(url: &str) -> Result<(), &'static str> {
    let url = url.strip_suffix("/*").unwrap_or(url);
    if url.contains('*') {
        return Err("may have a * only as /* at the end");
    }
    check_https_url(url.split('?').next().unwrap_or(url))
}
