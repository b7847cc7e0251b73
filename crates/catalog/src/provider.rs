//! A provider, as everything else sees it: checked, with its templates and patterns compiled.

use std::borrow::Cow;
use std::sync::Arc;

use keyholder_domain::{AuthMethod, Principal, ProviderId, Scope, Scopes};

use crate::oauth2::OAuth2;
use crate::{Field, Http, Template, Test};

/// An outside service, and how to connect to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Provider {
    /// Its id.
    pub id: ProviderId,
    /// Its name, as people know it.
    pub name: String,
    /// The page of its own documentation that tells the facts.
    pub documentation_url: String,
    /// The day on which the facts were last compared with where they come from, as YYYY-MM-DD.
    pub facts_checked: String,
    /// Where the facts come from.
    pub facts_from: FactsFrom,
    /// Where requests go, as a template over the config; see [`Provider::render_base_url`].
    pub base_url: Option<Template>,
    /// The ways to connect, in the definition's order.
    pub auth_methods: Vec<Method>,
    /// Its OAuth 2.0 server, if a method needs one.
    pub oauth2: Option<Arc<OAuth2>>,
    /// Settings of a connection that are not secret.
    pub config: Vec<Field>,
    /// The scopes that the provider is known to have, in the definition's order. Empty says nothing.
    pub scopes: Vec<KnownScope>,
    /// The scopes that are asked for when a caller names none.
    pub default_scopes: Scopes,
    /// Its separate services, in the definition's order.
    pub capabilities: Vec<Capability>,
    /// Who may use the provider's connections by default, that is, when a workload's policy names no
    /// providers: `"*"` for every caller, or principals such as `service:ai-gateway`.
    ///
    /// The built-in definitions say `["*"]`, except those of providers that move money, such as Stripe:
    /// theirs is empty, so that a policy must name the provider.
    pub services: Vec<String>,
}

/// Where a definition's facts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactsFrom {
    /// From the provider's documentation, with which they were compared.
    Documentation,
    /// At least in part from client libraries; that part was not compared with the documentation.
    Libraries,
}

impl FactsFrom {
    /// The name in definitions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Documentation => "documentation",
            Self::Libraries => "libraries",
        }
    }
}

impl Provider {
    /// The method of a kind, if the provider has it.
    pub fn method(&self, method: AuthMethod) -> Option<&Method> {
        self.auth_methods.iter().find(|known| known.method == method)
    }

    /// The config field of a name.
    pub fn config_field(&self, name: &str) -> Option<&Field> {
        self.config.iter().find(|field| field.name == name)
    }

    /// Whether an actor may use the provider's connections by default; see [`Provider::services`]. Only
    /// `"*"` covers an actor that is not a service.
    pub fn allows_service(&self, actor: &Principal) -> bool {
        self.services.iter().any(|service| service == "*" || service == actor.as_str())
    }
}

/// One way to connect to a provider.
///
/// For the methods that are not static (see [`AuthMethod::is_static`]), what is put on a request is the issued
/// `access_token`; the fields, if there are any, are what it is asked for with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Method {
    /// Which way.
    pub method: AuthMethod,
    /// What people call it.
    pub title: String,
    /// What the owner must type in. `api_key` and `bearer` have exactly one secret field.
    pub fields: Vec<Field>,
    /// How the credential is put on a request.
    pub http: Http,
    /// The name of a field that is not secret and tells one account from another.
    pub account_id: Option<String>,
    /// Whether the owner may add further fields, all of them secret, under names of their own.
    pub open_fields: bool,
    /// The request that proves a credential; see [`Method::render_test`].
    pub test: Option<Test>,
    /// Why there is no test, in a sentence for people, if the definition says it.
    pub no_test: Option<String>,
    /// The scopes that are asked for when a caller names none, in place of [`Provider::default_scopes`]. Empty
    /// means that none are asked for.
    pub default_scopes: Option<Scopes>,
}

impl Method {
    /// The field of a name: a defined one or, where the fields are open, one of the owner's naming.
    pub fn field(&self, name: &str) -> Option<Cow<'_, Field>> {
        match self.fields.iter().find(|field| field.name == name) {
            Some(field) => Some(Cow::Borrowed(field)),
            None if self.open_fields => Field::open(name).map(Cow::Owned),
            None => None,
        }
    }

    /// The one secret field of an `api_key` or `bearer` method; for others, the first.
    pub fn secret_field(&self) -> Option<&Field> {
        self.fields.iter().find(|field| field.secret)
    }
}

/// A scope that a provider is known to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownScope {
    /// The scope, as it goes over the wire.
    pub name: Scope,
    /// What it permits, in a few words.
    pub title: String,
}

/// One of a provider's separate services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub title: String,
    /// The scopes that it takes.
    pub scopes: Scopes,
    /// Where its requests go, if not to the provider's base URL.
    pub base_url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalog;

    #[test]
    fn only_open_methods_take_fields_of_the_owners_naming() {
        let catalog = Catalog::builtin();
        let method = |id: &str, method| {
            catalog.get(&ProviderId::parse(id).unwrap()).unwrap().method(method).unwrap().clone()
        };
        let custom = method("custom", AuthMethod::Custom);
        assert!(custom.field("client.key").is_some_and(|field| field.secret && field.multiline));
        assert!(custom.field("client key").is_none());
        assert!(method("slack-webhook", AuthMethod::Custom).field("client.key").is_none());
        assert!(method("openai", AuthMethod::ApiKey).field("api_key").is_some());
    }

    #[test]
    fn a_key_is_found_by_being_the_secret_field() {
        for provider in Catalog::builtin().iter() {
            for method in &provider.auth_methods {
                if matches!(method.method, AuthMethod::ApiKey | AuthMethod::Bearer) {
                    let secret = method.secret_field().unwrap();
                    let expected = if method.method == AuthMethod::Bearer { "token" } else { "api_key" };
                    assert_eq!(secret.name, expected, "{}", provider.id);
                }
            }
        }
    }
}
