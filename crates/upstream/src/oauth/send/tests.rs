use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keyholder_vault::SigningAlgorithm;

use super::super::fixture::{Acme, Listener, Sent, now, secret};
use super::super::{ClientKey, Consent, Revoked};
use super::*;

/// `Basic client-1:s3cret`.
const BASIC: &str = "Basic Y2xpZW50LTE6czNjcmV0";

const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\
                    connection: close\r\n\r\n{\"access_token\":\"at\"}";

const CLIENT_REFUSED: &str = "HTTP/1.1 401 No\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\
                              connection: close\r\n\r\n{\"error\":\"invalid_client\"}";

const CODE_REFUSED: &str = "HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: 25\r\n\
                            connection: close\r\n\r\n{\"error\":\"invalid_grant\"}";

fn key() -> String {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem()
}

/// A code as only a test would make it: every kind of character that an encoding could spoil.
fn code() -> SecretString {
    secret("c/1+2 &=%é")
}

fn with_code(ask: impl FnOnce(&TokenRequest<'_>)) {
    let (code, verifier) = (code(), secret("v~-._"));
    ask(&TokenRequest::Code { code: &code, redirect_uri: "https://us.example/cb?a=b", verifier: &verifier });
}

/// What is sent for a request by a client that authenticates in some way.
fn sent(authentication: &str, recipe: &str, request: &TokenRequest<'_>) -> Sent {
    let mut all = sent_by(authentication, recipe, |_| {}, request, GOOD, 1);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn sent_by(
    authentication: &str,
    recipe: &str,
    change: impl FnOnce(&mut Acme),
    request: &TokenRequest<'_>,
    answer: &'static str,
    calls: usize,
) -> Vec<Sent> {
    let listener = Listener::answering(calls, answer);
    let recipe = recipe.replace("{base}", &listener.base);
    let mut acme = Acme::at(&listener.base, authentication, &recipe, "");
    change(&mut acme);
    let upstream = listener.upstream();
    runtime().block_on(upstream.ask_for_tokens(&acme.server(), request, now())).unwrap();
    listener.sent()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn claims(token: &str) -> (Value, Value) {
    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let part = |at: usize| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[at]).unwrap()).unwrap();
    assert!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len() == 64, "it is signed");
    (part(0), part(1))
}

fn parameter(sent: &Sent, name: &str) -> Option<String> {
    let mut found = url::form_urlencoded::parse(sent.body.as_bytes()).filter(|(known, _)| known == name);
    let value = found.next().map(|(_, value)| value.into_owned());
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

// === Codes ===

#[test]
fn c26_c28_c30_c31_a_code_goes_in_the_body_of_a_post_with_its_redirect_uri_and_verifier() {
    with_code(|request| {
        let sent = sent("basic", "", request);
        assert_eq!(sent.line, "POST /token HTTP/1.1");
        assert_eq!(
            sent.body,
            "grant_type=authorization_code&code=c%2F1%2B2%20%26%3D%25%C3%A9\
             &redirect_uri=https%3A%2F%2Fus.example%2Fcb%3Fa%3Db&code_verifier=v~-._"
        );
        assert_eq!(sent.headers["content-type"], "application/x-www-form-urlencoded");
        assert_eq!(sent.headers["accept"], "application/json");
        assert_eq!(sent.headers["user-agent"], "keyholder");
        assert_eq!(sent.headers["authorization"], BASIC);
        let names: Vec<&str> = sent.headers.keys().map(String::as_str).collect();
        let expected = [
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent",
        ];
        assert_eq!(names, expected, "nothing else");
        assert_eq!(sent.headers["accept-encoding"], "identity");
    });
}

#[test]
fn c31_no_verifier_is_sent_where_no_challenge_was() {
    with_code(|request| {
        let sent = sent("basic", "  authorize: { url: '{base}/authorize', pkce: 'off' }\n", request);
        assert!(!sent.body.contains("code_verifier"), "{}", sent.body);
    });
}

#[test]
fn c27_a_client_proves_itself_in_exactly_one_way() {
    with_code(|request| {
        for (authentication, header, id, secret) in [
            ("basic", Some(BASIC), None, None),
            ("basic_raw", Some(BASIC), None, None),
            ("body", None, Some("client-1"), Some("s3cret")),
            ("none", None, Some("client-1"), None),
        ] {
            let sent = sent(authentication, "", request);
            let told = sent.headers.get("authorization").map(String::as_str);
            assert_eq!(told, header, "{authentication}");
            assert_eq!(parameter(&sent, "client_id").as_deref(), id, "{authentication}");
            assert_eq!(parameter(&sent, "client_secret").as_deref(), secret, "{authentication}");
            assert!(!sent.line.contains("s3cret") && !sent.body.contains("client_assertion"));
        }
        // A client without a secret says who it is, and no more.
        let public = sent_by("basic", "", |acme| acme.client.secrets.clear(), request, GOOD, 1).remove(0);
        assert_eq!(parameter(&public, "client_id").as_deref(), Some("client-1"));
        assert!(!public.headers.contains_key("authorization"));
    });
}

#[test]
fn c29_basic_is_form_encoded_unless_the_recipe_says_raw() {
    use base64::engine::general_purpose::STANDARD;
    let odd = |acme: &mut Acme| {
        acme.client.id = "a:b%c".to_owned();
        acme.client.secrets = vec!["d+e fé".into()];
    };
    with_code(|request| {
        for (authentication, expected) in
            [("basic", "a%3Ab%25c:d%2Be+f%C3%A9"), ("basic_raw", "a:b%c:d+e fé")]
        {
            let sent = sent_by(authentication, "", odd, request, GOOD, 1).remove(0);
            let header = sent.headers["authorization"].strip_prefix("Basic ").unwrap();
            assert_eq!(String::from_utf8(STANDARD.decode(header).unwrap()).unwrap(), expected);
        }
    });
}

#[test]
fn c45_a_client_assertion_is_for_one_audience_short_lived_and_new_each_time() {
    let pem = secret(&key());
    let sign = |acme: &mut Acme| {
        acme.client.secrets.clear();
        acme.client.key = Some(ClientKey {
            algorithm: SigningAlgorithm::Es256,
            key: SigningKey::from_pem(SigningAlgorithm::Es256, &pem).unwrap(),
            id: "kid-1".to_owned(),
        });
    };
    let mut ids = BTreeSet::new();
    with_code(|request| {
        for recipe in ["  issuer: https://acme.example\n", "  issuer: https://acme.example\n", ""] {
            let sent = sent_by("private_key_jwt", recipe, sign, request, GOOD, 1).remove(0);
            assert!(!sent.headers.contains_key("authorization"));
            assert_eq!(parameter(&sent, "client_id").as_deref(), Some("client-1"));
            assert_eq!(
                parameter(&sent, "client_assertion_type").as_deref(),
                Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            );
            assert_eq!(parameter(&sent, "client_secret"), None);
            let (header, claims) = claims(&parameter(&sent, "client_assertion").unwrap());
            assert_eq!(header, json!({ "alg": "ES256", "typ": "JWT", "kid": "kid-1" }));
            assert_eq!((&claims["iss"], &claims["sub"]), (&json!("client-1"), &json!("client-1")));
            let host = &sent.headers["host"];
            let token_endpoint = format!("http://{host}/token");
            let audience = if recipe.is_empty() { &token_endpoint } else { "https://acme.example" };
            assert_eq!(claims["aud"], json!(audience), "one, and the issuer where it is known");
            let issued = now().unix_timestamp();
            assert_eq!((&claims["iat"], &claims["exp"]), (&json!(issued), &json!(issued + 300)));
            assert!(ids.insert(claims["jti"].as_str().unwrap().to_owned()), "used before");
        }
    });
    assert!(ids.iter().all(|id| id.len() == 32));
}

#[test]
fn another_secret_is_tried_only_where_the_client_was_refused() {
    let two = |acme: &mut Acme| acme.client.secrets = vec!["new".into(), "old".into()];
    with_code(|request| {
        for (authentication, answer, calls) in [
            ("body", CLIENT_REFUSED, 2),
            ("body", CODE_REFUSED, 1),
            ("body", GOOD, 1),
            ("none", CLIENT_REFUSED, 1),
        ] {
            let sent = sent_by(authentication, "", two, request, answer, calls);
            let secrets: Vec<_> = sent.iter().filter_map(|sent| parameter(sent, "client_secret")).collect();
            let expected = if authentication == "none" { 0 } else { calls };
            assert_eq!(secrets, ["new", "old"][..expected]);
        }
    });
}

// === What a recipe can change ===

#[test]
fn a_recipe_has_names_headers_and_parameters_of_its_own() {
    let recipe = "  names: { client_id: client_key, code: auth_code, scope: perms }\n\
                  \x20 token: { url: '{base}/oauth/token', headers: { X-Version: '7' }, parameters: { audience: api, grant_type: auth_code } }\n";
    with_code(|request| {
        let sent = sent("body", recipe, request);
        assert_eq!(sent.line, "POST /oauth/token HTTP/1.1");
        assert_eq!(
            sent.body,
            "audience=api&grant_type=auth_code&auth_code=c%2F1%2B2%20%26%3D%25%C3%A9\
             &redirect_uri=https%3A%2F%2Fus.example%2Fcb%3Fa%3Db&code_verifier=v~-._\
             &client_key=client-1&client_secret=s3cret"
        );
        assert_eq!(sent.headers["x-version"], "7");
    });
}

#[test]
fn a_recipe_asks_with_json() {
    with_code(|request| {
        let sent = sent("basic", "  token: { url: '{base}/token', format: json }\n", request);
        assert_eq!(sent.line, "POST /token HTTP/1.1");
        assert_eq!(sent.headers["content-type"], "application/json");
        let body: Value = serde_json::from_str(&sent.body).unwrap();
        assert_eq!(
            body,
            json!({
                "grant_type": "authorization_code", "code": "c/1+2 &=%é",
                "redirect_uri": "https://us.example/cb?a=b", "code_verifier": "v~-._",
            })
        );
    });
}

#[test]
fn a_recipe_asks_with_a_query() {
    let scopes = Scopes::parse(["a"]).unwrap();
    let recipe = "  token: { url: '{base}/token', format: query }\n";
    let sent = sent("body", recipe, &TokenRequest::Client { scopes: &scopes });
    assert_eq!(
        sent.line,
        "GET /token?grant_type=client_credentials&scope=a&client_id=client-1&client_secret=s3cret HTTP/1.1"
    );
    assert!(sent.body.is_empty() && !sent.headers.contains_key("content-type"));
}

// === The other requests ===

#[test]
fn c38_a_refresh_asks_for_no_more_than_was_granted() {
    let (token, scopes) = (secret("rt/1"), Scopes::parse(["b", "a"]).unwrap());
    let request =
        TokenRequest::Refresh { token: &token, scopes: &scopes, redirect_uri: "https://us.example/cb" };
    let none = Scopes::parse([] as [&str; 0]).unwrap();
    let bare = TokenRequest::Refresh { token: &token, scopes: &none, redirect_uri: "" };
    for (recipe, request, line, body) in [
        ("", &request, "POST /token HTTP/1.1", "grant_type=refresh_token&refresh_token=rt%2F1"),
        (
            "  scope_separator: ','\n  refresh: { sends_scope: true, sends_redirect_uri: true, parameters: { type: refresh } }\n",
            &request,
            "POST /token HTTP/1.1",
            "grant_type=refresh_token&type=refresh&refresh_token=rt%2F1&scope=a%2Cb&redirect_uri=https%3A%2F%2Fus.example%2Fcb",
        ),
        (
            "  refresh: { sends_scope: true, sends_redirect_uri: true }\n",
            &bare,
            "POST /token HTTP/1.1",
            "grant_type=refresh_token&refresh_token=rt%2F1",
        ),
        (
            "  refresh: { url: '{base}/renew', with: access_token, parameters: { grant_type: swap } }\n",
            &request,
            "POST /renew HTTP/1.1",
            "grant_type=swap&access_token=rt%2F1",
        ),
    ] {
        let sent = sent("basic", recipe, request);
        assert_eq!((sent.line.as_str(), sent.body.as_str()), (line, body), "{recipe}");
        assert_eq!(sent.headers["authorization"], BASIC);
    }
}

#[test]
fn devices_clients_and_exchanges_ask_by_the_book() {
    let (token, scopes) = (secret("d/1"), Scopes::parse(["b", "a"]).unwrap());
    let device = sent("none", "", &TokenRequest::Device { device_code: &token });
    assert_eq!(
        device.body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=d%2F1&client_id=client-1"
    );
    let client = sent("basic", "", &TokenRequest::Client { scopes: &scopes });
    assert_eq!(client.body, "grant_type=client_credentials&scope=a%20b");
    let recipe = "  exchange: { url: '{base}/swap', format: query, token_name: short, parameters: { grant_type: swap } }\n";
    let exchange = sent("body", recipe, &TokenRequest::Exchange { token: &token });
    assert_eq!(
        exchange.line,
        "GET /swap?grant_type=swap&short=d%2F1&client_id=client-1&client_secret=s3cret HTTP/1.1"
    );
}

#[test]
fn an_assertion_says_who_asks_for_what_and_ends_in_five_minutes() {
    let fields = Credential::from_fields(
        [("email".to_owned(), secret("robot@acme.example")), ("private_key".to_owned(), secret(&key()))]
            .into(),
    );
    let scopes = Scopes::parse(["b", "a"]).unwrap();
    let request = TokenRequest::Assertion { fields: &fields, scopes: &scopes };
    let nobody = |acme: &mut Acme| (acme.client.id, acme.client.secrets) = (String::new(), Vec::new());
    let sent = sent_by("body", "", nobody, &request, GOOD, 1).remove(0);
    assert_eq!(
        parameter(&sent, "grant_type").as_deref(),
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer")
    );
    let (header, told) = claims(&parameter(&sent, "assertion").unwrap());
    assert_eq!(header, json!({ "alg": "ES256", "typ": "JWT" }));
    let issued = now().unix_timestamp() - 60;
    let audience = format!("http://{}/token", sent.headers["host"]);
    assert_eq!(
        told,
        json!({
            "iss": "robot@acme.example", "sub": "robot@acme.example", "aud": audience, "scope": "a b",
            "iat": issued, "exp": issued + 360,
        })
    );
    assert!(!sent.headers.contains_key("authorization"));
    for name in ["client_id", "client_secret", "client_assertion"] {
        assert_eq!(parameter(&sent, name), None, "no client asks");
    }
    let sent = sent_by("private_key_jwt", "", nobody, &request, GOOD, 1).remove(0);
    assert_eq!(parameter(&sent, "client_assertion"), None, "no client asks");

    let recipe = "  assertion: { key: private_key, algorithm: ES256, key_id: k7, issuer: '{credential.email}', \
                  send_as: bearer, url: '{base}/app/tokens' }\n";
    let sent = sent_by("body", recipe, nobody, &request, GOOD, 1).remove(0);
    assert_eq!(sent.line, "POST /app/tokens HTTP/1.1");
    let (header, told) = claims(sent.headers["authorization"].strip_prefix("Bearer ").unwrap());
    assert_eq!(header, json!({ "alg": "ES256", "typ": "JWT", "kid": "k7" }));
    assert_eq!(told, json!({ "iss": "robot@acme.example", "iat": issued, "exp": issued + 360 }));
    assert_eq!(sent.body, "");
}

#[test]
fn c43_tokens_are_given_back_by_post_the_refresh_token_first() {
    let tokens = Credential::from_fields(
        [("access_token".to_owned(), secret("at/1")), ("refresh_token".to_owned(), secret("rt/1"))].into(),
    );
    let revoked = |authentication: &str, recipe: &str, answer, calls: usize| {
        let listener = Listener::answering(calls, answer);
        let recipe = recipe.replace("{base}", &listener.base);
        let acme = Acme::at(&listener.base, authentication, &recipe, "");
        let outcome = runtime().block_on(listener.upstream().revoke(&acme.server(), &tokens, now()));
        (outcome, listener.sent())
    };
    let (outcome, sent) = revoked("basic", "  revoke: { url: '{base}/revoke' }\n", GOOD, 2);
    assert_eq!(outcome, Ok(Revoked::Done));
    let bodies: Vec<_> = sent.iter().map(|sent| sent.body.as_str()).collect();
    assert_eq!(bodies, ["token=rt%2F1", "token=at%2F1"]);
    for sent in &sent {
        assert_eq!(
            (sent.line.as_str(), sent.headers["authorization"].as_str()),
            ("POST /revoke HTTP/1.1", BASIC)
        );
    }
    let recipe = "  revoke: { url: '{base}/clients/{config.client_id}', request: delete_json, authentication: bearer, \
                  token: access_token, token_name: access_token, good: [204] }\n";
    let (outcome, sent) = revoked("body", recipe, "HTTP/1.1 204 Gone\r\nconnection: close\r\n\r\n", 1);
    assert_eq!(outcome, Ok(Revoked::Done));
    assert_eq!(sent[0].line, "DELETE /clients/client-1 HTTP/1.1");
    assert_eq!(sent[0].headers["authorization"], "Bearer at/1");
    assert_eq!(sent[0].body, r#"{"access_token":"at/1"}"#);
    for refused in [
        "HTTP/1.1 503 No\r\ncontent-length: 0\r\nretry-after: 7\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 202 Soon\r\ncontent-length: 0\r\nretry-after: 7\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 204 Soon\r\nretry-after: 7\r\nconnection: close\r\n\r\n",
    ] {
        let (outcome, _) = revoked("basic", "  revoke: { url: '{base}/revoke' }\n", refused, 1);
        let later = Some(std::time::Duration::from_secs(7));
        assert_eq!(outcome, Err(TokenFault::Passing { retry_after: later }), "{refused}");
    }
    let elsewhere = "HTTP/1.1 307 There\r\ncontent-length: 0\r\nlocation: https://evil.example/\r\nconnection: close\r\n\r\n";
    let (outcome, _) = revoked("basic", "  revoke: { url: '{base}/revoke' }\n", elsewhere, 1);
    assert!(matches!(outcome, Err(TokenFault::NoAnswer(_))), "a token follows no redirect: {outcome:?}");
    let (outcome, _) = revoked("basic", "", GOOD, 0);
    assert_eq!(outcome, Ok(Revoked::Unsupported));
}

// === The way there ===

#[test]
fn c1_c5_c8_c10_a_browser_is_sent_with_a_code_a_state_and_a_challenge() {
    let (state, nonce, verifier) =
        (secret("st&1"), secret("n1"), secret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
    let scopes = Scopes::parse(["b", "a"]).unwrap();
    let consent = Consent {
        redirect_uri: "https://us.example/oauth/callback/acme",
        state: &state,
        nonce: &nonce,
        verifier: &verifier,
        scopes: &scopes,
    };
    let url = |recipe: &str| Acme::new(recipe, "").server().authorization_url(&consent).unwrap();
    let redirect = "redirect_uri=https%3A%2F%2Fus.example%2Foauth%2Fcallback%2Facme";
    let challenge = "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";
    assert_eq!(
        url(""),
        format!(
            "https://acme.example/authorize?response_type=code&client_id=client-1&state=st%261&{challenge}\
             &{redirect}&scope=a+b"
        )
    );
    let off = "  scope_separator: ','\n  names: { client_id: app }\n  authorize: { url: 'https://acme.example/go', \
               pkce: 'off', parameters: { prompt: consent } }\n  account: { from: id_token }\n  issuer: https://acme.example\n";
    assert_eq!(
        url(off),
        format!(
            "https://acme.example/go?response_type=code&app=client-1&state=st%261&{redirect}&scope=a%2Cb&nonce=n1\
             &prompt=consent"
        )
    );
    for url in [url(""), url(off)] {
        assert!(!url.contains("dBjft"), "a verifier is in no URL");
    }
}
