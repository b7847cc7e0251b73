//! What the provider answers, before a fault may spoil it.

use http::StatusCode;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::history::Outcome;
use super::manners::Manners;

/// An answer, and what it is for the history.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) outcome: Outcome,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![
            ("content-type", content_type.to_owned()),
            ("cache-control", "no-store".to_owned()),
            ("referrer-policy", "no-referrer".to_owned()),
        ];
        Self { status, headers, body: body.into(), outcome: Outcome::Answered(status) }
    }

    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// A page for a person. It loads nothing and shows in no frame.
    pub(super) fn page(status: u16, body: &str) -> Self {
        let html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>Demo provider</title>\n\
             <style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 4rem auto; \
             padding: 0 1rem }} button, select, input {{ font: inherit; padding: .4rem 1.2rem }}</style>\n\
             </head>\n<body>\n{body}\n</body>\n</html>\n"
        );
        let mut page = Self::new(status, "text/html; charset=utf-8", html);
        let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
        page.headers.push(("content-security-policy", policy.to_owned()));
        page
    }

    pub(super) fn redirect(to: String) -> Self {
        let mut reply = Self::new(303, "text/plain", "");
        reply.headers.push(("location", to));
        reply
    }

    pub(super) fn with_outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

/// Why the provider refuses; each is an error code of OAuth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    InvalidToken,
    InvalidScope,
    UnsupportedGrantType,
    UnsupportedResponseType,
    AuthorizationPending,
    SlowDown,
    ExpiredToken,
    AccessDenied,
}

impl Refusal {
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidToken => "invalid_token",
            Self::InvalidScope => "invalid_scope",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::AuthorizationPending => "authorization_pending",
            Self::SlowDown => "slow_down",
            Self::ExpiredToken => "expired_token",
            Self::AccessDenied => "access_denied",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::InvalidClient | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The answer (RFC 6749 section 5.2), as the manners have it.
    pub(super) fn reply(self, manners: &Manners) -> Reply {
        let mut body = Map::new();
        let code = manners.error_code.as_deref().unwrap_or(self.code());
        body.insert("error".to_owned(), json!(code));
        if let Some(description) = &manners.error_description {
            body.insert("error_description".to_owned(), json!(description));
        }
        let status = manners.error_status.unwrap_or(self.status().as_u16());
        let mut reply = Reply::json(status, &Value::Object(body)).with_outcome(Outcome::Refused(self.code()));
        match self {
            Self::InvalidClient => {
                reply.headers.push(("www-authenticate", "Basic realm=\"demo\"".to_owned()));
            }
            Self::InvalidToken => {
                reply.headers.push(("www-authenticate", "Bearer error=\"invalid_token\"".to_owned()));
            }
            _ => {}
        }
        reply
    }
}

/// A flat object as a form. What is inside of another object is lost, as it is with those who do this.
pub(super) fn form_of(object: &Map<String, Value>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (key, value) in object {
        match value {
            Value::String(text) => form.append_pair(key, text),
            Value::Number(number) => form.append_pair(key, &number.to_string()),
            Value::Bool(bool) => form.append_pair(key, &bool.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => &mut form,
        };
    }
    form.finish()
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
