//! What an owner typed in, checked against what the provider asks for.

use std::collections::BTreeMap;

use keyholder_catalog::{Field, FieldProblem, Format, Method, Provider, Template};
use keyholder_domain::AuthMethod;
use keyholder_egress::{Rules, Target};
use keyholder_vault::{Credential, ExposeSecret, SecretString};

use crate::BrokerError;
use crate::error::{FieldError, FieldReason};

/// The most fields that one map may have.
const MAX_FIELDS: usize = 64;

/// The method of a provider that is meant: if none is named, the one that takes a typed-in credential.
pub(crate) fn method_of(provider: &Provider, asked: Option<AuthMethod>) -> Result<&Method, BrokerError> {
    let unknown = |problem: &str| FieldError::invalid("auth_method", problem).into();
    match asked {
        Some(method) => {
            provider.method(method).ok_or_else(|| unknown("the provider has no such auth method"))
        }
        None => {
            let mut methods = provider.auth_methods.iter().filter(|method| method.method.is_static());
            match (methods.next(), methods.next()) {
                (Some(only), None) => Ok(only),
                (Some(_), Some(_)) => Err(unknown("must be given: the provider has several")),
                (None, _) => {
                    Err(unknown("must be given: the provider has no method that takes a typed-in credential"))
                }
            }
        }
    }
}

/// A credential whose fields are those that the method asks for.
pub(crate) fn check_credential(
    method: &Method,
    fields: BTreeMap<String, SecretString>,
    errors: &mut Vec<FieldError>,
) -> Credential {
    if fields.len() > MAX_FIELDS {
        errors.push(FieldError::invalid("credentials", "must be at most 64 fields"));
        return Credential::from_fields(BTreeMap::new());
    }
    for (name, value) in &fields {
        match method.field(name) {
            Some(field) => {
                check("credentials", name, field.check(value.expose_secret()), errors);
            }
            None => push_once(errors, unknown_field("credentials", method.fields.iter())),
        }
    }
    for field in method.fields.iter().filter(|field| field.required && !fields.contains_key(&field.name)) {
        errors.push(FieldError::invalid(format!("credentials.{}", field.name), "must be given"));
    }
    if fields.is_empty() && method.fields.is_empty() {
        errors.push(FieldError::invalid("credentials", "must have at least one field"));
    }
    Credential::from_fields(fields)
}

/// A config whose settings are those that the provider asks for.
pub(crate) fn check_config(
    provider: &Provider,
    rules: &Rules,
    config: &BTreeMap<String, String>,
    errors: &mut Vec<FieldError>,
) {
    if config.len() > MAX_FIELDS {
        errors.push(FieldError::invalid("config", "must be at most 64 settings"));
        return;
    }
    for (name, value) in config {
        match provider.config_field(name) {
            Some(field) => check("config", name, check_setting(field, value, rules), errors),
            None => push_once(errors, unknown_field("config", provider.config.iter())),
        }
    }
    let missing =
        |field: &&Field| field.required && field.default.is_none() && !config.contains_key(&field.name);
    for field in provider.config.iter().filter(missing) {
        errors.push(FieldError::invalid(format!("config.{}", field.name), "must be given"));
    }
}

/// Refuses a change of a setting that decides where or how the credential goes: whoever could change it without
/// having the credential could have it sent to himself.
pub(crate) fn check_same_way(
    provider: &Provider,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    errors: &mut Vec<FieldError>,
) {
    let base_url = provider.base_url.as_ref().map(Template::as_str).unwrap_or_default();
    for field in &provider.config {
        let decides = field.format.is_some() || base_url.contains(&format!("config.{}", field.name));
        if decides && before.get(&field.name) != after.get(&field.name) {
            errors.push(FieldError::invalid(
                format!("config.{}", field.name),
                "decides where the credential goes; change it with ReplaceCredentials, together with the credential",
            ));
        }
    }
}

/// Refuses what could be stored and never be put on a request.
pub(crate) fn check_render(
    provider: &Provider,
    method: &Method,
    credential: &Credential,
    config: &BTreeMap<String, String>,
) -> Result<(), FieldError> {
    let field = |name: &str| credential.get(name).map(ExposeSecret::expose_secret);
    let setting = |name: &str| config.get(name).map(String::as_str);
    let rendered = method.render(provider, &field, &setting);
    rendered
        .map(drop)
        .map_err(|error| FieldError::invalid("credentials", format!("cannot be put on a request: {error}")))
}

/// Checks a setting, and holds a URL to the rules of the way out, as far as they need no lookup. What those say of it
/// comes before what else could be wrong with it.
fn check_setting(field: &Field, value: &str, rules: &Rules) -> Result<(), FieldProblem> {
    let checked = field.check(value);
    let is_url = field.format == Some(Format::HttpsUrl) && !value.is_empty();
    if is_url && !matches!(checked, Err(FieldProblem::Invalid(_))) {
        Target::parse(value, rules).map_err(|refusal| FieldProblem::UrlNotAllowed(refusal.sentence()))?;
    }
    checked
}

fn check(map: &str, name: &str, result: Result<(), FieldProblem>, errors: &mut Vec<FieldError>) {
    let Err(problem) = result else { return };
    let reason = match problem {
        FieldProblem::Invalid(_) => FieldReason::Invalid,
        FieldProblem::UrlNotAllowed(_) => FieldReason::UrlNotAllowed,
    };
    errors.push(FieldError { field: format!("{map}.{name}"), reason, problem: problem.to_string() });
}

/// A field that nobody asked for. Its name is not repeated: it may be a secret that was pasted in the wrong place.
fn unknown_field<'a>(map: &str, asked: impl Iterator<Item = &'a Field>) -> FieldError {
    let names: Vec<&str> = asked.map(|field| field.name.as_str()).collect();
    let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    FieldError::invalid(map, format!("has a field that the provider does not ask for; it asks for {names}"))
}

fn push_once(errors: &mut Vec<FieldError>, error: FieldError) {
    if !errors.contains(&error) {
        errors.push(error);
    }
}
