//! Connections whose credential is issued without a browser: to a client of the owner's own, for an assertion, or
//! elsewhere before, to be looked after here from now on.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyholder_catalog::oauth2::Reuse;
use keyholder_catalog::{Method, Provider};
use keyholder_domain::{
    AuditKind, AuthMethod, Authorization, AuthorizationFailure, AuthorizationId, AuthorizationState,
    Connection, ConnectionId, ConnectionState, Generation, Scopes, Text, Tokens,
};
use keyholder_store::{NewAuthorization, StoredAuthorization};
use keyholder_upstream::oauth::{Client, TokenFault, TokenRequest, TokenSet};
use keyholder_vault::{Credential, ExposeSecret as _, SecretString, random_bytes};

use super::authorize::{flow_spot, provider_fault};
use super::browser::LEASE;
use super::finish::{ACCESS_TOKEN, Issued, REFRESH_TOKEN};
use super::kept::KeptAnswer;
use super::tokens::{credential, renewal_of, renewal_spot};
use super::{default_scopes, server};
use crate::audit::Refused;
use crate::connections::{CreateConnection, account_of, same_request, seal, summary};
use crate::credentials::{check_config, check_credential};
use crate::error::FieldError;
use crate::{Broker, BrokerError, Caller};

/// A credential that was issued, with what gets the next one.
struct Got {
    client_id: Text,
    issued: Issued,
    renewal: Option<Credential>,
}

impl Broker {
    /// Connects an account by a method whose credential is issued, without asking anybody for consent.
    pub(crate) async fn create_issued(
        &self,
        caller: &Caller<'_>,
        mut create: CreateConnection,
        provider: &Provider,
        method: &Method,
    ) -> Result<Connection, BrokerError> {
        if method.fields.is_empty() {
            // Without a client, nothing else about the request matters.
            self.client(caller.organization_id, provider).await?;
        }
        let mut errors = Vec::new();
        check_config(provider, self.url_rules(), &create.config, &mut errors);
        let given = match method.method {
            AuthMethod::OAuth2Code | AuthMethod::OAuth2Device => {
                check_tokens(&create.credentials, &mut errors)
            }
            _ if method.fields.is_empty() && create.credentials.is_empty() => {
                Credential::from_fields(BTreeMap::new())
            }
            _ => check_credential(method, create.credentials.clone(), &mut errors),
        };
        create.account = account_of(method, &given, create.account, &mut errors);
        if !errors.is_empty() {
            let about = Refused { provider_id: &provider.id, connection: None, config: &create.config };
            return Err(self.refuse_fields(caller, &about, errors).await);
        }
        let request_fingerprint = match &create.idempotency {
            None => None,
            Some(request) => {
                let mut change = self.store().change(caller.organization_id).await?;
                let key = self.sealing_key(caller.organization_id, &mut change).await?;
                let fingerprint = key.fingerprint_bytes("create_connection", &request.body);
                if let Some(found) = change.remembered_connection(&request.request_id).await? {
                    return same_request(found.fingerprint == fingerprint, found.made.connection);
                }
                if let Some(found) = change.remembered_authorization(&request.request_id).await? {
                    drop(change);
                    let proven = same_request(found.fingerprint == fingerprint, found.made.authorization)?;
                    let id = proven.connection_id.ok_or(BrokerError::ProviderRefused)?;
                    return self.get_connection(caller, id).await;
                }
                change.commit().await?;
                Some(fingerprint)
            }
        };
        let scopes = if create.scopes.is_empty() {
            default_scopes(provider, method).clone()
        } else {
            create.scopes.clone()
        };
        if create.prove_refresh_token {
            let token = given.get(REFRESH_TOKEN).filter(|_| is_import(method.method)).cloned();
            let problem = "goes with a refresh_token only";
            let token = token.ok_or_else(|| FieldError::invalid("prove_refresh_token", problem))?;
            return self.prove(caller, create, provider, method, scopes, token, request_fingerprint).await;
        }
        let got = self.get(caller, &create, provider, method, given, &scopes).await?;
        self.insert_issued(caller, create, provider, method, scopes, got, request_fingerprint).await
    }

    async fn get(
        &self,
        caller: &Caller<'_>,
        create: &CreateConnection,
        provider: &Provider,
        method: &Method,
        given: Credential,
        scopes: &Scopes,
    ) -> Result<Got, BrokerError> {
        let client = self.client_for(caller, provider, method, &given).await?;
        let speaks = server(provider, &client, &create.config)?;
        let request = match method.method {
            AuthMethod::OAuth2ClientCredentials => TokenRequest::Client { scopes },
            AuthMethod::JwtBearer => TokenRequest::Assertion { fields: &given, scopes },
            _ => return self.import(create, provider, method, &client, given).await,
        };
        let answer = self.0.upstream.ask_for_tokens(&speaks, &request, self.now()).await;
        let fault = |fault| match (fault, given.get("client_id")) {
            // The owner's own client: no operator has anything to look at.
            (TokenFault::Client, Some(_)) => BrokerError::ProviderRefused,
            (fault, _) => provider_fault(fault),
        };
        let kept = KeptAnswer { answer: answer.map_err(fault)?, learned: BTreeMap::new(), time: self.now() };
        let issued = self.issue(provider, method, &client, create.config.clone(), &kept, None).await;
        let issued = issued.map_err(fault)?;
        let client_id = Text::parse(&client.id).map_err(|_| BrokerError::OAuthClientMissing)?;
        Ok(Got { client_id, issued, renewal: Some(given) })
    }

    /// The client that asks: the owner's own where the method lets them type one in, nobody where an assertion says who
    /// asks, else the one that is configured.
    async fn client_for(
        &self,
        caller: &Caller<'_>,
        provider: &Provider,
        method: &Method,
        given: &Credential,
    ) -> Result<Arc<Client>, BrokerError> {
        match (method.method, given.get("client_id")) {
            (AuthMethod::JwtBearer, _) => {
                Ok(Arc::new(Client { id: String::new(), secrets: Vec::new(), key: None }))
            }
            (AuthMethod::OAuth2ClientCredentials, Some(id)) => Ok(Arc::new(Client {
                id: id.expose_secret().to_owned(),
                secrets: given.get("client_secret").cloned().into_iter().collect(),
                key: None,
            })),
            _ => self.client(caller.organization_id, provider).await,
        }
    }

    /// Takes over tokens that were issued elsewhere, to the same client. Nobody else may refresh them from now on.
    async fn import(
        &self,
        create: &CreateConnection,
        provider: &Provider,
        method: &Method,
        client: &Client,
        given: Credential,
    ) -> Result<Got, BrokerError> {
        let token = |name: &str| given.get(name).cloned();
        let access_token = token(ACCESS_TOKEN).unwrap_or_else(|| SecretString::from(""));
        let answer = TokenSet {
            access_token,
            refresh_token: token(REFRESH_TOKEN),
            scopes: None,
            expire_time: create.token_expire_time,
            refresh_expire_time: None,
            account: None,
            config: BTreeMap::new(),
        };
        let account = self
            .account_of_token(provider, method, client, &answer.access_token, &create.config)
            .await
            .map_err(provider_fault)?;
        let renewal = renewal_of(provider, answer.refresh_token.clone());
        let client_id = Text::parse(&client.id).map_err(|_| BrokerError::OAuthClientMissing)?;
        let issued = Issued { tokens: answer, config: create.config.clone(), account, time: self.now() };
        Ok(Got { client_id, issued, renewal })
    }

    /// Takes a refresh token over by using it. It goes the way of a flow whose owner has just consented, so that what the
    /// provider answers is kept before anything is made of it, and finished by somebody else if we are stopped.
    #[expect(clippy::too_many_arguments, reason = "what was asked for, and what it is asked with")]
    async fn prove(
        &self,
        caller: &Caller<'_>,
        create: CreateConnection,
        provider: &Provider,
        method: &Method,
        scopes: Scopes,
        token: SecretString,
        request_fingerprint: Option<String>,
    ) -> Result<Connection, BrokerError> {
        let client = self.client(caller.organization_id, provider).await?;
        let now = self.now();
        let authorization = Authorization {
            id: AuthorizationId::new(now, random_bytes()),
            organization_id: caller.organization_id.clone(),
            owner: create.owner,
            provider_id: create.provider_id,
            auth_method: method.method,
            connection_id: None,
            reauthorizes: false,
            display_name: create.display_name,
            labels: create.labels,
            config: create.config,
            scopes,
            client_id: Text::parse(&client.id).map_err(|_| BrokerError::OAuthClientMissing)?,
            redirect_uri: String::new(),
            return_url: String::new(),
            completion_challenge: Text::default(),
            state: AuthorizationState::Exchanging,
            failure: None,
            user_code: Text::default(),
            verification_uri: String::new(),
            verification_uri_complete: String::new(),
            started_by: caller.workload.clone(),
            create_time: now,
            expire_time: now + self.oauth().lifetime,
        };
        let secrets = Credential::from_fields([(REFRESH_TOKEN.to_owned(), token.clone())].into());
        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let row = authorization.id.to_string();
        let sealed_flow = Self::seal_fields(&key, flow_spot(&authorization, &row), &secrets);
        let request = create
            .idempotency
            .as_ref()
            .map(|request| &request.request_id)
            .zip(request_fingerprint.as_deref());
        change
            .insert_authorization(&NewAuthorization {
                authorization: &authorization,
                ticket_hash: None,
                state_hash: None,
                sealed_flow: &sealed_flow,
                poll_seconds: None,
                lease: Some(LEASE),
                request,
            })
            .await?;
        self.record_authorization(&mut change, AuditKind::AuthorizationStarted, &authorization, "").await?;
        change.commit().await?;
        let stored = StoredAuthorization {
            authorization,
            browser_hash: None,
            sealed_flow: Some(sealed_flow),
            sealed_answer: None,
            poll_seconds: None,
        };
        // In a task of its own: a caller that goes away must not cost the owner their token.
        let broker = self.clone();
        let proving = tokio::spawn(async move { broker.refresh_once(stored, &token).await });
        let done = proving.await.unwrap_or(Err(BrokerError::Contended))?;
        match (done.state, done.connection_id) {
            (AuthorizationState::Completed, Some(id)) => self.get_connection(caller, id).await,
            (AuthorizationState::Failed, _) => Err(match done.failure {
                Some(AuthorizationFailure::ClientRefused) => BrokerError::OAuthClientRefused,
                Some(AuthorizationFailure::ProviderUnavailable) => BrokerError::ProviderUnavailable,
                _ => BrokerError::ProviderRefused,
            }),
            // The tokens are here, and whose they are could not be asked yet: it is finished in the background.
            _ => Err(BrokerError::ProviderUnavailable),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what was asked for, and what came of it")]
    async fn insert_issued(
        &self,
        caller: &Caller<'_>,
        create: CreateConnection,
        provider: &Provider,
        method: &Method,
        asked: Scopes,
        got: Got,
        request_fingerprint: Option<String>,
    ) -> Result<Connection, BrokerError> {
        let now = self.now();
        let Got { client_id, issued, renewal } = got;
        let credential = credential(&issued);
        let expected =
            provider.oauth2.as_deref().is_some_and(|recipe| recipe.refresh.reuse != Reuse::NoRefresh);
        let renewable = renewal.is_some();
        let account = if create.account.id.is_empty() { issued.account.clone() } else { create.account };
        let connection = Connection {
            id: ConnectionId::new(now, random_bytes()),
            organization_id: caller.organization_id.clone(),
            owner: create.owner,
            provider_id: create.provider_id,
            auth_method: method.method,
            display_name: create.display_name,
            account,
            scopes: issued.tokens.scopes.clone().unwrap_or_else(|| asked.clone()),
            state: ConnectionState::Active,
            state_reason: Text::default(),
            credential_summary: summary(&credential),
            config: issued.config.clone(),
            labels: create.labels,
            tokens: Some(Tokens {
                client_id,
                asked,
                expire_time: issued.tokens.expire_time,
                renewable,
                renewal_missing: expected && !renewable && issued.tokens.expire_time.is_some(),
                idle_expire_time: issued.tokens.refresh_expire_time,
                absolute_expire_time: None,
            }),
            last_test: None,
            generation: Generation::FIRST,
            create_time: now,
            update_time: now,
        };
        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let mut sealed = seal(&key, &connection, &credential);
        if let Some(renewal) = &renewal {
            let row = connection.id.to_string();
            let spot = renewal_spot(&connection, &row, connection.generation);
            sealed.renewal = Some(Self::seal_fields(&key, spot, renewal));
            if !matches!(method.method, AuthMethod::OAuth2Code | AuthMethod::OAuth2Device) {
                // The access token is another one each time; what the owner typed in is what tells accounts apart.
                sealed.fingerprint = key.fingerprint("renewal", renewal);
            }
        }
        let request = create
            .idempotency
            .as_ref()
            .map(|request| &request.request_id)
            .zip(request_fingerprint.as_deref());
        self.keep_connection(caller, change, connection, &sealed, request).await
    }
}

const fn is_import(method: AuthMethod) -> bool {
    matches!(method, AuthMethod::OAuth2Code | AuthMethod::OAuth2Device)
}

/// Tokens that were issued elsewhere.
fn check_tokens(given: &BTreeMap<String, SecretString>, errors: &mut Vec<FieldError>) -> Credential {
    let known = [ACCESS_TOKEN, REFRESH_TOKEN];
    if given.keys().any(|name| !known.contains(&name.as_str())) {
        let problem =
            "has a field that is not asked for; tokens to take over are access_token and refresh_token";
        errors.push(FieldError::invalid("credentials", problem));
    }
    if !given.contains_key(ACCESS_TOKEN) {
        let problem = "must be given; to ask the owner for consent, call StartAuthorization";
        errors.push(FieldError::invalid("credentials.access_token", problem));
    }
    for name in known {
        let Some(token) = given.get(name) else { continue };
        let text = token.expose_secret();
        if text.is_empty() || text.len() > 64 * 1024 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = "must be 1 to 65536 visible ASCII characters";
            errors.push(FieldError::invalid(format!("credentials.{name}"), problem));
        }
    }
    Credential::from_fields(given.clone())
}
