//! The part of the file format that says how a provider's OAuth 2.0 server behaves: its recipe.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::test::{Constant, OkDefinition};

/// The provider's OAuth 2.0 server (RFC 6749) and its manners. Needed by the OAuth methods and by
/// `jwt_bearer`. URLs, and the values of parameters and headers, may hold `{config.…}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OAuth2Definition {
    /// The server's issuer identifier (RFC 8414, section 2), if it has one.
    pub(crate) issuer: Option<String>,
    /// Whether the server promises to send `iss` with every authorization response (RFC 9207). A response
    /// without it is then refused.
    #[serde(default)]
    pub(crate) sends_iss: bool,
    /// How the client proves who it is at the token endpoint.
    pub(crate) client_authentication: ClientAuthenticationDefinition,
    /// What stands between two scopes. Left out, a space.
    pub(crate) scope_separator: Option<String>,
    /// Other names for the parameters of RFC 6749 and RFC 7523, such as `client_id: client_key`. They hold
    /// wherever the parameter is sent.
    #[serde(default)]
    pub(crate) names: BTreeMap<String, String>,
    /// The browser's way to consent. Needed by `oauth2_code`.
    pub(crate) authorize: Option<AuthorizeDefinition>,
    /// The token endpoint.
    pub(crate) token: TokenDefinition,
    /// How the server's token answers look, where they differ from RFC 6749, section 5.
    #[serde(default)]
    pub(crate) answer: TokenAnswerDefinition,
    /// The second step of a login whose code brings only a short-lived token (Instagram, Threads, Facebook).
    pub(crate) exchange: Option<ExchangeDefinition>,
    /// How tokens are refreshed, and what becomes of the old ones.
    #[serde(default)]
    pub(crate) refresh: RefreshDefinition,
    /// Device authorization (RFC 8628). Needed by `oauth2_device`.
    pub(crate) device: Option<DeviceDefinition>,
    /// The assertion that stands for the client or the user. Needed by `jwt_bearer`.
    pub(crate) assertion: Option<AssertionDefinition>,
    /// How a token is given back.
    pub(crate) revoke: Option<RevokeDefinition>,
    /// Where the token answer itself tells whose the account is. Left out, the method's test tells it.
    pub(crate) account: Option<TokenAccountDefinition>,
}

/// How the client proves who it is (RFC 6749, section 2.3).
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientAuthenticationDefinition {
    /// HTTP Basic with id and secret form-encoded first, as the RFC says.
    Basic,
    /// HTTP Basic with id and secret as they are, as many servers expect.
    BasicRaw,
    /// `client_id` and `client_secret` among the parameters.
    Body,
    /// A signed assertion (RFC 7523, section 2.2).
    PrivateKeyJwt,
    /// No secret: `client_id` among the parameters.
    None,
}

/// The browser's way to consent (RFC 6749, section 4.1).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthorizeDefinition {
    /// The authorization endpoint.
    pub(crate) url: String,
    /// Further parameters, such as `access_type: offline`.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
    /// Whether PKCE (RFC 7636, S256) is sent. Only for servers that refuse it, write `off`.
    pub(crate) pkce: Option<PkceDefinition>,
    /// Data on the redirect that is kept as config: the parameter's name, and the config field, which must
    /// be `learned` and have a pattern. What does not match it ends the authorization.
    #[serde(default)]
    pub(crate) config: BTreeMap<String, String>,
}

/// Whether PKCE is sent.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PkceDefinition {
    /// With the method S256.
    S256,
    /// Not at all.
    Off,
}

/// The token endpoint (RFC 6749, section 3.2).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenDefinition {
    /// Its address.
    pub(crate) url: String,
    /// How parameters are sent. Left out, as a form.
    pub(crate) format: Option<FormatOfRequest>,
    /// Further headers.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// Further parameters when a code is exchanged, or a token is asked for without a user.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
}

/// How parameters are sent.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FormatOfRequest {
    /// POST with a form in the body.
    Form,
    /// POST with a JSON object in the body.
    Json,
    /// GET with a query, secrets included: only where the server takes nothing else.
    Query,
}

/// How the server's token answers look. Each `…` is a JSON pointer (RFC 6901); an answer in form encoding is
/// read as an object of texts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenAnswerDefinition {
    /// Where the access token is. Left out, `/access_token`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) access_token: Option<String>,
    /// Where the refresh token is. Left out, `/refresh_token`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) refresh_token: Option<String>,
    /// Where the granted scopes are, as a text or a list. Left out, `/scope`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) scope: Option<String>,
    /// Further types of token that go behind `Bearer` like the type `bearer`.
    #[serde(default)]
    pub(crate) token_types: Vec<String>,
    /// What stands between two granted scopes, if not what stands between two that are asked for. Spaces and
    /// commas are understood without it.
    pub(crate) scope_separator: Option<String>,
    /// Where the access token's lifetime is. Left out, `/expires_in`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) expires: Option<String>,
    /// In what the lifetime is told. Left out, in seconds.
    pub(crate) expires_unit: Option<ExpiryUnit>,
    /// Where the refresh token's lifetime in seconds is.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) refresh_expires: Option<String>,
    /// What a good answer holds, and no other, where the status does not say it.
    pub(crate) ok: Option<OkDefinition>,
    /// The server's own error codes, beside those of RFC 6749, section 5.2.
    pub(crate) error: Option<TokenErrorDefinition>,
    /// Data of the answer that is kept as config, such as an instance's URL: the config field, which must be
    /// `learned` and have a pattern, and where its value is. What does not match ends the authorization.
    #[serde(default)]
    pub(crate) config: BTreeMap<String, String>,
}

/// In what a lifetime is told.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExpiryUnit {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Milliseconds,
    /// The moment, in seconds since 1970.
    UnixSeconds,
    /// The moment, as in RFC 3339.
    Date,
}

/// The server's own error codes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenErrorDefinition {
    /// Where the code is. Left out, `/error`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) pointer: Option<String>,
    /// The codes that say that this user's permission is gone.
    #[serde(default)]
    pub(crate) dead: Vec<Constant>,
    /// The codes that say that the client is wrong or blocked.
    #[serde(default)]
    pub(crate) client: Vec<Constant>,
    /// The codes that pass by themselves, such as a throttle.
    #[serde(default)]
    pub(crate) passing: Vec<Constant>,
}

/// The second step of a login: the token of the code is exchanged for one that lives longer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExchangeDefinition {
    /// Where.
    pub(crate) url: String,
    /// How parameters are sent. Left out, as a form.
    pub(crate) format: Option<FormatOfRequest>,
    /// The parameter that carries the token. Left out, `access_token`.
    pub(crate) token_name: Option<String>,
    /// Further parameters, `grant_type` among them. The client's id and secret are sent too.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
}

/// How tokens are refreshed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshDefinition {
    /// What a refresh token is worth once it was used. Left out, `none`: the worst case.
    pub(crate) reuse: Option<ReuseDefinition>,
    /// For `window`, how long the old one stays good, in seconds; for `until_used`, the longest, if there is one.
    pub(crate) reuse_seconds: Option<u32>,
    /// What is sent to be refreshed. Left out, the refresh token.
    pub(crate) with: Option<RefreshWithDefinition>,
    /// Where, if not to the token endpoint.
    pub(crate) url: Option<String>,
    /// How parameters are sent, if not as to the token endpoint.
    pub(crate) format: Option<FormatOfRequest>,
    /// Further parameters. One named `grant_type` takes the place of `refresh_token`.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
    /// Whether the scopes are sent again.
    #[serde(default)]
    pub(crate) sends_scope: bool,
    /// Whether the redirect URI is sent again.
    #[serde(default)]
    pub(crate) sends_redirect_uri: bool,
    /// A scope that must be asked for to get a refresh token, such as `offline_access`.
    pub(crate) scope: Option<String>,
    /// An access token's lifetime, in seconds, where the answer does not say it.
    pub(crate) access_token_seconds: Option<u32>,
    /// The server refuses to refresh earlier than this before the end, in seconds.
    pub(crate) earliest_seconds: Option<u32>,
    /// The refresh token dies when it is not used for so many days.
    pub(crate) idle_days: Option<u32>,
    /// The refresh token, and all that come from it, die so many days after the consent.
    pub(crate) absolute_days: Option<u32>,
}

/// What a refresh token is worth once it was used.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReuseDefinition {
    /// It stays good.
    Static,
    /// It stays good for `reuse_seconds`.
    Window,
    /// It stays good until the new one is used.
    UntilUsed,
    /// Nothing: it is dead, and to send it again may end the whole permission.
    None,
    /// There are no refresh tokens.
    NoRefresh,
}

/// What is sent to be refreshed.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefreshWithDefinition {
    /// The refresh token, as `refresh_token`.
    RefreshToken,
    /// The access token itself, as `access_token`.
    AccessToken,
}

/// Device authorization (RFC 8628).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceDefinition {
    /// The device authorization endpoint.
    pub(crate) url: String,
    /// Further parameters.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
}

/// A signed assertion (RFC 7523, section 2.1), made of the method's fields: `{credential.…}` is allowed here.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AssertionDefinition {
    /// The field that holds the private key, in PEM.
    pub(crate) key: String,
    /// The signature's algorithm.
    pub(crate) algorithm: AlgorithmDefinition,
    /// The key's id, for the header, if the server wants one.
    pub(crate) key_id: Option<String>,
    /// `iss`.
    pub(crate) issuer: String,
    /// `sub`. If it is nothing but a reference to a field that is not given, it is left out.
    pub(crate) subject: Option<String>,
    /// `aud`. Left out, there is none.
    pub(crate) audience: Option<String>,
    /// Whether the scopes go into the assertion.
    #[serde(default)]
    pub(crate) scope: bool,
    /// How the assertion is sent. Left out, as a grant.
    pub(crate) send_as: Option<SendAssertionDefinition>,
    /// Where, if not to the token endpoint.
    pub(crate) url: Option<String>,
}

/// The signature's algorithm (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(crate) enum AlgorithmDefinition {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
}

/// How the assertion is sent.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SendAssertionDefinition {
    /// As `assertion` with the grant type of RFC 7523.
    Grant,
    /// As a bearer token of an empty POST, as GitHub Apps do.
    Bearer,
}

/// How a token is given back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeDefinition {
    /// Where. `{config.client_id}` stands for the client's id.
    pub(crate) url: String,
    /// The request. Left out, POST with a form (RFC 7009).
    pub(crate) request: Option<RevokeRequest>,
    /// The parameter that carries the token. Left out, `token`.
    pub(crate) token_name: Option<String>,
    /// Which token ends the whole permission. Left out, the refresh token, and the access token where there is
    /// no other.
    pub(crate) token: Option<RefreshWithDefinition>,
    /// Who asks. Left out, the client, as at the token endpoint.
    pub(crate) authentication: Option<RevokeAuthentication>,
    /// Further parameters.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
    /// The statuses that say that it is done. Left out, 200 alone.
    #[serde(default)]
    #[schemars(inner(range(min = 200, max = 499)))]
    pub(crate) good: Vec<u16>,
}

/// The request that gives a token back.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RevokeRequest {
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
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RevokeAuthentication {
    /// The client, as at the token endpoint.
    Client,
    /// The client, by HTTP Basic.
    Basic,
    /// Whoever holds the access token, which goes behind `Bearer`.
    Bearer,
    /// Nobody: the token suffices.
    None,
}

/// Where the token answer itself tells whose the account is (JSON pointers, RFC 6901).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenAccountDefinition {
    /// Where it is told.
    pub(crate) from: AccountSource,
    /// The provider's id of the account. For an ID token, left out, `/sub`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) id: Option<String>,
    /// The account's name. For an ID token, left out, `/name`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) name: Option<String>,
    /// The account's e-mail address. For an ID token, left out, `/email`.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) email: Option<String>,
}

/// Where the account is told.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AccountSource {
    /// In the claims of the ID token (OpenID Connect Core 1.0, section 2).
    IdToken,
    /// Beside the access token.
    TokenAnswer,
}
