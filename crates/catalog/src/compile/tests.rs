use super::*;

/// A definition that uses about everything.
const VALID: &str = "\
id: acme
name: Acme
documentation_url: https://acme.example/docs
facts_checked: 2026-01-31
base_url: https://{config.tenant}.acme.example/v1
config:
  - { name: tenant, title: Tenant, format: host_label }
  - { name: region, title: Region, default: eu, pattern: 'eu|us' }
  - { name: header, title: Header, default: X-Key, format: header_name }
auth_methods:
  - method: api_key
    title: API key
    fields:
      - { name: account, title: Account }
      - { name: api_key, title: API key, secret: true }
    account_id: account
    http:
      headers: { '{config.header}': '{credential.api_key}', X-Region: '{config.region}' }
    test:
      request: POST /accounts/{credential.account}
      headers: { Content-Type: application/json }
      body: '{}'
      good: [200, 201]
      dead: [401]
      forbidden: [403]
      answer:
        ok: { pointer: /ok, equals: true }
        error: { pointer: /error/code, dead: [revoked, 7], forbidden: [no_scope], limited: [slow] }
      account: { id: /id, name: /name, email: /email }
  - method: custom
    title: Key file
    fields:
      - { name: key, title: Key, secret: true, multiline: true }
    no_test: Nothing is known of it.
scopes:
  - { name: read, title: Read }
default_scopes: [read]
capabilities:
  - { id: files, title: Files, scopes: [read], base_url: 'https://files.acme.example' }
";

fn findings(text: &str) -> Vec<String> {
    match compile(Path::new("acme.yaml"), text).provider {
        Ok(_) => Vec::new(),
        Err(findings) => findings.iter().map(Finding::to_string).collect(),
    }
}

/// Puts one text in place of another, and asserts that exactly this finding follows.
#[track_caller]
fn assert_finding(from: &str, to: &str, expected: &str) {
    assert!(VALID.contains(from), "{from:?} is not in the definition");
    let found = findings(&VALID.replacen(from, to, 1));
    assert!(found.len() == 1 && found[0].contains(expected), "{to:?} gave {found:#?}");
}

/// Puts one text in place of another, and asserts that this is among the findings.
#[track_caller]
fn assert_among_findings(from: &str, to: &str, expected: &str) {
    assert!(VALID.contains(from), "{from:?} is not in the definition");
    let found = findings(&VALID.replacen(from, to, 1));
    assert!(found.iter().any(|finding| finding.contains(expected)), "{to:?} gave {found:#?}");
}

#[test]
fn accepts_the_definition_that_the_others_are_made_from() {
    assert_eq!(findings(VALID), Vec::<String>::new());
}

#[test]
fn names_unknown_keys_with_their_line_and_the_known_ones() {
    assert_finding(
        "title: Tenant,",
        "title: Tenant, hint: x,",
        "acme.yaml:7: config[0].hint: is not a known key",
    );
    assert_finding("name: Acme\n", "name: Acme\noauth: {}\n", "acme.yaml:3: oauth: is not a known key");
    assert_finding("http:\n", "http:\n      body: {}\n", "known here: base_url, basic, cookies, headers");
}

#[test]
fn names_missing_keys_and_wrong_types() {
    assert_finding("name: Acme\n", "", "acme.yaml:1: lacks the key name");
    assert_finding("name: Acme\n", "name: 7\n", "name: must be text: put it in quotes");
    assert_finding("name: Acme\n", "name: [a]\n", "name: must be text");
    assert_finding("name: Acme\n", "name:\n", "name: must be text");
    assert_finding("secret: true", "secret: 'true'", "must be true or false");
    assert_finding("[read]\ncap", "read\ncap", "default_scopes: must be a list");
    assert_finding("format: host_label", "format: hostname", "must be one of https_url, header_name");
    assert_finding("method: api_key", "method: apikey", "must be one of oauth2_code");
}

#[test]
fn reports_every_finding_and_not_only_the_first() {
    let text = VALID
        .replace("facts_checked: 2026-01-31", "facts_checked: 2026-13-31")
        .replace("name: Acme\n", "name: Acme\nsurprise: 1\n")
        .replace("'eu|us'", "'eu|us('")
        .replace("{credential.api_key}", "{credential.key}");
    let found = findings(&text).join("\n");
    for expected in [
        "surprise: is not a known key",
        "facts_checked: must be a date",
        "config[1].pattern: is not a regular expression",
        "refers to key, which is not among its fields",
        "is a secret that no template of this method uses",
    ] {
        assert!(found.contains(expected), "no {expected:?} in\n{found}");
    }
}

#[test]
fn a_syntax_error_has_its_line() {
    let found = findings("id: acme\nname: [\n");
    assert!(found.len() == 1 && found[0].starts_with("acme.yaml:"), "{found:?}");
    assert_eq!(findings(&format!("{VALID}---\n{VALID}")).len(), 1, "two documents");
    assert_eq!(findings(&VALID.replace("name: Acme\n", "name: Acme\nname: Acme\n")).len(), 1, "a key twice");
    assert_eq!(findings("").len(), 1, "an empty file");
}

#[test]
fn the_id_is_the_name_of_the_file() {
    assert_finding("id: acme\n", "id: other\n", "acme.yaml:1: id: must be the file's name without .yaml");
    let found = findings(&VALID.replace("id: acme\n", "id: Acme\n")).join("\n");
    assert!(found.contains("must be 1 to 64 characters of a-z"), "{found}");
}

#[test]
fn facts_have_a_source_and_a_date() {
    assert_finding("https://acme.example/docs", "http://acme.example/docs", "must be an https URL");
    for date in ["2026-1-31", "31.01.2026", "2026-00-01", "2026-01-32", "+026-01-01"] {
        assert_finding("2026-01-31", date, "must be a date");
    }
}

#[test]
fn a_template_refers_to_fields_that_are_there() {
    assert_finding(
        "X-Region: '{config.region}'",
        "X-Region: '{config.place}'",
        "refers to place, which is not",
    );
    assert_finding("X-Region: '{config.region}'", "X-Region: '{credential.region}'", "refers to region");
    assert_finding("X-Region: '{config.region}'", "X-Region: '{region}'", "may refer to");
    assert_finding("X-Region: '{config.region}'", "X-Region: '{config.region'", "has a { without a }");
}

#[test]
fn a_template_refers_to_fields_that_always_have_a_value() {
    assert_finding("default: eu,", "required: false,", "neither required nor has a default");
    let absent = VALID
        .replace("https://{config.tenant}.acme.example/v1", "'{config.tenant}'")
        .replace("title: Tenant, format: host_label", "title: Tenant, format: https_url, required: false");
    assert_eq!(findings(&absent), Vec::<String>::new(), "but a base URL may be left to an optional field");
}

#[test]
fn what_may_hold_line_breaks_goes_into_no_template() {
    for template in [
        "headers: { X: '{credential.key}' }",
        "query_parameters: { x: '{credential.key}' }",
        "cookies: { x: '{credential.key}' }",
        "base_url: 'https://x.example/{credential.key}'",
        "basic: { username: x, password: '{credential.key}' }",
    ] {
        let to = format!("multiline: true }}\n    http:\n      {template}\n");
        assert_finding("multiline: true }\n", &to, "which may hold line breaks");
    }
}

#[test]
fn a_secret_stays_out_of_places_that_are_not_secret() {
    assert_finding("title: Region,", "title: Region, secret: true,", "config is shown to everyone");
    assert_finding("account_id: account", "account_id: api_key", "names a secret field");
    assert_finding("X-Region: '{config.region}'", "'{credential.api_key}': x", "this place is not secret");
    assert_finding(
        ".acme.example/v1",
        ".acme.example/{credential.api_key}",
        "must not refer to {credential.api_key}: this place is not secret",
    );
    let host = "http:\n      base_url: 'https://{credential.api_key}.acme.example'\n";
    let found = findings(&VALID.replacen("http:\n", host, 1)).join("\n");
    assert!(found.contains("is secret, and host names are looked up in the open"), "{found}");
}

#[test]
fn names_are_not_given_twice() {
    assert_among_findings("name: region", "name: tenant", "is the name of another field too");
    assert_among_findings("name: account,", "name: api_key,", "is the name of another field too");
    assert_among_findings("method: custom", "method: api_key", "is there twice");
    assert_finding("title: Read }", "title: Read }\n  - { name: read, title: Again }", "is there twice");
    assert_finding("X-Region: '{config.region}'", "a: x, A: y", "is a header that is set twice");
    let files = "capabilities:\n  - { id: files, title: Files, scopes: [] }\n";
    assert_finding("capabilities:\n", files, "is there twice");
}

#[test]
fn names_from_the_config_have_the_format_of_names() {
    assert_finding(", format: header_name", "", "must have the format header_name");
    assert_finding("'{config.header}'", "'X-{config.header}'", "partly text and partly a reference");
    assert_finding("X-Region:", "'X Region':", "must be 1 to 256 characters of A-Z");
    assert_finding("X-Region:", "Host:", "belongs to the connection");
    assert_finding("default: X-Key", "default: 'X Key'", "config[2].default: must be 1 to 256 characters");
}

#[test]
fn a_base_url_is_an_https_url_whose_host_is_under_control() {
    let url = "https://{config.tenant}.acme.example/v1";
    assert_finding(url, "http://{config.tenant}.acme.example", "must begin with https://");
    assert_finding(url, "https://{config.tenant}.acme.example/?x={config.region}", "must not have a query");
    assert_finding(url, "https://{config.tenant}.acme.example/../x", "path segments");
    assert_finding(", format: host_label", "", "must have the format host_label");
    assert_finding(url, "'{config.tenant}'", "must have the format https_url");
    let glued = VALID.replace("format: host_label", "format: https_url");
    for base_url in ["'{config.tenant}.evil.example'", "'{config.tenant}{config.region}'"] {
        let found = findings(&glued.replace(url, base_url)).join("\n");
        assert!(found.contains("must have a slash behind a reference"), "{base_url} gave {found}");
    }
    let path = glued.replace(url, "'{config.tenant}/{config.region}{config.header}'");
    assert_eq!(findings(&path), Vec::<String>::new(), "in the path, references may stand side by side");
    assert_finding("https://files.acme.example", "http://files.acme.example", "must begin with https://");
}

#[test]
fn a_method_has_what_it_takes_to_connect() {
    assert_among_findings("title: Account }", "title: Account, secret: true }", "names a secret field");
    assert_finding("account_id: account", "account_id: nobody", "does not name a field");
    assert_among_findings("title: Account }", "title: Account, required: false }", "is not required");
    assert_finding("secret: true }", "secret: true, default: x }", "a credential has no default");
    assert_finding("secret: true }", "secret: true, allow_empty: true }", "a credential is never empty");
    assert_finding("    account_id", "    open_fields: true\n    account_id", "but for the method custom");
    assert_finding("method: api_key", "method: basic", "must have the key basic");
    assert_finding(
        "api_key, title: API key, secret: true",
        "api_key, title: API key",
        "exactly one secret field",
    );
}

/// A definition whose credential is issued, with this method.
fn issued(method: &str) -> String {
    let recipe = "oauth2:\n  client_authentication: basic\n  authorize: { url: 'https://acme.example/a' }\n  \
                  token: { url: 'https://acme.example/t' }\n  device: { url: 'https://acme.example/d' }\n";
    VALID.replacen("auth_methods:\n", &format!("auth_methods:\n  - {{ {method}, title: Issued }}\n"), 1)
        + recipe
}

#[test]
fn an_issued_credential_has_nothing_to_type_in_but_what_it_is_asked_for_with() {
    let field = |name: &str| format!("{{ name: {name}, title: Field }}");
    let client = format!("[{}, {{ name: client_secret, title: Secret, secret: true }}]", field("client_id"));
    for good in [
        "method: oauth2_code".to_owned(),
        "method: oauth2_device".to_owned(),
        "method: oauth2_client_credentials".to_owned(),
        format!("method: oauth2_client_credentials, fields: {client}"),
    ] {
        assert_eq!(findings(&issued(&good)), Vec::<String>::new(), "{good}");
    }
    for (wrong, expected) in [
        (
            format!("method: oauth2_code, fields: [{}]", field("a")),
            "fields: must be left out: the owner types",
        ),
        (
            format!("method: oauth2_device, fields: [{}]", field("a")),
            "fields: must be left out: the owner types",
        ),
        (
            format!("method: oauth2_client_credentials, fields: [{}]", field("client_id")),
            "fields: must be client_id and client_secret, or left out",
        ),
        (
            "method: jwt_bearer".to_owned(),
            "fields: must not be empty: there is nothing to make an assertion of",
        ),
        ("method: oauth2_code, open_fields: true".to_owned(), "open_fields: must not be true but for"),
    ] {
        let found = findings(&issued(&wrong)).join("\n");
        assert!(found.contains(&format!("auth_methods[0].{expected}")), "{wrong} gave {found}");
    }
}

#[test]
fn only_what_is_issued_goes_on_a_request() {
    let header = |text: &str| issued(&format!("method: oauth2_code, http: {{ headers: {{ X: '{text}' }} }}"));
    for good in ["{credential.access_token}", "{config.client_id}", "{config.region}"] {
        assert_eq!(findings(&header(good)), Vec::<String>::new(), "{good}");
    }
    for wrong in ["refresh_token", "api_key"] {
        let found = findings(&header(&format!("{{credential.{wrong}}}"))).join("\n");
        assert!(found.contains(&format!("refers to {wrong}, which is not among its fields")), "{found}");
    }
}

#[test]
fn scopes_are_asked_for_only_where_something_is_issued() {
    assert_finding(
        "    account_id: account",
        "    default_scopes: [read]\n    account_id: account",
        "auth_methods[0].default_scopes: must be left out: nothing is asked for",
    );
    assert_finding(
        "'{config.region}' }",
        "'{config.client_id}' }",
        "refers to client_id, which is not among",
    );
}

#[test]
fn facts_come_from_one_of_two_places() {
    let facts = "facts_checked: 2026-01-31\n";
    let from = |text: &str| {
        let text = VALID.replacen(facts, &format!("{facts}{text}"), 1);
        compile(Path::new("acme.yaml"), &text).provider.unwrap().facts_from
    };
    assert_eq!(from(""), FactsFrom::Documentation);
    assert_eq!(from("facts_from: documentation\n"), FactsFrom::Documentation);
    assert_eq!(from("facts_from: libraries\n"), FactsFrom::Libraries);
    assert_finding(
        facts,
        &format!("{facts}facts_from: hearsay\n"),
        "must be one of documentation, libraries",
    );
}

#[test]
fn scopes_are_scopes_that_the_provider_has() {
    assert_finding("default_scopes: [read]", "default_scopes: [write]", "default_scopes[0]: is not one of");
    assert_finding(
        "scopes: [read], base",
        "scopes: [write], base",
        "capabilities[0].scopes[0]: is not one of",
    );
    let found = findings(&VALID.replace("name: read,", "name: 'read all',")).join("\n");
    assert!(found.contains("scopes[0].name: must be 1 to 256 visible ASCII"), "{found}");
}

#[test]
fn services_are_services() {
    for service in ["gateway", "user:u_42", "**", "service:"] {
        let to = format!("name: Acme\nservices: ['{service}']\n");
        assert_finding("name: Acme\n", &to, "acme.yaml:3: services[0]: must be \"*\" or a service");
    }
}

#[test]
fn defaults_keep_their_own_rules() {
    assert_finding("default: eu,", "default: mars,", "config[1].default: does not have the form");
    assert_finding("default: eu,", "default: eu, required: true,", "must not be true for a field that has");
    assert_among_findings("name: region", "name: Region", "must be 1 to 63 characters of a-z");
}

#[test]
fn a_test_is_a_harmless_request_that_stays_where_it_is_sent() {
    let request = "POST /accounts/{credential.account}";
    for method in ["PUT /me", "DELETE /me", "get /me", "/me", "POST", ""] {
        assert_finding(
            request,
            &format!("'{method}'"),
            if method == "POST" { "must go to a path" } else { "must begin with GET, HEAD or POST" },
        );
    }
    for target in
        ["me", "http://acme.example/me", "{config.region}/me", "{credential.account}{config.region}"]
    {
        assert_among_findings(
            request,
            &format!("'POST {target}'"),
            "must go to a path that begins with a slash",
        );
    }
    assert_finding(request, "POST /me?all=1", "must not have a query");
    assert_finding(request, "POST /a/../me", "path segments");
    assert_finding(request, "POST /a b", "without spaces");
    assert_finding(request, "POST https://user@acme.example/me", "user name");
    assert_finding(request, "POST /me/{credential.api_key}", "must not refer to a secret");
    assert_finding(request, "POST /me/{config.place}", "refers to place, which is not");
    assert_finding(request, "POST /me/{config.place", "has a { without a }");
    assert_finding(request, "'POST {config.region}'", "must have the format url_path");
    assert_finding(request, "'POST {credential.api_key}'", "must have the format url_path");
    for target in ["/", "/me/{config.region}", "https://acme.example/me/{credential.account}"] {
        assert_eq!(findings(&VALID.replacen(request, &format!("POST {target}"), 1)), Vec::<String>::new());
    }
    assert_finding(
        "base_url: https://{config.tenant}.acme.example/v1\n",
        "",
        "auth_methods[0].test.request: has a path, but there is no base_url",
    );
}

#[test]
fn a_test_may_be_left_to_an_optional_path() {
    let text = VALID.replace("POST /accounts/{credential.account}", "'POST {config.path}'").replace(
        "config:\n",
        "config:\n  - { name: path, title: Path, required: false, format: url_path }\n",
    );
    assert_eq!(findings(&text), Vec::<String>::new());
    let found = findings(&text.replace("'POST {config.path}'", "POST /a/{config.path}")).join("\n");
    assert!(found.contains("refers to path, which is neither required nor has a default"), "{found}");
}

#[test]
fn a_status_says_one_thing() {
    assert_finding("good: [200, 201]", "good: [200, 200]", "test.good[1]: is there twice");
    assert_finding("forbidden: [403]", "forbidden: [401]", "test.forbidden[0]: is there twice");
    assert_finding("dead: [401]", "dead: [429]", "must not be 429");
    assert_finding("dead: [401]", "dead: [200]", "must be a whole number from 400 to 499");
    assert_finding("good: [200, 201]", "good: [302]", "must be a whole number from 200 to 299");
    assert_finding("good: [200, 201]", "good: []", "must not be empty");
    assert_finding("      good: [200, 201]\n", "", "lacks the key good");
}

#[test]
fn a_test_that_reads_the_answer_says_where_and_what() {
    for pointer in ["id", "''", "/a~", "/a~2"] {
        assert_finding("id: /id", &format!("id: {pointer}"), "account.id: must be a JSON pointer");
        assert_finding("pointer: /ok", &format!("pointer: {pointer}"), "ok.pointer: must be a JSON pointer");
        assert_finding("/error/code", pointer, "error.pointer: must be a JSON pointer");
    }
    assert_finding("id: /id", &format!("id: /{}", "x".repeat(256)), "must be at most 256 bytes");
    assert_eq!(findings(&VALID.replace("id: /id", "id: /a~0b~1/0//")), Vec::<String>::new());
    assert_finding("forbidden: [no_scope]", "forbidden: [7]", "error.forbidden[0]: is there twice");
    let error = "dead: [revoked, 7], forbidden: [no_scope], limited: [slow]";
    assert_finding(error, "dead: []", "must list a code");
    let answer =
        "answer:\n        ok: { pointer: /ok, equals: true }\n        error: { pointer: /error/code, ";
    assert_finding(&format!("{answer}{error} }}"), "answer: {}", "must have the key ok or the key error");
}

#[test]
fn a_test_has_a_body_only_where_one_is_sent_and_read() {
    assert_finding("POST /acc", "GET /acc", "test.body: must be left out but for POST");
    assert_finding("Content-Type: application/json", "X: y", "must have the Content-Type of the body");
    let head = VALID.replace("POST /acc", "HEAD /acc").replace("      body: '{}'\n", "");
    let found = findings(&head).join("\n");
    for key in ["answer", "account"] {
        assert!(found.contains(&format!("test.{key}: must be left out for HEAD")), "{found}");
    }
}

#[test]
fn a_test_adds_headers_and_replaces_none() {
    let headers = "Content-Type: application/json";
    assert_finding(headers, &format!("{headers}, x-region: us"), "is a header that is set twice");
    assert_finding(headers, &format!("{headers}, Host: x"), "belongs to the connection");
    assert_finding(headers, &format!("{headers}, X: \"a\\nb\""), "must be ASCII");
}

#[test]
fn a_missing_test_has_a_reason_and_not_both() {
    assert_finding("no_test: Nothing is known of it.", "no_test: ' '", "no_test: must not be empty");
    assert_finding(
        "    test:\n",
        "    no_test: None.\n    test:\n",
        "must be left out where there is a test",
    );
    let found = findings(&VALID.replace("    no_test: Nothing is known of it.\n", ""));
    assert_eq!(found, Vec::<String>::new(), "an operator's definition may do without both");
}
