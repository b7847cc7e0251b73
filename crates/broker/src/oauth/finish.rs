//! From a provider's answer to a connection.
//!
//! The answer is kept, sealed, before anything is made of it. So a process that dies afterwards costs nothing: another
//! one takes the flow over and finishes it. One that dies before has sent the code, which is never sent twice; the
//! flow ends, and the owner is asked to begin again.

use std::collections::BTreeMap;
use std::time::Duration;

use keyholder_catalog::oauth2::{RefreshWith, Reuse};
use keyholder_catalog::{Method, Provider, TestedAccount};
use keyholder_domain::{
    Account, AuditKind, Authorization, AuthorizationFailure, AuthorizationState, Connection, ConnectionId,
    ConnectionState, Generation, TestClass, Text, Timestamp, Tokens,
};
use keyholder_store::{Change, NewConnection, StoredAuthorization, StoredConnection};
use keyholder_upstream::oauth::{Client, Server, TokenAnswer, TokenFault, TokenRequest, TokenSet};
use keyholder_vault::{Credential, ExposeSecret as _, SecretString, random_bytes};
use zeroize::Zeroizing;

use super::authorize::{DEVICE_CODE, NONCE, VERIFIER, flow_spot};
use super::{Spot, server};
use crate::connections::{seal, summary};
use crate::{Broker, BrokerError, Caller};

/// What an issued credential is called.
pub(crate) const ACCESS_TOKEN: &str = "access_token";

/// What gets the next access token, where that is a refresh token.
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";

/// What the fields of a kept answer begin with that are settings from the redirect.
const LEARNED: &str = "config.";

/// How long an answer is tried to be kept while the database is away.
const KEEP_TRYING: Duration = Duration::from_secs(40);

/// Tokens, and everything that is known about them.
pub(crate) struct Issued {
    pub(crate) tokens: TokenSet,
    /// Settings from the redirect and from the answer.
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) account: Account,
    /// When they came: every lifetime is counted from here.
    pub(crate) time: Timestamp,
}

/// A provider's answer that was kept before anything was made of it.
pub(crate) struct KeptAnswer {
    pub(crate) answer: TokenAnswer,
    /// Settings from the redirect.
    pub(crate) learned: BTreeMap<String, String>,
    /// When it came: lifetimes count from here, however much later they are read.
    pub(crate) time: Timestamp,
}

impl Broker {
    /// Sends a code, keeps the answer, and finishes. The flow is ours until the lease ends.
    pub(crate) async fn exchange_code(
        &self,
        stored: StoredAuthorization,
        code: &SecretString,
        learned: BTreeMap<String, String>,
    ) -> Result<Authorization, BrokerError> {
        let authorization = &stored.authorization;
        let provider = self.known_provider(&authorization.provider_id)?;
        let secrets = self.flow_secrets(&stored).await?;
        let empty = SecretString::from("");
        let request = TokenRequest::Code {
            code,
            redirect_uri: &authorization.redirect_uri,
            verifier: secrets.get(VERIFIER).unwrap_or(&empty),
        };
        self.ask_and_finish(&stored, provider, &request, learned).await
    }

    /// Asks for a device's tokens once.
    pub(crate) async fn poll_device(&self, stored: StoredAuthorization) -> Result<(), BrokerError> {
        let provider = self.known_provider(&stored.authorization.provider_id)?;
        let secrets = self.flow_secrets(&stored).await?;
        let device_code = secrets.get(DEVICE_CODE).ok_or(BrokerError::AuthorizationNotReady)?;
        let request = TokenRequest::Device { device_code };
        self.ask_and_finish(&stored, provider, &request, BTreeMap::new()).await.map(drop)
    }

    /// Uses a refresh token that is taken over, and finishes.
    pub(crate) async fn refresh_once(
        &self,
        stored: StoredAuthorization,
        token: &SecretString,
    ) -> Result<Authorization, BrokerError> {
        let provider = self.known_provider(&stored.authorization.provider_id)?;
        // It was issued elsewhere; servers that want to hear a redirect URI know ours, for the client is the same.
        let redirect_uri = self.redirect_uri(&provider.id).unwrap_or_default();
        let scopes = &stored.authorization.scopes;
        let request = TokenRequest::Refresh { token, scopes, redirect_uri: &redirect_uri };
        self.ask_and_finish(&stored, provider, &request, BTreeMap::new()).await
    }

    async fn ask_and_finish(
        &self,
        stored: &StoredAuthorization,
        provider: &Provider,
        request: &TokenRequest<'_>,
        learned: BTreeMap<String, String>,
    ) -> Result<Authorization, BrokerError> {
        let authorization = &stored.authorization;
        let client = match self.client_of_flow(authorization, provider).await {
            // It was there when the flow was begun, and is gone.
            Err(BrokerError::OAuthClientMissing) => {
                return self.fail(stored, AuthorizationFailure::ClientRefused).await;
            }
            client => client?,
        };
        let speaks = server(provider, &client, &authorization.config)?;
        let answer = match self.0.upstream.ask_for_tokens(&speaks, request, self.now()).await {
            Ok(answer) => answer,
            Err(fault) => return self.not_granted(stored, fault).await,
        };
        // What cannot be used, or has an error beside them, may still hold tokens: they are kept to be given back. A device
        // that still waits has none.
        let holds_tokens =
            stored.poll_seconds.is_none() && speaks.tokens_in(&answer).iter().any(Option::is_some);
        match speaks.read(&answer, None, self.now()) {
            Err(fault) if !holds_tokens && !matches!(fault, TokenFault::Unusable(_) | TokenFault::Config) => {
                return self.not_granted(stored, fault).await;
            }
            _ => {}
        }
        let sealed = self.seal_answer(stored, &answer, learned).await?;
        self.keep_answer(authorization, &sealed).await?;
        let kept = StoredAuthorization { sealed_answer: Some(sealed), ..stored.clone() };
        self.finish_authorization(&kept, false).await
    }

    /// What becomes of a flow whose provider granted nothing.
    async fn not_granted(
        &self,
        stored: &StoredAuthorization,
        fault: TokenFault,
    ) -> Result<Authorization, BrokerError> {
        if let Some(seconds) = stored.poll_seconds {
            // A device's owner may still be typing. `slow_down` holds for good (RFC 8628, section 3.5); a server that
            // does not answer is asked half as often.
            let next = match fault {
                TokenFault::Pending => Some(seconds),
                TokenFault::SlowDown => Some(seconds + 5),
                TokenFault::Passing { .. } | TokenFault::NoAnswer(_) => {
                    Some((seconds * 2).min(300).max(seconds))
                }
                _ => None,
            };
            if let Some(seconds) = next {
                self.store().postpone_device(&stored.authorization, seconds).await?;
                return Ok(stored.authorization.clone());
            }
        }
        let failure = match fault {
            TokenFault::Dead | TokenFault::Request => AuthorizationFailure::CodeRefused,
            TokenFault::Client | TokenFault::Unrenderable(_) => AuthorizationFailure::ClientRefused,
            TokenFault::Denied => AuthorizationFailure::AccessDenied,
            TokenFault::Expired => AuthorizationFailure::Expired,
            TokenFault::Passing { .. } | TokenFault::NoAnswer(_) => AuthorizationFailure::ProviderUnavailable,
            TokenFault::Config => AuthorizationFailure::ConfigRefused,
            TokenFault::Unusable(_) | TokenFault::Pending | TokenFault::SlowDown => {
                AuthorizationFailure::AnswerUnusable
            }
        };
        tracing::warn!(
            provider_id = %stored.authorization.provider_id, authorization_id = %stored.authorization.id,
            reason = failure.as_str(), error = %fault, "an authorization came to nothing"
        );
        self.fail(stored, failure).await
    }

    /// Makes a connection of an answer that was kept. `confirmed`: the app that began the flow has proven it.
    pub(crate) async fn finish_authorization(
        &self,
        stored: &StoredAuthorization,
        confirmed: bool,
    ) -> Result<Authorization, BrokerError> {
        let authorization = &stored.authorization;
        let provider = self.known_provider(&authorization.provider_id)?;
        let method = provider.method(authorization.auth_method).ok_or(BrokerError::ProviderNotFound)?;
        let client = self.client_of_flow(authorization, provider).await?;
        let mut kept = self.open_answer(stored).await?;
        let mut config = std::mem::take(&mut kept.learned);
        config.extend(authorization.config.clone());
        let secrets = self.flow_secrets(stored).await?;
        let nonce = secrets.get(NONCE);
        // A kept answer that is an error stays one, however passing: the code in it is spent.
        let speaks = server(provider, &client, &config)?;
        if let Err(fault) = speaks.read(&kept.answer, nonce, kept.time) {
            return self.not_granted(stored, fault).await;
        }
        let issued = self.issue(provider, method, &client, config, &kept, nonce).await;
        match issued {
            Ok(mut issued) => {
                if issued.tokens.refresh_token.is_none() {
                    // One that was taken over stays good where the provider gives no newer one.
                    issued.tokens.refresh_token = secrets.get(REFRESH_TOKEN).cloned();
                }
                self.apply(stored, provider, issued, confirmed).await
            }
            Err(TokenFault::Passing { .. } | TokenFault::NoAnswer(_)) => {
                // The tokens are here; only what is asked with them has to wait. Somebody asks again when the lease ends.
                Ok(authorization.clone())
            }
            Err(fault) => self.not_granted(stored, fault).await,
        }
    }

    /// Makes tokens of an answer and the moment that it came, takes the second step where there is one, and learns whose
    /// they are.
    pub(crate) async fn issue(
        &self,
        provider: &Provider,
        method: &Method,
        client: &Client,
        config: BTreeMap<String, String>,
        kept: &KeptAnswer,
        nonce: Option<&SecretString>,
    ) -> Result<Issued, TokenFault> {
        let recipe = provider.oauth2.as_deref().ok_or(TokenFault::Unrenderable("there is no recipe"))?;
        let speaks = Server { provider, recipe, client, config: &config };
        let mut time = kept.time;
        let mut tokens = speaks.read(&kept.answer, nonce, time)?;
        if recipe.exchange.is_some() && method.method == keyholder_domain::AuthMethod::OAuth2Code {
            let request = TokenRequest::Exchange { token: &tokens.access_token };
            let answer = self.0.upstream.ask_for_tokens(&speaks, &request, self.now()).await?;
            time = self.now();
            let longer = speaks.read(&answer, None, time)?;
            let mut config = tokens.config;
            config.extend(longer.config);
            tokens = TokenSet {
                scopes: longer.scopes.or(tokens.scopes),
                account: longer.account.or(tokens.account),
                config,
                ..longer
            };
        }
        let mut all = config.clone();
        all.extend(tokens.config.clone());
        if !urls_are_allowed(provider, self, &all) {
            return Err(TokenFault::Config);
        }
        let account = match &tokens.account {
            Some(account) => Some(account.clone()),
            None => self.identify(provider, method, client, &tokens.access_token, &all).await?,
        };
        Ok(Issued { tokens, config: all, account: account.map(account_of).unwrap_or_default(), time })
    }

    /// Whose a token is, as far as the provider tells.
    pub(crate) async fn account_of_token(
        &self,
        provider: &Provider,
        method: &Method,
        client: &Client,
        token: &SecretString,
        config: &BTreeMap<String, String>,
    ) -> Result<Account, TokenFault> {
        let told = self.identify(provider, method, client, token, config).await?;
        Ok(told.map(account_of).unwrap_or_default())
    }

    /// Asks the provider whose a token is, if its definition says how.
    async fn identify(
        &self,
        provider: &Provider,
        method: &Method,
        client: &Client,
        token: &SecretString,
        config: &BTreeMap<String, String>,
    ) -> Result<Option<TestedAccount>, TokenFault> {
        let Some(test) = &method.test else { return Ok(None) };
        let field = |name: &str| (name == ACCESS_TOKEN).then(|| token.expose_secret());
        let setting = |name: &str| match name {
            "client_id" => Some(client.id.as_str()),
            name => config.get(name).map(String::as_str),
        };
        let Ok(Some(request)) = method.render_test(provider, &field, &setting) else { return Ok(None) };
        let tested = self.0.upstream.test(test, request).await;
        match tested.class {
            TestClass::Good => Ok(tested.account),
            TestClass::Dead => {
                Err(TokenFault::Unusable("the provider does not take the token that it issued"))
            }
            TestClass::Limited | TestClass::Unavailable => Err(TokenFault::Passing { retry_after: None }),
            // The scopes that were granted need not let us ask.
            TestClass::Forbidden | TestClass::Unclear | TestClass::Refused => Ok(None),
        }
    }

    /// Puts tokens where they belong: into the connection that is authorized anew, into the one that this owner has
    /// for this account already, or into a new one. Everything in one transaction.
    async fn apply(
        &self,
        stored: &StoredAuthorization,
        provider: &Provider,
        issued: Issued,
        confirmed: bool,
    ) -> Result<Authorization, BrokerError> {
        let from = stored.authorization.state;
        let mut authorization = stored.authorization.clone();
        let mut change = self.store().change(&authorization.organization_id).await?;
        let current = change.stored_authorization(authorization.id).await?;
        if current.is_none_or(|current| current.authorization.state != from) {
            return Err(BrokerError::Contended);
        }
        let target = match self.target(&mut change, &authorization, &issued.account).await? {
            Ok(target) => target,
            Err(failure) => {
                drop(change);
                return self.fail(stored, failure).await;
            }
        };
        let waits = !confirmed && !authorization.completion_challenge.is_empty();
        if waits {
            if target.is_none() {
                let pending = self.new_connection(&authorization, &issued);
                change
                    .insert_connection(&NewConnection { connection: &pending, sealed: None, request: None })
                    .await?;
                authorization.connection_id = Some(pending.id);
            }
            authorization.state = AuthorizationState::AwaitingCompletion;
        } else {
            let connection =
                self.store_tokens(&mut change, &authorization, provider, target, &issued).await?;
            authorization.connection_id = Some(connection.id);
            authorization.state = AuthorizationState::Completed;
        }
        if !change.move_authorization(from, &authorization).await? {
            return Err(BrokerError::Contended);
        }
        change.commit().await?;
        Ok(authorization)
    }

    /// The connection that tokens of this account go into, if it is there.
    async fn target(
        &self,
        change: &mut Change,
        authorization: &Authorization,
        account: &Account,
    ) -> Result<Result<Option<StoredConnection>, AuthorizationFailure>, BrokerError> {
        let named = match authorization.connection_id {
            Some(id) => match change.stored_connection(id).await? {
                Some(stored) if stored.connection.state != ConnectionState::Deleted => Some(stored),
                _ => return Ok(Err(AuthorizationFailure::ConnectionGone)),
            },
            None => None,
        };
        if authorization.reauthorizes {
            let known = named.as_ref().map(|stored| &stored.connection.account.id);
            let other = known.is_some_and(|known| !known.is_empty() && *known != account.id);
            return Ok(if other { Err(AuthorizationFailure::AccountMismatch) } else { Ok(named) });
        }
        if account.id.is_empty() {
            return Ok(Ok(named));
        }
        let id = named
            .as_ref()
            .map_or_else(|| ConnectionId::new(self.now(), random_bytes()), |stored| stored.connection.id);
        let probe = Connection { id, account: account.clone(), ..self.bare_connection(authorization) };
        let Some(same) = change.same_account(&probe, "").await? else { return Ok(Ok(named)) };
        if let Some(mut pending) = named {
            // Another flow has connected the same account meanwhile: one connection stays.
            pending.connection.state = ConnectionState::Deleted;
            self.grow(&mut pending.connection);
            change.update_connection(&pending).await?;
        }
        Ok(Ok(change.stored_connection(same).await?))
    }

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

    fn bare_connection(&self, authorization: &Authorization) -> Connection {
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

    fn new_connection(&self, authorization: &Authorization, issued: &Issued) -> Connection {
        Connection {
            account: issued.account.clone(),
            config: issued.config.clone(),
            ..self.bare_connection(authorization)
        }
    }

    /// Ends a flow for good. Tokens that it may hold are given back, and a connection that waited for it goes.
    pub(crate) async fn fail(
        &self,
        stored: &StoredAuthorization,
        failure: AuthorizationFailure,
    ) -> Result<Authorization, BrokerError> {
        let from = stored.authorization.state;
        let mut authorization = stored.authorization.clone();
        let mut change = self.store().change(&authorization.organization_id).await?;
        authorization.state = AuthorizationState::Failed;
        authorization.failure = Some(failure);
        if let Some(id) = authorization.connection_id.filter(|_| !authorization.reauthorizes)
            && let Some(mut pending) = change.stored_connection(id).await?
            && pending.connection.state == ConnectionState::Pending
        {
            pending.connection.state = ConnectionState::Deleted;
            pending.connection.config.clear();
            self.grow(&mut pending.connection);
            change.update_connection(&pending).await?;
        }
        if failure != AuthorizationFailure::AccountMismatch && !takes_over(stored) {
            // Giving back the tokens of another account could end what somebody else has at the provider.
            self.give_back_unused(&mut change, stored).await?;
        }
        if !change.move_authorization(from, &authorization).await? {
            return Err(BrokerError::Contended);
        }
        let kind = AuditKind::AuthorizationFailed;
        self.record_authorization(&mut change, kind, &authorization, failure.as_str()).await?;
        change.commit().await?;
        Ok(authorization)
    }

    // === The kept answer ===

    async fn flow_secrets(&self, stored: &StoredAuthorization) -> Result<Credential, BrokerError> {
        let sealed = stored.sealed_flow.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let row = stored.authorization.id.to_string();
        self.open_fields(flow_spot(&stored.authorization, &row), sealed).await
    }

    async fn seal_answer(
        &self,
        stored: &StoredAuthorization,
        answer: &TokenAnswer,
        learned: BTreeMap<String, String>,
    ) -> Result<String, BrokerError> {
        let authorization = &stored.authorization;
        let sealed_flow = stored.sealed_flow.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let key = self.key_of(&authorization.organization_id, sealed_flow).await?;
        let body = str::from_utf8(&answer.body).unwrap_or_default();
        let mut fields: BTreeMap<String, SecretString> = BTreeMap::from([
            ("status".to_owned(), answer.status.to_string().into()),
            ("content_type".to_owned(), answer.content_type.as_str().into()),
            ("body".to_owned(), body.into()),
            ("time".to_owned(), self.now().unix_timestamp().to_string().into()),
        ]);
        fields.extend(learned.into_iter().map(|(name, value)| (format!("{LEARNED}{name}"), value.into())));
        let row = authorization.id.to_string();
        Ok(Self::seal_fields(&key, answer_spot(authorization, &row), &Credential::from_fields(fields)))
    }

    /// Keeps an answer, and goes on trying while the database is away: it cannot be had a second time.
    async fn keep_answer(&self, authorization: &Authorization, sealed: &str) -> Result<(), BrokerError> {
        let kept = async {
            loop {
                match self.store().keep_answer(authorization, sealed).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => return Err(BrokerError::Contended),
                    Err(error) => {
                        tracing::warn!(%error, authorization_id = %authorization.id, "an answer cannot be kept; trying again");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
        };
        tokio::time::timeout(KEEP_TRYING, kept).await.unwrap_or(Err(BrokerError::Contended))
    }

    /// A kept answer.
    pub(crate) async fn open_answer(&self, stored: &StoredAuthorization) -> Result<KeptAnswer, BrokerError> {
        let authorization = &stored.authorization;
        let sealed = stored.sealed_answer.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let row = authorization.id.to_string();
        let fields = self.open_fields(answer_spot(authorization, &row), sealed).await?;
        let text = |name: &str| fields.get(name).map(|value| value.expose_secret()).unwrap_or_default();
        let answer = TokenAnswer {
            status: text("status").parse().unwrap_or(0),
            content_type: text("content_type").to_owned(),
            retry_after: None,
            body: Zeroizing::new(text("body").as_bytes().to_vec()),
        };
        let learned = fields.names().filter_map(|name| {
            let value = fields.get(name)?.expose_secret().to_owned();
            Some((name.strip_prefix(LEARNED)?.to_owned(), value))
        });
        let time = text("time").parse().ok().and_then(|time| Timestamp::from_unix_timestamp(time).ok());
        // Without its moment, it came when the flow began: a token must not be believed to live longer than it does.
        Ok(KeptAnswer { answer, time: time.unwrap_or(authorization.create_time), learned: learned.collect() })
    }
}

/// Whether a flow takes over a refresh token of elsewhere. It may still be used there: it is not ours to end.
fn takes_over(stored: &StoredAuthorization) -> bool {
    stored.authorization.redirect_uri.is_empty() && stored.poll_seconds.is_none()
}

/// For whom a flow's own steps are done: whoever began it.
pub(crate) fn caller_of(authorization: &Authorization) -> Caller<'_> {
    Caller {
        workload: &authorization.started_by,
        organization_id: &authorization.organization_id,
        may_use: &|_| true,
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

fn answer_spot<'a>(authorization: &'a Authorization, row: &'a str) -> Spot<'a> {
    Spot { field: "answer", ..flow_spot(authorization, row) }
}

/// Whether the URLs that a provider filled in may be called, as far as that needs no lookup.
fn urls_are_allowed(provider: &Provider, broker: &Broker, config: &BTreeMap<String, String>) -> bool {
    let mut errors = Vec::new();
    crate::credentials::check_config(provider, broker.url_rules(), config, &mut errors);
    errors.is_empty()
}

fn account_of(told: TestedAccount) -> Account {
    let text = |told: Option<String>| told.and_then(|told| Text::parse(&told).ok()).unwrap_or_default();
    Account { id: text(told.id), name: text(told.name), email: text(told.email) }
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
