//! A request, read whole.

use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use url::form_urlencoded;

use super::history::Endpoint;

/// The largest request body.
const MAX_BODY: usize = 1024 * 1024;

pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) endpoint: Endpoint,
    pub(super) query: Vec<(String, String)>,
    pub(super) form: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
}

impl Ask {
    pub(super) async fn read(request: Request) -> Self {
        let (head, body) = request.into_parts();
        let body =
            Limited::new(body, MAX_BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let is_json = text_of(&head.headers, header::CONTENT_TYPE).starts_with("application/json");
        Self {
            endpoint: Endpoint::of(head.uri.path()),
            query: pairs(head.uri.query().unwrap_or_default().as_bytes()),
            form: if is_json { members(&body) } else { pairs(&body) },
            method: head.method,
            headers: head.headers,
        }
    }

    /// A parameter, which a POST has in its body and any other request in its URL. An empty one is none
    /// (RFC 6749 section 3.1).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.parameters().iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    /// A parameter that comes more than once, which no request may have.
    pub(super) fn has_duplicates(&self) -> bool {
        let all = self.parameters();
        all.iter().enumerate().any(|(at, (key, _))| all[..at].iter().any(|(earlier, _)| earlier == key))
    }

    fn parameters(&self) -> &[(String, String)] {
        if self.method == Method::POST { &self.form } else { &self.query }
    }

    /// Gives parameters that come under names of the provider's own their standard names. What comes under a standard
    /// name that has another is not understood.
    pub(super) fn rename(&mut self, names: &[(String, String)]) {
        for (key, _) in self.query.iter_mut().chain(&mut self.form) {
            if let Some((standard, _)) = names.iter().find(|(_, own)| own == key) {
                key.clone_from(standard);
            } else if names.iter().any(|(standard, _)| standard == key) {
                key.insert(0, '?');
            }
        }
    }

    /// The credentials after a scheme of the `Authorization` header.
    pub(super) fn authorization(&self, scheme: &str) -> Option<&str> {
        let (said, credentials) = self.header(header::AUTHORIZATION).split_once(' ')?;
        said.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
    }

    pub(super) fn header(&self, name: header::HeaderName) -> &str {
        text_of(&self.headers, name)
    }

    pub(super) fn headers(&self) -> Vec<(String, String)> {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        self.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    /// The claims of whatever assertion it carries.
    pub(super) fn claims(&self) -> Option<Value> {
        let bearer = || self.authorization("Bearer");
        claims(self.get("assertion").or_else(|| self.get("client_assertion")).or_else(bearer)?)
    }
}

/// The claims of a JWT. Nobody checks its signature here.
pub(super) fn claims(jwt: &str) -> Option<Value> {
    let [_, claims, signature] = jwt.split('.').collect::<Vec<_>>()[..] else { return None };
    let claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    (!signature.is_empty()).then_some(claims)
}

impl Endpoint {
    fn of(path: &str) -> Self {
        match path {
            "/authorize" | "/authorize/decide" => Self::Authorize,
            "/token" => Self::Token,
            "/device_authorization" => Self::DeviceAuthorization,
            "/device" => Self::Device,
            "/revoke" => Self::Revoke,
            "/userinfo" => Self::UserInfo,
            "/exchange" => Self::Exchange,
            "/refresh_long_lived" => Self::RefreshLongLived,
            "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration" => Self::Metadata,
            _ if path.starts_with("/app/installations/") && path.ends_with("/access_tokens") => {
                Self::Installation
            }
            _ => Self::Other,
        }
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn pairs(encoded: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(encoded).into_owned().collect()
}

fn members(json: &Bytes) -> Vec<(String, String)> {
    let Ok(Value::Object(members)) = serde_json::from_slice(json) else { return Vec::new() };
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    members.into_iter().map(|(key, value)| (key, text(value))).collect()
}
