//! From the file format to a recipe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::check_text;
use super::method::{TemplateCompiler, Use};
use super::test::{check_pointer, values};
use crate::definition::{
    AccountSource, AlgorithmDefinition, AssertionDefinition, AuthorizeDefinition,
    ClientAuthenticationDefinition, ExchangeDefinition, ExpiryUnit, FormatOfRequest, OAuth2Definition,
    PkceDefinition, RefreshDefinition, RefreshWithDefinition, ReuseDefinition,
    RevokeAuthentication as RevokeAuthenticationDefinition, RevokeDefinition,
    RevokeRequest as RevokeRequestDefinition, SendAssertionDefinition, TokenAccountDefinition,
    TokenAnswerDefinition,
};
use crate::field::{check_header_name, check_token};
use crate::findings::Findings;
use crate::oauth2::{
    Assertion, Authorize, ClientAuthentication, Endpoint, Exchange, ExpiresUnit, JwtAlgorithm, OAuth2,
    Refresh, RefreshWith, RequestFormat, Reuse, Revoke, RevokeAuthentication, RevokeRequest, TokenAccount,
    TokenAnswer,
};
use crate::test::{AccountPointers, Expected};
use crate::tree::Place;
use crate::{Field, Template};

const DAY: u64 = 24 * 60 * 60;

/// Parameters that Keyholder sets by itself, each time anew: a definition must not.
const OWN_PARAMETERS: [&str; 10] = [
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "nonce",
    "redirect_uri",
    "response_type",
    "state",
];

/// A parameter that a definition may set, to a text of its own.
const GRANT_TYPE: &str = "grant_type";

/// Compiles a recipe, and notes in the config's fields what carries them.
pub(super) fn compile_oauth2(
    definition: OAuth2Definition,
    config: &mut [Field],
    assertion_fields: Option<&mut [Field]>,
    findings: &mut Findings,
) -> Option<OAuth2> {
    let place = Place::default().key("oauth2");
    for (number, (standard, own)) in definition.names.iter().enumerate() {
        let place = place.key("names").key(standard);
        if check_token(standard).is_err() || check_token(own).is_err() || number > 32 {
            findings.add(&place, "must be the names of parameters");
        }
        // Else a parameter under a harmless name could end as one that Keyholder alone sets, such as response_type.
        if standard != own && (OWN_PARAMETERS.contains(&own.as_str()) || own == GRANT_TYPE) {
            findings.add(&place, "is the name of another parameter of the standards");
        }
    }
    if let Some(separator) = &definition.scope_separator
        && !matches!(separator.as_str(), " " | "," | "+" | ";")
    {
        findings
            .add(&place.key("scope_separator"), "must be one of a space, a comma, a plus and a semicolon");
    }
    if definition.sends_iss && definition.issuer.is_none() {
        findings.add(&place.key("sends_iss"), "needs an issuer to compare with");
    }
    check_learned(&definition, config, &place, findings);
    let own = own_parameters(&definition.names);
    let mut recipe = Recipe { compiler: TemplateCompiler::new(None, config, findings), own: &own };
    let issuer = definition.issuer.as_ref().map(|text| recipe.issuer(text, &place.key("issuer")));
    let authorize = definition.authorize.map(|it| recipe.authorize(it, &place.key("authorize")));
    let at = place.key("token");
    let token_format = request_format(definition.token.format);
    let token = recipe.endpoint(&definition.token.url, token_format, definition.token.parameters, &at);
    let token_headers = recipe.headers(definition.token.headers, &at.key("headers"));
    let exchange = definition.exchange.map(|it| recipe.exchange(it, &place.key("exchange")));
    let refresh = recipe.refresh(definition.refresh, token.as_ref(), &place.key("refresh"));
    let device = definition
        .device
        .map(|it| recipe.endpoint(&it.url, RequestFormat::Form, it.parameters, &place.key("device")));
    let revoke = definition.revoke.map(|it| recipe.revoke(it, &place.key("revoke")));
    let answer = compile_answer(definition.answer, &place.key("answer"), findings);
    let account = definition.account.map(|it| compile_account(it, &place.key("account"), findings));
    let assertion = match (definition.assertion, assertion_fields) {
        (Some(assertion), Some(fields)) => {
            let compiler = TemplateCompiler::new(Some(fields), config, findings);
            let mut recipe = Recipe { compiler, own: &own };
            Some(recipe.assertion(assertion, &place.key("assertion")))
        }
        (Some(_), None) => {
            findings.add(&place.key("assertion"), "must be left out without the method jwt_bearer");
            None
        }
        (None, _) => None,
    };
    Some(OAuth2 {
        issuer: all(issuer)?,
        sends_iss: definition.sends_iss,
        client_authentication: match definition.client_authentication {
            ClientAuthenticationDefinition::Basic => ClientAuthentication::Basic,
            ClientAuthenticationDefinition::BasicRaw => ClientAuthentication::BasicRaw,
            ClientAuthenticationDefinition::Body => ClientAuthentication::Body,
            ClientAuthenticationDefinition::PrivateKeyJwt => ClientAuthentication::PrivateKeyJwt,
            ClientAuthenticationDefinition::None => ClientAuthentication::None,
        },
        scope_separator: definition.scope_separator.unwrap_or_else(|| " ".to_owned()),
        names: definition.names.into_iter().collect(),
        authorize: all(authorize)?,
        token: token?,
        token_headers,
        answer,
        exchange: all(exchange)?,
        refresh: refresh?,
        device: all(device)?,
        assertion: all(assertion)?,
        revoke: all(revoke)?,
        account,
    })
}

/// Nothing, or something that compiled; `None` for what did not.
#[expect(clippy::option_option, reason = "left out is not the same as wrong")]
fn all<T>(compiled: Option<Option<T>>) -> Option<Option<T>> {
    match compiled {
        None => Some(None),
        Some(Some(good)) => Some(Some(good)),
        Some(None) => None,
    }
}

/// The parameters that Keyholder sets by itself, by the standards' names and by the server's.
fn own_parameters(names: &BTreeMap<String, String>) -> BTreeSet<String> {
    let renamed = OWN_PARAMETERS.iter().filter_map(|standard| names.get(*standard).cloned());
    OWN_PARAMETERS.iter().map(|&standard| standard.to_owned()).chain(renamed).collect()
}

/// That what the provider fills in is made for it: data from outside must match something.
fn check_learned(definition: &OAuth2Definition, config: &[Field], place: &Place, findings: &mut Findings) {
    let mut filled = BTreeSet::new();
    let redirect = definition.authorize.iter().flat_map(|authorize| {
        authorize
            .config
            .iter()
            .map(|(parameter, field)| (place.key("authorize").key("config").key(parameter), field))
    });
    let answer =
        definition.answer.config.keys().map(|field| (place.key("answer").key("config").key(field), field));
    for (place, name) in redirect.chain(answer) {
        filled.insert(name.clone());
        match config.iter().find(|field| field.name == *name) {
            None => findings.add(&place, "does not name a field of the config"),
            Some(field) if !field.learned => findings.add(&place, "names a field that is not learned"),
            Some(field) if field.pattern.is_none() => {
                findings.add(&place, "names a field without a pattern: data from outside must match one");
            }
            Some(_) => {}
        }
    }
    for (number, field) in config.iter().enumerate() {
        if field.learned && !filled.contains(&field.name) {
            let place = Place::default().key("config").item(number);
            findings.add(&place.key("learned"), "is true, and nothing under oauth2 fills the field in");
        }
    }
}

struct Recipe<'a> {
    compiler: TemplateCompiler<'a>,
    /// The parameters that a definition must not set.
    own: &'a BTreeSet<String>,
}

impl Recipe<'_> {
    fn issuer(&mut self, text: &str, place: &Place) -> Option<Template> {
        self.compiler.url(text, place)
    }

    fn endpoint(
        &mut self,
        url: &str,
        format: RequestFormat,
        parameters: BTreeMap<String, String>,
        place: &Place,
    ) -> Option<Endpoint> {
        let url = self.compiler.url(url, &place.key("url"));
        let parameters = self.parameters(parameters, &place.key("parameters"));
        Some(Endpoint { url: url?, format, parameters })
    }

    fn parameters(&mut self, parameters: BTreeMap<String, String>, place: &Place) -> Vec<(String, Template)> {
        let mut compiled = Vec::with_capacity(parameters.len());
        for (name, value) in parameters {
            let place = place.key(&name);
            if check_token(&name).is_err() || self.own.contains(&name) {
                self.compiler.findings.add(&place, "is not a parameter that a definition may set");
            }
            // Nobody's password is ever asked for (RFC 9700, section 2.4).
            if name == GRANT_TYPE && (value.eq_ignore_ascii_case("password") || value.contains(['{', '}'])) {
                self.compiler.findings.add(&place, "must be written out, and not be password");
            }
            let value = self.compiler.template(&value, &place, Use::QueryValue);
            compiled.extend(value.map(|value| (name, value)));
        }
        compiled
    }

    fn headers(&mut self, headers: BTreeMap<String, String>, place: &Place) -> Vec<(String, Template)> {
        let mut compiled = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            let place = place.key(&name);
            self.compiler.findings.accept(&place, check_header_name(&name));
            if ["authorization", "content-type"].contains(&name.to_ascii_lowercase().as_str()) {
                self.compiler.findings.add(&place, "is a header that Keyholder sets by itself");
            }
            let value = self.compiler.template(&value, &place, Use::HeaderValue);
            compiled.extend(value.map(|value| (name, value)));
        }
        compiled
    }

    fn authorize(&mut self, definition: AuthorizeDefinition, place: &Place) -> Option<Authorize> {
        let url = self.compiler.url(&definition.url, &place.key("url"));
        let parameters = self.parameters(definition.parameters, &place.key("parameters"));
        Some(Authorize {
            url: url?,
            parameters,
            pkce: !matches!(definition.pkce, Some(PkceDefinition::Off)),
            config: definition.config.into_iter().collect(),
        })
    }

    fn exchange(&mut self, definition: ExchangeDefinition, place: &Place) -> Option<Exchange> {
        let format = request_format(definition.format);
        let endpoint = self.endpoint(&definition.url, format, definition.parameters, place);
        Some(Exchange {
            endpoint: endpoint?,
            token_name: definition.token_name.unwrap_or_else(|| "access_token".to_owned()),
        })
    }

    fn refresh(
        &mut self,
        definition: RefreshDefinition,
        token: Option<&Endpoint>,
        place: &Place,
    ) -> Option<Refresh> {
        let reuse_for = definition.reuse_seconds.map(seconds);
        let reuse = match (definition.reuse.unwrap_or(ReuseDefinition::None), reuse_for) {
            (ReuseDefinition::Static, None) => Reuse::Static,
            (ReuseDefinition::Window, Some(window)) => Reuse::Window(window),
            (ReuseDefinition::UntilUsed, cap) => Reuse::UntilUsed(cap),
            (ReuseDefinition::None, None) => Reuse::None,
            (ReuseDefinition::NoRefresh, None) => Reuse::NoRefresh,
            (ReuseDefinition::Window, None) => {
                self.compiler.findings.add(&place.key("reuse"), "needs reuse_seconds");
                Reuse::None
            }
            (_, Some(_)) => {
                self.compiler
                    .findings
                    .add(&place.key("reuse_seconds"), "goes with window and until_used only");
                Reuse::None
            }
        };
        let url = definition.url.as_ref().map(|url| self.compiler.url(url, &place.key("url")));
        let parameters = self.parameters(definition.parameters, &place.key("parameters"));
        if let Some(scope) = &definition.scope {
            check_text(scope, &place.key("scope"), self.compiler.findings);
        }
        let token = token?;
        Some(Refresh {
            reuse,
            with: token_of(definition.with),
            endpoint: Endpoint {
                url: all(url)?.unwrap_or_else(|| token.url.clone()),
                format: definition.format.map_or(token.format, |format| request_format(Some(format))),
                parameters,
            },
            sends_scope: definition.sends_scope,
            sends_redirect_uri: definition.sends_redirect_uri,
            scope: definition.scope,
            access_token_lifetime: definition.access_token_seconds.map(seconds),
            earliest: definition.earliest_seconds.map(seconds),
            idle: definition.idle_days.map(days),
            absolute: definition.absolute_days.map(days),
        })
    }

    fn revoke(&mut self, definition: RevokeDefinition, place: &Place) -> Option<Revoke> {
        let url = self.compiler.url(&definition.url, &place.key("url"));
        let parameters = self.parameters(definition.parameters, &place.key("parameters"));
        Some(Revoke {
            url: url?,
            request: match definition.request {
                None | Some(RevokeRequestDefinition::Form) => RevokeRequest::Form,
                Some(RevokeRequestDefinition::Json) => RevokeRequest::Json,
                Some(RevokeRequestDefinition::DeleteJson) => RevokeRequest::DeleteJson,
                Some(RevokeRequestDefinition::Delete) => RevokeRequest::Delete,
                Some(RevokeRequestDefinition::Query) => RevokeRequest::Query,
            },
            token_name: definition.token_name.unwrap_or_else(|| "token".to_owned()),
            token: token_of(definition.token),
            authentication: match definition.authentication {
                None | Some(RevokeAuthenticationDefinition::Client) => RevokeAuthentication::Client,
                Some(RevokeAuthenticationDefinition::Basic) => RevokeAuthentication::Basic,
                Some(RevokeAuthenticationDefinition::Bearer) => RevokeAuthentication::Bearer,
                Some(RevokeAuthenticationDefinition::None) => RevokeAuthentication::None,
            },
            parameters,
            good: if definition.good.is_empty() { vec![200] } else { definition.good },
        })
    }

    fn assertion(&mut self, definition: AssertionDefinition, place: &Place) -> Option<Assertion> {
        if !self.compiler.has_secret(&definition.key) {
            self.compiler
                .findings
                .add(&place.key("key"), "does not name a secret field of the method jwt_bearer");
        }
        let mut text = |text: Option<String>, key: &str| {
            text.map(|text| self.compiler.optional_template(&text, &place.key(key)))
        };
        let key_id = text(definition.key_id, "key_id");
        let issuer = text(Some(definition.issuer), "issuer");
        let subject = text(definition.subject, "subject");
        let audience = text(definition.audience, "audience");
        let url = definition.url.map(|url| self.compiler.url(&url, &place.key("url")));
        Some(Assertion {
            key: definition.key,
            algorithm: match definition.algorithm {
                AlgorithmDefinition::Rs256 => JwtAlgorithm::Rs256,
                AlgorithmDefinition::Es256 => JwtAlgorithm::Es256,
            },
            key_id: all(key_id)?,
            issuer: all(issuer)??,
            subject: all(subject)?,
            audience: all(audience)?,
            scope: definition.scope,
            as_bearer: matches!(definition.send_as, Some(SendAssertionDefinition::Bearer)),
            url: all(url)?,
        })
    }
}

fn compile_answer(definition: TokenAnswerDefinition, place: &Place, findings: &mut Findings) -> TokenAnswer {
    let mut pointer = |pointer: Option<String>, place: &Place, default: &str| {
        let pointer = pointer.unwrap_or_else(|| default.to_owned());
        check_pointer(&pointer, place, findings);
        pointer
    };
    let access_token = pointer(definition.access_token, &place.key("access_token"), "/access_token");
    let refresh_token = pointer(definition.refresh_token, &place.key("refresh_token"), "/refresh_token");
    let scope = pointer(definition.scope, &place.key("scope"), "/scope");
    let expires = pointer(definition.expires, &place.key("expires"), "/expires_in");
    let refresh_expires =
        definition.refresh_expires.map(|it| pointer(Some(it), &place.key("refresh_expires"), ""));
    let ok = definition.ok.map(|ok| {
        let at = pointer(Some(ok.pointer), &place.key("ok").key("pointer"), "");
        Expected { pointer: at, equals: ok.equals.0 }
    });
    let mut config = Vec::with_capacity(definition.config.len());
    for (field, at) in definition.config {
        let at = pointer(Some(at), &place.key("config").key(&field), "");
        config.push((field, at));
    }
    let (error, codes) = match definition.error {
        None => ("/error".to_owned(), Default::default()),
        Some(error) => {
            let at = pointer(error.pointer, &place.key("error").key("pointer"), "/error");
            (at, (values(error.dead), values(error.client), values(error.passing)))
        }
    };
    let (dead, client, passing) = codes;
    TokenAnswer {
        access_token,
        refresh_token,
        token_types: definition.token_types,
        scope,
        scope_separator: definition.scope_separator,
        expires,
        expires_unit: match definition.expires_unit {
            None | Some(ExpiryUnit::Seconds) => ExpiresUnit::Seconds,
            Some(ExpiryUnit::Milliseconds) => ExpiresUnit::Milliseconds,
            Some(ExpiryUnit::UnixSeconds) => ExpiresUnit::UnixSeconds,
            Some(ExpiryUnit::Date) => ExpiresUnit::Date,
        },
        refresh_expires,
        ok,
        error,
        dead,
        client,
        passing,
        config,
    }
}

fn compile_account(
    definition: TokenAccountDefinition,
    place: &Place,
    findings: &mut Findings,
) -> TokenAccount {
    let in_id_token = matches!(definition.from, AccountSource::IdToken);
    let mut pointer = |pointer: Option<String>, key: &str, claim: &str| {
        let pointer = pointer.or_else(|| in_id_token.then(|| claim.to_owned()));
        if let Some(pointer) = &pointer {
            check_pointer(pointer, &place.key(key), findings);
        }
        pointer
    };
    let pointers = AccountPointers {
        id: pointer(definition.id, "id", "/sub"),
        name: pointer(definition.name, "name", "/name"),
        email: pointer(definition.email, "email", "/email"),
    };
    if pointers.id.is_none() {
        findings.add(&place.key("id"), "must be given: an account is known by its id");
    }
    TokenAccount { in_id_token, pointers }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}

fn days(number: u32) -> Duration {
    Duration::from_secs(u64::from(number) * DAY)
}

const fn request_format(definition: Option<FormatOfRequest>) -> RequestFormat {
    match definition {
        None | Some(FormatOfRequest::Form) => RequestFormat::Form,
        Some(FormatOfRequest::Json) => RequestFormat::Json,
        Some(FormatOfRequest::Query) => RequestFormat::Query,
    }
}

const fn token_of(definition: Option<RefreshWithDefinition>) -> RefreshWith {
    match definition {
        None | Some(RefreshWithDefinition::RefreshToken) => RefreshWith::RefreshToken,
        Some(RefreshWithDefinition::AccessToken) => RefreshWith::AccessToken,
    }
}

#[cfg(test)]
mod tests;
