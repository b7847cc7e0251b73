use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

use super::*;

const LINK: &str = "https://console.example/connections?from=keyholder&tab=all";

/// A page of every outcome, with what it must say.
struct Sample {
    outcome: Outcome<'static>,
    provider: &'static str,
    status: u16,
    title: &'static str,
    next: &'static str,
}

const fn sample(outcome: Outcome<'static>, status: u16, title: &'static str, next: &'static str) -> Sample {
    Sample { outcome, provider: "GitHub", status, title, next }
}

const SAMPLES: &[Sample] = &[
    sample(
        Outcome::Connected { account: "ada@example.com", again: false },
        200,
        "GitHub is connected",
        "You can close this window.",
    ),
    sample(
        Outcome::Connected { account: "ada@example.com", again: true },
        200,
        "GitHub is connected again",
        "You can close this window.",
    ),
    sample(Outcome::AlmostDone, 200, "One step is left", "Go back to the app to finish."),
    sample(
        Outcome::Refused,
        200,
        "Access was not given",
        "You can close this window. If you did not mean to decline, go back to the app and start again.",
    ),
    sample(Outcome::Expired, 410, "This link has expired", "Go back to the app and start again."),
    sample(
        Outcome::AlreadyUsed,
        410,
        "This link was used already",
        "Check in the app whether your account is connected. If it is not, start again there.",
    ),
    sample(
        Outcome::WrongBrowser,
        403,
        "This is not the browser you started in",
        "Go back to the app, start again, and stay in the same browser.",
    ),
    sample(
        Outcome::OtherAccount,
        409,
        "That was another account",
        "Go back to the app, start again, and sign in with the same account as before.",
    ),
    sample(
        Outcome::ProviderDown,
        424,
        "GitHub did not answer properly",
        "Wait a few minutes. Then go back to the app and start again.",
    ),
    sample(
        Outcome::ProviderRefused { code: Some("invalid_scope") },
        424,
        "GitHub did not accept the request",
        "Go back to the app and start again. If this page comes back, show it to the people who run the app.",
    ),
    sample(
        Outcome::Misconfigured,
        424,
        "The app is not set up correctly",
        "Tell the people who run the app. Starting again will not help until they have corrected it.",
    ),
    Sample {
        provider: "",
        ..sample(Outcome::NotFound, 404, "This link does not work", "Go back to the app and start again.")
    },
    Sample {
        provider: "",
        ..sample(Outcome::BadRequest, 400, "This link is damaged", "Go back to the app and start again.")
    },
    sample(
        Outcome::Failed,
        500,
        "Something went wrong here",
        "Check in the app whether your account is connected. If it is not, start again there.",
    ),
    Sample {
        provider: "",
        ..sample(
            Outcome::TryLater,
            503,
            "Please try again in a minute",
            "Wait a minute, then reload this page. If that does not help, go back to the app and start again.",
        )
    },
];

/// The name of the file that a sample is written to. A new outcome fails here: give it a sample above.
const fn file_name(outcome: &Outcome<'_>) -> &'static str {
    match outcome {
        Outcome::Connected { again: false, .. } => "connected",
        Outcome::Connected { again: true, .. } => "connected_again",
        Outcome::AlmostDone => "almost_done",
        Outcome::Refused => "refused",
        Outcome::Expired => "expired",
        Outcome::AlreadyUsed => "already_used",
        Outcome::WrongBrowser => "wrong_browser",
        Outcome::OtherAccount => "other_account",
        Outcome::ProviderDown => "provider_down",
        Outcome::ProviderRefused { .. } => "provider_refused",
        Outcome::Misconfigured => "misconfigured",
        Outcome::NotFound => "not_found",
        Outcome::BadRequest => "bad_request",
        Outcome::Failed => "failed",
        Outcome::TryLater => "try_later",
    }
}

impl Sample {
    fn page(&self, return_link: Option<&'static str>) -> Page<'static> {
        Page { outcome: self.outcome, provider: self.provider, return_link }
    }
}

fn connected(account: &str) -> String {
    let outcome = Outcome::Connected { account, again: false };
    Page { outcome, provider: "GitHub", return_link: None }.render()
}

/// The text between two marks.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

fn account_of(html: &str) -> Option<&str> {
    between(html, "<bdi>", "</bdi>")
}

fn header(name: &str) -> &'static str {
    headers().into_iter().find(|(header, _)| *header == name).unwrap().1
}

#[test]
fn every_outcome_says_what_happened_and_what_to_do() {
    for sample in SAMPLES {
        for link in [None, Some(LINK)] {
            let page = sample.page(link);
            let html = page.render();
            assert_eq!(page.status(), sample.status, "{:?}", sample.outcome);
            assert_eq!(between(&html, "<title>", "</title>"), Some(sample.title));
            assert_eq!(between(&html, "<h1>", "</h1>"), Some(sample.title));
            assert_eq!(between(&html, "<p class=\"next\">", "</p>"), Some(sample.next));
            assert!(html.starts_with("<!DOCTYPE html><html lang=\"en\">"));
            assert_eq!(html.matches("<h1>").count(), 1);
        }
    }
}

#[test]
fn every_outcome_has_words_without_a_provider() {
    for sample in SAMPLES {
        let html = Page { provider: "", ..sample.page(None) }.render();
        assert!(!html.contains("GitHub"), "{html}");
        let main = between(&html, "<main>", "</main>").unwrap();
        assert!(!main.contains("  ") && !main.contains("> ") && !main.contains(" <"), "{main}");
    }
    let unknown = Page { outcome: Outcome::ProviderDown, provider: "\u{200b}", return_link: None }.render();
    assert_eq!(between(&unknown, "<h1>", "</h1>"), Some("The service did not answer properly"));
}

#[test]
fn no_proxy_is_told_to_send_a_consumed_authorization_again() {
    for sample in SAMPLES {
        assert_eq!(
            (502..=504).contains(&sample.status),
            sample.outcome == Outcome::TryLater,
            "{:?}",
            sample.outcome
        );
    }
}

#[test]
fn policy_allows_the_style_sheet_and_nothing_else() {
    let html = SAMPLES[0].page(None).render();
    let style = between(&html, "<style>", "</style>").unwrap();
    let sha256 = TLS13_AES_128_GCM_SHA256.tls13().unwrap().common.hash_provider;
    let hash = STANDARD.encode(sha256.hash(style.as_bytes()));
    assert_eq!(
        header("content-security-policy"),
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        )
    );
    assert_eq!(html.matches("<style").count(), 1);
}

#[test]
fn headers_keep_the_page_to_itself() {
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(header(name), value);
    }
    for (name, value) in headers() {
        assert!(!name.starts_with("access-control-"), "{name}");
        http::HeaderValue::from_static(value);
        http::HeaderName::from_static(name);
    }
}

#[test]
fn loads_nothing_and_runs_nothing() {
    for sample in SAMPLES {
        let html = sample.page(Some(LINK)).render();
        let own = html.replacen(&LINK.replace('&', "&amp;"), "", 1).to_lowercase();
        for trace in
            ["http:", "https:", "//", "src=", "url(", "@import", "<link", "<script", "<form", "http-equiv"]
        {
            assert!(!own.contains(trace), "{trace:?} in {own}");
        }
        for trace in ["style=", "onload", "onerror", "onclick", "data:", "javascript:"] {
            assert!(!own.contains(trace), "{trace:?} in {own}");
        }
    }
}

#[test]
fn hostile_account_names_are_text_and_short() {
    let html = connected("</bdi><script>alert(1)</script>\"'&");
    assert_eq!(
        between(&html, "<bdi>", "</bdi>"),
        Some("&lt;/bdi&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;")
    );

    let long = "é".repeat(10_240);
    assert_eq!(account_of(&connected(&long)), Some(&*format!("{}…", "é".repeat(64))));
    assert!(connected(&"<".repeat(10_240)).len() < 10_240);
    assert_eq!(
        account_of(&connected(&format!("{} b", "a".repeat(63)))),
        Some(&*format!("{}…", "a".repeat(63)))
    );
    assert_eq!(account_of(&connected(&"a".repeat(64))), Some(&*"a".repeat(64)));

    for (name, shown) in [
        ("ada\u{202e}moc.elpmaxe@live", "adamoc.elpmaxe@live"),
        ("\u{2067}ada\u{2069}", "ada"),
        ("a\0d\u{1b}[2Ja\u{7f}\u{9b}", "ad[2Ja"),
        ("  ada\r\n\t lovelace\u{2028}x\u{a0}", "ada lovelace x"),
        ("a\u{200b}d\u{feff}a\u{e0041}", "ada"),
        ("علی\u{200c}رضا", "علی\u{200c}رضا"),
    ] {
        assert_eq!(account_of(&connected(name)), Some(shown), "{name:?}");
    }
}

#[test]
fn an_account_without_a_visible_name_has_no_row() {
    for name in ["", " \n", "\u{202e}\u{200b}", "\u{200d}\u{200c}\u{fe0f}", "\u{3164}"] {
        assert!(!connected(name).contains("<dl>"), "{name:?}");
    }
}

#[test]
fn hostile_provider_names_are_text_and_short() {
    let provider = format!("<b>\u{202e}{}", "x".repeat(100));
    let html = Page { outcome: Outcome::ProviderDown, provider: &provider, return_link: None }.render();
    let title = format!("&lt;b&gt;{}… did not answer properly", "x".repeat(61));
    assert_eq!(between(&html, "<title>", "</title>"), Some(&*title));
}

#[test]
fn shows_a_code_only_if_it_is_one() {
    let shown = |code| {
        let outcome = Outcome::ProviderRefused { code };
        let html = Page { outcome, provider: "GitHub", return_link: None }.render();
        between(&html, "<code>", "</code>").map(str::to_owned)
    };
    let longest = "a".repeat(64);
    for code in ["invalid_scope", "a", &longest] {
        assert_eq!(shown(Some(code)).as_deref(), Some(code));
    }
    let too_long = "a".repeat(65);
    for code in ["", "Invalid", "a b", "a1", "a\n", "<b>", "https://evil.example", "é", &too_long] {
        assert_eq!(shown(Some(code)), None, "{code:?}");
    }
    assert_eq!(shown(None), None);
}

#[test]
fn links_back_only_where_the_app_asked_for_it() {
    for sample in SAMPLES {
        assert!(!sample.page(None).render().contains("<a"), "{:?}", sample.outcome);
        let html = sample.page(Some(LINK)).render();
        assert_eq!(html.matches("<a ").count(), 1);
        assert!(html.contains(&format!("href=\"{}\"", LINK.replace('&', "&amp;"))), "{html}");
    }
}

#[test]
fn return_links_cannot_leave_their_attribute_or_run() {
    let back = |link| Page { return_link: Some(link), ..SAMPLES[0].page(None) }.render();
    let html = back("https://a.example/\"><script>alert(1)</script>");
    assert_eq!(
        between(&html, "href=\"", "\""),
        Some("https://a.example/&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;")
    );
    for link in ["javascript:alert(1)", "data:text/html,x", "//a.example", "/a", "", " https://a.example"] {
        assert!(!back(link).contains("<a"), "{link:?}");
    }
}

/// Writes every page to `target/pages`, with a link back and without.
#[test]
#[ignore = "for looking at the pages"]
fn writes_all_pages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/pages");
    fs::create_dir_all(&folder).unwrap();
    for sample in SAMPLES {
        let name = file_name(&sample.outcome);
        fs::write(folder.join(format!("{name}.html")), sample.page(Some(LINK)).render()).unwrap();
        let bare = Page { provider: "", ..sample.page(None) };
        fs::write(folder.join(format!("{name}.bare.html")), bare.render()).unwrap();
    }
    let account = "\u{202e}<b>Wolfeschlegelsteinhausenbergerdorff\u{301}\u{302}\u{303}\u{304} ".repeat(300);
    fs::write(folder.join("hostile.html"), connected(&account)).unwrap();
}
