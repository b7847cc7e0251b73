use std::time::Duration;

use serde_json::{Map, Value};

/// How a [`Provider`](super::Provider) behaves. The default is right in every point, and asks a person for consent.
#[derive(Debug, Clone, PartialEq)]
pub struct Manners {
    // === Consent ===
    /// Who decides at the authorization endpoint. `auto=allow` or `auto=deny` in the URL overrules it.
    pub consent: Consent,
    /// The account that consents. Any name is one: see [`User`](super::User).
    pub account: String,
    /// Whether a code needs PKCE.
    pub pkce: Pkce,

    // === What is asked ===
    /// Other names for parameters: the standard's, which is not understood any more, and the one in its place.
    pub names: Vec<(String, String)>,

    // === What comes back on the redirect ===
    /// The issuer on the redirect (RFC 9207).
    pub issuer: Issuer,
    /// Another state than the one that came.
    pub state: Option<String>,
    /// More parameters, such as `realmId`.
    pub redirect_extra: Vec<(String, String)>,
    /// The names of parameters that are said twice. A second `iss` or `state` differs from the first.
    pub redirect_twice: Vec<String>,

    // === Lifetimes ===
    /// How long a code lives.
    pub code_lifetime: Duration,
    /// How long an access token lives, whatever the answer says about it.
    pub access_lifetime: Duration,
    /// How long a refresh token lives from its issue; the answer then says `refresh_token_expires_in`.
    pub refresh_lifetime: Option<Duration>,
    /// How long a whole grant lives, however often it is refreshed. No answer says it.
    pub grant_lifetime: Option<Duration>,

    // === Refreshing ===
    /// What happens to a refresh token that comes again.
    pub reuse: Reuse,
    /// Which refresh tokens are given out.
    pub refresh_tokens: RefreshTokens,
    /// Whether the earlier access tokens die when a grant is refreshed.
    pub refresh_ends_access: bool,
    /// The account that a refreshed token is for, if not the one that consented.
    pub account_after_refresh: Option<String>,

    // === The shape of a token answer ===
    /// Its format.
    pub format: Format,
    /// A JSON pointer to the object that holds the tokens, such as `/authed_user`. Not in forms.
    pub nested: Option<String>,
    /// How it says when the access token ends.
    pub expiry: Expiry,
    /// How it says the scopes.
    pub scope: ScopeShape,
    /// The scopes that are granted, if not those that were asked for.
    pub granted: Option<Vec<String>>,
    /// The type of the token; nothing leaves it out.
    pub token_type: Option<String>,
    /// More members, such as `instance_url`. They win over the true ones.
    pub answer_extra: Map<String, Value>,

    // === Errors ===
    /// How many calls of the token endpoint one client has. Nothing: as many as it likes.
    pub limit: Option<Limit>,
    /// The status of every token error, if not the right one. GitHub says 200.
    pub error_status: Option<u16>,
    /// The name of every token error, if not the right one.
    pub error_code: Option<String>,
    /// What errors say about themselves; see [`hostile`](super::hostile).
    pub error_description: Option<String>,

    // === Device flow ===
    /// How long a device waits between two polls. An answer without `interval` means five seconds.
    pub device_interval: Option<Duration>,
    /// How long a device code lives.
    pub device_lifetime: Duration,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            consent: Consent::Ask,
            account: "ada".to_owned(),
            pkce: Pkce::Required,
            names: Vec::new(),
            issuer: Issuer::Right,
            state: None,
            redirect_extra: Vec::new(),
            redirect_twice: Vec::new(),
            code_lifetime: Duration::from_secs(60),
            access_lifetime: Duration::from_secs(3600),
            refresh_lifetime: None,
            grant_lifetime: None,
            reuse: Reuse::None,
            refresh_tokens: RefreshTokens::Rotate,
            refresh_ends_access: false,
            account_after_refresh: None,
            format: Format::Json,
            nested: None,
            expiry: Expiry::Seconds,
            scope: ScopeShape::Text,
            granted: None,
            token_type: Some("Bearer".to_owned()),
            answer_extra: Map::new(),
            limit: None,
            error_status: None,
            error_code: None,
            error_description: None,
            device_interval: Some(Duration::from_secs(5)),
            device_lifetime: Duration::from_secs(600),
        }
    }
}

/// Who decides whether a client gets what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// A person, on a page.
    Ask,
    /// Nobody: everything is allowed.
    Allow,
    /// Nobody: everything is denied.
    Deny,
}

/// Whether a code needs PKCE (RFC 7636). The `plain` method is never taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pkce {
    /// A request without a challenge is refused.
    Required,
    /// A challenge is checked if there is one.
    Optional,
    /// The provider has never heard of it.
    Ignored,
}

/// The `iss` on the redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issuer {
    /// The provider's own.
    Right,
    /// None, although the metadata promises one.
    Missing,
    /// None, and the metadata promises none.
    Unsupported,
    /// Another.
    Wrong(String),
}

/// What happens when a refresh token comes again after it was replaced. Whenever it is refused, the whole
/// grant dies, and [`Counts::replays`](super::Counts::replays) grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is refused.
    None,
    /// It stays good for as long as the grant lives.
    Static,
    /// For so long after it was first used it brings the same replacement, unless that was used already.
    Window(Duration),
    /// It brings the same replacement until that is used, at the most for so long.
    UntilUsed(Duration),
}

/// How many calls of the token endpoint one client has in each second of the provider's clock, good or not.
///
/// One more is answered 429 with JSON that is no OAuth error, and changes nothing. A call is counted when the
/// work on it begins: after a gate or a delay before the work, and not at all if a fault is in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The calls that are answered in one second.
    pub per_second: u32,
    /// Whether an answer to one more says `Retry-After: 1`.
    pub retry_after: bool,
}

/// Which refresh tokens are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokens {
    /// A new one with every answer.
    Rotate,
    /// One with the first answer, and the same again with every other.
    Same,
    /// One with the first answer, and none with the others: it stays good.
    FirstOnly,
    /// None.
    Never,
}

/// The format of a token answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`, whatever the client accepts.
    Form,
    /// JSON that says it is `text/plain`.
    TextJson,
    /// JSON for those who say that they accept it, a form for others, as GitHub does.
    AsAccepted,
}

/// How an answer says when the access token ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Expiry {
    /// `expires_in`, a whole number of seconds.
    Seconds,
    /// The same as a string.
    Text,
    /// The same with a fraction.
    Float,
    /// `expires_in` in milliseconds.
    Milliseconds,
    /// `expires_at`, an RFC 3339 date.
    Date,
    /// `expires_at`, Unix time.
    UnixTime,
    /// Not at all.
    Missing,
    /// `expires_in` with any value, such as -1, 0, 1e99 or "soon".
    Raw(Value),
}

/// How an answer says the scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeShape {
    /// Divided by spaces.
    Text,
    /// Divided by commas.
    Commas,
    /// A list of strings.
    List,
    /// Not at all.
    Missing,
}
