use std::collections::BTreeMap;
use std::sync::LazyLock;

use keyholder_domain::{AuthMethod, ProviderId};
use proptest::prelude::*;

use super::*;
use crate::Catalog;

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::builtin);

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn value_in<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
    move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn render(
    id: &str,
    method: AuthMethod,
    credential: Pairs<'_>,
    config: Pairs<'_>,
) -> Result<Injection, RenderError> {
    let provider = CATALOG.get(&ProviderId::parse(id).unwrap()).unwrap();
    provider.method(method).unwrap().render(provider, &value_in(credential), &value_in(config))
}

fn headers(injection: &Injection) -> BTreeMap<&str, &str> {
    injection.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn base_url(injection: &Injection) -> Option<&str> {
    injection.base_url.as_ref().map(|url| url.as_str())
}

#[test]
fn a_bearer_key_goes_into_the_authorization_header() {
    for (id, url) in [
        ("openai", "https://api.openai.com/v1"),
        ("openrouter", "https://openrouter.ai/api/v1"),
        ("deepseek", "https://api.deepseek.com"),
        ("sendgrid", "https://api.sendgrid.com/v3"),
    ] {
        let injection = render(id, AuthMethod::ApiKey, &[("api_key", "k-1")], &[]).unwrap();
        assert_eq!(headers(&injection), BTreeMap::from([("Authorization", "Bearer k-1")]), "{id}");
        assert_eq!(base_url(&injection), Some(url), "{id}");
    }
}

#[test]
fn version_headers_go_along_with_the_key() {
    let injection = render("anthropic", AuthMethod::ApiKey, &[("api_key", "k-1")], &[]).unwrap();
    assert_eq!(
        headers(&injection),
        BTreeMap::from([("anthropic-version", "2023-06-01"), ("x-api-key", "k-1")])
    );
    let config = [("api_version", "2026-03-10")];
    let injection = render("github", AuthMethod::Bearer, &[("token", "t-1")], &config).unwrap();
    assert_eq!(
        headers(&injection),
        BTreeMap::from([
            ("Accept", "application/vnd.github+json"),
            ("Authorization", "Bearer t-1"),
            ("X-GitHub-Api-Version", "2026-03-10"),
        ])
    );
}

#[test]
fn discord_wants_the_word_bot() {
    let injection = render("discord", AuthMethod::ApiKey, &[("api_key", "k-1")], &[]).unwrap();
    assert_eq!(headers(&injection), BTreeMap::from([("Authorization", "Bot k-1")]));
}

#[test]
fn the_telegram_token_is_in_the_path_and_cannot_leave_it() {
    let url = |token| {
        let injection = render("telegram-bot", AuthMethod::ApiKey, &[("api_key", token)], &[]).unwrap();
        base_url(&injection).unwrap().to_owned()
    };
    assert_eq!(url("123456:ABC-DEF_g"), "https://api.telegram.org/bot123456:ABC-DEF_g");
    assert_eq!(url("1:/../x?y#z%"), "https://api.telegram.org/bot1:%2F..%2Fx%3Fy%23z%25");
}

#[test]
fn a_slack_webhook_is_its_own_url_and_stays_at_slack() {
    let url = "https://hooks.slack.com/services/T0/B0/x";
    let injection = render("slack-webhook", AuthMethod::Custom, &[("webhook_url", url)], &[]).unwrap();
    assert_eq!((base_url(&injection), injection.headers.len()), (Some(url), 0));

    let provider = CATALOG.get(&ProviderId::parse("slack-webhook").unwrap()).unwrap();
    let field = &provider.method(AuthMethod::Custom).unwrap().fields[0];
    assert_eq!(field.check(url), Ok(()));
    for other in ["https://hooks.slack.com.evil.example/x", "https://evil.example/hooks.slack.com/x"] {
        assert!(field.check(other).is_err(), "{other}");
    }
}

#[test]
fn basic_is_the_example_of_rfc_7617() {
    let credential = [("username", "Aladdin"), ("password", "open sesame")];
    let injection = render("basic", AuthMethod::Basic, &credential, &[]).unwrap();
    assert_eq!(
        headers(&injection),
        BTreeMap::from([("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")])
    );
    assert_eq!(base_url(&injection), None);
}

#[test]
fn twilio_authenticates_with_the_key_and_names_the_account() {
    let twilio = CATALOG.get(&ProviderId::parse("twilio").unwrap()).unwrap();
    let method = twilio.method(AuthMethod::ApiKey).unwrap();
    let credential = [("account_sid", "AC1"), ("key_sid", "SK1"), ("api_key", "secret")];
    let parts = method.render_basic(twilio, &value_in(&credential), &|_| None).unwrap().unwrap();
    assert_eq!((parts.0.as_str(), parts.1.as_str()), ("SK1", "secret"));
    assert_eq!(method.account_id.as_deref(), Some("account_sid"));
}

#[test]
fn a_custom_key_goes_where_its_config_says() {
    let key = [("api_key", "k-1")];
    let header = |config: Pairs<'_>| {
        let injection = render("custom-api-key", AuthMethod::ApiKey, &key, config).unwrap();
        let (name, value) = &injection.headers[0];
        format!("{name}: {}", value.as_str())
    };
    assert_eq!(header(&[]), "Authorization: Bearer k-1");
    assert_eq!(header(&[("header_name", "X-API-Key"), ("prefix", "")]), "X-API-Key: k-1");

    let injection = render("custom-api-key-query", AuthMethod::ApiKey, &key, &[("parameter_name", "key")]);
    assert_eq!(injection.unwrap().query_parameters, [("key".to_owned(), Zeroizing::new("k-1".to_owned()))]);
    let injection = render("custom-api-key-cookie", AuthMethod::ApiKey, &key, &[("cookie_name", "sid")]);
    assert_eq!(injection.unwrap().cookies, [("sid".to_owned(), Zeroizing::new("k-1".to_owned()))]);
}

#[test]
fn a_base_url_of_the_owner_loses_its_last_slash() {
    let config = [("base_url", "https://llm.example/v1/")];
    let injection = render("openai-compatible", AuthMethod::ApiKey, &[("api_key", "k")], &config).unwrap();
    assert_eq!(base_url(&injection), Some("https://llm.example/v1"));
}

#[test]
fn what_is_missing_is_named() {
    let missing = |name: &str| Err(RenderError::Missing(name.to_owned()));
    assert_eq!(render("openai", AuthMethod::ApiKey, &[], &[]), missing("api_key"));
    let key = [("api_key", "k")];
    assert_eq!(render("custom-api-key-cookie", AuthMethod::ApiKey, &key, &[]), missing("cookie_name"));
    let openai_compatible = render("openai-compatible", AuthMethod::ApiKey, &key, &[]);
    assert_eq!(openai_compatible.map(|it| it.base_url), Ok(None), "a base URL that was never stored");
}

#[test]
fn an_unsafe_value_is_an_error_that_does_not_repeat_it() {
    let key = [("api_key", "s3cret")];
    let errors = [
        render("openai", AuthMethod::ApiKey, &[("api_key", "s3cret\r\nX: y")], &[]),
        render("basic", AuthMethod::Basic, &[("username", "s3cret:"), ("password", "p")], &[]),
        render("basic", AuthMethod::Basic, &[("username", "u"), ("password", "s3cret\n")], &[]),
        render("custom-api-key", AuthMethod::ApiKey, &key, &[("header_name", "X: s3cret\r\nY")]),
        render("custom-api-key", AuthMethod::ApiKey, &key, &[("header_name", "Host")]),
        render("custom-api-key", AuthMethod::ApiKey, &key, &[("base_url", "http://s3cret.example")]),
        render(
            "custom-api-key-cookie",
            AuthMethod::ApiKey,
            &[("api_key", "s3cret;x")],
            &[("cookie_name", "a")],
        ),
        render("slack-webhook", AuthMethod::Custom, &[("webhook_url", "https://s3cret@x.example/")], &[]),
    ];
    for error in errors {
        let error = error.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn debug_shows_nothing() {
    let injection = render("telegram-bot", AuthMethod::ApiKey, &[("api_key", "1:s3cret")], &[]).unwrap();
    assert_eq!(format!("{injection:?}"), "Injection");
}

/// Values as they might come: anything, and often with what breaks a header.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        ".*",
        "[ -~]{1,40}",
        "[a-z\r\n\t\0:;,]{1,20}",
        "[.%]{1,3}",
        "[0-9]{1,3}:[a-z.%/]{1,900}",
        "https://[a-z./@?%\r\n]{1,20}"
    ]
}

proptest! {
    #[test]
    fn no_header_cookie_or_url_is_ever_split(values in proptest::collection::vec(any_value(), 4)) {
            for provider in CATALOG.iter() {
            for method in &provider.auth_methods {
                let credential = |name: &str| Some(values[name.len() % 4].as_str());
                let config = |name: &str| Some(values[(name.len() + 1) % 4].as_str());
                let Ok(injection) = method.render(provider, &credential, &config) else { continue };
                for (name, value) in injection.headers.iter().chain(&injection.cookies) {
                    prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic()) && !name.contains(':'));
                    prop_assert!(value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
                }
                for (_, value) in &injection.cookies {
                    prop_assert!(!value.contains([';', ',', ' ']));
                }
                if let Some(url) = &injection.base_url {
                    prop_assert!(check_https_url(url).is_ok());
                }
            }
        }
    }

    #[test]
    fn what_the_fields_accept_can_be_rendered(values in proptest::collection::vec(any_value(), 4)) {
            for provider in CATALOG.iter() {
            for method in &provider.auth_methods {
                let pick = |fields: &[Field], name: &str| {
                    let field = fields.iter().find(|field| field.name == name)?;
                    let value = &values[name.len() % 4];
                    let accepted = field.check(value).is_ok();
                    accepted.then_some(value.as_str())
                };
                let credential = |name: &str| pick(&method.fields, name);
                let config = |name: &str| pick(&provider.config, name);
                let rendered = method.render(provider, &credential, &config);
                prop_assert!(
                    matches!(rendered, Ok(_) | Err(RenderError::Missing(_))),
                    "{}: {:?}", provider.id, rendered
                );
            }
        }
    }
}
