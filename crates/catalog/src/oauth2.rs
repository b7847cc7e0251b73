//! A provider's OAuth 2.0 server and its manners, as everything else sees them: the recipe.

use std::time::Duration;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::injection::{Lookup, Values};
use crate::test::{AccountPointers, Expected};
use crate::{Provider, RenderError, Template, TestedAccount, check_https_url};

/// How an OAuth 2.0 server (RFC 6749) behaves. Says what is sent and how answers are read; sends nothing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OAuth2 {
    /// The issuer identifier (RFC 8414, section 2), as a template over the config.
    pub issuer: Option<Template>,
    /// Whether an authorization response without `iss` is refused (RFC 9207).
    pub sends_iss: bool,
    /// How the client proves who it is.
    pub client_authentication: ClientAuthentication,
    /// What stands between two scopes.
    pub scope_separator: String,
    /// Other names for standard parameters: the standard's and the server's.
    pub names: Vec<(String, String)>,
    /// The browser's way to consent.
    pub authorize: Option<Authorize>,
    /// The token endpoint.
    pub token: Endpoint,
    /// Further headers of requests to the token endpoint.
    pub token_headers: Vec<(String, Template)>,
    /// How token answers are read.
    pub answer: TokenAnswer,
    /// The second step of a login.
    pub exchange: Option<Exchange>,
    /// How tokens are refreshed.
    pub refresh: Refresh,
    /// Device authorization (RFC 8628).
    pub device: Option<Endpoint>,
    /// The assertion of the method `jwt_bearer`.
    pub assertion: Option<Assertion>,
    /// How a token is given back.
    pub revoke: Option<Revoke>,
    /// Where the token answer itself tells whose the account is.
    pub account: Option<TokenAccount>,
}

/// How the client proves who it is at the token endpoint (RFC 6749, section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// HTTP Basic with id and secret form-encoded first.
    Basic,
    /// HTTP Basic with id and secret as they are.
    BasicRaw,
    /// `client_id` and `client_secret` among the parameters.
    Body,
    /// A signed assertion (RFC 7523, section 2.2).
    PrivateKeyJwt,
    /// `client_id` among the parameters, and no secret.
    None,
}

/// The browser's way to consent (RFC 6749, section 4.1).
#[derive(Debug, Clone)]
pub struct Authorize {
    /// The authorization endpoint, with its further parameters.
    pub url: Template,
    /// Further parameters.
    pub parameters: Vec<(String, Template)>,
    /// Whether PKCE (RFC 7636, S256) is sent.
    pub pkce: bool,
    /// Data on the redirect that is kept: the parameter and the config field.
    pub config: Vec<(String, String)>,
}

/// An endpoint that takes parameters.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its address.
    pub url: Template,
    /// How parameters are sent.
    pub format: RequestFormat,
    /// Further parameters.
    pub parameters: Vec<(String, Template)>,
}

/// How parameters are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFormat {
    /// POST with a form in the body.
    Form,
    /// POST with a JSON object in the body.
    Json,
    /// GET with a query.
    Query,
}

/// How token answers are read (RFC 6749, section 5). Pointers are JSON pointers (RFC 6901).
#[derive(Debug, Clone)]
pub struct TokenAnswer {
    /// Where the access token is.
    pub access_token: String,
    /// Where the refresh token is.
    pub refresh_token: String,
    /// Further types of token that are as good as `bearer`.
    pub token_types: Vec<String>,
    /// Where the granted scopes are.
    pub scope: String,
    /// What stands between two of them, where it is neither a space nor a comma.
    pub scope_separator: Option<String>,
    /// Where the access token's lifetime is.
    pub expires: String,
    /// In what it is told.
    pub expires_unit: ExpiresUnit,
    /// Where the refresh token's lifetime in seconds is.
    pub refresh_expires: Option<String>,
    pub(crate) ok: Option<Expected>,
    /// Where an error's code is.
    pub error: String,
    pub(crate) dead: Vec<Value>,
    pub(crate) client: Vec<Value>,
    pub(crate) passing: Vec<Value>,
    /// Data of the answer that is kept: the config field, and where its value is.
    pub config: Vec<(String, String)>,
}

/// In what a lifetime is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiresUnit {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Milliseconds,
    /// The moment, in seconds since 1970.
    UnixSeconds,
    /// The moment, as in RFC 3339.
    Date,
}

/// What an error code says, beyond RFC 6749.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenErrorClass {
    /// This user's permission is gone.
    Dead,
    /// The client is wrong or blocked.
    Client,
    /// It passes by itself.
    Passing,
}

/// The second step of a login: the token of the code is exchanged for one that lives longer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Where, and with which parameters.
    pub endpoint: Endpoint,
    /// The parameter that carries the token.
    pub token_name: String,
}

/// How tokens are refreshed.
#[derive(Debug, Clone)]
pub struct Refresh {
    /// What a refresh token is worth once it was used.
    pub reuse: Reuse,
    /// What is sent.
    pub with: RefreshWith,
    /// Where, and with which parameters.
    pub endpoint: Endpoint,
    /// Whether the scopes are sent again.
    pub sends_scope: bool,
    /// Whether the redirect URI is sent again.
    pub sends_redirect_uri: bool,
    /// A scope that must be asked for to get a refresh token.
    pub scope: Option<String>,
    /// An access token's lifetime where the answer does not say it.
    pub access_token_lifetime: Option<Duration>,
    /// The server refuses to refresh earlier than this before the end.
    pub earliest: Option<Duration>,
    /// The refresh token dies when it is not used for so long.
    pub idle: Option<Duration>,
    /// The refresh token and its successors die so long after the consent.
    pub absolute: Option<Duration>,
}

/// What a refresh token is worth once it was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It stays good.
    Static,
    /// It stays good for so long.
    Window(Duration),
    /// It stays good until the new one is used, but no longer than this.
    UntilUsed(Option<Duration>),
    /// It is dead, and to send it again may end the whole permission.
    None,
    /// There are no refresh tokens.
    NoRefresh,
}

/// A token of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshWith {
    /// The refresh token.
    RefreshToken,
    /// The access token.
    AccessToken,
}

/// A signed assertion (RFC 7523, section 2.1).
#[derive(Debug, Clone)]
pub struct Assertion {
    /// The field that holds the private key, in PEM.
    pub key: String,
    /// The signature's algorithm.
    pub algorithm: JwtAlgorithm,
    /// `kid`.
    pub key_id: Option<Template>,
    /// `iss`.
    pub issuer: Template,
    /// `sub`.
    pub subject: Option<Template>,
    /// `aud`.
    pub audience: Option<Template>,
    /// Whether the scopes go in.
    pub scope: bool,
    /// Whether it is sent as a bearer token, and not as a grant.
    pub as_bearer: bool,
    /// Where, if not to the token endpoint.
    pub url: Option<Template>,
}

/// A signature's algorithm (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

/// How a token is given back.
#[derive(Debug, Clone)]
pub struct Revoke {
    /// Where.
    pub url: Template,
    /// The request.
    pub request: RevokeRequest,
    /// The parameter that carries the token.
    pub token_name: String,
    /// Which token ends the whole permission.
    pub token: RefreshWith,
    /// Who asks.
    pub authentication: RevokeAuthentication,
    /// Further parameters.
    pub parameters: Vec<(String, Template)>,
    /// The statuses that say that it is done.
    pub good: Vec<u16>,
}

/// The request that gives a token back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeRequest {
    /// POST with a form in the body.
    Form,
    /// POST with a JSON object in the body.
    Json,
    /// DELETE with a JSON object in the body.
    DeleteJson,
    /// DELETE without a body.
    Delete,
    /// POST with a query.
    Query,
}

/// Who asks for a token to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeAuthentication {
    /// The client, as at the token endpoint.
    Client,
    /// The client, by HTTP Basic.
    Basic,
    /// Whoever holds the access token.
    Bearer,
    /// Nobody.
    None,
}

/// Where the token answer itself tells whose the account is.
#[derive(Debug, Clone)]
pub struct TokenAccount {
    /// Whether it is told in the ID token, and not beside the access token.
    pub in_id_token: bool,
    pub(crate) pointers: AccountPointers,
}

// === impl OAuth2 ===

impl OAuth2 {
    /// The server's name for a parameter of the standards.
    pub fn name<'a>(&'a self, standard: &'a str) -> &'a str {
        self.names.iter().find(|(known, _)| known == standard).map_or(standard, |(_, own)| own)
    }
}

impl TokenAnswer {
    /// Whether an answer holds what every good one does. True where nothing is known.
    pub fn is_ok(&self, answer: &Value) -> bool {
        self.ok.as_ref().is_none_or(|ok| answer.pointer(&ok.pointer) == Some(&ok.equals))
    }

    /// What an error code says, if the recipe lists it.
    pub fn class_of(&self, code: &Value) -> Option<TokenErrorClass> {
        let lists = [
            (&self.dead, TokenErrorClass::Dead),
            (&self.client, TokenErrorClass::Client),
            (&self.passing, TokenErrorClass::Passing),
        ];
        lists.into_iter().find(|(codes, _)| codes.contains(code)).map(|(_, class)| class)
    }
}

impl TokenAccount {
    /// Whose the account is, by a token answer or by an ID token's claims.
    pub fn read(&self, from: &Value) -> Option<TestedAccount> {
        self.pointers.read(from)
    }
}

// === Rendering ===

impl Provider {
    /// Fills a template of the recipe in. Where it refers to an optional field that is not given, there is nothing.
    pub fn render_text<'v>(
        &self,
        template: &Template,
        credential: Lookup<'_, 'v>,
        config: Lookup<'_, 'v>,
    ) -> Result<Option<Zeroizing<String>>, RenderError> {
        let values = Values { credential, config, fields: &self.config };
        if template.sole_reference().is_some_and(|reference| values.get(reference).is_none()) {
            return Ok(None);
        }
        let text = values.render(template)?;
        if text.chars().any(char::is_control) {
            return Err(RenderError::Unsafe("parameter"));
        }
        Ok(Some(text))
    }

    /// Fills the URL of an endpoint in. It is a strict https URL; whether it may be called is for egress to say.
    pub fn render_url<'v>(
        &self,
        template: &Template,
        credential: Lookup<'_, 'v>,
        config: Lookup<'_, 'v>,
    ) -> Result<Zeroizing<String>, RenderError> {
        let values = Values { credential, config, fields: &self.config };
        let url = values.render(template)?;
        check_https_url(&url).map_err(RenderError::Url)?;
        Ok(url)
    }
}
