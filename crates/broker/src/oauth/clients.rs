use std::sync::Arc;

use keyholder_catalog::Provider;
use keyholder_domain::{AuditKind, Generation, OrganizationId, ProviderId, Text, Timestamp};
use keyholder_store::{ClientKey, NewAuditEvent, StoredOAuthClient};
use keyholder_upstream::oauth::Client;
use keyholder_vault::{Credential, SecretString};

use super::{Spot, recipe};
use crate::error::FieldError;
use crate::{Broker, BrokerError, Caller};

/// The fields of a client's sealed secrets, the newest first.
const SECRETS: [&str; 2] = ["secret", "previous_secret"];

/// The longest secret, in bytes.
const MAX_SECRET_LEN: usize = 4096;

/// An organization's own client at a provider. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthClient {
    /// At which provider.
    pub provider_id: ProviderId,
    /// Its public id.
    pub client_id: Text,
    /// How many secrets are held: two during a change.
    pub secret_count: i32,
    /// Its version.
    pub generation: Generation,
    /// When it was set first.
    pub create_time: Timestamp,
    /// When it was set last.
    pub update_time: Timestamp,
}

/// What sets an organization's own client.
#[derive(Debug)]
pub struct SetOAuthClient {
    /// At which provider.
    pub provider_id: ProviderId,
    /// Its public id.
    pub client_id: Text,
    /// Its secret; none for a public client.
    pub client_secret: Option<SecretString>,
    /// Whether the secret before this one goes on being tried, until the client is set again.
    pub keep_previous_secret: bool,
}

impl Broker {
    /// Sets an organization's own client at a provider, which then takes the place of the installation's there.
    pub async fn set_oauth_client(
        &self,
        caller: &Caller<'_>,
        set: SetOAuthClient,
    ) -> Result<OAuthClient, BrokerError> {
        recipe(self.provider(caller, &set.provider_id)?)?;
        if set.client_id.is_empty() {
            return Err(FieldError::invalid("client_id", "must be given").into());
        }
        if let Some(secret) = &set.client_secret {
            check_secret(secret)?;
        }
        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let before = change.oauth_client(&set.provider_id).await?;
        let now = self.now();
        let generation = before.as_ref().map_or(Generation::FIRST, |before| before.generation.next());
        let mut secrets: Vec<SecretString> = set.client_secret.into_iter().collect();
        if set.keep_previous_secret {
            let same = |before: &&StoredOAuthClient| {
                before.client_id == set.client_id && before.sealed_secrets.is_some()
            };
            let before = before.as_ref().filter(same).ok_or(FieldError::invalid(
                "keep_previous_secret",
                "goes only with the client_id that is set already, and has a secret",
            ))?;
            secrets.extend(self.secrets(caller.organization_id, before).await?.into_iter().take(1));
        }
        let row = row(&set.provider_id);
        let fields = SECRETS.iter().zip(&secrets).map(|(name, secret)| ((*name).to_owned(), secret.clone()));
        let fields = Credential::from_fields(fields.collect());
        let spot = spot(caller.organization_id, &row, generation);
        let client = StoredOAuthClient {
            provider_id: set.provider_id,
            client_id: set.client_id,
            sealed_secrets: (!secrets.is_empty()).then(|| Self::seal_fields(&key, spot, &fields)),
            secret_count: i32::try_from(secrets.len()).unwrap_or(0),
            generation,
            create_time: before.map_or(now, |before| before.create_time),
            update_time: now,
        };
        change.set_oauth_client(&client).await?;
        let event = self.client_event(caller, &client.provider_id, "SET");
        change.record(&event).await?;
        change.commit().await?;
        // If it was in quarantine, what was wrong with it may be right now.
        self.store()
            .probe_client(&ClientKey {
                organization_id: Some(caller.organization_id.clone()),
                provider_id: client.provider_id.clone(),
                client_id: client.client_id.clone(),
            })
            .await?;
        Ok(client.into())
    }

    /// Lists an organization's own clients.
    pub async fn list_oauth_clients(&self, caller: &Caller<'_>) -> Result<Vec<OAuthClient>, BrokerError> {
        let clients = self.store().oauth_clients(caller.organization_id).await?;
        Ok(clients.into_iter().map(OAuthClient::from).collect())
    }

    /// Removes an organization's own client. Connections that it got tokens for can no longer be renewed.
    pub async fn delete_oauth_client(
        &self,
        caller: &Caller<'_>,
        provider_id: &ProviderId,
    ) -> Result<(), BrokerError> {
        self.check_provider(caller, provider_id)?;
        let mut change = self.store().change(caller.organization_id).await?;
        if !change.remove_oauth_client(provider_id).await? {
            return Err(BrokerError::OAuthClientMissing);
        }
        let event = self.client_event(caller, provider_id, "DELETED");
        change.record(&event).await?;
        Ok(change.commit().await?)
    }

    /// The client with which an organization speaks to a provider: its own or, failing that, the installation's.
    pub(crate) async fn client(
        &self,
        organization_id: &OrganizationId,
        provider: &Provider,
    ) -> Result<Arc<Client>, BrokerError> {
        match self.store().oauth_client(organization_id, &provider.id).await? {
            Some(stored) => Ok(Arc::new(Client {
                id: stored.client_id.as_str().to_owned(),
                secrets: self.secrets(organization_id, &stored).await?,
                key: None,
            })),
            None => self.oauth().clients.get(&provider.id).cloned().ok_or(BrokerError::OAuthClientMissing),
        }
    }

    /// The client that tokens were issued to: nobody else may use them.
    pub(crate) async fn client_of(
        &self,
        organization_id: &OrganizationId,
        provider: &Provider,
        client_id: &str,
    ) -> Result<Arc<Client>, BrokerError> {
        let own = self.client(organization_id, provider).await.ok();
        let installed = self.oauth().clients.get(&provider.id).cloned();
        let found = [own, installed].into_iter().flatten().find(|client| client.id == client_id);
        found.ok_or(BrokerError::OAuthClientMissing)
    }

    async fn secrets(
        &self,
        organization_id: &OrganizationId,
        client: &StoredOAuthClient,
    ) -> Result<Vec<SecretString>, BrokerError> {
        let Some(sealed) = &client.sealed_secrets else { return Ok(Vec::new()) };
        let row = row(&client.provider_id);
        let fields = self.open_fields(spot(organization_id, &row, client.generation), sealed).await?;
        Ok(SECRETS.iter().filter_map(|name| fields.get(name).cloned()).collect())
    }

    fn client_event<'a>(
        &self,
        caller: &Caller<'a>,
        provider_id: &'a ProviderId,
        reason: &'static str,
    ) -> NewAuditEvent<'a> {
        NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: caller.organization_id,
            kind: AuditKind::OAuthClientChanged,
            workload: caller.workload,
            actor: None,
            connection: None,
            grant_id: None,
            provider_id: Some(provider_id),
            reason,
            purpose: "",
        }
    }
}

fn check_secret(secret: &SecretString) -> Result<(), FieldError> {
    use keyholder_vault::ExposeSecret as _;
    let text = secret.expose_secret();
    if text.is_empty() || text.len() > MAX_SECRET_LEN {
        return Err(FieldError::invalid("client_secret", "must be 1 to 4096 bytes"));
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        let problem = "must have neither control characters nor white space around it";
        return Err(FieldError::invalid("client_secret", problem));
    }
    Ok(())
}

fn row(provider_id: &ProviderId) -> String {
    format!("oauth_client_{provider_id}")
}

fn spot<'a>(organization_id: &'a OrganizationId, row: &'a str, generation: Generation) -> Spot<'a> {
    Spot { organization_id, row, field: "secrets", generation }
}

impl From<StoredOAuthClient> for OAuthClient {
    fn from(stored: StoredOAuthClient) -> Self {
        Self {
            provider_id: stored.provider_id,
            client_id: stored.client_id,
            secret_count: stored.secret_count,
            generation: stored.generation,
            create_time: stored.create_time,
            update_time: stored.update_time,
        }
    }
}
