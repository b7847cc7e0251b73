use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header;
use url::form_urlencoded;

use super::ask::{Ask, claims};
use super::reply::Refusal;

/// A client that is registered at the provider.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// Its secrets; each is good. A client without any is public.
    pub secrets: Vec<String>,
    /// Where its users may be sent back to, each compared byte for byte.
    pub redirect_uris: Vec<String>,
    /// How it says who it is.
    pub authentication: Authentication,
}

/// How a client says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// In the header or in the body, but not in both.
    Any,
    /// In the header, id and secret form-encoded first (RFC 6749 section 2.3.1).
    Basic,
    /// In the header, as they are: what many servers take for right.
    BasicRaw,
    /// In the body.
    Body,
    /// By a JWT (RFC 7523 section 2.2), whose signature nobody checks.
    Assertion,
}

impl Client {
    /// A client with one secret.
    pub fn confidential(id: &str, secret: &str, redirect_uri: &str) -> Self {
        Self {
            id: id.to_owned(),
            secrets: vec![secret.to_owned()],
            redirect_uris: vec![redirect_uri.to_owned()],
            authentication: Authentication::Any,
        }
    }

    /// A client without a secret, such as a device.
    pub fn public(id: &str) -> Self {
        Self { secrets: Vec::new(), redirect_uris: Vec::new(), ..Self::confidential(id, "", "") }
    }

    /// Whether it has nothing to prove that it is itself.
    pub(super) fn is_public(&self) -> bool {
        self.secrets.is_empty() && self.authentication != Authentication::Assertion
    }

    fn admits(&self, shown: &Shown) -> bool {
        match shown {
            Shown::Id => self.is_public(),
            Shown::Header { raw, decoded } => match self.authentication {
                Authentication::Any | Authentication::Basic => self.has(decoded),
                Authentication::BasicRaw => self.has(raw),
                Authentication::Body | Authentication::Assertion => false,
            },
            Shown::Body(secret) => {
                matches!(self.authentication, Authentication::Any | Authentication::Body)
                    && self.knows(secret)
            }
            Shown::Assertion => self.authentication == Authentication::Assertion,
        }
    }

    fn has(&self, (id, secret): &(String, String)) -> bool {
        *id == self.id && self.knows(secret)
    }

    fn knows(&self, secret: &str) -> bool {
        self.secrets.iter().any(|known| known == secret)
    }
}

/// What a request shows about its client.
enum Shown {
    Id,
    Header { raw: (String, String), decoded: (String, String) },
    Body(String),
    Assertion,
}

/// The client that a request is from, if it proves that.
pub(super) fn authenticate<'a>(ask: &Ask, clients: &'a [Client]) -> Result<&'a Client, Refusal> {
    let (id, shown) = shown(ask)?;
    // The id of a raw header may read differently once it is decoded.
    let ids = match &shown {
        Shown::Header { raw, decoded } => vec![raw.0.clone(), decoded.0.clone()],
        _ => vec![id],
    };
    let mut candidates = clients.iter().filter(|client| ids.contains(&client.id));
    candidates.find(|client| client.admits(&shown)).ok_or(Refusal::InvalidClient)
}

/// Who a request says that it is from, proven or not. An assertion without a client says it itself.
pub(super) fn claimed(ask: &Ask) -> Option<String> {
    let issuer = || Some(ask.claims()?.get("iss")?.as_str()?.to_owned());
    shown(ask).ok().map(|(id, _)| id).or_else(issuer)
}

/// Exactly one way is allowed (RFC 6749 section 2.3).
fn shown(ask: &Ask) -> Result<(String, Shown), Refusal> {
    let header = ask.header(header::AUTHORIZATION);
    let (secret, assertion) = (ask.get("client_secret"), ask.get("client_assertion"));
    if usize::from(!header.is_empty()) + usize::from(secret.is_some()) + usize::from(assertion.is_some()) > 1
    {
        return Err(Refusal::InvalidRequest);
    }
    let id = ask.get("client_id").map(str::to_owned);
    if !header.is_empty() {
        let (raw, decoded) = basic(ask).ok_or(Refusal::InvalidClient)?;
        return Ok((decoded.0.clone(), Shown::Header { raw, decoded }));
    }
    if let Some(assertion) = assertion {
        let subject = claims(assertion).and_then(|claims| Some(claims.get("sub")?.as_str()?.to_owned()));
        return Ok((subject.ok_or(Refusal::InvalidClient)?, Shown::Assertion));
    }
    let id = id.ok_or(Refusal::InvalidClient)?;
    Ok((id, secret.map_or(Shown::Id, |secret| Shown::Body(secret.to_owned()))))
}

type Pair = (String, String);

fn basic(ask: &Ask) -> Option<(Pair, Pair)> {
    let text = String::from_utf8(STANDARD.decode(ask.authorization("Basic")?).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some(((id.to_owned(), secret.to_owned()), (form_decoded(id), form_decoded(secret))))
}

fn form_decoded(text: &str) -> String {
    // As the value of a pair whose name is empty; the rest of it cannot hold a divider.
    let pair = format!("={}", text.replace('&', "%26"));
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}
