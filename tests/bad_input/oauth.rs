use std::collections::BTreeMap;

use keyholder_proto::v1;
use tonic::Code;

use super::connections::{INVALID, NOT_FOUND, URL, URLS, labels, map};
use super::values::{NO_AUTHORIZATION, NO_CONNECTION, NO_RUN};
use super::{CANARY, Fixture, Row, values};
use crate::harness::ACME;

const START: &str = "ConnectionService/StartAuthorization";
const COMPLETE: &str = "ConnectionService/CompleteAuthorization";
const SET: &str = "OAuthClientService/SetOAuthClient";

const NO_CLIENT: (Code, &str) = (Code::FailedPrecondition, "OAUTH_CLIENT_MISSING");
const NO_PROVIDER: (Code, &str) = (Code::NotFound, "PROVIDER_NOT_FOUND");
const NO_FLOW: (Code, &str) = (Code::NotFound, "AUTHORIZATION_NOT_FOUND");

/// Where the app of these tests takes the answer itself.
pub(super) const APP_REDIRECT_URI: &str = "https://app.example.com/oauth";

/// What completes a flow, and its challenge (RFC 7636, appendix B).
pub(super) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(super) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// The settings with which flows can begin at GitLab, and at QuickBooks, which has a setting that is learned.
pub(super) const SETTINGS: &str = r#"
[web]
listen = "127.0.0.1:0"
public_url = "https://keyholder.example.com"
return_urls = ["https://app.example.com/done", "https://app.example.com/in/*"]
app_redirect_uris = ["https://app.example.com/oauth"]
[oauth.gitlab]
client_id = "keyholder"
[oauth.quickbooks]
client_id = "keyholder"
"#;

pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    let mut rows = start();
    rows.extend(start_lists());
    rows.extend(start_config());
    rows.extend(start_urls());
    rows.extend(start_anew(fixture));
    rows.extend(start_challenge());
    rows.extend(get());
    rows.extend(complete(fixture));
    rows.extend(redirect_parameters(fixture));
    rows.extend(set_client());
    rows.extend(client_secret());
    rows.extend(other_clients());
    rows.extend(revoke_all());
    rows.extend(get_run());
    rows
}

/// A request that would begin a flow at GitLab.
pub(super) fn request() -> v1::StartAuthorizationRequest {
    v1::StartAuthorizationRequest {
        organization_id: ACME.into(),
        owner: "user:carol".into(),
        provider_id: "gitlab".into(),
        ..Default::default()
    }
}

fn start() -> Vec<Row> {
    use v1::AuthMethod::{ApiKey, Basic, Bearer, JwtBearer, Oauth2ClientCredentials, Oauth2Device};
    type Request = v1::StartAuthorizationRequest;
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(START, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..request() });
    }
    for owner in [vec![String::new(), "session:s_9".into()], values::principals()].concat() {
        add("owner", &Request { owner, ..request() });
    }
    for provider_id in [vec![String::new()], values::providers()].concat() {
        add("provider_id", &Request { provider_id, ..request() });
    }
    for auth_method in [9, 99, -1, i32::MAX] {
        add("auth_method", &Request { auth_method, ..request() });
    }
    // Those through which nobody consents, and those that the provider does not have.
    for method in [ApiKey, Basic, Bearer, JwtBearer, Oauth2ClientCredentials] {
        for provider_id in ["gitlab", "openai", "google"].map(String::from) {
            add("auth_method", &Request { provider_id, auth_method: method.into(), ..request() });
        }
    }
    add("auth_method", &Request { provider_id: "openai".into(), ..request() });
    let device = Request { provider_id: "quickbooks".into(), ..request() };
    add("auth_method", &Request { auth_method: Oauth2Device.into(), ..device });
    for display_name in values::words() {
        add("display_name", &Request { display_name, ..request() });
    }
    for labels in labels() {
        add("labels", &Request { labels, ..request() });
    }
    for request_id in values::request_ids() {
        add("request_id", &Request { request_id, ..request() });
    }
    let unknown = Request { provider_id: "nowhere".into(), ..request() };
    rows.push(Row::refused(START, "provider_id", &unknown, NO_PROVIDER));
    let no_client = Request { provider_id: "slack".into(), ..request() };
    rows.push(Row::refused(START, "provider_id", &no_client, NO_CLIENT));
    let reused = Request { request_id: "start-1".into(), ..request() };
    rows.push(Row::refused(START, "request_id", &reused, (Code::AlreadyExists, "REQUEST_ID_REUSED")));
    rows
}

fn start_lists() -> Vec<Row> {
    let mut rows = Vec::new();
    for scopes in values::scopes() {
        let request = v1::StartAuthorizationRequest { scopes, ..request() };
        rows.push(Row::invalid(START, "scopes", &request));
    }
    let capabilities = |ids: &[&str]| v1::StartAuthorizationRequest {
        capabilities: ids.iter().map(|id| (*id).to_owned()).collect(),
        provider_id: "gitlab".into(),
        ..request()
    };
    for id in ["", "mail", "gmail", "MAIL", "mail\n", CANARY, &"x".repeat(10_000)] {
        let request = capabilities(&[id]);
        rows.push(Row::new(START, "capabilities", &request, INVALID, &["capabilities[0]"]));
    }
    rows.push(Row::invalid(START, "capabilities", &capabilities(&["mail"; 33])));
    rows
}

fn start_config() -> Vec<Row> {
    let request = |provider_id: &str, config| v1::StartAuthorizationRequest {
        provider_id: provider_id.into(),
        config,
        ..request()
    };
    let mut rows = Vec::new();
    for url in URLS {
        let request = request("gitlab", map(&[("base_url", url)]));
        rows.push(Row::new(START, "config", &request, URL, &["config.base_url"]));
    }
    let mut add = |provider: &str, config, path: &str| {
        rows.push(Row::new(START, "config", &request(provider, config), INVALID, &[path]));
    };
    add("gitlab", map(&[("base_url", "")]), "config.base_url");
    add("gitlab", map(&[("colour", "red")]), "config");
    add("gitlab", map(&[(CANARY, "x")]), "config");
    add("gitlab", (0..65).map(|number| (format!("key{number}"), String::new())).collect(), "config");
    add(
        "quickbooks",
        map(&[("api_url", "https://quickbooks.api.intuit.com.evil.example")]),
        "config.api_url",
    );
    // What is learned from the provider has to look like it too.
    for realm in ["", "1", "../1", "12345/x", "12345\n"] {
        add("quickbooks", map(&[("realm_id", realm)]), "config.realm_id");
    }
    rows
}

fn start_urls() -> Vec<Row> {
    let mut rows = Vec::new();
    let device = i32::from(v1::AuthMethod::Oauth2Device);
    let back = |url: &str| v1::StartAuthorizationRequest { return_url: url.into(), ..request() };
    let own = |url: &str| v1::StartAuthorizationRequest { redirect_uri: url.into(), ..request() };
    for url in ["https://app.example.com/\n", "https://app.example.com/ü", " ", &"x".repeat(2_049)] {
        rows.push(Row::invalid(START, "return_url", &back(url)));
        rows.push(Row::invalid(START, "redirect_uri", &own(url)));
    }
    for url in [
        "x",
        "/done",
        "//app.example.com/done",
        "https://app.example.com",
        "https://app.example.com/done/more",
        "https://app.example.com/done?next=https://evil.example",
        "https://app.example.com/in/../out",
        "https://app.example.com/in/%2e%2e/out",
        "https://app.example.com/inside",
        "https://app.example.com.evil.example/done",
        "https://user:canary7d1f4e@app.example.com/done",
        "https://app.example.com/done#canary7d1f4e",
        "http://app.example.com/done",
        "javascript:alert(1)",
    ] {
        rows.push(Row::new(START, "return_url", &back(url), URL, &["return_url"]));
    }
    for url in [
        "x",
        "https://app.example.com/oauth/",
        "https://app.example.com/oauth?x",
        "https://app.example.com/OAUTH",
        "https://app.example.com/oauth#x",
        "https://keyholder.example.com/oauth/callback/gitlab",
    ] {
        rows.push(Row::new(START, "redirect_uri", &own(url), URL, &["redirect_uri"]));
    }
    let on_device = v1::StartAuthorizationRequest { auth_method: device, ..own(APP_REDIRECT_URI) };
    rows.push(Row::invalid(START, "redirect_uri", &on_device));
    rows
}

fn start_anew(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::StartAuthorizationRequest;
    let anew = |id: &str| Request { owner: String::new(), provider_id: String::new(), ..with(id) };
    let mut rows = Vec::new();
    for connection_id in values::connection_ids() {
        rows.push(Row::invalid(START, "connection_id", &anew(&connection_id)));
    }
    rows.push(Row::refused(START, "connection_id", &anew(NO_CONNECTION), NOT_FOUND));
    let deleted = (Code::FailedPrecondition, "CONNECTION_DELETED");
    rows.push(Row::refused(START, "connection_id", &anew(&fixture.deleted_id), deleted));
    // Its credential is an API key: nobody can consent to that.
    let by_key = anew(&fixture.connection_id);
    rows.push(Row::new(START, "connection_id", &by_key, INVALID, &["auth_method"]));
    rows
}

fn with(connection_id: &str) -> v1::StartAuthorizationRequest {
    v1::StartAuthorizationRequest { connection_id: connection_id.into(), ..request() }
}

fn start_challenge() -> Vec<Row> {
    let bad = ["x", "plain", &CHALLENGE[..42], &format!("{CHALLENGE}="), &format!("{CHALLENGE}A"), "a\nb"];
    let mut rows: Vec<_> = bad
        .map(|challenge| v1::StartAuthorizationRequest {
            completion_challenge: challenge.into(),
            ..request()
        })
        .iter()
        .map(|request| Row::invalid(START, "completion_challenge", request))
        .collect();
    for completion_challenge in values::words() {
        let request = v1::StartAuthorizationRequest { completion_challenge, ..request() };
        rows.push(Row::invalid(START, "completion_challenge", &request));
    }
    rows
}

fn get() -> Vec<Row> {
    const RPC: &str = "ConnectionService/GetAuthorization";
    let get = |organization_id: String, authorization_id: String| v1::GetAuthorizationRequest {
        organization_id,
        authorization_id,
    };
    let mut rows = Vec::new();
    for organization_id in values::organizations() {
        rows.push(Row::invalid(RPC, "organization_id", &get(organization_id, NO_AUTHORIZATION.into())));
    }
    for id in [vec![String::new()], values::authorization_ids()].concat() {
        rows.push(Row::invalid(RPC, "authorization_id", &get(ACME.into(), id)));
    }
    let unknown = get(ACME.into(), NO_AUTHORIZATION.into());
    rows.push(Row::refused(RPC, "authorization_id", &unknown, NO_FLOW));
    rows
}

fn completion(id: &str, parameters: BTreeMap<String, String>) -> v1::CompleteAuthorizationRequest {
    v1::CompleteAuthorizationRequest {
        organization_id: ACME.into(),
        authorization_id: id.into(),
        completion_verifier: VERIFIER.into(),
        redirect_parameters: parameters,
    }
}

fn complete(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::CompleteAuthorizationRequest;
    let mut rows = Vec::new();
    let complete = || completion(&fixture.flow_id, BTreeMap::new());
    for organization_id in values::organizations() {
        rows.push(Row::invalid(COMPLETE, "organization_id", &Request { organization_id, ..complete() }));
    }
    for authorization_id in [vec![String::new()], values::authorization_ids()].concat() {
        rows.push(Row::invalid(COMPLETE, "authorization_id", &Request { authorization_id, ..complete() }));
    }
    let unknown = completion(NO_AUTHORIZATION, BTreeMap::new());
    rows.push(Row::refused(COMPLETE, "authorization_id", &unknown, NO_FLOW));
    let not_ready = (Code::FailedPrecondition, "AUTHORIZATION_NOT_READY");
    rows.push(Row::refused(COMPLETE, "authorization_id", &complete(), not_ready));
    let refused = (Code::PermissionDenied, "COMPLETION_REFUSED");
    for verifier in ["", CHALLENGE, CANARY, "a\nb", "\0", &CANARY.repeat(10_000), &format!("{VERIFIER} ")] {
        let request = Request { completion_verifier: verifier.into(), ..complete() };
        rows.push(Row::refused(COMPLETE, "completion_verifier", &request, refused));
    }
    rows
}

fn redirect_parameters(fixture: &Fixture) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |id: &str, parameters: &[(&str, &str)], path: &str| {
        let request = completion(id, map(parameters));
        rows.push(Row::new(COMPLETE, "redirect_parameters", &request, INVALID, &[path]));
    };
    let (flow, state) = (&fixture.app_flow_id, fixture.app_state.as_str());
    // Keyholder's own page takes the answer of this one.
    add(&fixture.flow_id, &[("state", state), ("code", CANARY)], "redirect_parameters");
    for parameters in [
        &[("code", CANARY)][..],
        &[("code", CANARY), ("state", "")],
        &[("code", CANARY), ("state", CANARY)],
        &[("code", CANARY), ("State", state)],
        &[("error", "access_denied"), ("state", &state[1..])],
    ] {
        add(flow, parameters, "redirect_parameters.state");
    }
    add(flow, &[("state", state)], "redirect_parameters.code");
    add(flow, &[("state", state), ("code", "")], "redirect_parameters.code");
    add(flow, &[("state", state), ("code", CANARY), ("error", "access_denied")], "redirect_parameters.code");
    rows
}

fn client() -> v1::SetOAuthClientRequest {
    v1::SetOAuthClientRequest {
        organization_id: ACME.into(),
        provider_id: "slack".into(),
        client_id: "our-own".into(),
        client_secret: CANARY.into(),
        keep_previous_secret: false,
    }
}

fn set_client() -> Vec<Row> {
    type Request = v1::SetOAuthClientRequest;
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(SET, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..client() });
    }
    for provider_id in [vec![String::new()], values::providers()].concat() {
        add("provider_id", &Request { provider_id, ..client() });
    }
    for client_id in [vec![String::new()], values::words()].concat() {
        add("client_id", &Request { client_id, ..client() });
    }
    // There is no secret before this one: no client at all, another client, a public one.
    add("keep_previous_secret", &Request { keep_previous_secret: true, ..client() });
    for client_id in ["another", "public"].map(String::from) {
        let provider_id = "github".into();
        add(
            "keep_previous_secret",
            &Request { provider_id, client_id, keep_previous_secret: true, ..client() },
        );
    }
    let unknown = Request { provider_id: "nowhere".into(), ..client() };
    rows.push(Row::refused(SET, "provider_id", &unknown, NO_PROVIDER));
    let without = Request { provider_id: "openai".into(), ..client() };
    rows.push(Row::refused(SET, "provider_id", &without, NO_CLIENT));
    rows
}

fn client_secret() -> Vec<Row> {
    let bad = [
        format!("{CANARY}\n"),
        format!("{CANARY}\r\nX: y"),
        format!(" {CANARY}"),
        format!("{CANARY}\t"),
        format!("{CANARY}\0"),
        format!("{CANARY}\u{1b}[2J"),
        format!("{CANARY}\u{a0}"),
        CANARY.repeat(400),
    ];
    bad.map(|client_secret| v1::SetOAuthClientRequest { client_secret, ..client() })
        .iter()
        .map(|request| Row::invalid(SET, "client_secret", request))
        .collect()
}

fn other_clients() -> Vec<Row> {
    const DELETE: &str = "OAuthClientService/DeleteOAuthClient";
    let mut rows = Vec::new();
    let delete = |organization_id: &str, provider_id: &str| v1::DeleteOAuthClientRequest {
        organization_id: organization_id.into(),
        provider_id: provider_id.into(),
    };
    for organization_id in values::organizations() {
        rows.push(Row::invalid(DELETE, "organization_id", &delete(&organization_id, "github")));
        let list = v1::ListOAuthClientsRequest { organization_id };
        rows.push(Row::invalid("OAuthClientService/ListOAuthClients", "organization_id", &list));
    }
    for provider_id in [vec![String::new()], values::providers()].concat() {
        rows.push(Row::invalid(DELETE, "provider_id", &delete(ACME, &provider_id)));
    }
    // The installation's client is no organization's to delete.
    for provider_id in ["nowhere", "openai", "slack", "gitlab"] {
        rows.push(Row::refused(DELETE, "provider_id", &delete(ACME, provider_id), NO_CLIENT));
    }
    rows
}

fn revoke_all() -> Vec<Row> {
    type Request = v1::RevokeAllRequest;
    const RPC: &str = "ConnectionService/RevokeAll";
    let mut rows = Vec::new();
    let revoke = || Request { organization_id: ACME.into(), ..Default::default() };
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..revoke() });
    }
    for provider_id in values::providers() {
        add("provider_id", &Request { provider_id, ..revoke() });
    }
    for workload in [values::workloads(), vec!["spiffe://test.example/*".into()]].concat() {
        add("workload", &Request { workload, ..revoke() });
    }
    for request_id in values::request_ids() {
        add("request_id", &Request { request_id, ..revoke() });
    }
    rows
}

fn get_run() -> Vec<Row> {
    type Request = v1::GetRevocationRunRequest;
    const RPC: &str = "ConnectionService/GetRevocationRun";
    let mut rows = Vec::new();
    let get = || Request { organization_id: ACME.into(), revocation_run_id: NO_RUN.into() };
    for organization_id in values::organizations() {
        rows.push(Row::invalid(RPC, "organization_id", &Request { organization_id, ..get() }));
    }
    for revocation_run_id in [vec![String::new()], values::run_ids()].concat() {
        rows.push(Row::invalid(RPC, "revocation_run_id", &Request { revocation_run_id, ..get() }));
    }
    rows.push(Row::refused(RPC, "revocation_run_id", &get(), (Code::NotFound, "REVOCATION_RUN_NOT_FOUND")));
    rows
}
