use std::path::Path;
use std::time::Duration;

use keyholder_domain::AuthMethod;

use crate::compile::compile;
use crate::oauth2::{RefreshWith, Reuse, RevokeAuthentication, RevokeRequest};
use crate::{Finding, Provider, RenderError};

/// A definition whose recipe uses about everything.
const VALID: &str = "\
id: acme
name: Acme
documentation_url: https://acme.example/docs
facts_checked: 2026-01-31
base_url: https://api.acme.example
config:
  - { name: tenant, title: Tenant, format: host_label }
  - { name: region, title: Region, default: eu }
  - { name: realm, title: Realm, learned: true, pattern: '[0-9]+' }
  - { name: api_url, title: Address, learned: true, format: https_url, pattern: 'https://[a-z]+\\.acme\\.example' }
auth_methods:
  - method: oauth2_code
    title: Sign in
    http: { headers: { Authorization: 'Bearer {credential.access_token}', Client-Id: '{config.client_id}' } }
    test: { request: GET /me, good: [200], account: { id: /id } }
  - { method: oauth2_device, title: Sign in elsewhere }
  - { method: oauth2_client_credentials, title: App, default_scopes: [] }
  - method: jwt_bearer
    title: Service account
    fields:
      - { name: email, title: Address }
      - { name: subject, title: User, required: false }
      - { name: private_key, title: Key, secret: true, multiline: true }
      - { name: passphrase, title: Passphrase, secret: true }
oauth2:
  issuer: https://acme.example
  sends_iss: true
  client_authentication: basic
  scope_separator: ','
  names: { client_id: app_id }
  authorize:
    url: https://{config.tenant}.acme.example/authorize
    parameters: { access_type: offline }
    config: { realmId: realm }
  token:
    url: https://{config.tenant}.acme.example/token
    headers: { Accept: application/json }
    parameters: { audience: '{config.region}' }
  answer:
    error: { pointer: /error, dead: [gone] }
    config: { api_url: /api_url }
  exchange:
    url: https://acme.example/exchange
    parameters: { grant_type: swap }
  refresh: { reuse: window, reuse_seconds: 60, scope: offline, sends_redirect_uri: true }
  device: { url: 'https://acme.example/device' }
  assertion:
    key: private_key
    algorithm: RS256
    issuer: '{credential.email}'
    subject: '{credential.subject}'
    audience: https://acme.example/token
  revoke: { url: 'https://acme.example/clients/{config.client_id}' }
  account: { from: token_answer, id: /user }
scopes:
  - { name: read, title: Read }
default_scopes: [read]
";

fn findings(text: &str) -> Vec<String> {
    match compile(Path::new("acme.yaml"), text).provider {
        Ok(_) => Vec::new(),
        Err(findings) => findings.iter().map(Finding::to_string).collect(),
    }
}

fn provider(text: &str) -> Provider {
    compile(Path::new("acme.yaml"), text).provider.unwrap()
}

fn changed(from: &str, to: &str) -> String {
    assert!(VALID.contains(from), "{from:?} is not in the definition");
    VALID.replacen(from, to, 1)
}

/// Puts one text in place of another, and asserts that exactly this finding follows.
#[track_caller]
fn assert_finding(from: &str, to: &str, expected: &str) {
    let found = findings(&changed(from, to));
    assert!(found.len() == 1 && found[0].contains(expected), "{to:?} gave {found:#?}");
}

/// Puts one text in place of another, and asserts that this is among the findings.
#[track_caller]
fn assert_among_findings(from: &str, to: &str, expected: &str) {
    let found = findings(&changed(from, to));
    assert!(found.iter().any(|finding| finding.contains(expected)), "{to:?} gave {found:#?}");
}

#[test]
fn accepts_the_definition_that_the_others_are_made_from() {
    assert_eq!(findings(VALID), Vec::<String>::new());
}

#[test]
fn what_is_left_out_is_the_standards_or_the_worst_case() {
    let at = VALID.find("oauth2:\n").unwrap();
    let head = VALID[..at]
        .replace(
            "  - { name: realm, title: Realm, learned: true, pattern: '[0-9]+' }\n",
            "  - { name: realm, title: Realm, default: '1' }\n",
        )
        .replace("learned: true, format", "required: false, format");
    let head = &head[..head.find("  - { method: oauth2_device").unwrap()];
    let recipe = "oauth2:\n  client_authentication: none\n  authorize: { url: 'https://acme.example/a' }\n  \
                  token: { url: 'https://acme.example/t' }\n  revoke: { url: 'https://acme.example/r' }\n";
    let provider = provider(&format!("{head}{recipe}"));
    let recipe = provider.oauth2.as_ref().unwrap();
    assert!(recipe.authorize.as_ref().unwrap().pkce);
    assert_eq!((recipe.scope_separator.as_str(), recipe.name("client_id")), (" ", "client_id"));
    assert_eq!((recipe.refresh.reuse, recipe.refresh.with), (Reuse::None, RefreshWith::RefreshToken));
    assert_eq!(recipe.refresh.endpoint.url, recipe.token.url);
    assert!(!recipe.refresh.sends_redirect_uri && !recipe.refresh.sends_scope && !recipe.sends_iss);
    assert_eq!(recipe.answer.access_token, "/access_token");
    let revoke = recipe.revoke.as_ref().unwrap();
    assert_eq!((revoke.token_name.as_str(), revoke.good.as_slice()), ("token", &[200][..]));
    assert_eq!(
        (revoke.request, revoke.authentication, revoke.token),
        (RevokeRequest::Form, RevokeAuthentication::Client, RefreshWith::RefreshToken)
    );
}

#[test]
fn what_is_said_is_kept() {
    let provider = provider(VALID);
    let recipe = provider.oauth2.as_ref().unwrap();
    assert_eq!(recipe.name("client_id"), "app_id");
    assert_eq!(recipe.refresh.reuse, Reuse::Window(Duration::from_secs(60)));
    assert_eq!(recipe.refresh.scope.as_deref(), Some("offline"));
    assert!(recipe.refresh.sends_redirect_uri && recipe.sends_iss);
    let asked = |method| provider.method(method).unwrap().default_scopes.as_ref();
    assert!(asked(AuthMethod::OAuth2ClientCredentials).unwrap().is_empty());
    assert!(asked(AuthMethod::OAuth2Code).is_none());
}

#[test]
fn parameters_have_the_names_of_parameters() {
    assert_finding(
        "client_id: app_id",
        "client_id: 'app id'",
        "oauth2.names.client_id: must be the names of",
    );
    assert_finding("client_id: app_id", "'client id': app_id", "must be the names of parameters");
    assert_finding("access_type: offline", "'access type': offline", "is not a parameter that a definition");
    let many: Vec<String> = (0..40).map(|number| format!("p{number}: q{number}")).collect();
    assert_among_findings("client_id: app_id", &many.join(", "), "must be the names of parameters");
    for separator in ["''", "', '", "'|'"] {
        assert_finding(
            "scope_separator: ','",
            &format!("scope_separator: {separator}"),
            "oauth2.scope_separator: must be one of a space",
        );
    }
}

#[test]
fn a_definition_sets_no_parameter_of_keyholders_own() {
    for parameter in super::OWN_PARAMETERS {
        let parameter = format!("{parameter}: x");
        let sentence = "is not a parameter that a definition may set";
        assert_finding("access_type: offline", &parameter, sentence);
        assert_finding("audience: '{config.region}'", &parameter, sentence);
        assert_finding("grant_type: swap", &parameter, sentence);
    }
    assert_finding("access_type: offline", "app_id: x", "authorize.parameters.app_id: is not a parameter");
    for place in ["refresh: { ", "device: { ", "revoke: { "] {
        let to = format!("{place}parameters: {{ client_secret: x }}, ");
        assert_finding(place, &to, "parameters.client_secret: is not a parameter");
    }
}

#[test]
fn c1_no_name_becomes_that_of_a_parameter_of_keyholders_own() {
    for own in super::OWN_PARAMETERS.into_iter().chain(["grant_type"]) {
        let to = format!("client_id: app_id, prompt: {own}");
        assert_among_findings(
            "client_id: app_id",
            &to,
            "oauth2.names.prompt: is the name of another parameter",
        );
    }
    assert_eq!(
        findings(&changed("client_id: app_id", "client_id: app_id, state: state")),
        Vec::<String>::new()
    );
}

#[test]
fn c2_no_definition_asks_with_a_password() {
    let sentence = "grant_type: must be written out, and not be password";
    for value in ["password", "PASSWORD", "'{config.region}'", "'pass{config.region}'"] {
        let parameter = format!("grant_type: {value}");
        assert_finding("audience: '{config.region}'", &parameter, sentence);
        assert_finding("grant_type: swap", &parameter, sentence);
        let to = format!("refresh: {{ parameters: {{ {parameter} }}, ");
        assert_finding("refresh: { ", &to, sentence);
    }
}

#[test]
fn a_definition_sets_no_header_of_keyholders_own() {
    for header in ["Authorization", "authorization", "Content-Type"] {
        assert_finding(
            "headers: { Accept: application/json }",
            &format!("headers: {{ {header}: x }}"),
            "is a header that Keyholder sets by itself",
        );
    }
    let from = "headers: { Accept: application/json }";
    assert_finding(from, "headers: { Host: x }", "belongs to the connection");
    assert_finding(from, "headers: { Accept: ä }", "must be ASCII");
    assert_among_findings(from, "headers: { 'A B': x }", "must be 1 to 256 characters of A-Z");
}

#[test]
fn an_issuer_is_promised_only_where_it_is_known() {
    assert_finding(
        "  issuer: https://acme.example\n",
        "",
        "oauth2.sends_iss: needs an issuer to compare with",
    );
}

#[test]
fn endpoints_are_https_urls_whose_host_is_under_control() {
    let authorize = "https://{config.tenant}.acme.example/authorize";
    assert_finding(authorize, "http://acme.example/authorize", "authorize.url: must begin with https://");
    assert_finding(authorize, "https://acme.example/authorize?a=b", "must not have a query");
    assert_finding(authorize, "https://user@acme.example/authorize", "user name");
    assert_finding(authorize, "https://{config.region}.acme.example/a", "must have the format host_label");
    assert_finding(authorize, "https://{config.client_id}.acme.example/a", "must have the format host_label");
    assert_finding(authorize, "'{config.region}/authorize'", "must have the format https_url");
    assert_finding(authorize, "'{config.api_url}.evil.example'", "must have a slash behind a reference");
    assert_finding(authorize, "https://acme.example/{config.place}", "refers to place, which is not");
    assert_eq!(findings(&changed(authorize, "'{config.api_url}/authorize'")), Vec::<String>::new());
    let token = "https://{config.tenant}.acme.example/token";
    for (from, place) in [
        ("issuer: https://acme.example", "issuer"),
        (token, "token.url"),
        ("https://acme.example/exchange", "exchange.url"),
        ("'https://acme.example/device'", "device.url"),
        ("'https://acme.example/clients/{config.client_id}'", "revoke.url"),
    ] {
        let to = if from.starts_with("issuer") { "issuer: http://x" } else { "http://x" };
        assert_finding(from, to, &format!("oauth2.{place}: must begin with https://"));
    }
    assert_finding("refresh: { ", "refresh: { url: 'http://x', ", "refresh.url: must begin with https://");
}

#[test]
fn a_recipe_refers_to_what_there_always_is_and_to_no_secret() {
    let config = "name: region, title: Region, default: eu";
    assert_finding(
        config,
        "name: region, title: Region, required: false",
        "parameters.audience: refers to region, which is neither required nor has a default",
    );
    let parameter = "audience: '{config.region}'";
    for reference in ["access_token", "private_key"] {
        assert_finding(
            parameter,
            &format!("audience: '{{credential.{reference}}}'"),
            &format!("must not refer to {{credential.{reference}}}"),
        );
    }
}

#[test]
fn what_the_provider_fills_in_is_made_for_it() {
    assert_finding(
        "realmId: realm",
        "realmId: realm, x: nobody",
        "config.x: does not name a field of the config",
    );
    assert_finding(
        "realmId: realm",
        "realmId: realm, x: region",
        "config.x: names a field that is not learned",
    );
    assert_finding(", pattern: '[0-9]+'", "", "authorize.config.realmId: names a field without a pattern");
    assert_finding(
        "{ api_url: /api_url }",
        "{ api_url: /api_url, tenant: /t }",
        "answer.config.tenant: names a field",
    );
    assert_finding(
        "    config: { realmId: realm }\n",
        "",
        "config[2].learned: is true, and nothing under oauth2",
    );
    assert_finding(
        "{ api_url: /api_url }",
        "{ api_url: api_url }",
        "answer.config.api_url: must be a JSON pointer",
    );
    let learned = "learned: true, pattern: '[0-9]+'";
    for also in ["required: false", "required: true", "default: '7'"] {
        let to = format!("{learned}, {also}");
        assert_finding(learned, &to, "learned: goes neither with required nor with default");
    }
    assert_finding(
        "name: email, title: Address",
        "name: email, title: Address, learned: true",
        "learned: must not be true: a credential is typed in",
    );
}

#[test]
fn a_refresh_tokens_worth_is_said_in_full() {
    let refresh = "reuse: window, reuse_seconds: 60";
    assert_finding(refresh, "reuse: window", "refresh.reuse: needs reuse_seconds");
    for reuse in ["static", "none", "no_refresh"] {
        assert_finding(
            refresh,
            &format!("reuse: {reuse}, reuse_seconds: 60"),
            "refresh.reuse_seconds: goes with window and until_used only",
        );
    }
    assert_finding(refresh, "reuse: twice", "must be one of static, window, until_used, none, no_refresh");
    for reuse in ["static", "none", "no_refresh", "until_used", "until_used, reuse_seconds: 60"] {
        assert_eq!(findings(&changed(refresh, &format!("reuse: {reuse}"))), Vec::<String>::new());
    }
    assert_finding("scope: offline", "scope: ' '", "refresh.scope: must not be empty");
}

#[test]
fn answers_are_read_by_json_pointers() {
    for key in ["access_token", "refresh_token", "scope", "expires", "refresh_expires"] {
        for pointer in ["token", "/a~2"] {
            assert_finding(
                "  answer:\n",
                &format!("  answer:\n    {key}: {pointer}\n"),
                &format!("answer.{key}: must be a JSON pointer"),
            );
        }
    }
    assert_finding("pointer: /error", "pointer: error", "error.pointer: must be a JSON pointer");
    assert_finding(
        "  answer:\n",
        "  answer:\n    ok: { pointer: ok, equals: true }\n",
        "ok.pointer: must be a JSON pointer",
    );
    assert_finding("id: /user", "id: user", "account.id: must be a JSON pointer");
    assert_finding(
        "account: { from: token_answer, id: /user }",
        "account: { from: token_answer, name: /user }",
        "account.id: must be given: an account is known by its id",
    );
    let id_token = changed("account: { from: token_answer, id: /user }", "account: { from: id_token }");
    assert_eq!(findings(&id_token), Vec::<String>::new());
}

#[test]
fn an_assertion_is_made_of_the_methods_fields() {
    let key = "key: private_key\n";
    assert_finding(
        key,
        "key: email\n",
        "assertion.key: does not name a secret field of the method jwt_bearer",
    );
    assert_finding(key, "key: nobody\n", "assertion.key: does not name a secret field");
    let issuer = "issuer: '{credential.email}'";
    assert_finding(
        issuer,
        "issuer: '{credential.nobody}'",
        "refers to nobody, which is not among its fields",
    );
    assert_finding(issuer, "issuer: '{credential.private_key}'", "may hold line breaks");
    assert_finding(
        "subject: '{credential.subject}'",
        "subject: 'user:{credential.subject}'",
        "refers to subject, which is neither required nor has a default",
    );
    assert_finding(key, "key: private_key\n    url: http://x\n", "assertion.url: must begin with https://");
    let url = |field: &str| format!("{key}    url: 'https://acme.example/{{credential.{field}}}'\n");
    assert_finding(key, &url("passphrase"), "assertion.url: must not refer to a secret");
    assert_eq!(findings(&changed(key, &url("email"))), Vec::<String>::new());
}

#[test]
fn each_method_finds_in_the_recipe_what_it_needs() {
    let without = |begin: &str, end: &str| {
        let (from, to) = (VALID.find(begin).unwrap(), VALID.find(end).unwrap());
        findings(&format!("{}{}", &VALID[..from], &VALID[to..])).join("\n")
    };
    let found = without("oauth2:\n", "scopes:\n  - { name: read");
    for number in 0..4 {
        let sentence = format!("auth_methods[{number}].method: needs the key oauth2");
        assert!(found.contains(&sentence), "{found}");
    }
    let device = without("  device:", "  assertion:");
    assert!(device.contains("auth_methods[1].method: needs the key device under oauth2"), "{device}");
    let assertion = without("  assertion:", "  revoke:");
    assert!(
        assertion.contains("auth_methods[3].method: needs the key assertion under oauth2"),
        "{assertion}"
    );
    let method = without("  - method: jwt_bearer", "oauth2:\n");
    assert!(method.contains("oauth2.assertion: must be left out without the method jwt_bearer"), "{method}");

    let realm = "{ name: realm, title: Realm, learned: true, pattern: '[0-9]+' }";
    let text = changed(realm, "{ name: realm, title: Realm }");
    let (from, to) = (text.find("  authorize:").unwrap(), text.find("  token:\n").unwrap());
    let authorize = findings(&format!("{}{}", &text[..from], &text[to..])).join("\n");
    assert!(
        authorize.contains("auth_methods[0].method: needs the key authorize under oauth2"),
        "{authorize}"
    );
}

#[test]
fn a_recipe_that_no_method_uses_is_a_mistake() {
    let methods = VALID.find("auth_methods:\n").unwrap();
    let recipe = VALID.find("oauth2:\n").unwrap();
    let typed = "auth_methods:\n  - method: bearer\n    title: Token\n    fields: [{ name: token, title: Token, \
                 secret: true }]\n    http: { headers: { Authorization: 'Bearer {credential.token}' } }\n";
    let text = format!("{}{typed}{}", &VALID[..methods], &VALID[recipe..]);
    let (from, to) = (text.find("  assertion:").unwrap(), text.find("  revoke:").unwrap());
    let found = findings(&format!("{}{}", &text[..from], &text[to..]));
    assert!(
        found.len() == 1 && found[0].contains("oauth2: must be left out: no method uses it"),
        "{found:#?}"
    );
}

#[test]
fn the_clients_id_is_no_field_of_the_config() {
    assert_among_findings(
        "name: region, title: Region",
        "name: client_id, title: Client",
        "config: must not have a field client_id: it stands for the client",
    );
    let provider = provider(VALID);
    assert!(provider.config_field("client_id").is_none());
    let jwt = "    title: Service account\n";
    assert_finding(
        jwt,
        &format!("{jwt}    http: {{ headers: {{ X: '{{config.client_id}}' }} }}\n"),
        "refers to client_id, which is not among its fields",
    );
}

#[test]
fn the_clients_id_goes_on_requests_if_the_caller_knows_it() {
    let provider = provider(VALID);
    let method = provider.method(AuthMethod::OAuth2Code).unwrap();
    let token = |name: &str| (name == "access_token").then_some("t");
    let injection =
        method.render(&provider, &token, &|name| (name == "client_id").then_some("client-1")).unwrap();
    let headers: Vec<(&str, &str)> =
        injection.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(headers, [("Authorization", "Bearer t"), ("Client-Id", "client-1")]);
    let error = method.render(&provider, &token, &|_| None).unwrap_err();
    assert_eq!(error, RenderError::Missing("client_id".to_owned()));
    let error = method.render(&provider, &token, &|_| Some("a\nb")).unwrap_err();
    assert_eq!(error, RenderError::Unsafe("header"));
}

#[test]
fn a_method_asks_for_scopes_that_the_provider_has() {
    assert_finding(
        "default_scopes: [] }",
        "default_scopes: [write] }",
        "default_scopes[0]: is not one of the",
    );
    assert_eq!(findings(&changed("default_scopes: [] }", "default_scopes: [read] }")), Vec::<String>::new());
}

#[test]
fn a_revocation_is_done_by_a_status_that_can_say_so() {
    let revoke = "revoke: { ";
    assert_finding(revoke, "revoke: { good: [500], ", "must be a whole number from 200 to 499");
    assert_eq!(findings(&changed(revoke, "revoke: { good: [200, 404], ")), Vec::<String>::new());
}
