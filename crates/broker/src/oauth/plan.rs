//! What an authorization is made of, checked before anything is begun.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keyholder_catalog::{Method, Provider};
use keyholder_domain::{
    AuthMethod, Authorization, AuthorizationId, AuthorizationState, ConnectionState, Scopes, Text,
};
use keyholder_upstream::oauth::{Client, DeviceCode};
use keyholder_vault::{Credential, ExposeSecret as _, random_bytes};
use url::Url;

use super::authorize::{
    DEVICE_CODE, NONCE, STATE, StartAuthorization, TICKET, VERIFIER, provider_fault, secret,
};
use super::{default_scopes, server};
use crate::audit::Refused;
use crate::credentials::check_config;
use crate::error::{FieldError, FieldReason};
use crate::grants::with_capabilities;
use crate::{Broker, BrokerError, Caller};

/// The longest wait between two questions that a server can ask for, in seconds: no flow lives longer.
const LONGEST_INTERVAL: u64 = 3_600;

/// Everything that a start is made of, once it is checked.
pub(super) struct Plan<'a> {
    pub(super) provider: &'a Provider,
    pub(super) method: &'a Method,
    pub(super) client: Arc<Client>,
    pub(super) authorization: Authorization,
    pub(super) secrets: Credential,
}

impl Broker {
    pub(super) async fn plan<'a>(
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

    pub(super) async fn ask_for_device(&self, plan: &mut Plan<'_>) -> Result<(), BrokerError> {
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

    /// A URL that a browser may be sent on to, as a header can carry it and as it was compared: what a browser would
    /// repair in it, is repaired here.
    fn allowed_return_url(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        self.oauth().return_urls.iter().any(|allowed| allows(allowed, &url)).then(|| url.into())
    }
}

impl Plan<'_> {
    pub(super) fn poll_seconds(&self) -> Option<i32> {
        self.secrets.get("interval").and_then(|seconds| seconds.expose_secret().parse().ok())
    }
}

/// Whether a provider's address can be shown to people as a link: one of the web, and not as long as a book.
fn is_for_people(uri: &str) -> bool {
    uri.is_empty()
        || uri.len() <= 2_048 && Url::parse(uri).is_ok_and(|uri| matches!(uri.scheme(), "https" | "http"))
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

pub(super) fn not_allowed(field: &str, problem: &str) -> FieldError {
    FieldError { field: field.to_owned(), reason: FieldReason::UrlNotAllowed, problem: problem.to_owned() }
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
}
