//! Tokens where they belong: in a connection, sealed, with what is known about them.

use std::collections::BTreeMap;
use std::time::Duration;

use keyholder_catalog::Provider;
use keyholder_catalog::oauth2::{RefreshWith, Reuse};
use keyholder_domain::{
    Account, AuditKind, Authorization, Connection, ConnectionId, ConnectionState, Generation, Text, Tokens,
};
use keyholder_store::{Change, NewConnection, StoredConnection};
use keyholder_vault::{Credential, SecretString, random_bytes};

use super::Spot;
use super::finish::{ACCESS_TOKEN, Issued, REFRESH_TOKEN, caller_of};
use crate::connections::{seal, summary};
use crate::{Broker, BrokerError};

impl Broker {
    /// Writes tokens into a connection, new or not, with its audit event.
    pub(crate) async fn store_tokens(
        &self,
        change: &mut Change,
        authorization: &Authorization,
        provider: &Provider,
        target: Option<StoredConnection>,
        issued: &Issued,
    ) -> Result<Connection, BrokerError> {
        let caller = caller_of(authorization);
        let key = self.sealing_key(caller.organization_id, change).await?;
        let credential = credential(issued);
        let refresh_token = match (&issued.tokens.refresh_token, &target) {
            (Some(token), _) => Some(token.clone()),
            // Some servers give a refresh token with the first consent only; the old one stays good.
            (None, Some(stored)) => self.kept_refresh_token(stored, authorization).await?,
            (None, None) => None,
        };
        let renewal = renewal_of(provider, refresh_token);
        let tokens = self.facts(authorization, provider, issued, renewal.is_some());
        let (is_new, mut stored) = match target {
            None => {
                let connection = self.new_connection(authorization, issued);
                (true, StoredConnection { connection, sealed: None, change: 0 })
            }
            Some(stored) => (false, stored),
        };
        let connection = &mut stored.connection;
        let was_pending = connection.state == ConnectionState::Pending;
        if !is_new {
            self.grow(connection);
        }
        connection.state = connection.state.authorize()?;
        if connection.state == ConnectionState::Active {
            connection.state_reason = Text::default();
        }
        connection.auth_method = authorization.auth_method;
        connection.account = merged(&connection.account, &issued.account);
        connection.config.clone_from(&issued.config);
        connection.scopes = issued.tokens.scopes.clone().unwrap_or_else(|| authorization.scopes.clone());
        connection.tokens = Some(tokens);
        connection.credential_summary = summary(&credential);
        connection.last_test = None;
        let mut sealed = seal(&key, connection, &credential);
        sealed.renewal = renewal.map(|renewal| {
            let row = connection.id.to_string();
            Self::seal_fields(&key, renewal_spot(connection, &row, connection.generation), &renewal)
        });
        let kind = if is_new || was_pending {
            AuditKind::ConnectionCreated
        } else {
            AuditKind::ConnectionReauthorized
        };
        if is_new {
            change
                .insert_connection(&NewConnection {
                    connection: &stored.connection,
                    sealed: Some(&sealed),
                    request: None,
                })
                .await?;
        } else {
            stored.sealed = Some(sealed);
            change.update_connection(&stored).await?;
        }
        self.schedule(change, &stored.connection, provider).await?;
        self.record_connection(&caller, change, kind, &stored.connection).await?;
        Ok(stored.connection)
    }

    fn facts(
        &self,
        authorization: &Authorization,
        provider: &Provider,
        issued: &Issued,
        renewable: bool,
    ) -> Tokens {
        let refresh = provider.oauth2.as_deref().map(|recipe| &recipe.refresh);
        let after =
            |wait: Option<Duration>| wait.and_then(|wait| issued.time.checked_add(wait.try_into().ok()?));
        let expected = refresh.is_some_and(|refresh| refresh.reuse != Reuse::NoRefresh);
        Tokens {
            client_id: authorization.client_id.clone(),
            asked: authorization.scopes.clone(),
            expire_time: issued.tokens.expire_time,
            renewable,
            renewal_missing: expected && !renewable && issued.tokens.expire_time.is_some(),
            idle_expire_time: issued
                .tokens
                .refresh_expire_time
                .or_else(|| after(refresh.and_then(|refresh| refresh.idle)))
                .filter(|_| renewable),
            absolute_expire_time: after(refresh.and_then(|refresh| refresh.absolute)).filter(|_| renewable),
        }
    }

    async fn kept_refresh_token(
        &self,
        stored: &StoredConnection,
        authorization: &Authorization,
    ) -> Result<Option<SecretString>, BrokerError> {
        let same_client = stored
            .connection
            .tokens
            .as_ref()
            .is_some_and(|tokens| tokens.client_id == authorization.client_id);
        if !same_client || stored.connection.state == ConnectionState::ReauthorizationRequired {
            return Ok(None);
        }
        Ok(self.open_renewal(stored).await?.and_then(|renewal| renewal.get(REFRESH_TOKEN).cloned()))
    }

    /// What the next access token of a connection is got with.
    pub(crate) async fn open_renewal(
        &self,
        stored: &StoredConnection,
    ) -> Result<Option<Credential>, BrokerError> {
        let Some(sealed) = &stored.sealed else { return Ok(None) };
        let Some(renewal) = &sealed.renewal else { return Ok(None) };
        let row = stored.connection.id.to_string();
        let spot = renewal_spot(&stored.connection, &row, sealed.generation);
        self.open_fields(spot, renewal).await.map(Some)
    }

    pub(super) fn bare_connection(&self, authorization: &Authorization) -> Connection {
        let now = self.now();
        Connection {
            id: ConnectionId::new(now, random_bytes()),
            organization_id: authorization.organization_id.clone(),
            owner: authorization.owner.clone(),
            provider_id: authorization.provider_id.clone(),
            auth_method: authorization.auth_method,
            display_name: authorization.display_name.clone(),
            account: Account::default(),
            scopes: authorization.scopes.clone(),
            state: ConnectionState::Pending,
            state_reason: Text::default(),
            credential_summary: BTreeMap::new(),
            config: authorization.config.clone(),
            labels: authorization.labels.clone(),
            tokens: None,
            last_test: None,
            generation: Generation::FIRST,
            create_time: now,
            update_time: now,
        }
    }

    pub(super) fn new_connection(&self, authorization: &Authorization, issued: &Issued) -> Connection {
        Connection {
            account: issued.account.clone(),
            config: issued.config.clone(),
            ..self.bare_connection(authorization)
        }
    }
}

/// The part of what was issued that is released.
pub(crate) fn credential(issued: &Issued) -> Credential {
    Credential::from_fields([(ACCESS_TOKEN.to_owned(), issued.tokens.access_token.clone())].into())
}

/// What gets the next access token: the refresh token or, where the access token renews itself, nothing but the fact.
pub(crate) fn renewal_of(provider: &Provider, refresh_token: Option<SecretString>) -> Option<Credential> {
    let by_itself =
        provider.oauth2.as_deref().is_some_and(|recipe| recipe.refresh.with == RefreshWith::AccessToken);
    match refresh_token {
        Some(token) => Some(Credential::from_fields([(REFRESH_TOKEN.to_owned(), token)].into())),
        None => by_itself.then(|| Credential::from_fields(BTreeMap::new())),
    }
}

pub(crate) fn renewal_spot<'a>(connection: &'a Connection, row: &'a str, generation: Generation) -> Spot<'a> {
    Spot { organization_id: &connection.organization_id, row, field: "renewal", generation }
}

/// What is known of an account once a provider has told it again.
fn merged(known: &Account, told: &Account) -> Account {
    let or = |told: &Text, known: &Text| if told.is_empty() { known.clone() } else { told.clone() };
    Account {
        id: or(&told.id, &known.id),
        name: or(&told.name, &known.name),
        email: or(&told.email, &known.email),
    }
}
