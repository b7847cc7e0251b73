//! The file format: what a definition looks like in YAML, before any of it is checked.
//!
//! The published schema is generated from these types, and their doc comments are its descriptions.

mod oauth2;
mod test;

use std::borrow::Cow;
use std::collections::BTreeMap;

use keyholder_domain::AuthMethod;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

pub(crate) use oauth2::{
    AccountSource, AlgorithmDefinition, AssertionDefinition, AuthorizeDefinition,
    ClientAuthenticationDefinition, ExchangeDefinition, ExpiryUnit, FormatOfRequest, OAuth2Definition,
    PkceDefinition, RefreshDefinition, RefreshWithDefinition, ReuseDefinition, RevokeAuthentication,
    RevokeDefinition, RevokeRequest, SendAssertionDefinition, TokenAccountDefinition, TokenAnswerDefinition,
};
pub(crate) use test::{AccountDefinition, AnswerDefinition, Constant, ErrorDefinition, TestDefinition};

/// A provider definition: how people connect to one outside service, and how their credential is put on
/// a request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Keyholder provider definition")]
pub(crate) struct Definition {
    /// The provider's id; also the file's name, without `.yaml`.
    #[schemars(regex(pattern = "^[a-z0-9][a-z0-9-]{0,63}$"))]
    pub(crate) id: String,
    /// The provider's name, as people know it.
    pub(crate) name: String,
    /// The page of the provider's own documentation that tells the facts.
    #[schemars(regex(pattern = "^https://"))]
    pub(crate) documentation_url: String,
    /// The day on which the facts were last compared with what `facts_from` names, as YYYY-MM-DD.
    #[schemars(regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub(crate) facts_checked: String,
    /// Where the facts come from. Left out, from the documentation.
    pub(crate) facts_from: Option<FactsFromDefinition>,
    /// Where requests go: an https URL, which may hold `{config.…}`. A base URL that is nothing but one
    /// reference to an optional field is left out when the field is.
    pub(crate) base_url: Option<String>,
    /// Which services may use connections to this provider when the workload policy names no providers:
    /// `"*"` for every caller, or entries such as `service:ai-gateway`. Left out, it is `["*"]`. Empty
    /// means that a policy must name the provider; choose that where a credential can move money.
    #[serde(default = "every_service")]
    pub(crate) services: Vec<String>,
    /// Settings of a connection that are not secret, such as a base URL or a subdomain.
    #[serde(default)]
    pub(crate) config: Vec<FieldDefinition>,
    /// The ways to connect.
    #[schemars(length(min = 1))]
    pub(crate) auth_methods: Vec<MethodDefinition>,
    /// The provider's OAuth 2.0 server. Needed by every method whose credential is issued.
    pub(crate) oauth2: Option<OAuth2Definition>,
    /// The scopes that the provider is known to have.
    #[serde(default)]
    pub(crate) scopes: Vec<ScopeDefinition>,
    /// The scopes that are asked for when a caller names none.
    #[serde(default)]
    pub(crate) default_scopes: Vec<String>,
    /// The provider's separate services, each with its own scopes and perhaps its own base URL.
    #[serde(default)]
    pub(crate) capabilities: Vec<CapabilityDefinition>,
}

/// Where the facts come from.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FactsFromDefinition {
    /// From the provider's documentation, with which they were compared.
    Documentation,
    /// At least in part from client libraries under a permissive license; that part was not compared with the
    /// provider's documentation.
    Libraries,
}

fn every_service() -> Vec<String> {
    vec!["*".to_owned()]
}

/// One way to connect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MethodDefinition {
    /// Which way.
    pub(crate) method: MethodName,
    /// What people call it.
    pub(crate) title: String,
    /// What the owner must type in. For `oauth2_client_credentials` a client of the owner's own; not for
    /// `oauth2_code` and `oauth2_device`.
    #[serde(default)]
    pub(crate) fields: Vec<FieldDefinition>,
    /// Whether the owner may add further fields, all of them secret, under names of their own. Only for
    /// `custom`.
    #[serde(default)]
    pub(crate) open_fields: bool,
    /// The name of a field that is not secret and that tells one account from another.
    pub(crate) account_id: Option<String>,
    /// How the credential is put on a request. What is issued is `{credential.access_token}`, and goes behind
    /// `Bearer` unless something else is said. For the `oauth2_…` methods, `{config.client_id}` stands for the
    /// client's id.
    pub(crate) http: Option<HttpDefinition>,
    /// The request that proves a credential. Where an account is connected by OAuth, it also tells whose it is.
    pub(crate) test: Option<TestDefinition>,
    /// Why there is no such request, in a sentence for people.
    pub(crate) no_test: Option<String>,
    /// The scopes that this method asks for when a caller names none, in place of the provider's. Empty means
    /// that none are asked for. Only for what is issued.
    pub(crate) default_scopes: Option<Vec<String>>,
}

/// How the credential is put on a request. Every name and value is a template: `{credential.name}` and
/// `{config.name}` stand for fields, `{{` and `}}` for braces.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpDefinition {
    /// Headers by name.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// Query parameters by name. They end up in many logs: use a header where the provider takes one.
    #[serde(default)]
    pub(crate) query_parameters: BTreeMap<String, String>,
    /// Cookies by name.
    #[serde(default)]
    pub(crate) cookies: BTreeMap<String, String>,
    /// A base URL that holds a part of the credential; takes the place of the provider's own.
    pub(crate) base_url: Option<String>,
    /// HTTP Basic authentication (RFC 7617).
    pub(crate) basic: Option<BasicDefinition>,
}

/// HTTP Basic authentication (RFC 7617).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BasicDefinition {
    /// The user name, which cannot hold a colon.
    pub(crate) username: String,
    /// The password.
    pub(crate) password: String,
}

/// One field of a credential or of the config.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldDefinition {
    /// The name by which templates and callers refer to it.
    #[schemars(regex(pattern = "^[a-z][a-z0-9_]{0,62}$"))]
    pub(crate) name: String,
    /// What people call it.
    pub(crate) title: String,
    /// Where to find it, in a sentence.
    #[serde(default)]
    pub(crate) help: String,
    /// Whether it must never be shown again. Never for config.
    #[serde(default)]
    pub(crate) secret: bool,
    /// Whether it must be given. Left out, it is true, unless there is a default.
    pub(crate) required: Option<bool>,
    /// Whether the provider fills it in while an account is connected. Only for config, with a pattern.
    #[serde(default)]
    pub(crate) learned: bool,
    /// Whether it may hold line breaks, as a private key does.
    #[serde(default)]
    pub(crate) multiline: bool,
    /// Whether it may be empty. Only for config.
    #[serde(default)]
    pub(crate) allow_empty: bool,
    /// The value that is used when none is given. Only for config.
    pub(crate) default: Option<String>,
    /// A regular expression that the whole value must match. Make it no stricter than what the provider
    /// promises.
    pub(crate) pattern: Option<String>,
    /// What kind of text it is.
    pub(crate) format: Option<FormatDefinition>,
}

/// A kind of text.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FormatDefinition {
    /// An absolute https URL without user name, query or fragment.
    HttpsUrl,
    /// The name of a header that a client may set.
    HeaderName,
    /// The name of a query parameter or a cookie.
    ParameterName,
    /// One label of a host name, such as a subdomain.
    HostLabel,
    /// A path that begins with a slash, without query or fragment.
    UrlPath,
}

/// A scope that the provider is known to have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScopeDefinition {
    /// The scope, as it goes over the wire.
    pub(crate) name: String,
    /// What it permits, in a few words.
    pub(crate) title: String,
}

/// One of the provider's separate services.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CapabilityDefinition {
    /// Its id.
    #[schemars(regex(pattern = "^[a-z][a-z0-9_]{0,62}$"))]
    pub(crate) id: String,
    /// What people call it.
    pub(crate) title: String,
    /// The scopes that it takes.
    pub(crate) scopes: Vec<String>,
    /// Where its requests go, if not to the provider's base URL.
    pub(crate) base_url: Option<String>,
}

/// An auth method, written as in the API.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct MethodName(pub(crate) AuthMethod);

impl TryFrom<String> for MethodName {
    type Error = keyholder_domain::Invalid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        AuthMethod::parse(&text).map(Self)
    }
}

impl JsonSchema for MethodName {
    fn schema_name() -> Cow<'static, str> {
        "MethodName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "An auth method.",
            "enum": AuthMethod::ALL.map(AuthMethod::as_str),
        })
    }
}
