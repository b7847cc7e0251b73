use std::sync::LazyLock;

use keyholder_domain::{AuthMethod, ProviderId};
use proptest::prelude::*;

use super::*;
use crate::Catalog;

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::builtin);

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn value_in<'a>(pairs: Pairs<'a>) -> impl Fn(&str) -> Option<&'a str> {
    move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn provider(id: &str) -> &'static Provider {
    CATALOG.get(&ProviderId::parse(id).unwrap()).unwrap()
}

fn request(
    id: &str,
    method: AuthMethod,
    credential: Pairs<'_>,
    config: Pairs<'_>,
) -> Result<Option<TestRequest>, RenderError> {
    let provider = provider(id);
    provider.method(method).unwrap().render_test(provider, &value_in(credential), &value_in(config))
}

/// The only test of a provider, or the one of its first method.
fn test_of(id: &str) -> &'static Test {
    provider(id).auth_methods[0].test.as_ref().unwrap()
}

fn class(id: &str, status: u16, body: &str) -> TestClass {
    test_of(id).judge(status, body.as_bytes()).class
}

fn account(id: &str, body: &str) -> [Option<String>; 3] {
    let account = test_of(id).judge(200, body.as_bytes()).account;
    account.map_or([None, None, None], |account| [account.id, account.name, account.email])
}

#[test]
fn a_path_goes_behind_the_base_url_and_its_path() {
    let key = [("api_key", "1:k")];
    for (id, url) in [
        ("anthropic", "https://api.anthropic.com/v1/models"),
        ("openai", "https://api.openai.com/v1/models"),
        ("sendgrid", "https://api.sendgrid.com/v3/scopes"),
        ("telegram-bot", "https://api.telegram.org/bot1:k/getMe"),
    ] {
        let request = request(id, AuthMethod::ApiKey, &key, &[]).unwrap().unwrap();
        assert_eq!((request.http_method, request.url.as_str()), (HttpMethod::Get, url));
        assert_eq!(request.injection.base_url, None, "the URL has it");
    }
}

#[test]
fn a_field_in_the_path_cannot_leave_it() {
    let url = |sid| {
        let credential = [("account_sid", sid), ("auth_token", "t")];
        request("twilio", AuthMethod::Basic, &credential, &[]).map(|it| it.unwrap().url.to_string())
    };
    let base = "https://api.twilio.com/2010-04-01/Accounts";
    assert_eq!(url("AC1"), Ok(format!("{base}/AC1/IncomingPhoneNumbers.json")));
    assert_eq!(url("../?x#"), Ok(format!("{base}/..%2F%3Fx%23/IncomingPhoneNumbers.json")));
    assert!(url("..").is_err());
}

#[test]
fn the_request_carries_the_credential_and_the_headers_of_the_test() {
    let request = request("stripe", AuthMethod::Bearer, &[("token", "t")], &[]).unwrap().unwrap();
    let headers: Vec<(&str, &str)> =
        request.injection.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(headers, [("Authorization", "Bearer t"), ("Stripe-Version", "2024-06-20")]);
    assert_eq!(format!("{request:?}"), "TestRequest");
}

#[test]
fn what_the_owner_does_not_give_is_not_tested() {
    let tested = |config: Pairs<'_>| {
        let request = request("bearer", AuthMethod::Bearer, &[("token", "t")], config);
        request.map(|it| it.map(|it| it.url.to_string()))
    };
    let (base, path) = (("base_url", "https://acme.example/v1/"), ("test_path", "/me"));
    assert_eq!(tested(&[base, path]), Ok(Some("https://acme.example/v1/me".to_owned())));
    assert_eq!(tested(&[base]), Ok(None));
    assert_eq!(tested(&[path]), Ok(None));
    assert!(matches!(request("custom", AuthMethod::Custom, &[], &[]), Ok(None)), "nor what has no test");
    for path in [".evil.example", "@evil.example", "", "/../x", "/a?b", "/\r\n"] {
        assert!(tested(&[base, ("test_path", path)]).is_err(), "{path:?} was never checked");
    }
    let long = format!("https://acme.example/{}", "x".repeat(2027));
    assert!(tested(&[("base_url", &long), path]).is_err(), "too long together");
}

#[test]
fn a_test_may_have_a_url_of_its_own() {
    let mut provider = provider("openai").clone();
    let method = &mut provider.auth_methods[0];
    method.test.as_mut().unwrap().target = Template::parse_url("https://acme.example/me").unwrap();
    let method = method.clone();
    let request = method.render_test(&provider, &|_| Some("k"), &|_| None).unwrap().unwrap();
    assert_eq!(request.url.as_str(), "https://acme.example/me");
}

#[test]
fn a_limit_and_an_outage_never_say_anything_about_the_key() {
    let dead = r#"{"ok": false, "error": "invalid_auth", "error_code": 401, "code": "unauthorized"}"#;
    for provider in CATALOG.iter() {
        for test in provider.auth_methods.iter().filter_map(|method| method.test.as_ref()) {
            assert_eq!(test.judge(429, dead.as_bytes()).class, TestClass::Limited, "{}", provider.id);
            for status in [500, 502, 503, 529, 599] {
                assert_eq!(test.judge(status, dead.as_bytes()).class, TestClass::Unavailable);
            }
            for status in [0, 100, 204, 301, 307, 400, 402, 405, 407, 408, 418, 451, 600, u16::MAX] {
                let class = test.judge(status, dead.as_bytes()).class;
                assert!(status == 204 || class == TestClass::Unclear, "{} {status}", provider.id);
            }
        }
    }
}

#[test]
fn a_status_alone_is_enough_where_the_provider_means_it() {
    for id in ["bearer", "deepseek", "discord", "github", "openrouter", "sendgrid", "stripe"] {
        assert_eq!(class(id, 200, "{}"), TestClass::Good, "{id}");
        assert_eq!(class(id, 401, "gone"), TestClass::Dead, "{id}");
    }
    for id in ["bearer", "sendgrid", "stripe"] {
        assert_eq!(class(id, 403, ""), TestClass::Forbidden, "{id}");
    }
    for id in ["discord", "github", "openai", "twilio"] {
        assert_eq!(class(id, 403, "{}"), TestClass::Unclear, "{id}");
    }
}

#[test]
fn a_key_is_dead_only_if_the_provider_says_so_in_its_own_words() {
    for (id, words) in [
        ("openai", r#"{"error": {"code": "invalid_api_key", "message": "Incorrect API key provided"}}"#),
        ("openai", r#"{"error": {"code": "account_deactivated"}}"#),
        ("anthropic", r#"{"type": "error", "error": {"type": "authentication_error"}}"#),
        ("notion", r#"{"object": "error", "status": 401, "code": "unauthorized"}"#),
        ("telegram-bot", r#"{"ok": false, "error_code": 401, "description": "Unauthorized"}"#),
    ] {
        assert_eq!(class(id, 401, words), TestClass::Dead, "{id}");
    }
    for (id, words) in [
        ("openai", r#"{"error": {"code": null, "message": "Missing scopes: api.model.read"}}"#),
        ("openai", r#"{"error": {"code": "ip_not_authorized"}}"#),
        ("anthropic", "<html>Sign in to the proxy</html>"),
        ("notion", "{}"),
        ("telegram-bot", r#"{"ok": true, "result": {}}"#),
        ("telegram-bot", ""),
    ] {
        assert_eq!(class(id, 401, words), TestClass::Unclear, "{id} {words}");
    }
    let not_found = r#"{"ok": false, "error_code": 404, "description": "Not Found"}"#;
    assert_eq!(class("telegram-bot", 404, not_found), TestClass::Dead);
    assert_eq!(class("telegram-bot", 404, "<html>nginx</html>"), TestClass::Unclear);
}

#[test]
fn a_twilio_key_that_may_not_read_is_not_called_dead() {
    let denied = br#"{"code": 20003, "message": "Authenticate", "status": 401}"#;
    let class = |method| {
        let test = provider("twilio").method(method).unwrap().test.as_ref().unwrap();
        test.judge(401, denied).class
    };
    assert_eq!(class(AuthMethod::ApiKey), TestClass::Unclear);
    assert_eq!(class(AuthMethod::Basic), TestClass::Dead);
}

#[test]
fn slack_says_everything_with_200() {
    let answer = |error: &str| class("slack", 200, &format!(r#"{{"ok": false, "error": "{error}"}}"#));
    assert_eq!(class("slack", 200, r#"{"ok": true, "user_id": "U1"}"#), TestClass::Good);
    for error in ["invalid_auth", "account_inactive", "token_revoked", "token_expired", "not_authed"] {
        assert_eq!(answer(error), TestClass::Dead, "{error}");
    }
    assert_eq!(answer("missing_scope"), TestClass::Forbidden);
    assert_eq!(answer("ratelimited"), TestClass::Limited);
    assert_eq!(answer("fatal_error"), TestClass::Unclear);
    for body in ["", "{}", "[]", "null", r#"{"ok": "true"}"#, r#"{"ok": 1}"#, r#"{"ok": true"#, "\u{feff}{}"]
    {
        assert_eq!(class("slack", 200, body), TestClass::Unclear, "{body}");
    }
    let both = r#"{"ok": true, "error": "invalid_auth"}"#;
    assert_eq!(class("slack", 200, both), TestClass::Good, "a good answer has no error");
    assert_eq!(class("slack", 401, r#"{"ok": false, "error": "invalid_auth"}"#), TestClass::Unclear);
}

#[test]
fn a_good_answer_tells_whose_the_credential_is() {
    let some = |text: &str| Some(text.to_owned());
    let github = r#"{"id": 583231, "login": "octocat", "name": "The Octocat", "email": null}"#;
    assert_eq!(account("github", github), [some("583231"), some("octocat"), None]);
    let telegram = r#"{"ok": true, "result": {"id": 5123456789, "username": "acme_bot"}}"#;
    assert_eq!(account("telegram-bot", telegram), [some("5123456789"), some("acme_bot"), None]);
    let slack = r#"{"ok": true, "user": "acme", "user_id": "U1", "team": "Acme"}"#;
    assert_eq!(account("slack", slack), [some("U1"), some("acme"), None]);
    let notion = r#"{"id": "b", "name": "Acme", "bot": {"owner": {"user": {"person": {"email": "a@b.c"}}}}}"#;
    assert_eq!(account("notion", notion), [some("b"), some("Acme"), some("a@b.c")]);
    let openrouter = r#"{"data": {"label": "sk-or-v1-0e6...1c96", "creator_user_id": "user_1"}}"#;
    assert_eq!(account("openrouter", openrouter), [some("user_1"), None, None]);

    assert_eq!(test_of("github").judge(401, github.as_bytes()).account, None, "only a good one");
    assert_eq!(test_of("github").judge(200, b"{}").account, None);
    let outcome = test_of("github").judge(200, github.as_bytes());
    assert_eq!(format!("{:?}", outcome.account), "Some(TestedAccount)");
}

#[test]
fn words_that_are_not_fit_for_people_are_dropped() {
    let name = |name: &str| account("github", &format!(r#"{{"id": 1, "login": {name}}}"#))[1].clone();
    assert_eq!(name(&format!("\"{}\"", "é".repeat(256))), Some("é".repeat(256)));
    let long = format!("\"{}\"", "x".repeat(257));
    for bad in
        [r#""""#, r#""a\nb""#, r#""\u001b[2J""#, r#""\u202eabc""#, &long, "true", "[\"a\"]", "{}", "null"]
    {
        assert_eq!(name(bad), None, "{bad}");
    }
    assert_eq!(name("1.5"), Some("1.5".to_owned()));
}

#[test]
fn a_body_that_is_too_long_or_too_deep_is_not_read() {
    let padded = |length: usize| {
        let body = r#"{"id": 1, "login": "octocat"}"#;
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    assert!(account("github", &padded(1024 * 1024))[0].is_some());
    assert!(account("github", &padded(1024 * 1024 + 1))[0].is_none());
    let deep = format!(r#"{{"ok": true, "x": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(class("slack", 200, &deep), TestClass::Unclear);
    assert_eq!(class("github", 200, &deep), TestClass::Good, "the status is enough");
}

/// Bodies as they might come: any bytes, and JSON that has what the definitions look for, or nearly.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,300}".prop_map(Into::into),
        prop_oneof!["invalid_auth", "unauthorized", "authentication_error", "ratelimited"]
            .prop_map(Into::into),
    ];
    let key = "ok|error|error_code|code|type|id|name|login|email|user|user_id|username|result|data|bot";
    let json = leaf.prop_recursive(6, 32, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(key, inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    });
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        json.prop_map(|json| json.to_string().into_bytes()),
    ]
}

proptest! {
    #[test]
    fn any_answer_is_judged_and_gives_little_away(
        status in prop_oneof![any::<u16>(), Just(200), Just(401), Just(403), Just(404)],
        body in any_body(),
    ) {
        for provider in CATALOG.iter() {
            for test in provider.auth_methods.iter().filter_map(|method| method.test.as_ref()) {
                let outcome = test.judge(status, &body);
                prop_assert_eq!(&outcome, &test.judge(status, &body));
                prop_assert!(outcome.account.is_none() || outcome.class == TestClass::Good);
                let account = outcome.account.into_iter().flat_map(|it| [it.id, it.name, it.email]).flatten();
                for word in account {
                    prop_assert!((1..=256).contains(&word.chars().count()));
                    prop_assert!(!word.chars().any(char::is_control));
                }
            }
        }
    }

    #[test]
    fn a_test_never_leaves_the_host_of_the_base_url(path in prop_oneof![".*", "/[a-z./@?#%:]{0,20}"]) {
        let config = [("base_url", "https://acme.example/v1"), ("test_path", path.as_str())];
        if let Ok(Some(request)) = request("bearer", AuthMethod::Bearer, &[("token", "t")], &config) {
            prop_assert!(request.url.starts_with("https://acme.example/v1/"));
            prop_assert!(check_https_url(&request.url).is_ok());
        }
    }
}
