//! OAuth: which clients there are, and how the way through a browser is set up.

mod authorize;
mod browser;
mod clients;
mod finish;
mod issued;
mod kept;
mod plan;
mod revoke;
mod revoke_all;
mod tokens;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyholder_catalog::oauth2::OAuth2;
use keyholder_catalog::{Method, Provider};
use keyholder_domain::{Generation, OrganizationId, ProviderId, Scopes};
use keyholder_upstream::oauth::{Client, Server};
use keyholder_vault::{Credential, DataKey, Envelope, OpenError, Place, Sealed};

use crate::{Broker, BrokerError};

pub use authorize::{Completion, StartAuthorization, Started};
pub use browser::{BrowserAnswer, Cookies, Landing, LandingOutcome, Opened};
pub use clients::{OAuthClient, SetOAuthClient};
pub(crate) use finish::{ACCESS_TOKEN, REFRESH_TOKEN, account_of};
pub(crate) use kept::{answer_fields, answer_of};
pub(crate) use revoke::OWN_CLIENT;
pub use revoke_all::RevokeAll;
pub(crate) use tokens::{renewal_of, renewal_spot};

/// How people are asked for consent.
#[derive(Debug)]
pub struct OAuthSettings {
    /// The installation's clients.
    pub clients: BTreeMap<ProviderId, Arc<Client>>,
    /// Where browsers reach our pages, without a slash at the end; empty: nowhere.
    pub public_url: String,
    /// The URLs that a browser may be sent on to in the end: exact, or everything below a path that ends in `/*`.
    pub return_urls: Vec<String>,
    /// The redirect URIs of apps that forward code and state themselves.
    pub app_redirect_uris: Vec<String>,
    /// Whether every flow must be completed by the app that began it.
    pub require_completion: bool,
    /// How long an owner has to consent.
    pub lifetime: Duration,
}

impl Default for OAuthSettings {
    fn default() -> Self {
        Self {
            clients: BTreeMap::new(),
            public_url: String::new(),
            return_urls: Vec::new(),
            app_redirect_uris: Vec::new(),
            require_completion: false,
            lifetime: Duration::from_secs(600),
        }
    }
}

/// The value of a row that is sealed with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot<'a> {
    pub(crate) organization_id: &'a OrganizationId,
    pub(crate) row: &'a str,
    pub(crate) field: &'static str,
    pub(crate) generation: Generation,
}

impl<'a> From<Spot<'a>> for Place<'a> {
    fn from(spot: Spot<'a>) -> Self {
        Self {
            organization: spot.organization_id,
            row: spot.row,
            field: spot.field,
            generation: spot.generation,
        }
    }
}

impl Broker {
    pub(crate) fn oauth(&self) -> &OAuthSettings {
        &self.0.oauth
    }

    /// Whether an auth method of a provider can be used: by the installation's client, if by no other.
    pub fn is_available(&self, provider: &Provider, method: &Method) -> bool {
        let own = method.method.is_static() || !method.fields.is_empty();
        own || self.oauth().clients.contains_key(&provider.id)
    }

    /// Seals fields into a spot.
    pub(crate) fn seal_fields(key: &DataKey, spot: Spot<'_>, fields: &Credential) -> String {
        key.seal_credential(&spot.into(), fields).as_str().to_owned()
    }

    /// Opens fields that were sealed into a spot, with the data key that they name.
    pub(crate) async fn open_fields(&self, spot: Spot<'_>, sealed: &str) -> Result<Credential, BrokerError> {
        let key = self.key_of(spot.organization_id, sealed).await?;
        let sealed = Envelope::parse(sealed).map_err(BrokerError::SecretUnreadable)?;
        key.open_credential(&spot.into(), &sealed).map_err(BrokerError::SecretUnreadable)
    }

    /// The data key that sealed a value.
    pub(crate) async fn key_of(
        &self,
        organization_id: &OrganizationId,
        sealed: &str,
    ) -> Result<Arc<DataKey>, BrokerError> {
        let key_id = Sealed::parse(sealed).map_err(BrokerError::SecretUnreadable)?.key_id().to_owned();
        if let Some(key) = self.0.data_keys.get(organization_id, &key_id) {
            return Ok(key);
        }
        let stored = self.store().data_key(organization_id, &key_id).await?;
        let stored = stored.ok_or(BrokerError::SecretUnreadable(OpenError::UnknownKey { key_id }))?;
        self.opened(organization_id, &stored).map_err(BrokerError::DataKeyUnreadable)
    }
}

/// A provider's server, as a client speaks to it.
pub(crate) fn server<'a>(
    provider: &'a Provider,
    client: &'a Client,
    config: &'a BTreeMap<String, String>,
) -> Result<Server<'a>, BrokerError> {
    Ok(Server { provider, recipe: recipe(provider)?, client, config })
}

/// The scopes that are asked for where a caller names none.
pub(crate) fn default_scopes<'a>(provider: &'a Provider, method: &'a Method) -> &'a Scopes {
    method.default_scopes.as_ref().unwrap_or(&provider.default_scopes)
}

/// How a provider speaks OAuth.
pub(crate) fn recipe(provider: &Provider) -> Result<&OAuth2, BrokerError> {
    provider.oauth2.as_deref().ok_or(BrokerError::OAuthClientMissing)
}
