//! What becomes of an answer on its way.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::reply::Reply;
use super::socket::Switch;

/// Whether the provider does its work before a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It does not: nothing has changed. Only a delay lets the work be done when it is over.
    Before,
    /// It does: tokens were rotated, a code is spent.
    After,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    // === In time, or not at all ===
    /// The right answer, so much later.
    Delay(Duration),
    /// No answer; the connection stays open.
    Hang,
    /// No answer; the connection is reset.
    Reset,
    /// So many bytes of the answer, head included; then the connection is reset.
    Cut(usize),
    /// The right answer, byte after byte, with so much time before each.
    Trickle(Duration),

    // === Another answer ===
    /// An error that is no OAuth error, with a JSON body.
    Status(u16),
    /// The same with a `Retry-After` of any text: seconds, a date, garbage.
    RetryAfter(u16, String),
    /// An HTML page.
    Html(u16),
    /// Nothing but a status.
    Empty(u16),
    /// A redirect.
    Redirect {
        /// Its status, such as 307.
        status: u16,
        /// Its target.
        location: String,
    },
    /// An OAuth error.
    Error {
        /// Its status.
        status: u16,
        /// Its code, such as `invalid_grant`.
        code: String,
    },
    /// Any bytes.
    Raw {
        /// The status.
        status: u16,
        /// The content type.
        content_type: String,
        /// The body.
        body: Vec<u8>,
    },
    /// A JSON body of so many bytes.
    Huge(usize),
    /// JSON of so many lists in lists.
    Deep(usize),
    /// A token in bytes that are no UTF-8.
    NotUtf8,

    // === The right answer, with something wrong in it; the provider has done its work ===
    /// Members that replace those of the answer; null members stay, as null.
    Members(Map<String, Value>),
    /// The tokens, and an error beside them, with this status.
    ErrorBeside {
        /// The status.
        status: u16,
        /// The code of the error.
        code: String,
    },
    /// Every member twice, the second time with another value.
    Twice,
}

impl Effect {
    /// The right answer, with one member changed, such as `access_token` to null.
    pub fn member(name: &str, value: impl Into<Value>) -> Self {
        Self::Members(Map::from_iter([(name.to_owned(), value.into())]))
    }

    /// A token that would start a header of its own.
    pub fn token_with_line_break() -> Self {
        Self::member("access_token", "at-0\r\nX-Injected: yes")
    }

    /// A token of so many bytes.
    pub fn long_token(bytes: usize) -> Self {
        Self::member("access_token", "a".repeat(bytes))
    }

    /// Whether the provider does its work, for a fault that was ordered for a stage.
    pub(super) const fn works(&self, stage: Stage) -> bool {
        match self {
            Self::Delay(_) | Self::Trickle(_) | Self::Cut(_) => true,
            Self::Members(_) | Self::ErrorBeside { .. } | Self::Twice => true,
            _ => matches!(stage, Stage::After),
        }
    }

    /// Spoils an answer. `right` is the one of the provider, if it did its work.
    pub(super) async fn spoil(self, right: Reply, switch: &Switch) -> Response {
        let json = |status, body: &[u8]| plain(status, "application/json", body.to_vec());
        match self {
            Self::Delay(_) => send(right),
            Self::Hang => match std::future::pending::<Infallible>().await {},
            Self::Reset => {
                switch.cut(0);
                send(right)
            }
            Self::Cut(bytes) => {
                switch.cut(bytes);
                send(right)
            }
            Self::Trickle(every) => {
                switch.trickle(every);
                send(right)
            }
            Self::Status(status) => json(status, b"{\"message\":\"something went wrong\"}"),
            Self::RetryAfter(status, after) => {
                let body = b"{\"error\":\"temporarily_unavailable\"}".to_vec();
                header(plain(status, "application/json", body), "retry-after", &after)
            }
            Self::Html(status) => plain(status, "text/html", b"<html><h1>Bad gateway</h1></html>".to_vec()),
            Self::Empty(status) => plain(status, "application/json", Vec::new()),
            Self::Redirect { status, location } => {
                header(plain(status, "text/plain", Vec::new()), "location", &location)
            }
            Self::Error { status, code } => json(status, json!({ "error": code }).to_string().as_bytes()),
            Self::Raw { status, content_type, body } => plain(status, &content_type, body),
            Self::Huge(bytes) => {
                json(200, format!("{{\"access_token\":\"{}\"}}", "a".repeat(bytes)).as_bytes())
            }
            Self::Deep(depth) => json(200, ("[".repeat(depth) + &"]".repeat(depth)).as_bytes()),
            Self::NotUtf8 => json(200, b"{\"access_token\":\"\xff\xfe\xfd\",\"token_type\":\"Bearer\"}"),
            Self::Members(members) => send(edit(right, |answer| answer.extend(members))),
            Self::ErrorBeside { status, code } => {
                let right = edit(right, |answer| drop(answer.insert("error".to_owned(), json!(code))));
                send(Reply { status, ..right })
            }
            Self::Twice => send(twice(right)),
        }
    }
}

/// Sends an answer as it is.
pub(super) fn send(reply: Reply) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or_default();
    for (name, value) in &reply.headers {
        response = header(response, name, value);
    }
    response
}

fn plain(status: u16, content_type: &str, body: Vec<u8>) -> Response {
    send(Reply::new(status, content_type, body))
}

/// A header, unless HTTP cannot carry it.
fn header(mut response: Response, name: &str, value: &str) -> Response {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
        response.headers_mut().append(name, value);
    }
    response
}

/// Changes the members of a JSON answer.
fn edit(reply: Reply, change: impl FnOnce(&mut Map<String, Value>)) -> Reply {
    let mut body = serde_json::from_slice(&reply.body).unwrap_or_default();
    if let Value::Object(members) = &mut body {
        change(members);
    }
    Reply { body: body.to_string().into(), ..reply }
}

fn twice(reply: Reply) -> Reply {
    let Ok(Value::Object(members)) = serde_json::from_slice(&reply.body) else { return reply };
    let pair = |(name, value): (String, Value)| format!("{}:{value},{0}:\"again\"", json!(name));
    let body = members.into_iter().map(pair).collect::<Vec<_>>().join(",");
    Reply { body: format!("{{{body}}}").into(), ..reply }
}
