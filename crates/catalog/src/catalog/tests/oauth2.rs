//! What holds for the recipes of all built-in providers.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyholder_domain::AuthMethod;

use crate::oauth2::{OAuth2, Reuse};
use crate::{Catalog, Field, Provider, Template, check_https_url};

/// Values of which each field of a config takes one.
const SAMPLES: [&str; 19] = [
    "example",
    "https://host.example",
    "https://example.my.salesforce.com",
    "https://example.pipedrive.com",
    "https://na3.docusign.net/restapi",
    "https://example.gong.io",
    "https://example.teamwork.com",
    "https://example.workday.com",
    "https://api.surveymonkey.com",
    "https://www.zohoapis.com",
    "https://example.snowflakecomputing.com",
    "https://api.example.com/v1",
    "https://api.us-west-2.amazonaws.com",
    "123456789",
    "0a1b2c3d-0a1b-2c3d-4e5f-0a1b2c3d4e5f",
    "us1",
    "us",
    "v1.0",
    "eu-central-1",
];

fn recipes() -> Vec<(Provider, Arc<OAuth2>)> {
    let catalog = Catalog::builtin();
    catalog.iter().filter_map(|it| Some((it.clone(), it.oauth2.clone()?))).collect()
}

/// A provider's row in the documentation's table of recipes.
pub(super) fn row(provider: &Provider) -> Option<String> {
    let recipe = provider.oauth2.as_ref()?;
    let issued = provider.auth_methods.iter().filter(|method| !method.method.is_static());
    let methods: Vec<String> = issued.map(|method| format!("`{}`", method.method)).collect();
    let reuse = match recipe.refresh.reuse {
        Reuse::Static => "static",
        Reuse::Window(_) => "window",
        Reuse::UntilUsed(_) => "until_used",
        Reuse::None => "none",
        Reuse::NoRefresh => "no_refresh",
    };
    let revoke = if recipe.revoke.is_some() { "yes" } else { "no" };
    let (id, name, facts) = (&provider.id, &provider.name, provider.facts_from.as_str());
    Some(format!("| `{id}` | {name} | {} | `{reuse}` | {revoke} | {facts} |", methods.join(" ")))
}

fn sample(provider: &Provider, field: &Field) -> String {
    let given = field.default.as_deref();
    let mut candidates = given.into_iter().chain(SAMPLES);
    let found = candidates.find(|candidate| field.check(candidate).is_ok());
    found.unwrap_or_else(|| panic!("no sample fits {} of {}", field.name, provider.id)).to_owned()
}

/// The URLs of a recipe, with the keys they stand under.
fn urls(recipe: &OAuth2) -> Vec<(&'static str, &Template)> {
    let optional = [
        ("issuer", recipe.issuer.as_ref()),
        ("authorize", recipe.authorize.as_ref().map(|it| &it.url)),
        ("exchange", recipe.exchange.as_ref().map(|it| &it.endpoint.url)),
        ("device", recipe.device.as_ref().map(|it| &it.url)),
        ("revoke", recipe.revoke.as_ref().map(|it| &it.url)),
        ("assertion", recipe.assertion.as_ref().and_then(|it| it.url.as_ref())),
    ];
    let always = [("token", &recipe.token.url), ("refresh", &recipe.refresh.endpoint.url)];
    optional.into_iter().filter_map(|(key, url)| Some((key, url?))).chain(always).collect()
}

#[test]
fn there_are_as_many_as_promised() {
    assert!(recipes().len() >= 120, "{}", recipes().len());
}

#[test]
fn every_url_is_an_https_url_once_it_is_filled_in() {
    for (provider, recipe) in recipes() {
        let mut config: BTreeMap<&str, String> =
            provider.config.iter().map(|field| (field.name.as_str(), sample(&provider, field))).collect();
        config.insert("client_id", "client-1".to_owned());
        let config = |name: &str| config.get(name).map(String::as_str);
        for (key, template) in urls(&recipe) {
            let url = provider.render_url(template, &|_| Some("1234"), &config);
            let url = url.unwrap_or_else(|error| panic!("{} {key}: {error}", provider.id));
            assert_eq!(check_https_url(&url), Ok(()), "{} {key}: {}", provider.id, *url);
        }
        let base_url = provider.render_base_url(&config).unwrap();
        assert!(base_url.is_none_or(|url| check_https_url(&url).is_ok()), "{}", provider.id);
    }
}

#[test]
fn every_account_is_known_or_a_reason_is_given() {
    for (provider, recipe) in recipes() {
        for method in provider.auth_methods.iter().filter(|method| !method.method.is_static()) {
            let known = method.test.is_some() || recipe.account.is_some();
            assert!(known || method.no_test.is_some(), "{} {}", provider.id, method.method);
        }
    }
}

#[test]
fn no_two_providers_share_an_issuer() {
    let mut seen = BTreeMap::new();
    for (provider, recipe) in recipes() {
        let Some(issuer) = &recipe.issuer else { continue };
        let other = seen.insert(issuer.as_str().to_owned(), provider.id.clone());
        assert!(other.is_none(), "{other:?} and {} share {}", provider.id, issuer.as_str());
    }
    assert!(seen.len() > 5);
}

#[test]
fn every_id_is_its_own_in_environment_variables() {
    let mut seen = BTreeMap::new();
    for provider in Catalog::builtin().iter() {
        let name = provider.id.as_str().to_ascii_uppercase().replace('-', "_");
        let other = seen.insert(name, provider.id.clone());
        assert!(other.is_none(), "{other:?} and {} have the same variables", provider.id);
    }
}

#[test]
fn nobody_asks_for_a_refresh_token_without_a_user() {
    for (provider, recipe) in recipes() {
        let Some(method) = provider.method(AuthMethod::OAuth2ClientCredentials) else { continue };
        let asked = method.default_scopes.as_ref().unwrap_or(&provider.default_scopes);
        for scope in asked.iter() {
            assert_ne!(Some(scope), recipe.refresh.scope.as_deref(), "{}", provider.id);
            assert!(!["offline_access", "profile", "email"].contains(&scope), "{}: {scope}", provider.id);
        }
    }
}
