//! What an account's owner sees in a browser while an account is being connected.
//!
//! Two addresses: the start page, which binds the browser and sends it on to the provider, and the way back, one for
//! each provider. It is never an API: no scripts, no CORS headers, nothing loaded from elsewhere. What comes in is a
//! stranger's until the broker has found a flow for it, and none of it is logged.

mod line;
pub mod pages;
mod room;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use keyholder_broker::{Broker, BrokerError, BrowserAnswer, Cookies, Landing, LandingOutcome, Opened};
use keyholder_domain::AuthorizationFailure;
use keyholder_vault::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;

use line::Patience;
use pages::{Outcome, Page, headers};
use room::Room;

/// How long an answer may take: an exchange and a question, each within the deadlines of egress.
const ANSWER_TIME: Duration = Duration::from_secs(45);

/// How long a browser's connection lives.
const PATIENCE: Patience =
    Patience { head: Duration::from_secs(10), requests: Duration::from_secs(60), answer: ANSWER_TIME };

/// The longest query that is read, in bytes.
const MAX_QUERY_LEN: usize = 32 * 1024;

/// Serves the pages, for ever.
pub async fn serve(listener: TcpListener, broker: Broker) {
    let pages = router(broker);
    let room = Room::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No file descriptor is free, or the peer is gone already: others may fare better in a moment.
                tracing::warn!(%error, "a browser's connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = room.enter(peer.ip()) else {
            tracing::debug!("a browser's connection was turned away: there are too many");
            continue;
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let _until_the_end = place;
            line::serve(stream, pages, PATIENCE).await;
        });
    }
}

fn router(broker: Broker) -> Router {
    Router::new()
        .route("/connect/{ticket}", get(open).head(nothing))
        .route("/oauth/callback/{provider}", get(callback).head(nothing))
        .fallback(async || page(&Landing::nowhere(LandingOutcome::NotFound)))
        .with_state(broker)
}

/// What asks for the head alone is no person: it opens nothing and uses nothing up.
async fn nothing() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    dress(&mut response);
    response
}

/// The start page.
async fn open(
    State(broker): State<Broker>,
    Path(ticket): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let cookies = cookies_in(&headers);
    let opened = tokio::time::timeout(ANSWER_TIME, broker.open_authorization(&ticket, &cookies));
    match opened.await {
        Ok(Ok(Ok(opened))) => {
            let secure = if opened.cookie.0.starts_with("__Host-") { "; Secure" } else { "" };
            let Opened { location, cookie: (name, value), max_age } = opened;
            let cookie = SecretString::from(format!(
                "{name}={}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}",
                value.expose_secret()
            ));
            redirect(&location, Some(&cookie))
        }
        Ok(Ok(Err(landing))) => page(&landing),
        Ok(Err(error)) => failed(&error),
        Err(_) => show(Outcome::TryLater, "", None),
    }
}

/// The way back from the provider.
async fn callback(
    State(broker): State<Broker>,
    Path(provider): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response<Body> {
    let query = query.unwrap_or_default();
    if query.len() > MAX_QUERY_LEN {
        return page(&Landing::nowhere(LandingOutcome::BadRequest));
    }
    let pairs = url::form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), SecretString::from(value.as_ref())));
    let answer = BrowserAnswer::new(pairs);
    let cookies = cookies_in(&headers);
    let received = tokio::time::timeout(ANSWER_TIME, broker.receive_answer(&provider, answer, &cookies));
    match received.await {
        Ok(Ok(landing)) => match &landing.return_url {
            Some(url) if is_the_end(&landing.outcome) => {
                tracing::info!(
                    outcome = outcome_label(&landing.outcome),
                    "an owner was sent back to the app"
                );
                redirect(&SecretString::from(url.as_str()), None)
            }
            // The code must not stay in the address bar and the history (RFC 9700, section 4.2.4).
            _ => match &landing.page {
                Some(address) => redirect(address, None),
                None => page(&landing),
            },
        },
        Ok(Err(error)) => failed(&error),
        Err(_) => show(Outcome::Failed, "", None),
    }
}

/// Whether the app should hear of an outcome now.
const fn is_the_end(outcome: &LandingOutcome) -> bool {
    matches!(
        outcome,
        LandingOutcome::Connected { .. } | LandingOutcome::AlmostDone | LandingOutcome::Failed(_)
    )
}

fn cookies_in(headers: &HeaderMap) -> Cookies {
    Cookies::read(headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok()))
}

fn page(landing: &Landing) -> Response<Body> {
    tracing::info!(outcome = outcome_label(&landing.outcome), "an owner was shown a page");
    let outcome = match &landing.outcome {
        LandingOutcome::Connected { account, again } => Outcome::Connected { account, again: *again },
        LandingOutcome::AlmostDone => Outcome::AlmostDone,
        LandingOutcome::AlreadyUsed => Outcome::AlreadyUsed,
        LandingOutcome::WrongBrowser => Outcome::WrongBrowser,
        LandingOutcome::NotFound => Outcome::NotFound,
        LandingOutcome::BadRequest => Outcome::BadRequest,
        LandingOutcome::Failed(failure) => match failure {
            AuthorizationFailure::AccessDenied => Outcome::Refused,
            AuthorizationFailure::Expired => Outcome::Expired,
            AuthorizationFailure::AccountMismatch => Outcome::OtherAccount,
            AuthorizationFailure::ClientRefused => Outcome::Misconfigured,
            AuthorizationFailure::ProviderUnavailable => Outcome::ProviderDown,
            AuthorizationFailure::Interrupted | AuthorizationFailure::ConnectionGone => Outcome::Failed,
            AuthorizationFailure::IssuerMismatch => {
                Outcome::ProviderRefused { code: Some("issuer_mismatch") }
            }
            AuthorizationFailure::ProviderError => Outcome::ProviderRefused { code: Some("provider_error") },
            AuthorizationFailure::CodeRefused => Outcome::ProviderRefused { code: Some("code_refused") },
            AuthorizationFailure::AnswerUnusable => {
                Outcome::ProviderRefused { code: Some("answer_unusable") }
            }
            AuthorizationFailure::ConfigRefused => Outcome::ProviderRefused { code: Some("config_refused") },
        },
    };
    show(outcome, &landing.provider, landing.return_url.as_deref())
}

/// The outcome as the log has it.
const fn outcome_label(outcome: &LandingOutcome) -> &'static str {
    match outcome {
        LandingOutcome::Connected { .. } => "connected",
        LandingOutcome::AlmostDone => "almost_done",
        LandingOutcome::AlreadyUsed => "already_used",
        LandingOutcome::Failed(failure) => failure.as_str(),
        LandingOutcome::WrongBrowser => "wrong_browser",
        LandingOutcome::NotFound => "not_found",
        LandingOutcome::BadRequest => "bad_request",
    }
}

fn failed(error: &BrokerError) -> Response<Body> {
    tracing::warn!(error = %crate::call::chain(error), "an owner's request failed inside");
    let outcome = match error {
        BrokerError::Store(_) => Outcome::TryLater,
        BrokerError::OAuthClientMissing | BrokerError::ProviderNotFound => Outcome::Misconfigured,
        _ => Outcome::Failed,
    };
    show(outcome, "", None)
}

fn show(outcome: Outcome<'_>, provider: &str, return_link: Option<&str>) -> Response<Body> {
    let page = Page { outcome, provider, return_link };
    let mut response = Response::new(Body::from(page.render()));
    *response.status_mut() = StatusCode::from_u16(page.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    dress(&mut response);
    response
}

/// Sends the browser on, with a GET (RFC 9110, section 15.4.4).
fn redirect(location: &SecretString, cookie: Option<&SecretString>) -> Response<Body> {
    let secret = |text: &SecretString| {
        let mut value = HeaderValue::from_str(text.expose_secret()).ok()?;
        value.set_sensitive(true);
        Some(value)
    };
    let Some(location) = secret(location) else { return show(Outcome::Failed, "", None) };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    dress(&mut response);
    response.headers_mut().insert(header::LOCATION, location);
    if let Some(cookie) = cookie.and_then(secret) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn dress(response: &mut Response<Body>) {
    for (name, value) in headers() {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}
