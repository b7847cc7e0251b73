//! An authorization as the app sees it: begun, looked at, completed.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keyholder_catalog::Provider;
use keyholder_domain::{
    AuditKind, AuthMethod, Authorization, AuthorizationId, AuthorizationState, ConnectionId, Generation,
    Labels, Principal, ProviderId, Scopes, Text,
};
use keyholder_store::{Change, NewAuditEvent, NewAuthorization, StoredAuthorization};
use keyholder_upstream::oauth::{Client, Consent, TokenFault};
use keyholder_vault::{Credential, ExposeSecret as _, SecretString, random_bytes, sha256};

use super::browser::BrowserAnswer;
use super::plan::{Plan, not_allowed};
use super::{Spot, server};
use crate::connections::same_request;
use crate::error::FieldError;
use crate::{Broker, BrokerError, Caller, Idempotency};

/// What begins an authorization.
#[derive(Debug)]
pub struct StartAuthorization {
    /// Whose account it is. Not for a connection that is authorized anew: its owner stays.
    pub owner: Option<Principal>,
    /// At which provider. Not for a connection that is authorized anew.
    pub provider_id: Option<ProviderId>,
    /// The connection that is authorized anew.
    pub connection_id: Option<ConnectionId>,
    /// Through a browser or a device; if not given, through a browser.
    pub auth_method: Option<AuthMethod>,
    /// The provider's settings.
    pub config: BTreeMap<String, String>,
    /// A name for people.
    pub display_name: Text,
    /// The caller's own marks.
    pub labels: Labels,
    /// The scopes to ask for. With no capabilities either, the provider's default.
    pub scopes: Scopes,
    /// The provider's capabilities whose scopes to ask for.
    pub capabilities: Vec<String>,
    /// Where the browser goes in the end.
    pub return_url: Option<String>,
    /// The redirect URI of an app that forwards code and state itself.
    pub redirect_uri: Option<String>,
    /// What must be known to complete it: base64url of the SHA-256 of a verifier.
    pub completion_challenge: Text,
    /// What makes the start idempotent.
    pub idempotency: Option<Idempotency>,
}

/// An authorization that was begun.
#[derive(Debug)]
pub struct Started {
    /// The authorization.
    pub authorization: Authorization,
    /// The address to send the owner's browser to. Whoever has it can consent with their own account: it is for the
    /// owner alone. None for a device.
    pub authorization_url: Option<SecretString>,
}

/// What completes an authorization.
#[derive(Debug)]
pub struct Completion {
    /// The verifier of the challenge, if there was one.
    pub verifier: Option<SecretString>,
    /// What an app that forwards code and state itself got back.
    pub forwarded: Option<BrowserAnswer>,
}

/// The secrets of a flow.
pub(crate) const STATE: &str = "state";
pub(crate) const VERIFIER: &str = "verifier";
pub(crate) const NONCE: &str = "nonce";
pub(crate) const TICKET: &str = "ticket";
pub(crate) const DEVICE_CODE: &str = "device_code";

impl Broker {
    /// Begins an authorization. The same request sent again with the same request id begins nothing new.
    pub async fn start_authorization(
        &self,
        caller: &Caller<'_>,
        start: StartAuthorization,
    ) -> Result<Started, BrokerError> {
        let fingerprint = match self.remembered(caller, start.idempotency.as_ref()).await? {
            Remembered::Made(started) => return Ok(*started),
            Remembered::New(fingerprint) => fingerprint,
        };
        let idempotency = start.idempotency.as_ref().map(|request| request.request_id.clone());
        let mut plan = self.plan(caller, start).await?;
        let url = match plan.method.method {
            AuthMethod::OAuth2Device => {
                self.ask_for_device(&mut plan).await?;
                None
            }
            _ => Some(self.link(&plan)?),
        };
        let Plan { authorization, secrets, .. } = &plan;
        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let row = authorization.id.to_string();
        let hash = |name: &str| secrets.get(name).map(|secret| sha256(secret.expose_secret().as_bytes()));
        change
            .insert_authorization(&NewAuthorization {
                authorization,
                ticket_hash: hash(TICKET).as_ref().map(<[u8; 32]>::as_slice),
                state_hash: hash(STATE).as_ref().map(<[u8; 32]>::as_slice),
                sealed_flow: &Self::seal_fields(&key, flow_spot(authorization, &row), secrets),
                poll_seconds: plan.poll_seconds(),
                lease: None,
                request: idempotency.as_ref().zip(fingerprint.as_deref()),
            })
            .await?;
        self.record_authorization(&mut change, AuditKind::AuthorizationStarted, authorization, "").await?;
        change.commit().await?;
        Ok(Started { authorization: plan.authorization, authorization_url: url })
    }

    /// Reads an authorization.
    pub async fn get_authorization(
        &self,
        caller: &Caller<'_>,
        id: AuthorizationId,
    ) -> Result<Authorization, BrokerError> {
        let stored = self.store().authorization(caller.organization_id, id).await?;
        stored.map(|stored| stored.authorization).ok_or(BrokerError::AuthorizationNotFound)
    }

    /// Completes an authorization: hands over what an app got back itself, and proves that it is the app that began
    /// it. Completing twice is the same as once.
    pub async fn complete_authorization(
        &self,
        caller: &Caller<'_>,
        id: AuthorizationId,
        completion: Completion,
    ) -> Result<Authorization, BrokerError> {
        let stored = self.store().authorization(caller.organization_id, id).await?;
        let mut stored = stored.ok_or(BrokerError::AuthorizationNotFound)?;
        self.check_provider(caller, &stored.authorization.provider_id)?;
        check_verifier(&stored.authorization, completion.verifier.as_ref())?;
        if let Some(answer) = completion.forwarded {
            if !self.is_forwarded(&stored.authorization) {
                let problem = "goes only with a redirect_uri of the app's own";
                return Err(FieldError::invalid("redirect_parameters", problem).into());
            }
            if stored.authorization.state == AuthorizationState::Pending {
                stored = self.take_forwarded(stored, answer).await?;
            }
        }
        match stored.authorization.state {
            AuthorizationState::Completed => Ok(stored.authorization),
            AuthorizationState::AwaitingCompletion => self.finish_authorization(&stored, true).await,
            AuthorizationState::Failed => Err(BrokerError::AuthorizationFailed(stored.authorization.failure)),
            AuthorizationState::Pending | AuthorizationState::Exchanging => {
                Err(BrokerError::AuthorizationNotReady)
            }
        }
    }

    /// Whether the app forwards code and state itself, so that no browser comes to us.
    pub(crate) fn is_forwarded(&self, authorization: &Authorization) -> bool {
        self.oauth().app_redirect_uris.contains(&authorization.redirect_uri)
    }

    async fn remembered(
        &self,
        caller: &Caller<'_>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Remembered, BrokerError> {
        let Some(request) = idempotency else { return Ok(Remembered::New(None)) };
        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let fingerprint = key.fingerprint_bytes("start_authorization", &request.body);
        let Some(found) = change.remembered_authorization(&request.request_id).await? else {
            // With its data key, which the fingerprint is made with.
            change.commit().await?;
            return Ok(Remembered::New(Some(fingerprint)));
        };
        drop(change);
        let stored = same_request(found.fingerprint == fingerprint, found.made)?;
        let url = self.link_again(&stored).await?;
        let started = Started { authorization: stored.authorization, authorization_url: url };
        Ok(Remembered::Made(Box::new(started)))
    }

    /// The link for the owner's browser: to our own start page or, where the app takes the answer itself, straight to
    /// the provider.
    fn link(&self, plan: &Plan<'_>) -> Result<SecretString, BrokerError> {
        let to_provider = self.provider_link(&plan.authorization, plan.provider, &plan.client, &plan.secrets);
        // Also for our own page: what cannot be made later is told now.
        let to_provider = to_provider?;
        if self.is_forwarded(&plan.authorization) {
            return Ok(to_provider);
        }
        Ok(self.start_link(&plan.secrets))
    }

    async fn link_again(&self, stored: &StoredAuthorization) -> Result<Option<SecretString>, BrokerError> {
        let authorization = &stored.authorization;
        let Some(sealed) = &stored.sealed_flow else { return Ok(None) };
        if authorization.auth_method == AuthMethod::OAuth2Device {
            return Ok(None);
        }
        let row = authorization.id.to_string();
        let secrets = self.open_fields(flow_spot(authorization, &row), sealed).await?;
        if self.is_forwarded(authorization) {
            let provider = self.known_provider(&authorization.provider_id)?;
            let client = self.client_of_flow(authorization, provider).await?;
            return self.provider_link(authorization, provider, &client, &secrets).map(Some);
        }
        Ok(Some(self.start_link(&secrets)))
    }

    pub(super) fn start_link(&self, secrets: &Credential) -> SecretString {
        let ticket = secrets.get(TICKET).map_or("", |ticket| ticket.expose_secret());
        SecretString::from(format!("{}/connect/{ticket}", self.oauth().public_url))
    }

    /// The provider's own page of consent.
    pub(crate) fn provider_link(
        &self,
        authorization: &Authorization,
        provider: &Provider,
        client: &Client,
        secrets: &Credential,
    ) -> Result<SecretString, BrokerError> {
        let empty = SecretString::from("");
        let get = |name: &str| secrets.get(name).unwrap_or(&empty);
        let consent = Consent {
            redirect_uri: &authorization.redirect_uri,
            state: get(STATE),
            nonce: get(NONCE),
            verifier: get(VERIFIER),
            scopes: &authorization.scopes,
        };
        let url = server(provider, client, &authorization.config)?.authorization_url(&consent);
        url.map(SecretString::from).map_err(unrenderable)
    }

    /// Our own redirect URI for a provider: each has its own (RFC 9700, section 4.4.2.2).
    pub(crate) fn redirect_uri(&self, provider_id: &ProviderId) -> Result<String, BrokerError> {
        let public_url = &self.oauth().public_url;
        if public_url.is_empty() {
            return Err(BrokerError::NoPublicUrl);
        }
        Ok(format!("{public_url}/oauth/callback/{provider_id}"))
    }

    pub(crate) fn known_provider(&self, id: &ProviderId) -> Result<&Provider, BrokerError> {
        self.catalog().get(id).ok_or(BrokerError::ProviderNotFound)
    }

    /// The client that a flow was begun with.
    pub(crate) async fn client_of_flow(
        &self,
        authorization: &Authorization,
        provider: &Provider,
    ) -> Result<Arc<Client>, BrokerError> {
        self.client_of(&authorization.organization_id, provider, authorization.client_id.as_str()).await
    }

    /// Records what becomes of an authorization.
    pub(crate) async fn record_authorization(
        &self,
        change: &mut Change,
        kind: AuditKind,
        authorization: &Authorization,
        reason: &str,
    ) -> Result<(), BrokerError> {
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: &authorization.organization_id,
            kind,
            workload: &authorization.started_by,
            actor: None,
            connection: None,
            grant_id: None,
            provider_id: Some(&authorization.provider_id),
            reason,
            purpose: "",
        };
        Ok(change.record(&event).await?)
    }
}

enum Remembered {
    Made(Box<Started>),
    New(Option<String>),
}

/// Where the secrets of a flow are sealed.
pub(crate) fn flow_spot<'a>(authorization: &'a Authorization, row: &'a str) -> Spot<'a> {
    Spot {
        organization_id: &authorization.organization_id,
        row,
        field: "flow",
        generation: Generation::FIRST,
    }
}

/// 256 random bits in 43 characters of base64url, which is also a verifier's form (RFC 7636, section 4.1).
pub(crate) fn secret() -> SecretString {
    SecretString::from(URL_SAFE_NO_PAD.encode(random_bytes::<32>()))
}

fn check_verifier(authorization: &Authorization, verifier: Option<&SecretString>) -> Result<(), BrokerError> {
    match (authorization.completion_challenge.as_str(), verifier) {
        ("", _) => Ok(()),
        (challenge, Some(verifier)) if challenge_of(verifier) == challenge => Ok(()),
        _ => Err(BrokerError::CompletionRefused),
    }
}

/// The challenge of a verifier (RFC 7636, section 4.2), whatever the verifier is.
fn challenge_of(verifier: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(sha256(verifier.expose_secret().as_bytes()))
}

fn unrenderable(fault: TokenFault) -> BrokerError {
    match fault {
        TokenFault::Unrenderable(problem) => FieldError::invalid("config", problem).into(),
        _ => BrokerError::ProviderRefused,
    }
}

/// What a provider's fault is to a caller who waits for its answer.
pub(crate) fn provider_fault(fault: TokenFault) -> BrokerError {
    match fault {
        TokenFault::Passing { .. } => BrokerError::ProviderUnavailable,
        TokenFault::NoAnswer(error) if error.is_retryable() => BrokerError::ProviderUnavailable,
        TokenFault::NoAnswer(_) => {
            not_allowed("config", "leads to an address of the provider that may not be called").into()
        }
        TokenFault::Unrenderable(problem) => FieldError::invalid("config", problem).into(),
        TokenFault::Client => BrokerError::OAuthClientRefused,
        TokenFault::Dead
        | TokenFault::Request
        | TokenFault::Denied
        | TokenFault::Pending
        | TokenFault::SlowDown
        | TokenFault::Expired
        | TokenFault::Unusable(_)
        | TokenFault::Config => BrokerError::ProviderRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c9_no_two_secrets_are_the_same_and_each_is_a_verifier() {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let mut secrets: Vec<[u8; 43]> = (0..1_000_000)
            .map(|_| secret().expose_secret().as_bytes().try_into().expect("43 characters"))
            .collect();
        assert!(secrets.iter().flatten().copied().all(unreserved));
        secrets.sort_unstable();
        secrets.dedup();
        assert_eq!(secrets.len(), 1_000_000);
    }
}
