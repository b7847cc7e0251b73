use std::sync::LazyLock;

use keyholder_vault::ExposeSecret as _;
use proptest::prelude::*;

use super::super::fixture::{Acme, now};
use super::*;

/// A provider that does everything by the book.
static BOOK: LazyLock<Acme> = LazyLock::new(|| Acme::new("", ""));

fn answer(status: u16, content_type: &str, body: impl AsRef<[u8]>) -> TokenAnswer {
    TokenAnswer {
        status,
        content_type: content_type.to_owned(),
        retry_after: None,
        body: body.as_ref().to_vec().into(),
    }
}

fn json(body: impl AsRef<[u8]>) -> TokenAnswer {
    answer(200, "application/json", body)
}

fn read(answer: &TokenAnswer) -> Result<TokenSet, TokenFault> {
    BOOK.server().read(answer, None, now())
}

#[track_caller]
fn tokens(body: impl AsRef<[u8]>) -> TokenSet {
    let body = body.as_ref();
    read(&json(body)).unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(body)))
}

#[track_caller]
fn assert_unusable(answer: &TokenAnswer) {
    let fault = read(answer).err();
    let body = String::from_utf8_lossy(&answer.body);
    assert!(matches!(fault, Some(TokenFault::Unusable(_))), "{fault:?}: {body:.80}");
}

/// An answer with a member of any JSON.
fn with(name: &str, value: &str) -> String {
    format!(r#"{{"access_token":"at","token_type":"bearer","{name}":{value}}}"#)
}

// === The format ===

#[test]
fn json_and_forms_are_read_by_whatever_name_they_come() {
    let object = r#" {"access_token":"at","refresh_token":"rt","expires_in":60,"scope":"a b"} "#;
    let form = "access_token=at&refresh_token=rt&expires_in=60&scope=a+b";
    for kind in ["application/json", "text/plain", "text/html", "application/x-www-form-urlencoded", ""] {
        for body in [object, form] {
            if kind == "application/json" && body == form {
                continue;
            }
            let tokens =
                read(&answer(200, kind, body)).unwrap_or_else(|fault| panic!("{kind} {body}: {fault}"));
            assert_eq!(tokens.access_token.expose_secret(), "at", "{kind} {body}");
            assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "rt");
            assert_eq!(tokens.scopes.unwrap().to_strings(), ["a", "b"]);
            assert_eq!(tokens.expire_time, Some(now() + Duration::from_secs(60)));
        }
    }
    assert_unusable(&answer(200, "application/json", form));
}

#[test]
fn a_byte_order_mark_is_no_harm() {
    assert_eq!(tokens("\u{feff}{\"access_token\":\"at\"}").access_token.expose_secret(), "at");
}

#[test]
fn what_two_readers_could_take_differently_is_no_answer() {
    let good = r#"{"access_token":"at"}"#;
    let utf_16 = |order: fn(u16) -> [u8; 2]| {
        let units = std::iter::once(0xfeff).chain(good.encode_utf16());
        units.flat_map(order).collect::<Vec<u8>>()
    };
    let bodies: Vec<Vec<u8>> = vec![
        utf_16(u16::to_le_bytes),
        utf_16(u16::to_be_bytes),
        b"{\"access_token\":\"\xff\xfe\"}".to_vec(),
        br#"{"access_token":"\ud800"}"#.to_vec(),
        br#"{"access_token":"at","x":"\udc00\ud800"}"#.to_vec(),
        br#"{"access_token":"at","access_token":"other"}"#.to_vec(),
        br#"{"access_token":"at","access\u005ftoken":"at"}"#.to_vec(),
        br#"{"access_token":"at","x":{"y":1,"y":2}}"#.to_vec(),
        br#"{"access_token":"at","x":[{"y":1,"y":1}]}"#.to_vec(),
        br#"{"access_token":"at","expires_in":NaN}"#.to_vec(),
        br#"{"access_token":"at","expires_in":Infinity}"#.to_vec(),
        br#"{"access_token":"at"} {"access_token":"at"}"#.to_vec(),
        br#"{"access_token":"at",}"#.to_vec(),
        br#"[{"access_token":"at"}]"#.to_vec(),
        br#""access_token=at""#.to_vec(),
        b"<html>access_token=at</html>".to_vec(),
        b"".to_vec(),
        b"null".to_vec(),
    ];
    for body in bodies {
        for kind in ["application/json", "text/plain", ""] {
            assert_unusable(&answer(200, kind, &body));
        }
    }
    assert_unusable(&answer(200, "text/plain", "access_token=at&access_token=other"));
    assert_unusable(&answer(200, "text/plain", "access_token=at&access%5Ftoken=at"));
}

#[test]
fn an_answer_is_nested_32_deep_at_the_most() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        json(format!(r#"{{"access_token":"at","x":{open}{close}}}"#))
    };
    assert!(read(&nested(32)).is_ok());
    for depth in [33, 127, 128, 129, 100_000] {
        assert_unusable(&nested(depth));
    }
}

// === Errors ===

#[test]
fn c36_what_the_body_says_counts_for_more_than_the_status() {
    let passing = TokenFault::Passing { retry_after: None };
    let table = [
        ("invalid_grant", TokenFault::Dead),
        ("invalid_client", TokenFault::Client),
        ("unauthorized_client", TokenFault::Client),
        ("invalid_scope", TokenFault::Request),
        ("invalid_request", TokenFault::Request),
        ("unsupported_grant_type", TokenFault::Request),
        ("invalid_target", TokenFault::Request),
        ("access_denied", TokenFault::Denied),
        ("authorization_pending", TokenFault::Pending),
        ("slow_down", TokenFault::SlowDown),
        ("expired_token", TokenFault::Expired),
        ("temporarily_unavailable", passing),
        ("server_error", passing),
    ];
    for status in [200, 302, 400, 401, 403, 404, 429, 500, 503] {
        for (code, fault) in table {
            let body = format!(r#"{{"error":"{code}","error_description":"invalid_grant"}}"#);
            assert_eq!(read(&answer(status, "application/json", body)).err(), Some(fault), "{status} {code}");
            let form = format!("error={code}&error_description=x");
            assert_eq!(read(&answer(status, "text/plain", form)).err(), Some(fault), "{status} {code}");
        }
    }
}

#[test]
fn an_error_counts_for_more_than_a_token_beside_it() {
    for status in [200, 400, 500] {
        let body = r#"{"access_token":"at","refresh_token":"rt","error":"invalid_grant"}"#;
        let answer = answer(status, "application/json", body);
        assert_eq!(read(&answer).err(), Some(TokenFault::Dead));
        let [access, refresh] = BOOK.server().tokens_in(&answer).map(Option::unwrap);
        assert_eq!((access.expose_secret(), refresh.expose_secret()), ("at", "rt"), "to be given back");
    }
    for error in ["true", "7", "\"Access Denied\"", "{}", "[]", "{\"code\":1}", "0.5"] {
        assert_unusable(&json(with("error", error)));
    }
    for none in ["null", "false", "\"\"", "0", "0.0", "-0.0"] {
        assert!(read(&json(with("error", none))).is_ok(), "{none}");
    }
}

#[test]
fn nobody_is_dead_by_a_status_alone() {
    let passing = TokenFault::Passing { retry_after: Some(Duration::from_secs(7)) };
    for body in ["", "<html>", "{}", r#"{"error":"unheard_of"}"#, r#"{"message":"no"}"#] {
        for status in [400, 401, 403, 404, 410, 302, 307] {
            assert_unusable(&answer(status, "application/json", body));
        }
        for status in [429, 500, 502, 503, 504, 599] {
            let later = Some(Duration::from_secs(7));
            let answer = TokenAnswer { retry_after: later, ..answer(status, "text/html", body) };
            assert_eq!(read(&answer).err(), Some(passing), "{status} {body}");
        }
        assert_unusable(&answer(200, "application/json", body));
    }
    let good = r#"{"access_token":"at"}"#;
    for status in [302, 400, 401, 403] {
        assert_unusable(&answer(status, "application/json", good));
    }
    assert_eq!(
        read(&answer(500, "application/json", good)).err(),
        Some(TokenFault::Passing { retry_after: None })
    );
}

#[test]
fn a_recipe_knows_other_errors_and_what_every_good_answer_holds() {
    let recipe = "  answer:\n    ok: { pointer: /ok, equals: true }\n    error: { pointer: /status, \
                  dead: [BAD_REFRESH_TOKEN, 41], client: [blocked], passing: [Access Denied] }\n";
    let acme = Acme::new(recipe, "");
    let read =
        |status, body: &str| acme.server().read(&answer(status, "application/json", body), None, now());
    for (body, fault) in [
        (r#"{"ok":true,"status":"BAD_REFRESH_TOKEN"}"#, TokenFault::Dead),
        (r#"{"ok":true,"status":41}"#, TokenFault::Dead),
        (r#"{"status":"blocked"}"#, TokenFault::Client),
        (r#"{"status":"Access Denied"}"#, TokenFault::Passing { retry_after: None }),
    ] {
        for status in [200, 400, 500] {
            assert_eq!(read(status, body).err(), Some(fault), "{status} {body}");
        }
    }
    for body in [
        r#"{"access_token":"at"}"#,
        r#"{"ok":false,"access_token":"at"}"#,
        r#"{"ok":"true","access_token":"at"}"#,
    ] {
        assert!(matches!(read(200, body), Err(TokenFault::Unusable(_))), "{body}");
    }
    assert!(read(200, r#"{"ok":true,"access_token":"at"}"#).is_ok());
}

#[test]
fn a_server_is_left_alone_for_an_hour_at_the_most() {
    for (text, seconds) in [
        ("0", Some(0)),
        (" 7 ", Some(7)),
        ("3600", Some(3_600)),
        ("3601", Some(3_600)),
        ("31536000", Some(3_600)),
        ("18446744073709551615", Some(3_600)),
        ("18446744073709551616", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Wed, 18 Nov 2026 11:08:20 GMT", Some(1_795_000_100 - 1_795_000_000)),
        ("Wed, 18 Nov 2026 11:06:40 GMT", Some(0)),
        ("Wed, 18 Nov 2020 11:06:40 GMT", Some(0)),
        ("Wed, 18 Nov 2099 11:06:40 GMT", Some(3_600)),
    ] {
        assert_eq!(retry_after(text, now()), seconds.map(Duration::from_secs), "{text}");
    }
}

// === Lifetimes ===

#[test]
fn c34_a_lifetime_that_makes_no_sense_is_not_told_and_never_zero_or_for_ever() {
    for told in ["3600", "\"3600\"", "\" 3600 \"", "3600.0", "\"3600.0\"", "3.6e3", "\"3.6e3\"", "36e2"] {
        let tokens = tokens(with("expires_in", told));
        assert_eq!(tokens.expire_time, Some(now() + Duration::from_secs(3_600)), "{told}");
    }
    let half = tokens(with("expires_in", "1.5")).expire_time.unwrap();
    assert_eq!(half, now() + Duration::from_millis(1_500));
    for none in [
        "0",
        "-0.0",
        "-1",
        "\"-1\"",
        "1e99",
        "\"1e99\"",
        "1e308",
        "315360001",
        "18446744073709551615",
        "\"abc\"",
        "\"\"",
        "\"inf\"",
        "\"NaN\"",
        "\"infinity\"",
        "\"0x10\"",
        "\"3600s\"",
        "\"3,600\"",
        "null",
        "true",
        "[]",
        "{}",
        "[3600]",
    ] {
        assert_eq!(tokens(with("expires_in", none)).expire_time, None, "{none}");
    }
    assert_eq!(tokens(with("expires", "60")).expire_time, None, "not there");
    assert!(tokens(with("expires_in", "315360000")).expire_time.is_some(), "ten years");
}

#[test]
fn a_lifetime_is_read_in_the_unit_of_the_recipe() {
    let moment = now().unix_timestamp() + 60;
    let date = (now() + Duration::from_secs(60)).format(&Rfc3339).unwrap();
    for (unit, good, bad) in [
        ("milliseconds", vec!["60000".to_owned(), "\"60000\"".into()], vec!["0".to_owned(), "-5".into()]),
        (
            "unix_seconds",
            vec![moment.to_string(), format!("\"{moment}\"")],
            vec!["60".to_owned(), (moment - 61).to_string(), format!("{moment}000")],
        ),
        (
            "date",
            vec![format!("\"{date}\""), format!("\" {date} \""), "\"2026-11-18T13:07:40+02:00\"".into()],
            vec![
                moment.to_string(),
                "\"2026-11-18\"".into(),
                "\"9999-12-31T23:59:59Z\"".into(),
                "\"1970-01-01T00:00:00Z\"".into(),
                "\"\"".into(),
            ],
        ),
    ] {
        let acme = Acme::new(&format!("  answer: {{ expires: /at, expires_unit: {unit} }}\n"), "");
        let end =
            |value: &str| acme.server().read(&json(with("at", value)), None, now()).unwrap().expire_time;
        for value in good {
            let end = end(&value).unwrap_or_else(|| panic!("{unit} {value}"));
            assert!((end - now() - Duration::from_secs(60)).abs() < Duration::from_secs(1), "{unit} {value}");
        }
        for value in bad {
            assert_eq!(end(&value), None, "{unit} {value}");
        }
    }
}

#[test]
fn a_recipe_says_a_lifetime_where_the_answer_does_not() {
    let acme =
        Acme::new("  refresh: { access_token_seconds: 900 }\n  answer: { refresh_expires: /rt_in }\n", "");
    let read = |body: &str| acme.server().read(&json(body), None, now()).unwrap();
    let after = |seconds| Some(now() + Duration::from_secs(seconds));
    assert_eq!(read(&with("x", "1")).expire_time, after(900));
    assert_eq!(read(&with("expires_in", "-1")).expire_time, after(900));
    assert_eq!(read(&with("expires_in", "60")).expire_time, after(60));
    assert_eq!(read(&with("rt_in", "\"86400\"")).refresh_expire_time, after(86_400));
    assert_eq!(read(&with("rt_in", "0")).refresh_expire_time, None);
}

// === Scopes ===

#[test]
fn c35_scopes_come_as_text_with_commas_or_as_a_list_or_not_at_all() {
    for (told, scopes) in [
        ("\"a b\"", vec!["a", "b"]),
        ("\"a,b\"", vec!["a", "b"]),
        ("\" a,, b a \"", vec!["a", "b"]),
        ("[\"a\",\"b\"]", vec!["a", "b"]),
        ("[]", vec![]),
        ("\"\"", vec![]),
        ("[\"a b\",\"c\"]", vec!["c"]),
        ("\"a \\u0000 b\"", vec!["a", "b"]),
        ("\"a é b\"", vec!["a", "b"]),
    ] {
        let granted = tokens(with("scope", told)).scopes.unwrap_or_else(|| panic!("{told}"));
        assert_eq!(granted.to_strings(), scopes, "{told}");
    }
    assert_eq!(tokens(with("x", "1")).scopes, None, "as asked for");
    assert_eq!(tokens(with("scope", "null")).scopes, None, "as asked for");
    for odd in ["1", "true", "{}", "[1]", "[null]", "[[\"a\"]]"] {
        assert_unusable(&json(with("scope", odd)));
    }
    let many =
        format!("\"{}\"", (0..10_000).map(|number| format!("s{number}")).collect::<Vec<_>>().join(" "));
    assert_eq!(tokens(with("scope", &many)).scopes.unwrap().to_strings().len(), Scopes::MAX);
}

// === Tokens ===

#[test]
fn c33_a_token_is_what_a_header_can_carry_up_to_64_kib() {
    let text = |length: usize| "a".repeat(length);
    for length in [1, 16 * 1024, 64 * 1024] {
        let read = tokens(format!(r#"{{"access_token":"{}"}}"#, text(length)));
        assert_eq!(read.access_token.expose_secret().len(), length);
    }
    let long = format!("\"{}\"", text(64 * 1024 + 1));
    let odd = [
        "7",
        "true",
        "[]",
        "{}",
        "[\"at\"]",
        r#""a\r\nX-Injected: yes""#,
        r#""a\n""#,
        r#""a b""#,
        r#""a\u0000""#,
        r#""\u007f""#,
        "\"é\"",
        &long,
    ];
    for token in odd {
        assert_unusable(&json(format!(r#"{{"access_token":{token}}}"#)));
        assert_unusable(&json(format!(r#"{{"access_token":"at","refresh_token":{token}}}"#)));
    }
    for none in ["null", "\"\""] {
        assert_unusable(&json(format!(r#"{{"access_token":{none},"refresh_token":"rt"}}"#)));
        assert!(tokens(with("refresh_token", none)).refresh_token.is_none());
    }
    assert_unusable(&json(r#"{"token_type":"bearer"}"#));
}

#[test]
fn c32_a_token_of_a_type_that_is_not_known_is_no_token() {
    for known in ["\"Bearer\"", "\"bearer\"", "\"BEARER\"", "null"] {
        let body = format!(r#"{{"access_token":"at","token_type":{known}}}"#);
        assert!(read(&json(body)).is_ok(), "{known}");
    }
    for odd in ["\"mac\"", "\"DPoP\"", "\"N_A\"", "\"\"", "\"bearer \"", "7", "[\"bearer\"]", "{}", "true"] {
        assert_unusable(&json(format!(r#"{{"access_token":"at","token_type":{odd}}}"#)));
    }
    let acme = Acme::new("  answer: { token_types: [bot] }\n", "");
    let read = |kind: &str| {
        let body = format!(r#"{{"access_token":"at","token_type":"{kind}"}}"#);
        acme.server().read(&json(body), None, now()).is_ok()
    };
    assert!(read("bot") && read("BOT") && read("bearer") && !read("user"));
}

#[test]
fn nested_tokens_are_found_and_their_type_is_the_one_beside_them() {
    let recipe = "  answer: { access_token: /data/0/token, refresh_token: /data/0/refresh, scope: /data/0/scope, expires: /data/0/in }\n";
    let acme = Acme::new(recipe, "");
    let read = |body: &str| acme.server().read(&json(body), None, now());
    let body = r#"{"access_token":"wrong","data":[{"token":"at","refresh":"rt","scope":"a","in":5,"token_type":"bearer"}]}"#;
    let tokens = read(body).unwrap();
    assert_eq!(tokens.access_token.expose_secret(), "at");
    assert_eq!(tokens.refresh_token.unwrap().expose_secret(), "rt");
    assert_eq!(tokens.scopes.unwrap().to_strings(), ["a"]);
    assert_eq!(tokens.expire_time, Some(now() + Duration::from_secs(5)));
    assert!(read(r#"{"token_type":"other","data":[{"token":"at","token_type":"bearer"}]}"#).is_ok());
    for body in [
        r#"{"access_token":"at"}"#,
        r#"{"data":[]}"#,
        r#"{"data":{"token":"at"}}"#,
        r#"{"data":[{"token":"at","token_type":"mac"}]}"#,
        r#"{"token_type":"mac","data":[{"token":"at"}]}"#,
    ] {
        assert!(matches!(read(body), Err(TokenFault::Unusable(_))), "{body}");
    }
}

#[test]
fn c33_members_that_nobody_knows_are_passed_over() {
    let body =
        r#"{"access_token":"at","token_type":"bearer","new":{"a":[1,2,{"b":null}]},"":"","id_token":7}"#;
    let tokens = tokens(body);
    assert!(tokens.account.is_none() && tokens.config.is_empty());
}

#[test]
fn what_an_answer_fills_in_fits_its_field_or_there_are_no_tokens() {
    let more = "config:\n  - { name: realm, title: Realm, learned: true, pattern: '[0-9]+' }\n  \
                - { name: api_url, title: Address, learned: true, format: https_url, \
                pattern: 'https://[a-z]+\\.acme\\.example' }\n";
    let acme = Acme::new("  answer: { config: { realm: /realm, api_url: /instance/url } }\n", more);
    let read = |body: &str| acme.server().read(&json(body), None, now()).map(|tokens| tokens.config);
    let told =
        read(r#"{"access_token":"at","realm":42,"instance":{"url":"https://eu.acme.example"}}"#).unwrap();
    assert_eq!((told["realm"].as_str(), told["api_url"].as_str()), ("42", "https://eu.acme.example"));
    assert!(read(r#"{"access_token":"at","realm":null}"#).unwrap().is_empty());
    for odd in [
        r#""realm":"4x""#,
        r#""realm":"""#,
        r#""realm":-1"#,
        r#""realm":1.5"#,
        r#""realm":true"#,
        r#""realm":["1"]"#,
        r#""realm":"1\n2""#,
        r#""instance":{"url":"https://eu.acme.example.evil.example"}"#,
        r#""instance":{"url":"https://evil.example/.acme.example"}"#,
        r#""instance":{"url":"http://eu.acme.example"}"#,
        r#""instance":{"url":"https://eu.acme.example@evil.example"}"#,
        r#""instance":{"url":"https://EU.acme.example"}"#,
        r#""instance":{"url":7}"#,
    ] {
        let body = format!(r#"{{"access_token":"at",{odd}}}"#);
        assert_eq!(read(&body).err(), Some(TokenFault::Config), "{body}");
    }
}

#[test]
fn nothing_of_an_answer_is_printed() {
    let answer = json(with("refresh_token", "\"k4narie\""));
    let tokens = read(&answer).unwrap();
    assert_eq!(format!("{answer:?} {tokens:?}"), "TokenAnswer(200, …) TokenSet");
}

// === Anything at all ===

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What holds of every set of tokens, however it came.
fn check(tokens: &TokenSet) -> Result<(), TestCaseError> {
    let all = [Some(&tokens.access_token), tokens.refresh_token.as_ref()];
    for token in all.into_iter().flatten().map(|token| token.expose_secret()) {
        prop_assert!(!token.is_empty() && token.len() <= MAX_TOKEN_LEN);
        prop_assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    let ends = [tokens.expire_time, tokens.refresh_expire_time];
    for end in ends.into_iter().flatten() {
        prop_assert!(end > now() && sensible(end, now()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(
        status in 100u16..600,
        kind in prop_oneof![Just("application/json"), Just("text/plain"), Just("")],
        body in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        if let Ok(tokens) = read(&answer(status, kind, body)) {
            prop_assert!((200..300).contains(&status));
            check(&tokens)?;
        }
    }

    #[test]
    fn no_members_are_too_much(
        token in any_json(),
        refresh in any_json(),
        expires in any_json(),
        scope in any_json(),
        kind in prop_oneof![Just(Value::Null), Just(Value::from("Bearer")), any_json()],
    ) {
        let body = serde_json::json!({
            "access_token": token, "refresh_token": refresh, "expires_in": expires, "scope": scope, "token_type": kind,
        });
        if let Ok(tokens) = read(&json(body.to_string())) {
            check(&tokens)?;
        }
    }

    #[test]
    fn no_header_is_too_much(text in ".{0,40}") {
        prop_assert!(retry_after(&text, now()).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
    }
}
