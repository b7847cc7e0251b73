//! The part of the file format that says how a credential is proved.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

/// The request that proves a credential, and what its answer says. Choose one that every valid credential
/// may send, that costs nothing and changes nothing.
///
/// 429 is always a limit. 5xx, and every status that is not listed, says nothing about the credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestDefinition {
    /// The method, GET, HEAD or POST, and the target: a path behind the base URL, an absolute https URL, or
    /// nothing but `{config.…}` for a field of the format `url_path`. If that field is optional, there is no
    /// test where it is not given. Path and URL may refer to fields that are not secret.
    #[schemars(regex(pattern = "^(GET|HEAD|POST) [^ ]+$"))]
    pub(crate) request: String,
    /// Further headers by name. Not templates, and not secret.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body, only for POST; `headers` must have its `Content-Type`. Not a template, and not secret.
    pub(crate) body: Option<String>,
    /// The statuses that prove the credential.
    #[schemars(length(min = 1), inner(range(min = 200, max = 299)))]
    pub(crate) good: Vec<u16>,
    /// The statuses that say that the credential is wrong, revoked or expired, and nothing else.
    #[serde(default)]
    #[schemars(inner(range(min = 400, max = 499)))]
    pub(crate) dead: Vec<u16>,
    /// The statuses that say that the credential is known, but may not do this.
    #[serde(default)]
    #[schemars(inner(range(min = 400, max = 499)))]
    pub(crate) forbidden: Vec<u16>,
    /// What the answer's JSON must hold, where the status alone does not say it.
    pub(crate) answer: Option<AnswerDefinition>,
    /// Where a good answer tells whose the credential is.
    #[serde(default)]
    pub(crate) account: AccountDefinition,
}

/// What the answer's JSON must hold. An answer that is not JSON then says nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerDefinition {
    /// What a good answer holds, and no other.
    pub(crate) ok: Option<OkDefinition>,
    /// The codes of errors. With any status that is listed, they count for more than the status.
    pub(crate) error: Option<ErrorDefinition>,
}

/// What a good answer holds, and no other.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OkDefinition {
    /// Where (a JSON pointer, RFC 6901).
    #[schemars(regex(pattern = "^/"))]
    pub(crate) pointer: String,
    /// What must be there.
    pub(crate) equals: Constant,
}

/// The codes of errors. If a list has codes, then a status of the same name says nothing without one of
/// them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErrorDefinition {
    /// Where the code is (a JSON pointer, RFC 6901).
    #[schemars(regex(pattern = "^/"))]
    pub(crate) pointer: String,
    /// The codes that say that the credential is wrong, revoked or expired.
    #[serde(default)]
    pub(crate) dead: Vec<Constant>,
    /// The codes that say that the credential is known, but may not do this.
    #[serde(default)]
    pub(crate) forbidden: Vec<Constant>,
    /// The codes that say that there were too many requests.
    #[serde(default)]
    pub(crate) limited: Vec<Constant>,
}

/// Where a good answer tells whose the credential is (JSON pointers, RFC 6901). What is not there, or is
/// neither text nor a number, is passed over.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountDefinition {
    /// The provider's id of the account.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) id: Option<String>,
    /// The account's name.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) name: Option<String>,
    /// The account's e-mail address.
    #[schemars(regex(pattern = "^/"))]
    pub(crate) email: Option<String>,
}

impl AccountDefinition {
    /// The keys and their pointers.
    pub(crate) fn pointers(&self) -> [(&'static str, Option<&str>); 3] {
        [("id", self.id.as_deref()), ("name", self.name.as_deref()), ("email", self.email.as_deref())]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pointers().iter().all(|(_, pointer)| pointer.is_none())
    }
}

/// A value that an answer may hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Constant(pub(crate) Value);

impl JsonSchema for Constant {
    fn schema_name() -> Cow<'static, str> {
        "Constant".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["boolean", "integer", "string"],
            "description": "A value that an answer may hold.",
        })
    }
}
