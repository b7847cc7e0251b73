//! An authorization as the owner's browser sees it: the start page, and the way back from the provider.
//!
//! Whatever a browser brings is somebody's guess until it finds a flow; until then nothing is written.

use std::collections::BTreeMap;
use std::fmt;

use keyholder_catalog::Provider;
use keyholder_domain::{AuthMethod, Authorization, AuthorizationFailure, AuthorizationState, ProviderId};
use keyholder_store::{BrowserKey, StoredAuthorization};
use keyholder_vault::{ExposeSecret, SecretString, sha256};

use super::authorize::{flow_spot, secret};
use super::recipe;
use crate::{Broker, BrokerError};

/// How long an exchange may take before somebody else may look after it, in seconds: longer than every deadline of
/// egress, twice.
pub(crate) const LEASE: f64 = 60.0;

/// The longest text of an answer that is looked at, in bytes.
const MAX_PARAMETER_LEN: usize = 16 * 1024;

/// What a provider's redirect carried. `Debug` prints names only.
pub struct BrowserAnswer(Vec<(String, SecretString)>);

impl BrowserAnswer {
    /// The parameters as they came.
    pub fn new(pairs: impl IntoIterator<Item = (String, SecretString)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// A parameter that is there once. `Err`: it is there twice, which two readers could take differently.
    fn only(&self, name: &str) -> Result<Option<&SecretString>, LandingOutcome> {
        let mut found = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value);
        match (found.next(), found.next()) {
            (Some(value), None) if value.expose_secret().len() > MAX_PARAMETER_LEN => {
                Err(LandingOutcome::BadRequest)
            }
            (value, None) => Ok(value.filter(|value| !value.expose_secret().is_empty())),
            (_, Some(_)) => Err(LandingOutcome::BadRequest),
        }
    }
}

impl fmt::Debug for BrowserAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The cookies that a browser sent. `Debug` prints their number only.
#[derive(Default)]
pub struct Cookies(Vec<(String, SecretString)>);

impl Cookies {
    /// Reads the lines of `Cookie` headers (RFC 6265, section 5.4).
    pub fn read<'h>(lines: impl IntoIterator<Item = &'h str>) -> Self {
        let pairs = lines.into_iter().flat_map(|line| line.split(';'));
        let pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.into())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.expose_secret())
    }
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cookies({})", self.0.len())
    }
}

/// A start page that sends the browser on.
#[derive(Debug)]
pub struct Opened {
    /// Where to: the provider's page of consent. Holds the state.
    pub location: SecretString,
    /// The cookie that binds this browser to the flow.
    pub cookie: (String, SecretString),
    /// How long the cookie is good, in seconds.
    pub max_age: i64,
}

/// Where a browser has come out.
#[derive(Debug)]
pub struct Landing {
    /// What to tell its owner.
    pub outcome: LandingOutcome,
    /// The provider's name for people; empty where no flow was found.
    pub provider: String,
    /// Where to send the browser on to; none: it stays.
    pub return_url: Option<String>,
    /// An address that shows the same to this browser, without code and state in it.
    pub page: Option<SecretString>,
}

/// What became of a flow, as far as the browser's owner is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LandingOutcome {
    /// There is a connection.
    Connected {
        /// Whose account it is, for people.
        account: String,
        /// Whether it was there before.
        again: bool,
    },
    /// The app must still confirm it.
    AlmostDone,
    /// It is being worked on.
    AlreadyUsed,
    /// It came to nothing.
    Failed(AuthorizationFailure),
    /// This is not the browser that began.
    WrongBrowser,
    /// There is no such flow.
    NotFound,
    /// What came makes no sense.
    BadRequest,
}

impl Broker {
    /// Opens a flow in a browser: binds it, and says where to go.
    pub async fn open_authorization(
        &self,
        ticket: &str,
        cookies: &Cookies,
    ) -> Result<Result<Opened, Landing>, BrokerError> {
        let hash = sha256(ticket.as_bytes());
        let Some(stored) = self.store().authorization_of_browser(BrowserKey::Ticket(&hash)).await? else {
            return Ok(Err(Landing::nowhere(LandingOutcome::NotFound)));
        };
        let authorization = &stored.authorization;
        if let Some(landing) = self.landing_of(authorization).await? {
            // Whose account it was is for the browser that finished it; another one has shown nothing but the link.
            let told = !matches!(landing.outcome, LandingOutcome::Connected { .. })
                || cookies.get(&self.cookie_name(authorization)).is_some_and(|it| is_bound(&stored, it));
            return Ok(Err(if told {
                landing
            } else {
                self.landing(authorization, LandingOutcome::AlreadyUsed)
            }));
        }
        let provider = self.known_provider(&authorization.provider_id)?;
        let client = self.client_of_flow(authorization, provider).await?;
        let sealed = stored.sealed_flow.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let row = authorization.id.to_string();
        let secrets = self.open_fields(flow_spot(authorization, &row), sealed).await?;
        let location = self.provider_link(authorization, provider, &client, &secrets)?;
        let name = self.cookie_name(authorization);
        // The same browser again, perhaps in another tab, keeps its cookie; another one takes the flow over, so that a
        // preview of the link, made by somebody's mail program, locks nobody out.
        let known = cookies.get(&name).filter(|value| is_bound(&stored, value)).map(SecretString::from);
        let value = match known {
            Some(value) => value,
            None => {
                let value = secret();
                let hash = sha256(value.expose_secret().as_bytes());
                if !self.store().bind_browser(authorization, &hash).await? {
                    return Ok(Err(self.landing(authorization, LandingOutcome::AlreadyUsed)));
                }
                value
            }
        };
        let max_age = (authorization.expire_time - self.now()).whole_seconds().max(1);
        Ok(Ok(Opened { location, cookie: (name, value), max_age }))
    }

    /// Takes what a provider's redirect brought to the path of a provider, and sees the flow through.
    pub async fn receive_answer(
        &self,
        path: &str,
        answer: BrowserAnswer,
        cookies: &Cookies,
    ) -> Result<Landing, BrokerError> {
        let state = match answer.only("state") {
            Ok(Some(state)) => state,
            Ok(None) | Err(_) => return Ok(Landing::nowhere(LandingOutcome::BadRequest)),
        };
        let hash = sha256(state.expose_secret().as_bytes());
        let Some(stored) = self.store().authorization_of_browser(BrowserKey::State(&hash)).await? else {
            return Ok(Landing::nowhere(LandingOutcome::NotFound));
        };
        let authorization = &stored.authorization;
        let at_its_place = ProviderId::parse(path).is_ok_and(|path| path == authorization.provider_id)
            && authorization.auth_method == AuthMethod::OAuth2Code
            && !self.is_forwarded(authorization);
        if !at_its_place {
            return Ok(Landing::nowhere(LandingOutcome::BadRequest));
        }
        if !cookies.get(&self.cookie_name(authorization)).is_some_and(|value| is_bound(&stored, value)) {
            return Ok(Landing::nowhere(LandingOutcome::WrongBrowser));
        }
        if let Some(landing) = self.landing_of(authorization).await? {
            return Ok(landing);
        }
        let provider = self.known_provider(&authorization.provider_id)?;
        let sealed = stored.sealed_flow.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let row = authorization.id.to_string();
        let secrets = self.open_fields(flow_spot(authorization, &row), sealed).await?;
        let page = Some(self.start_link(&secrets));
        // A state works once, also with an answer that makes no sense.
        let judged = self.judge(authorization, provider, &answer);
        let judged = judged.unwrap_or(Judged::Failed(AuthorizationFailure::ProviderError));
        let waiting = authorization.clone();
        let Some(done) = self.take_answer(stored, judged).await? else {
            return Ok(self.landing(&waiting, LandingOutcome::AlreadyUsed));
        };
        let landing = self.landing_of(&done).await?;
        let landing = landing.unwrap_or_else(|| self.landing(&done, LandingOutcome::AlreadyUsed));
        Ok(Landing { page, ..landing })
    }

    /// The same for an app that got the answer itself and forwards it.
    pub(crate) async fn take_forwarded(
        &self,
        stored: StoredAuthorization,
        answer: BrowserAnswer,
    ) -> Result<StoredAuthorization, BrokerError> {
        use crate::error::FieldError;

        let authorization = &stored.authorization;
        let sealed = stored.sealed_flow.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let row = authorization.id.to_string();
        let secrets = self.open_fields(flow_spot(authorization, &row), sealed).await?;
        let state = answer.only("state").ok().flatten().map(ExposeSecret::expose_secret);
        let expected = secrets.get(super::authorize::STATE).map(ExposeSecret::expose_secret);
        if state.is_none() || state != expected {
            let problem = "is not the state of this authorization";
            return Err(FieldError::invalid("redirect_parameters.state", problem).into());
        }
        let (organization_id, id) = (authorization.organization_id.clone(), authorization.id);
        let provider = self.known_provider(&authorization.provider_id)?;
        let judged = self.judge(authorization, provider, &answer).map_err(|_| {
            let problem = "or error must be given, once, and not both";
            FieldError::invalid("redirect_parameters.code", problem)
        })?;
        if self.take_answer(stored, judged).await?.is_none() {
            return Err(BrokerError::AuthorizationNotReady);
        }
        let stored = self.store().authorization(&organization_id, id).await?;
        stored.ok_or(BrokerError::AuthorizationNotFound)
    }

    /// Acts on an answer whose flow is known and waits, once. None: somebody else did.
    async fn take_answer(
        &self,
        stored: StoredAuthorization,
        judged: Judged,
    ) -> Result<Option<Authorization>, BrokerError> {
        // One of all who bring it, on any replica, goes on from here.
        if !self.store().take_authorization(&stored.authorization, LEASE).await? {
            return Ok(None);
        }
        let mut stored = stored;
        stored.authorization.state = AuthorizationState::Exchanging;
        // In a task of its own: a browser that goes away must not cost the owner what they consented to.
        let broker = self.clone();
        let working = tokio::spawn(async move {
            match judged {
                Judged::Failed(failure) => broker.fail(&stored, failure).await,
                Judged::Code(code, config) => broker.exchange_code(stored, &code, config).await,
            }
        });
        match working.await {
            Ok(done) => done.map(Some),
            Err(_) => Err(BrokerError::Contended),
        }
    }

    /// What an answer says, by everything that can be known without asking anybody.
    fn judge(
        &self,
        authorization: &Authorization,
        provider: &Provider,
        answer: &BrowserAnswer,
    ) -> Result<Judged, LandingOutcome> {
        let recipe = recipe(provider).map_err(|_| LandingOutcome::BadRequest)?;
        let code = answer.only(recipe.name("code"))?;
        let error = answer.only("error")?;
        let config = |name: &str| authorization.config.get(name).map(String::as_str);
        let expected = recipe.issuer.as_ref().map(|issuer| provider.render_text(issuer, &|_| None, &config));
        let issuer_is_right = match (answer.only("iss")?, expected) {
            (Some(issuer), Some(Ok(Some(expected)))) => issuer.expose_secret() == expected.as_str(),
            (Some(_), Some(_)) => false,
            (Some(_), None) => true,
            (None, _) => !recipe.sends_iss,
        };
        if !issuer_is_right {
            return Ok(Judged::Failed(AuthorizationFailure::IssuerMismatch));
        }
        match (code, error) {
            (Some(_), Some(_)) | (None, None) => Err(LandingOutcome::BadRequest),
            (None, Some(error)) => Ok(Judged::Failed(match error.expose_secret() {
                "access_denied" => AuthorizationFailure::AccessDenied,
                "temporarily_unavailable" | "server_error" => AuthorizationFailure::ProviderUnavailable,
                "invalid_client" | "unauthorized_client" => AuthorizationFailure::ClientRefused,
                _ => AuthorizationFailure::ProviderError,
            })),
            (Some(code), None) => {
                let mut learned = BTreeMap::new();
                let kept = recipe.authorize.iter().flat_map(|authorize| &authorize.config);
                for (parameter, name) in kept {
                    let Some(value) = answer.only(parameter)? else { continue };
                    let field = provider.config_field(name);
                    if field.is_none_or(|field| field.check(value.expose_secret()).is_err()) {
                        return Ok(Judged::Failed(AuthorizationFailure::ConfigRefused));
                    }
                    learned.insert(name.clone(), value.expose_secret().to_owned());
                }
                Ok(Judged::Code(code.clone(), learned))
            }
        }
    }

    /// Where a flow that no longer waits has come out; none while it waits.
    async fn landing_of(&self, authorization: &Authorization) -> Result<Option<Landing>, BrokerError> {
        let outcome = match authorization.state {
            AuthorizationState::Pending if authorization.expire_time > self.now() => return Ok(None),
            AuthorizationState::Pending => LandingOutcome::Failed(AuthorizationFailure::Expired),
            AuthorizationState::Exchanging => LandingOutcome::AlreadyUsed,
            AuthorizationState::AwaitingCompletion => LandingOutcome::AlmostDone,
            AuthorizationState::Failed => {
                LandingOutcome::Failed(authorization.failure.unwrap_or(AuthorizationFailure::Expired))
            }
            AuthorizationState::Completed => LandingOutcome::Connected {
                account: self.account_for_people(authorization).await?,
                again: authorization.reauthorizes,
            },
        };
        Ok(Some(self.landing(authorization, outcome)))
    }

    async fn account_for_people(&self, authorization: &Authorization) -> Result<String, BrokerError> {
        let Some(id) = authorization.connection_id else { return Ok(String::new()) };
        let stored = self.store().connection(&authorization.organization_id, id).await?;
        let account = stored.map(|stored| stored.connection.account).unwrap_or_default();
        let named = [account.name, account.email, account.id].into_iter().find(|text| !text.is_empty());
        Ok(named.map(|text| text.as_str().to_owned()).unwrap_or_default())
    }

    fn landing(&self, authorization: &Authorization, outcome: LandingOutcome) -> Landing {
        let provider = self.catalog().get(&authorization.provider_id);
        let separator = if authorization.return_url.contains('?') { '&' } else { '?' };
        let return_url = (!authorization.return_url.is_empty())
            .then(|| format!("{}{separator}authorization_id={}", authorization.return_url, authorization.id));
        Landing {
            outcome,
            provider: provider.map(|provider| provider.name.clone()).unwrap_or_default(),
            return_url,
            page: None,
        }
    }

    /// The name of the cookie that binds a browser to a flow: host-only where we are reached over https. Each flow has its
    /// own, so that two tabs do not disturb each other.
    fn cookie_name(&self, authorization: &Authorization) -> String {
        let prefix = if self.oauth().public_url.starts_with("https://") { "__Host-" } else { "" };
        format!("{prefix}keyholder-{}", authorization.id)
    }
}

enum Judged {
    Failed(AuthorizationFailure),
    Code(SecretString, BTreeMap<String, String>),
}

impl Landing {
    /// Where no flow was found, so that nothing of one may be told.
    pub fn nowhere(outcome: LandingOutcome) -> Self {
        Self { outcome, provider: String::new(), return_url: None, page: None }
    }
}

/// Whether a flow is bound to a browser with this cookie.
fn is_bound(stored: &StoredAuthorization, cookie: &str) -> bool {
    stored.browser_hash.as_deref() == Some(sha256(cookie.as_bytes()).as_slice())
}
