//! From the file format to a [`Provider`], with every rule that a definition must keep.

mod field;
mod method;
mod oauth2;
mod test;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use keyholder_domain::{AuthMethod, Principal, PrincipalType, ProviderId, Scope, Scopes, Text};
use serde_json::Value;
use url::Url;

use crate::definition::{
    CapabilityDefinition, Definition, FactsFromDefinition, OAuth2Definition, ScopeDefinition,
};
use crate::findings::{Finding, Findings};
use crate::oauth2::OAuth2;
use crate::schema::schema_value;
use crate::tree::{Place, Tree};
use crate::{Capability, FactsFrom, Field, KnownScope, Method, Provider, check_https_url, shape};
use field::{compile_fields, is_name};
use method::{Provided, compile_base_url, compile_methods};
use oauth2::compile_oauth2;

/// Stands for the client's id in the templates of a recipe, and of the methods that ask as a client.
const CLIENT_ID: &str = "client_id";

/// Generated once: it is the same for every file.
static SCHEMA: LazyLock<Value> = LazyLock::new(schema_value);

/// What came of one file.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The id that the file claims, whether or not it is right.
    pub(crate) id: Option<String>,
    /// The provider, or everything that is wrong.
    pub(crate) provider: Result<Provider, Vec<Finding>>,
}

/// Reads and checks one definition.
pub(crate) fn compile(file: &Path, text: &str) -> Compiled {
    let mut findings = Findings::new(file);
    let Some(definition) = read(text, &mut findings) else {
        return Compiled { id: None, provider: Err(findings.into_vec()) };
    };
    let id = Some(definition.id.clone());
    let provider = compile_provider(definition, file, &mut findings);
    let provider = match provider {
        Some(provider) if findings.is_empty() => Ok(provider),
        _ => Err(findings.into_vec()),
    };
    Compiled { id, provider }
}

/// Reads a text as far as it has a definition's shape.
fn read(text: &str, findings: &mut Findings) -> Option<Definition> {
    let mut tree = match Tree::parse(text) {
        Ok(tree) => tree,
        Err(error) => {
            findings.add_for_file(error.line, error.sentence);
            return None;
        }
    };
    findings.locate_in(tree.clone());
    if !shape::check(&SCHEMA, &mut tree, findings) {
        return None;
    }
    findings.accept(&Place::default(), serde_json::from_value(tree.to_json()))
}

fn compile_provider(definition: Definition, file: &Path, findings: &mut Findings) -> Option<Provider> {
    let root = Place::default();
    let id = findings.accept(&root.key("id"), ProviderId::parse(&definition.id));
    if file.file_stem().and_then(|stem| stem.to_str()) != Some(definition.id.as_str()) {
        findings.add(&root.key("id"), "must be the file's name without .yaml");
    }
    check_text(&definition.name, &root.key("name"), findings);
    check_facts(&definition, findings);
    check_services(&definition.services, findings);

    let mut config = compile_fields(definition.config, &root.key("config"), findings);
    let has_base_url = definition.base_url.is_some();
    let base_url = definition
        .base_url
        .and_then(|text| compile_base_url(&text, &root.key("base_url"), &mut config, findings));
    let scopes = compile_scopes(definition.scopes, findings);
    let provided = Provided { has_base_url, scopes: &scopes };
    let mut auth_methods = compile_methods(definition.auth_methods, &provided, &mut config, findings);
    let oauth2 = definition
        .oauth2
        .and_then(|recipe| compile_recipe(recipe, &mut config, &mut auth_methods, findings).map(Arc::new));
    check_recipe(oauth2.as_deref(), &auth_methods, findings);
    field::check_config(&config, findings);

    let default_scopes =
        compile_scope_set(&definition.default_scopes, &scopes, &root.key("default_scopes"), findings);
    let capabilities = compile_capabilities(definition.capabilities, &scopes, findings);
    Some(Provider {
        id: id?,
        name: definition.name,
        documentation_url: definition.documentation_url,
        facts_checked: definition.facts_checked,
        facts_from: match definition.facts_from {
            None | Some(FactsFromDefinition::Documentation) => FactsFrom::Documentation,
            Some(FactsFromDefinition::Libraries) => FactsFrom::Libraries,
        },
        base_url,
        auth_methods,
        oauth2,
        config,
        scopes,
        default_scopes,
        capabilities,
        services: definition.services,
    })
}

fn compile_recipe(
    definition: OAuth2Definition,
    config: &mut Vec<Field>,
    methods: &mut [Method],
    findings: &mut Findings,
) -> Option<OAuth2> {
    if config.iter().any(|field| field.name == CLIENT_ID) {
        findings.add(
            &Place::default().key("config"),
            "must not have a field client_id: it stands for the client",
        );
    }
    config.push(Field::plain(CLIENT_ID));
    let assertion = methods.iter_mut().find(|method| method.method == AuthMethod::JwtBearer);
    let fields = assertion.map(|method| method.fields.as_mut_slice());
    let recipe = compile_oauth2(definition, config, fields, findings);
    config.pop();
    recipe
}

/// That each method finds in the recipe what it needs.
fn check_recipe(recipe: Option<&OAuth2>, methods: &[Method], findings: &mut Findings) {
    // A recipe with findings of its own is not there either.
    if recipe.is_none() && !findings.is_empty() {
        return;
    }
    for (number, method) in methods.iter().enumerate() {
        let missing = match (method.method, recipe) {
            (method, _) if method.is_static() => None,
            (_, None) => Some("needs the key oauth2"),
            (AuthMethod::OAuth2Code, Some(recipe)) if recipe.authorize.is_none() => {
                Some("needs the key authorize under oauth2")
            }
            (AuthMethod::OAuth2Device, Some(recipe)) if recipe.device.is_none() => {
                Some("needs the key device under oauth2")
            }
            (AuthMethod::JwtBearer, Some(recipe)) if recipe.assertion.is_none() => {
                Some("needs the key assertion under oauth2")
            }
            _ => None,
        };
        if let Some(sentence) = missing {
            findings.add(&Place::default().key("auth_methods").item(number).key("method"), sentence);
        }
    }
    if recipe.is_some() && methods.iter().all(|method| method.method.is_static()) {
        findings.add(&Place::default().key("oauth2"), "must be left out: no method uses it");
    }
}

/// Checks words for people: 1 to 256 characters, no control characters.
fn check_text(text: &str, place: &Place, findings: &mut Findings) {
    findings.accept(place, Text::parse(text));
    if text.trim().is_empty() {
        findings.add(place, "must not be empty");
    }
}

fn check_facts(definition: &Definition, findings: &mut Findings) {
    let root = Place::default();
    let url = &definition.documentation_url;
    if !url.starts_with("https://") || Url::parse(url).is_err() {
        findings.add(&root.key("documentation_url"), "must be an https URL");
    }
    if !is_date(&definition.facts_checked) {
        findings.add(&root.key("facts_checked"), "must be a date, written YYYY-MM-DD");
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str, length: usize| {
        (part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| part.parse::<u16>().ok())
            .flatten()
    };
    match parts.as_slice() {
        [year, month, day] => {
            number(year, 4).is_some()
                && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
                && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
        }
        _ => false,
    }
}

fn check_services(services: &[String], findings: &mut Findings) {
    for (number, service) in services.iter().enumerate() {
        let is_service =
            || Principal::parse(service).is_ok_and(|principal| principal.kind() == PrincipalType::Service);
        if service != "*" && !is_service() {
            let place = Place::default().key("services").item(number);
            findings.add(&place, "must be \"*\" or a service, such as service:ai-gateway");
        }
    }
}

fn compile_scopes(definitions: Vec<ScopeDefinition>, findings: &mut Findings) -> Vec<KnownScope> {
    let mut seen = BTreeSet::new();
    let mut scopes = Vec::with_capacity(definitions.len());
    for (number, definition) in definitions.into_iter().enumerate() {
        let place = Place::default().key("scopes").item(number);
        check_text(&definition.title, &place.key("title"), findings);
        let Some(name) = findings.accept(&place.key("name"), Scope::parse(&definition.name)) else {
            continue;
        };
        if !seen.insert(definition.name) {
            findings.add(&place.key("name"), "is there twice");
        }
        scopes.push(KnownScope { name, title: definition.title });
    }
    scopes
}

fn compile_scope_set(
    names: &[String],
    known: &[KnownScope],
    place: &Place,
    findings: &mut Findings,
) -> Scopes {
    for (number, name) in names.iter().enumerate() {
        if !known.iter().any(|scope| scope.name.as_str() == name) {
            findings.add(&place.item(number), "is not one of the provider's scopes");
        }
    }
    findings.accept(place, Scopes::parse(names)).unwrap_or_default()
}

fn compile_capabilities(
    definitions: Vec<CapabilityDefinition>,
    known: &[KnownScope],
    findings: &mut Findings,
) -> Vec<Capability> {
    let mut seen = BTreeSet::new();
    let mut capabilities = Vec::with_capacity(definitions.len());
    for (number, definition) in definitions.into_iter().enumerate() {
        let place = Place::default().key("capabilities").item(number);
        check_text(&definition.title, &place.key("title"), findings);
        if !is_name(&definition.id) {
            findings.add(&place.key("id"), field::NAME_RULE);
        }
        if !seen.insert(definition.id.clone()) {
            findings.add(&place.key("id"), "is there twice");
        }
        if let Some(url) = &definition.base_url {
            findings.accept(&place.key("base_url"), check_https_url(url));
        }
        let scopes = compile_scope_set(&definition.scopes, known, &place.key("scopes"), findings);
        capabilities.push(Capability {
            id: definition.id,
            title: definition.title,
            scopes,
            base_url: definition.base_url,
        });
    }
    capabilities
}

#[cfg(test)]
mod tests;
