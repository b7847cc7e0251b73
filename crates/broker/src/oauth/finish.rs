//! From a provider's answer to a connection.
//!
//! The answer is kept, sealed, before anything is made of it. So a process that dies afterwards costs nothing: another
//! one takes the flow over and finishes it. One that dies before has sent the code, which is never sent twice; the
//! flow ends, and the owner is asked to begin again.

use std::collections::BTreeMap;

use keyholder_catalog::{Method, Provider, TestedAccount};
use keyholder_domain::{
    Account, AuditKind, Authorization, AuthorizationFailure, AuthorizationState, Connection, ConnectionId,
    ConnectionState, TestClass, Text, Timestamp,
};
use keyholder_store::{Change, NewConnection, StoredAuthorization, StoredConnection};
use keyholder_upstream::oauth::{Client, Server, TokenFault, TokenRequest, TokenSet};
use keyholder_vault::{ExposeSecret as _, SecretString, random_bytes};

use super::authorize::{DEVICE_CODE, NONCE, VERIFIER};
use super::kept::KeptAnswer;
use super::server;
use crate::{Broker, BrokerError, Caller};

/// What an issued credential is called.
pub(crate) const ACCESS_TOKEN: &str = "access_token";

/// What gets the next access token, where that is a refresh token.
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";

/// Tokens, and everything that is known about them.
pub(crate) struct Issued {
    pub(crate) tokens: TokenSet,
    /// Settings from the redirect and from the answer.
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) account: Account,
    /// When they came: every lifetime is counted from here.
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
        // What the provider says of itself now counts for more than what it, or the caller, said before.
        let mut config = authorization.config.clone();
        config.extend(std::mem::take(&mut kept.learned));
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

/// Whether the URLs that a provider filled in may be called, as far as that needs no lookup.
fn urls_are_allowed(provider: &Provider, broker: &Broker, config: &BTreeMap<String, String>) -> bool {
    let mut errors = Vec::new();
    crate::credentials::check_config(provider, broker.url_rules(), config, &mut errors);
    errors.is_empty()
}

pub(crate) fn account_of(told: TestedAccount) -> Account {
    let text = |told: Option<String>| told.and_then(|told| Text::parse(&told).ok()).unwrap_or_default();
    Account { id: text(told.id), name: text(told.name), email: text(told.email) }
}
