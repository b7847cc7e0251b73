//! An authorization as the app sees it: begun, looked at, completed.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keyholder_catalog::{Method, Provider};
use keyholder_domain::{
    AuditKind, AuthMethod, Authorization, AuthorizationId, AuthorizationState, ConnectionId, ConnectionState,
    Generation, Labels, Principal, ProviderId, Scopes, Text,
};
use keyholder_store::{Change, NewAuditEvent, NewAuthorization, StoredAuthorization};
use keyholder_upstream::oauth::{Client, Consent, DeviceCode, TokenFault};
use keyholder_vault::{Credential, ExposeSecret as _, SecretString, random_bytes, sha256};
use url::Url;

use super::browser::BrowserAnswer;
use super::{Spot, default_scopes, server};
use crate::audit::Refused;
use crate::connections::same_request;
use crate::credentials::check_config;
use crate::error::{FieldError, FieldReason};
use crate::grants::with_capabilities;
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

/// The longest wait between two questions that a server can ask for, in seconds: no flow lives longer.
pub(crate) const LONGEST_INTERVAL: u64 = 3_600;

/// The secrets of a flow.
pub(crate) const STATE: &str = "state";
pub(crate) const VERIFIER: &str = "verifier";
pub(crate) const NONCE: &str = "nonce";
pub(crate) const TICKET: &str = "ticket";
pub(crate) const DEVICE_CODE: &str = "device_code";

/// Everything that a start is made of, once it is checked.
struct Plan<'a> {
    provider: &'a Provider,
    method: &'a Method,
    client: Arc<Client>,
    authorization: Authorization,
    secrets: Credential,
}

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

    async fn plan<'a>(
        &'a self,
        caller: &Caller<'_>,
        start: StartAuthorization,
    ) -> Result<Plan<'a>, BrokerError> {
        let before = match start.connection_id {
            Some(id) => Some(self.get_connection(caller, id).await?),
            None => None,
        };
        if before.as_ref().is_some_and(|connection| connection.state == ConnectionState::Deleted) {
            return Err(BrokerError::ConnectionDeleted);
        }
        let mut errors = Vec::new();
        let (owner, provider_id) = match &before {
            Some(connection) => {
                let same = |given: bool, field: &str, errors: &mut Vec<FieldError>| {
                    if !given {
                        errors.push(FieldError::invalid(field, "must be left out, or be the connection's"));
                    }
                };
                let owner = start.owner.is_none_or(|owner| owner == connection.owner);
                same(owner, "owner", &mut errors);
                let provider = start.provider_id.is_none_or(|id| id == connection.provider_id);
                same(provider, "provider_id", &mut errors);
                (connection.owner.clone(), connection.provider_id.clone())
            }
            None => match (start.owner, start.provider_id) {
                (Some(owner), Some(provider_id)) => (owner, provider_id),
                (owner, _) => {
                    let field = if owner.is_none() { "owner" } else { "provider_id" };
                    return Err(FieldError::invalid(field, "must be given").into());
                }
            },
        };
        let provider = self.provider(caller, &provider_id)?;
        let asked = start.auth_method.unwrap_or(AuthMethod::OAuth2Code);
        let method = provider
            .method(asked)
            .filter(|method| matches!(method.method, AuthMethod::OAuth2Code | AuthMethod::OAuth2Device));
        let method = method.ok_or_else(|| {
            FieldError::invalid("auth_method", "is not one of the provider's that an owner consents through")
        })?;
        let client = self.client(caller.organization_id, provider).await?;
        let config = match &before {
            Some(connection) if start.config.is_empty() => connection.config.clone(),
            _ => start.config,
        };
        check_config(provider, self.url_rules(), &config, &mut errors);
        let scopes = scopes(provider, method, start.scopes, &start.capabilities, &mut errors);
        let device = method.method == AuthMethod::OAuth2Device;
        let redirect_uri = match (device, start.redirect_uri) {
            (true, None) => String::new(),
            (true, Some(_)) => {
                errors.push(FieldError::invalid("redirect_uri", "must be left out for a device"));
                String::new()
            }
            (false, None) => self.redirect_uri(&provider.id)?,
            (false, Some(uri)) => {
                if !self.oauth().app_redirect_uris.contains(&uri) {
                    errors.push(not_allowed(
                        "redirect_uri",
                        "is not among the app_redirect_uris of the configuration",
                    ));
                }
                uri
            }
        };
        let return_url = match start.return_url.as_deref() {
            None | Some("") => Some(String::new()),
            Some(url) => self.allowed_return_url(url),
        };
        if return_url.is_none() {
            errors.push(not_allowed("return_url", "is not among the return_urls of the configuration"));
        }
        let return_url = return_url.unwrap_or_default();
        check_challenge(&start.completion_challenge, self.oauth().require_completion, &mut errors);
        if !errors.is_empty() {
            let connection = before.map(|connection| (connection.id, connection.generation));
            let about = Refused { provider_id: &provider.id, connection, config: &config };
            return Err(self.refuse_fields(caller, &about, errors).await);
        }
        let now = self.now();
        let authorization = Authorization {
            id: AuthorizationId::new(now, random_bytes()),
            organization_id: caller.organization_id.clone(),
            owner,
            provider_id,
            auth_method: method.method,
            connection_id: start.connection_id,
            reauthorizes: start.connection_id.is_some(),
            display_name: start.display_name,
            labels: start.labels,
            config,
            scopes,
            client_id: Text::parse(&client.id).map_err(|_| BrokerError::OAuthClientMissing)?,
            redirect_uri,
            return_url,
            completion_challenge: start.completion_challenge,
            state: AuthorizationState::Pending,
            failure: None,
            user_code: Text::default(),
            verification_uri: String::new(),
            verification_uri_complete: String::new(),
            started_by: caller.workload.clone(),
            create_time: now,
            expire_time: now + self.oauth().lifetime,
        };
        let secrets = [STATE, VERIFIER, NONCE, TICKET].map(|name| (name.to_owned(), secret()));
        let secrets = Credential::from_fields(secrets.into());
        Ok(Plan { provider, method, client, authorization, secrets })
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

    async fn ask_for_device(&self, plan: &mut Plan<'_>) -> Result<(), BrokerError> {
        let authorization = &mut plan.authorization;
        let speaks = server(plan.provider, &plan.client, &authorization.config)?;
        let code = self.0.upstream.ask_for_device_code(&speaks, &authorization.scopes, self.now()).await;
        let code: DeviceCode = code.map_err(provider_fault)?;
        let unusable = |_| BrokerError::ProviderRefused;
        authorization.user_code = Text::parse(&code.user_code).map_err(unusable)?;
        authorization.verification_uri = code.verification_uri;
        authorization.verification_uri_complete = code.verification_uri_complete;
        if ![&authorization.verification_uri, &authorization.verification_uri_complete]
            .into_iter()
            .all(|uri| is_for_people(uri))
        {
            return Err(BrokerError::ProviderRefused);
        }
        let seconds = code.expires_in.clamp(60, 3_600);
        authorization.expire_time = authorization.create_time + std::time::Duration::from_secs(seconds);
        let fields = [
            (DEVICE_CODE.to_owned(), code.device_code),
            ("interval".to_owned(), code.interval.clamp(1, LONGEST_INTERVAL).to_string().into()),
        ];
        plan.secrets = Credential::from_fields(fields.into());
        Ok(())
    }

    /// Our own redirect URI for a provider: each has its own (RFC 9700, section 4.4.2.2).
    pub(crate) fn redirect_uri(&self, provider_id: &ProviderId) -> Result<String, BrokerError> {
        let public_url = &self.oauth().public_url;
        if public_url.is_empty() {
            return Err(BrokerError::NoPublicUrl);
        }
        Ok(format!("{public_url}/oauth/callback/{provider_id}"))
    }

    /// A URL that a browser may be sent on to, as a header can carry it and as it was compared: what a browser would
    /// repair in it, is repaired here.
    fn allowed_return_url(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        self.oauth().return_urls.iter().any(|allowed| allows(allowed, &url)).then(|| url.into())
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

impl Plan<'_> {
    fn poll_seconds(&self) -> Option<i32> {
        self.secrets.get("interval").and_then(|seconds| seconds.expose_secret().parse().ok())
    }
}

/// Whether a provider's address can be shown to people as a link: one of the web, and not as long as a book.
fn is_for_people(uri: &str) -> bool {
    uri.is_empty()
        || uri.len() <= 2_048 && Url::parse(uri).is_ok_and(|uri| matches!(uri.scheme(), "https" | "http"))
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

fn scopes(
    provider: &Provider,
    method: &Method,
    scopes: Scopes,
    capabilities: &[String],
    errors: &mut Vec<FieldError>,
) -> Scopes {
    let none = scopes.is_empty() && capabilities.is_empty();
    let mut all = if none { default_scopes(provider, method).clone() } else { scopes };
    match with_capabilities(provider, all.clone(), capabilities) {
        Ok(with) => all = with,
        Err(error) => errors.push(error),
    }
    let lasting = provider.oauth2.as_ref().and_then(|recipe| recipe.refresh.scope.as_deref());
    match Scopes::parse(lasting) {
        Ok(lasting) => all.union(&lasting),
        Err(_) => all,
    }
}

fn check_challenge(challenge: &Text, required: bool, errors: &mut Vec<FieldError>) {
    if challenge.is_empty() {
        if required {
            errors.push(FieldError::invalid(
                "completion_challenge",
                "must be given: the configuration requires it",
            ));
        }
        return;
    }
    if !URL_SAFE_NO_PAD.decode(challenge.as_str()).is_ok_and(|hash| hash.len() == 32) {
        let problem = "must be the SHA-256 of the verifier in base64url, 43 characters";
        errors.push(FieldError::invalid("completion_challenge", problem));
    }
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

/// Whether an entry of the list allows a URL: the same origin, and the same path or one below it.
fn allows(allowed: &str, url: &Url) -> bool {
    let (allowed, below) = match allowed.strip_suffix("/*") {
        Some(prefix) => (prefix, true),
        None => (allowed, false),
    };
    let Ok(allowed) = Url::parse(allowed) else { return false };
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let prefix = allowed.path().trim_end_matches('/');
    let path = url.path();
    let within = if below {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    } else {
        path == allowed.path() && url.query() == allowed.query()
    };
    plain && within && url.origin() == allowed.origin() && url.origin().is_tuple()
}

fn not_allowed(field: &str, problem: &str) -> FieldError {
    FieldError { field: field.to_owned(), reason: FieldReason::UrlNotAllowed, problem: problem.to_owned() }
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
    fn c21_a_browser_is_sent_only_where_the_list_says() {
        let allowed = |entry: &str, url: &str| allows(entry, &Url::parse(url).unwrap());
        let app = "https://app.example.com/*";
        for url in
            ["https://app.example.com/", "https://app.example.com/a?b=1", "https://app.example.com/a/b"]
        {
            assert!(allowed(app, url), "{url}");
        }
        for url in [
            "https://app.example.com.evil.example/",
            "https://evil.example/https://app.example.com/",
            "http://app.example.com/",
            "https://app.example.com:444/",
            "https://app.example.com@evil.example/",
            "https://u@app.example.com/",
            "https://app.example.com/#f",
            "javascript:alert(1)",
        ] {
            assert!(!allowed(app, url), "{url}");
        }
        assert!(allowed("https://a.example/done", "https://a.example/done"));
        assert!(!allowed("https://a.example/done", "https://a.example/done/x"));
        assert!(!allowed("https://a.example/done", "https://a.example/done?x"));
        assert!(!allowed("https://a.example/in/*", "https://a.example/inside"));
        assert!(!allowed("https://a.example/in/*", "https://a.example/in/../out"));
    }

    #[test]
    fn c9_no_two_secrets_are_the_same_and_each_is_a_verifier() {
        let secrets: std::collections::BTreeSet<String> =
            (0..10_000).map(|_| secret().expose_secret().to_owned()).collect();
        assert_eq!(secrets.len(), 10_000);
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        assert!(secrets.iter().all(|secret| secret.len() == 43 && secret.bytes().all(unreserved)));
    }
}
