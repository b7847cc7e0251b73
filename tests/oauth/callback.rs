//! What comes back through a browser: nobody's until a flow is found for it, and good for that one flow, once.

use std::sync::Arc;

use keyholder_domain::SystemClock;
use keyholder_proto::v1::{self, AuthorizationState};
use keyholder_testkit::browser::{Browser, Page};
use keyholder_testkit::provider::{Consent, Effect, Endpoint, Issuer, Pkce, Provider, Stage, hostile};
use tonic::Code;

use super::world::{OAuth, Setup, browser_with, start, text, with_parameters};
use crate::harness::{ACME, assert_refused, fields, resolve_request};

/// The parameters of an address.
type Pairs = Vec<(String, String)>;

fn status(page: &Page) -> u16 {
    page.status.unwrap().as_u16()
}

fn set(pairs: &mut Pairs, name: &str, value: &str) {
    pairs.retain(|(known, _)| known != name);
    pairs.push((name.to_owned(), value.to_owned()));
}

fn add(pairs: &mut Pairs, name: &str, value: &str) {
    pairs.push((name.to_owned(), value.to_owned()));
}

fn take_out(pairs: &mut Pairs, name: &str) {
    pairs.retain(|(known, _)| known != name);
}

// === The state ===

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_state_works_once_also_when_its_first_use_failed() {
    let oauth = OAuth::start();
    let spoilers: [fn(&mut Pairs); 5] = [
        |pairs| set(pairs, "iss", "https://evil.example"),
        |pairs| add(pairs, "error", "access_denied"),
        |pairs| add(pairs, "code", "another"),
        |pairs| take_out(pairs, "code"),
        |pairs| set(pairs, "code", &"x".repeat(17 * 1024)),
    ];
    for (number, spoil) in spoilers.into_iter().enumerate() {
        let begun = oauth.begin("user:ada").await;
        let mut browser = Browser::new();
        let url = oauth.answer_for(&mut browser, &begun).await;
        let spoilt = with_parameters(&url, spoil);
        assert_eq!(status(&browser.get(&spoilt).await.unwrap()), 424, "{number}");
        let failure = oauth.failure(&begun).await;
        let again = browser.get(url.as_str()).await.unwrap();
        assert_eq!(status(&again), 424, "{number}: {}", text(&again));
        assert_eq!(oauth.failure(&begun).await, failure, "{number}");
    }
    oauth.assert_no_token_call();
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_state_that_worked_works_no_more() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let first = browser.get(url.as_str()).await.unwrap();
    let made = oauth.authorization(&begun).await;
    for _ in 0..2 {
        let again = browser.get(url.as_str()).await.unwrap();
        assert_eq!((status(&again), text(&again)), (200, text(&first)), "the same story again");
    }
    assert_eq!(oauth.provider.counts().token_calls, 1);
    assert_eq!(oauth.authorization(&begun).await, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_state_ends_with_its_flow() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    oauth.world.sql("UPDATE authorizations SET expire_time = clock_timestamp()");
    assert_eq!(status(&browser.get(url.as_str()).await.unwrap()), 410);
    assert_eq!(oauth.failure(&begun).await, "EXPIRED");
    assert_eq!(status(&browser.get(url.as_str()).await.unwrap()), 410);
    assert_eq!(
        status(&Browser::new().get(&begun.authorization_url).await.unwrap()),
        410,
        "nor does the link"
    );
    oauth.assert_no_token_call();
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_c9_c11_every_flow_has_its_own_secrets_and_none_says_anything() {
    let oauth = OAuth::start();
    let flows = 8;
    for number in 0..flows {
        let begun = oauth.begin(&format!("user:ada-{number}")).await;
        oauth.answer_for(&mut Browser::new(), &begun).await;
    }
    let asked = oauth.calls(Endpoint::Authorize);
    for name in ["state", "code_challenge"] {
        let values: std::collections::BTreeSet<&str> =
            asked.iter().map(|call| call.parameter(name).unwrap()).collect();
        assert_eq!(values.len(), flows, "{name}");
        assert!(values.iter().all(|value| value.len() == 43), "256 bits: {values:?}");
    }
    for call in &asked {
        assert_eq!(call.parameter("scope"), Some("read write"));
        let told: Vec<&str> = call.query.iter().map(|(_, value)| value.as_str()).collect();
        assert!(!told.iter().any(|value| value.contains("ada") || value.contains(ACME)), "{told:?}");
    }
}

// === The browser ===

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_state_in_another_browser_is_refused_and_stays_good_in_its_own() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let name = oauth.cookie(&browser).split('=').next().unwrap().to_owned();
    for cookie in [String::new(), format!("{name}=x"), format!("{name}="), "x=y".to_owned()] {
        let mut other = if cookie.is_empty() { Browser::new() } else { browser_with(&cookie) };
        let page = other.get(url.as_str()).await.unwrap();
        assert_eq!(status(&page), 403, "{cookie}");
        assert!(!text(&page).contains("Demo"), "what it was is not told either");
    }
    // Another flow's browser is another browser.
    let foreign = oauth.begin("user:eve").await;
    let mut other = Browser::new();
    oauth.answer_for(&mut other, &foreign).await;
    assert_eq!(status(&other.get(url.as_str()).await.unwrap()), 403);
    oauth.assert_no_token_call();
    assert_eq!(oauth.authorization(&begun).await.state(), AuthorizationState::Pending);
    assert_eq!(status(&browser.get(url.as_str()).await.unwrap()), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_the_browser_that_opened_the_link_last_is_the_one_that_counts() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let (mut first, mut second) = (Browser::new(), Browser::new());
    let of_first = oauth.answer_for(&mut first, &begun).await;
    let of_second = oauth.answer_for(&mut second, &begun).await;
    assert_eq!(status(&first.get(of_first.as_str()).await.unwrap()), 403);
    assert_eq!(status(&second.get(of_second.as_str()).await.unwrap()), 200);
    // Whose account it is, is for that browser alone.
    assert!(text(&second.get(&begun.authorization_url).await.unwrap()).contains("Ada"));
    let told = first.get(&begun.authorization_url).await.unwrap();
    assert!(status(&told) == 410 && !text(&told).contains("Ada"), "{}", text(&told));
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_what_asks_for_the_head_alone_opens_nothing() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let bound = oauth.world.sql("SELECT encode(browser_hash, 'hex') FROM authorizations");
    for (url, cookie) in
        [(begun.authorization_url.as_str(), String::new()), (url.as_str(), oauth.cookie(&browser))]
    {
        let answer = head(url, &cookie);
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("set-cookie"), "{answer}");
    }
    assert_eq!(oauth.world.sql("SELECT encode(browser_hash, 'hex') FROM authorizations"), bound);
    oauth.assert_no_token_call();
    assert_eq!(status(&browser.get(url.as_str()).await.unwrap()), 200);
}

/// The head of the answer to a HEAD request.
fn head(url: &str, cookie: &str) -> String {
    use std::io::{Read as _, Write as _};
    let url = url::Url::parse(url).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    let target = &url[url::Position::BeforePath..];
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "HEAD {target} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_the_cookie_is_for_this_host_over_tls_and_for_no_script() {
    let public_url = "https://keyholder.example";
    let oauth = OAuth::start_with(&Setup { public_url, ..Setup::default() });
    let begun = oauth.begin("user:ada").await;
    let path = begun.authorization_url.strip_prefix(public_url).unwrap();
    let mut browser = Browser::new();
    let opened = browser.get_once(&format!("{}{path}", oauth.web)).await.unwrap();
    assert_eq!(status(&opened), 303);
    let header = opened.header("set-cookie").unwrap().to_owned();
    let mut parts: Vec<&str> = header.split("; ").collect();
    let (name, value) = parts.remove(0).split_once('=').unwrap();
    assert!(name.starts_with("__Host-") && value.len() == 43, "{name}");
    parts.retain(|part| !part.starts_with("Max-Age="));
    parts.sort_unstable();
    assert_eq!(parts, ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]);
    // The same name without the prefix, which another host of the domain could set, is not looked at.
    let stop = format!("{public_url}/");
    let answer = browser.get_until(opened.header("location").unwrap(), &stop).await.unwrap().url;
    let here = format!("{}{}", oauth.web, &answer[url::Position::BeforePath..]);
    let plain = name.trim_start_matches("__Host-");
    let page = browser_with(&format!("{plain}={value}")).get(&here).await.unwrap();
    assert_eq!(status(&page), 403);
    let page = browser_with(&format!("a=b; {name}={value}")).get_once(&here).await.unwrap();
    assert_eq!(status(&page), 303);
    assert_eq!(page.header("location"), Some(begun.authorization_url.as_str()));
}

// === What is asked for ===

#[tokio::test(flavor = "multi_thread")]
async fn c1_c5_c8_a_code_is_asked_for_with_a_challenge_that_nobody_can_turn_off_by_refusing_it() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| {
        manners.consent = Consent::Deny;
        manners.error_code = Some("invalid_request".into());
        manners.error_description = Some("code_challenge_method is not supported".into());
    });
    let begun = oauth.begin("user:ada").await;
    oauth.consent(&begun).await;
    assert_eq!(oauth.failure(&begun).await, "PROVIDER_ERROR");
    let [asked] = &oauth.calls(Endpoint::Authorize)[..] else { panic!("it was asked once") };
    let names: Vec<&str> = asked.query.iter().map(|(name, _)| name.as_str()).collect();
    let known = [
        "response_type",
        "client_id",
        "state",
        "code_challenge",
        "code_challenge_method",
        "redirect_uri",
        "scope",
    ];
    assert_eq!(names, known);
    assert_eq!(asked.parameter("response_type"), Some("code"));
    assert_eq!(asked.parameter("code_challenge_method"), Some("S256"));
    assert_eq!(asked.parameter("redirect_uri"), Some(format!("{}/oauth/callback/demo", oauth.web).as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_each_flow_has_a_verifier_of_its_own_that_no_address_holds() {
    let oauth = OAuth::start();
    oauth.connect("user:ada").await;
    oauth.connect("user:bob").await;
    let exchanges = oauth.calls(Endpoint::Token);
    let verifiers: Vec<&str> =
        exchanges.iter().map(|call| call.parameter("code_verifier").unwrap()).collect();
    let [ada, bob] = verifiers[..] else { panic!("each code was exchanged once: {}", verifiers.len()) };
    assert!(ada != bob);
    for verifier in [ada, bob] {
        // 43 characters of base64url are 256 bits.
        assert!((43..=128).contains(&verifier.len()));
        assert!(verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
        for call in oauth.provider.history() {
            assert!(call.query.iter().all(|(_, value)| value != verifier));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_c31_where_a_recipe_turns_pkce_off_the_state_is_still_there_and_no_verifier_is_sent() {
    let instead = [("authorize: { url:", "authorize: { pkce: 'off', url:")];
    let oauth = OAuth::start_with(&Setup { instead: &instead, ..Setup::default() });
    oauth.provider.behave(|manners| manners.pkce = Pkce::Ignored);
    oauth.connect("user:ada").await;
    let asked = &oauth.calls(Endpoint::Authorize)[0];
    assert!(asked.parameter("code_challenge").is_none() && asked.parameter("state").unwrap().len() == 43);
    assert_eq!(oauth.calls(Endpoint::Token)[0].parameter("code_verifier"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn c10_c30_the_redirect_uri_is_the_same_every_time_and_comes_from_no_request() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let link = format!("{}?redirect_uri=https://evil.example/", begun.authorization_url);
    let stop = format!("{}/oauth/callback/", oauth.web);
    let url = browser.get_until(&link, &stop).await.unwrap().url;
    let url = with_parameters(&url, |pairs| add(pairs, "redirect_uri", "https://evil.example/"));
    assert_eq!(status(&browser.get(&url).await.unwrap()), 200);
    let own = format!("{}/oauth/callback/demo", oauth.web);
    for endpoint in [Endpoint::Authorize, Endpoint::Token] {
        assert_eq!(oauth.calls(endpoint)[0].parameter("redirect_uri"), Some(own.as_str()));
    }
    let request =
        v1::StartAuthorizationRequest { redirect_uri: "https://evil.example/".into(), ..start("user:bob") };
    let refused = oauth.world.connections().start_authorization(request).await;
    let refused = assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
    assert_eq!(fields(&refused), ["redirect_uri"]);
}

// === The issuer, and mix-ups ===

#[tokio::test(flavor = "multi_thread")]
async fn c12_c16_an_answer_on_another_providers_path_reaches_nobodys_token_endpoint() {
    let other = Provider::start(Arc::new(SystemClock)).unwrap();
    let oauth = OAuth::start_with(&Setup { other: Some(&other), ..Setup::default() });
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    for path in ["other", "openai", "nobody", "demo%00", "DEMO"] {
        let elsewhere = url.as_str().replace("/callback/demo", &format!("/callback/{path}"));
        let page = browser.get(&elsewhere).await.unwrap();
        assert_eq!(status(&page), 400, "{path}: {}", text(&page));
    }
    oauth.assert_no_token_call();
    assert_eq!(other.counts().token_calls, 0);
    let request = v1::StartAuthorizationRequest { provider_id: "other".into(), ..start("user:ada") };
    let at_other = oauth.begin_as(request).await;
    oauth.consent(&at_other).await;
    assert_eq!(oauth.authorization(&at_other).await.state(), AuthorizationState::Completed);
    assert_eq!((other.counts().token_calls, oauth.provider.counts().token_calls), (1, 0));
    let back = other.history().iter().find_map(|call| call.parameter("redirect_uri").map(str::to_owned));
    assert_eq!(back, Some(format!("{}/oauth/callback/other", oauth.web)), "each has its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_an_issuer_that_differs_in_a_byte_ends_the_flow_before_a_token_is_asked_for() {
    let oauth = OAuth::start();
    let right = oauth.provider.issuer();
    for wrong in [
        "https://evil.example".to_owned(),
        format!("{right}/"),
        right.replace("http:", "HTTP:"),
        right.replace("http:", "https:"),
        right.replace("127.0.0.1", "localhost"),
        format!(" {right}"),
        format!("{right}#"),
        right.replace("://", "%3A%2F%2F"),
    ] {
        oauth.provider.behave(|manners| manners.issuer = Issuer::Wrong(wrong.clone()));
        let begun = oauth.begin("user:ada").await;
        let page = oauth.consent(&begun).await;
        assert_eq!(status(&page), 424, "{wrong}");
        assert_eq!(oauth.failure(&begun).await, "ISSUER_MISMATCH", "{wrong}");
        assert!(!text(&page).contains("evil"));
    }
    oauth.assert_no_token_call();
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_an_answer_without_the_issuer_that_was_promised_is_refused() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.issuer = Issuer::Missing);
    let begun = oauth.begin("user:ada").await;
    oauth.consent(&begun).await;
    assert_eq!(oauth.failure(&begun).await, "ISSUER_MISMATCH");
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    browser.get(&with_parameters(&url, |pairs| set(pairs, "iss", ""))).await.unwrap();
    assert_eq!(oauth.failure(&begun).await, "ISSUER_MISMATCH", "an empty one is none");
    oauth.assert_no_token_call();
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_an_issuer_that_nobody_promised_may_be_left_out_but_not_be_wrong() {
    let instead = [("  sends_iss: true\n", "")];
    let oauth = OAuth::start_with(&Setup { instead: &instead, ..Setup::default() });
    oauth.provider.behave(|manners| manners.issuer = Issuer::Unsupported);
    oauth.connect("user:ada").await;
    oauth.provider.behave(|manners| manners.issuer = Issuer::Right);
    oauth.connect("user:ada").await;
    let calls = oauth.provider.counts().token_calls;
    oauth.provider.behave(|manners| manners.issuer = Issuer::Wrong("https://evil.example".into()));
    let begun = oauth.begin("user:ada").await;
    oauth.consent(&begun).await;
    assert_eq!(oauth.failure(&begun).await, "ISSUER_MISMATCH");
    assert_eq!(oauth.provider.counts().token_calls, calls);
}

// === Errors and duplicates ===

#[tokio::test(flavor = "multi_thread")]
async fn c17_an_error_is_judged_as_a_success_is() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.consent = Consent::Deny);
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    assert_eq!(status(&Browser::new().get(url.as_str()).await.unwrap()), 403, "another browser");
    let forged = with_parameters(&url, |pairs| set(pairs, "state", &"x".repeat(43)));
    assert_eq!(status(&browser.get(&forged).await.unwrap()), 404, "another state");
    assert_eq!(oauth.authorization(&begun).await.state(), AuthorizationState::Pending);
    let wrong = with_parameters(&url, |pairs| set(pairs, "iss", "https://evil.example"));
    browser.get(&wrong).await.unwrap();
    assert_eq!(oauth.failure(&begun).await, "ISSUER_MISMATCH", "another issuer");
    let begun = oauth.begin("user:ada").await;
    let page = oauth.consent(&begun).await;
    assert_eq!((status(&page), oauth.failure(&begun).await.as_str()), (200, "ACCESS_DENIED"));
    oauth.assert_no_token_call();
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_what_is_there_twice_is_refused_and_what_nobody_knows_is_passed_over() {
    let oauth = OAuth::start();
    for (consent, name) in [
        (Consent::Allow, "code"),
        (Consent::Allow, "state"),
        (Consent::Allow, "iss"),
        (Consent::Deny, "error"),
    ] {
        oauth.provider.behave(|manners| {
            manners.consent = consent;
            manners.redirect_twice = vec![name.to_owned()];
        });
        let begun = oauth.begin("user:ada").await;
        let page = oauth.consent(&begun).await;
        // Which flow a second state is for, nobody can say.
        let expected = if name == "state" { 400 } else { 424 };
        assert_eq!(status(&page), expected, "{name}: {}", text(&page));
    }
    oauth.assert_no_token_call();
    oauth.provider.behave(|manners| {
        manners.consent = Consent::Allow;
        manners.redirect_twice = vec!["novelty".into()];
        manners.redirect_extra =
            vec![("session_state".into(), "1".into()), ("access_token".into(), "x".into())];
    });
    oauth.connect("user:ada").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_code_beside_an_error_is_refused() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.redirect_extra = vec![("error".into(), "server_error".into())]);
    let begun = oauth.begin("user:ada").await;
    assert_eq!(status(&oauth.consent(&begun).await), 424);
    assert_eq!(oauth.failure(&begun).await, "PROVIDER_ERROR");
    oauth.assert_no_token_call();
}

// === One exchange ===

#[tokio::test(flavor = "multi_thread")]
async fn c19_two_callbacks_at_once_on_two_replicas_are_one_exchange() {
    let oauth = OAuth::start();
    let (_second, web) = oauth.replica("second");
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let cookie = oauth.cookie(&browser);
    let gate = oauth.provider.hold(Stage::After);
    let first = url.to_string();
    let waiting = tokio::spawn(async move { browser.get(&first).await.unwrap() });
    gate.held().await;
    for base in [&oauth.web, &web] {
        let there = url.as_str().replace(&oauth.web, base);
        let page = browser_with(&cookie).get(&there).await.unwrap();
        assert_eq!(status(&page), 410, "{}", text(&page));
    }
    gate.release();
    let page = waiting.await.unwrap();
    assert_eq!(status(&page), 200, "{}", text(&page));
    let late = browser_with(&cookie).get(&url.as_str().replace(&oauth.web, &web)).await.unwrap();
    assert_eq!(text(&late), text(&page), "the other replica tells the same");
    assert_eq!(oauth.provider.counts().token_calls, 1);
    assert_eq!(oauth.world.sql("SELECT count(*) FROM connections"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn c19_many_callbacks_in_one_moment_are_one_exchange() {
    let oauth = OAuth::start();
    let (_second, web) = oauth.replica("second");
    for round in 0..5 {
        let begun = oauth.begin("user:ada").await;
        let mut browser = Browser::new();
        let url = oauth.answer_for(&mut browser, &begun).await;
        let cookie = oauth.cookie(&browser);
        let all = (0..8).map(|number| {
            let there = url.as_str().replace(&oauth.web, if number % 2 == 0 { &oauth.web } else { &web });
            let mut browser = browser_with(&cookie);
            tokio::spawn(async move { status(&browser.get(&there).await.unwrap()) })
        });
        for page in all.collect::<Vec<_>>() {
            let status = page.await.unwrap();
            assert!(matches!(status, 200 | 410), "{status}");
        }
        oauth.until(&begun, AuthorizationState::Completed).await;
        assert_eq!(oauth.provider.counts().token_calls, round + 1);
    }
    assert_eq!(oauth.provider.counts().code_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_goes_away_costs_its_owner_nothing() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let gate = oauth.provider.hold(Stage::After);
    let gone = tokio::spawn(async move { browser.get(url.as_str()).await });
    gate.held().await;
    gone.abort();
    assert!(gone.await.is_err());
    gate.release();
    oauth.until(&begun, AuthorizationState::Completed).await;
}

// === The page ===

#[tokio::test(flavor = "multi_thread")]
async fn c20_the_page_loads_nothing_and_its_address_holds_neither_code_nor_state() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    let bare = browser.get_once(url.as_str()).await.unwrap();
    let away =
        Browser::new().get_once(&format!("{}/oauth/callback/demo?state=x&code=y", oauth.web)).await.unwrap();
    let page = browser.get(url.as_str()).await.unwrap();
    assert_eq!((status(&bare), status(&away), status(&page)), (303, 404, 200));
    let shown = browser.get(bare.header("location").unwrap()).await.unwrap();
    assert!(text(&shown).contains("Ada"), "{}", text(&shown));
    for secret in ["code", "state"] {
        let secret = url.query_pairs().find(|(name, _)| name == secret).unwrap().1.into_owned();
        assert!(!shown.url.as_str().contains(&secret) && !text(&shown).contains(&secret));
    }
    for answer in [&bare, &away, &shown] {
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'")
                && !policy.contains("script")
                && !policy.contains("unsafe")
        );
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    let html = text(&shown).to_ascii_lowercase();
    for loads in ["<script", "src=", "<link", "@import", "url(", "<iframe", "<form", "http:", "https:", "//"]
    {
        assert!(!html.contains(loads), "{loads}: {html}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c21_c22_a_browser_is_sent_on_with_303_and_only_where_the_list_says() {
    let oauth = OAuth::start();
    let to = |url: &str| v1::StartAuthorizationRequest { return_url: url.into(), ..start("user:ada") };
    for url in [
        "https://evil.example/",
        "https://app.example.com.evil.example/",
        "https://app.example.com@evil.example/",
        "https://evil.example\\@app.example.com/",
        "https://app.example.com/#x",
        "http://app.example.com/",
        "//app.example.com/",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://app.example.com:8443/",
        "/done",
    ] {
        let refused = oauth.world.connections().start_authorization(to(url)).await;
        let refused = assert_refused(refused, Code::InvalidArgument, "URL_NOT_ALLOWED");
        assert_eq!(fields(&refused), ["return_url"], "{url}");
    }
    for url in [" ", "https://app.example.com/d\tone", "https://app.example.com/ærlig"] {
        let refused = oauth.world.connections().start_authorization(to(url)).await;
        assert_eq!(fields(&assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD")), ["return_url"]);
    }
    // What a browser would repair is repaired before.
    for (asked, sent) in [
        ("https://app.example.com/done", "https://app.example.com/done?"),
        ("https://app.example.com\\done", "https://app.example.com/done?"),
        ("HTTPS://app.EXAMPLE.com:443/x/../done?y", "https://app.example.com/done?y&"),
    ] {
        let begun = oauth.begin_as(to(asked)).await;
        let mut browser = Browser::new();
        let url = oauth.answer_for(&mut browser, &begun).await;
        let evil = with_parameters(&url, |pairs| add(pairs, "return_url", "https://evil.example/"));
        let page = browser.get_once(&evil).await.unwrap();
        assert_eq!(status(&page), 303);
        let id = &begun.authorization.as_ref().unwrap().authorization_id;
        assert_eq!(page.header("location"), Some(format!("{sent}authorization_id={id}").as_str()), "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c23_what_a_provider_says_about_an_error_is_shown_to_nobody() {
    let oauth = OAuth::start();
    for hostile in [
        hostile::HTML.to_owned(),
        hostile::CONTROL.to_owned(),
        hostile::LINK.to_owned(),
        hostile::long(9_000),
    ] {
        for code in ["access_denied", &hostile] {
            oauth.provider.behave(|manners| {
                manners.consent = Consent::Deny;
                manners.error_code = Some(code.to_owned());
                manners.error_description = Some(hostile.clone());
                manners.redirect_extra = vec![("error_uri".into(), "https://evil.example/".into())];
            });
            let begun = oauth.begin("user:ada").await;
            let page = oauth.consent(&begun).await;
            let failure = oauth.failure(&begun).await;
            assert!(matches!(failure.as_str(), "ACCESS_DENIED" | "PROVIDER_ERROR"), "{failure}");
            let told = format!("{} {:?} {:?}", text(&page), page.headers, oauth.authorization(&begun).await);
            for piece in ["alert(1)", "evil.example", "stolen", "\u{202e}", "Session expired", "AAAAAAAA"] {
                assert!(!told.contains(piece), "{piece}: {told}");
            }
        }
    }
    let log = std::fs::read_to_string(&oauth.world.server.log).unwrap();
    for piece in ["alert(1)", "evil.example", "stolen", "Session expired", "AAAAAAAA"] {
        assert!(!log.contains(piece), "logged: {piece}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c23_an_account_is_shown_as_text_whatever_its_name() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.account = hostile::HTML.into());
    let begun = oauth.begin("user:ada").await;
    let page = oauth.consent(&begun).await;
    let html = text(&page);
    assert!(status(&page) == 200 && !html.contains("<script") && !html.contains("<img"), "{html}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c24_no_token_is_usable_whose_id_token_is_of_another_flow() {
    let recipe = "  account: { from: id_token }\n";
    let instead = [
        ("default_scopes: [read, write]", "default_scopes: [openid]"),
        ("{ name: read, title: Read }", "{ name: openid, title: Who }"),
    ];
    let oauth = OAuth::start_with(&Setup { recipe, instead: &instead, ..Setup::default() });
    let good = oauth.connect("user:ada").await;
    assert_eq!(good.account.unwrap().id, "user-ada");
    let token = |nonce: &str, audience: &str, issuer: &str| {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let claims = serde_json::json!({
            "iss": issuer, "sub": "user-eve", "aud": audience, "nonce": nonce, "exp": 4_000_000_000_u64,
        });
        format!("e30.{}.", URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    let issuer = oauth.provider.issuer();
    for wrong in [
        token("of-another-flow", "keyholder", &issuer),
        token("", "somebody-else", &issuer),
        "nonsense".to_owned(),
        String::new(),
    ] {
        oauth.provider.spoil(1, Stage::After, Effect::member("id_token", wrong.clone()));
        let begun = oauth.begin("user:eve").await;
        oauth.consent(&begun).await;
        assert_eq!(oauth.failure(&begun).await, "ANSWER_UNUSABLE", "{wrong}");
    }
    assert_eq!(oauth.world.sql("SELECT count(*) FROM connections"), "1");
    let resolved = oauth
        .world
        .grants("gateway")
        .resolve_credential(resolve_request("user:ada", &good.connection_id))
        .await;
    assert!(resolved.is_ok());
}
