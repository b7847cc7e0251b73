//! The pages at the end of an authorization: what happened, in plain words, and what to do next.
//!
//! Pure functions: nothing is asked, stored or logged here. What came from outside is shown in two places only, the
//! account's name and an error's code, and both go through `pages/shown.rs` first.
//!
//! The commonest change is a new outcome: a variant of [`Outcome`]; the compiler then leads to its status, its words
//! in `pages/words.rs` and its sample in the tests. To look at all pages:
//! `cargo test -p keyholder-server --lib pages -- --ignored` writes them to `target/pages`.

mod shown;
mod words;

#[cfg(test)]
mod tests;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use shown::{shown_code, shown_link, shown_text};
use words::{Mark, Words};

/// The one style sheet, inline in every page. `CONTENT_SECURITY_POLICY` names its hash.
const STYLE: &str = include_str!("pages/style.css");

/// Nothing but the style sheet whose hash this is.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; \
    style-src 'sha256-n+G0sp2eHygZUw4j0U2WzKGpR3CHuLK0Z/A3II1c+qs='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One answer to a browser.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// What happened.
    pub outcome: Outcome<'a>,
    /// The provider's name for people; empty if it is not known.
    pub provider: &'a str,
    /// Where the app wants its user back: an `https` or `http` URL from the stored allow list, never from the request.
    pub return_link: Option<&'a str>,
}

/// How an authorization ended for the person in front of the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The account is connected and can be used.
    Connected {
        /// The account's name as the provider tells it, hostile or not; empty if it is not known.
        account: &'a str,
        /// Whether it was connected before and has now been authorized anew.
        again: bool,
    },
    /// The provider said yes; the app must still confirm that it was its own user.
    AlmostDone,
    /// The owner, or a rule at the provider, said no.
    Refused,
    /// The authorization was not finished in time.
    Expired,
    /// The authorization has ended before; also what a reload of any other page shows.
    AlreadyUsed,
    /// This browser is not the one that began.
    WrongBrowser,
    /// Signed in at the provider as somebody else than the account that was connected before.
    OtherAccount,
    /// The provider did not answer, or not in a way that makes sense.
    ProviderDown,
    /// The provider answered with an error.
    ProviderRefused {
        /// A stable code of ours or the one of RFC 6749, section 4.1.2.1; shown if it is 1 to 64 characters of a-z and
        /// `_`, else left out.
        code: Option<&'a str>,
    },
    /// The operator's client is set up wrongly at the provider or here; its owner can do nothing.
    Misconfigured,
    /// There is no such link.
    NotFound,
    /// The request cannot be read.
    BadRequest,
    /// We failed after the authorization was consumed; it may or may not have been finished.
    Failed,
    /// Our own database is away. Nothing was consumed: the same request may be sent again.
    TryLater,
}

impl Page<'_> {
    /// The HTTP status.
    ///
    /// It is 502, 503 or 504 only where the same request may be sent again: proxies retry these and put pages of their
    /// own in their place. After an authorization was consumed, a retry would turn the true story into "used already";
    /// a provider's failure is 424 therefore.
    pub const fn status(&self) -> u16 {
        match self.outcome {
            Outcome::Connected { .. } | Outcome::AlmostDone | Outcome::Refused => 200,
            Outcome::BadRequest => 400,
            Outcome::WrongBrowser => 403,
            Outcome::NotFound => 404,
            Outcome::OtherAccount => 409,
            Outcome::Expired | Outcome::AlreadyUsed => 410,
            Outcome::ProviderDown | Outcome::ProviderRefused { .. } | Outcome::Misconfigured => 424,
            Outcome::Failed => 500,
            Outcome::TryLater => 503,
        }
    }

    /// The HTML, whole and in UTF-8.
    pub fn render(&self) -> String {
        let words = Words::of(&self.outcome, &shown_text(self.provider));
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    // Else a phone makes links of numbers and addresses in an account's name.
                    meta name="format-detection" content="telephone=no, date=no, address=no, email=no, url=no";
                    title { (words.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body { (self.body(&words)) }
            }
        };
        page.into_string()
    }

    fn body(&self, words: &Words) -> Markup {
        html! {
            main {
                (mark(words.mark))
                h1 { (words.title) }
                p { (words.story) }
                (facts(&self.outcome))
                p.next { (words.next) }
                @if let Some(warning) = words.warning { p.warning { (warning) } }
                @if let Some(link) = self.return_link.and_then(shown_link) {
                    a.back href=(link) rel="noreferrer" { "Go back to the app" }
                }
            }
            footer { p { "Keyholder connects accounts for apps. This page never asks for a password." } }
        }
    }
}

/// The headers of every page, names in lower case.
pub const fn headers() -> [(&'static str, &'static str); 9] {
    [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ]
}

/// What the person may want to compare or pass on.
fn facts(outcome: &Outcome<'_>) -> Markup {
    match outcome {
        Outcome::Connected { account, .. } => {
            let account = shown_text(account);
            html! { @if !account.is_empty() { dl { dt { "Account" } dd { bdi { (account) } } } } }
        }
        Outcome::ProviderRefused { code } => html! {
            @if let Some(code) = code.and_then(shown_code) { dl { dt { "Code" } dd { code { (code) } } } }
        },
        _ => html! {},
    }
}

/// A sign for the eye; the title says the same in words.
fn mark(mark: Mark) -> Markup {
    let (class, path) = match mark {
        Mark::Done => ("done", "M9.5 16.5l4.5 4.5 8.5-9.5"),
        Mark::Onward => ("onward", "M9.5 16h12.5M16.5 10.5L22 16l-5.5 5.5"),
        Mark::Stopped => ("stopped", "M10 16h12"),
        Mark::Failed => ("failed", "M16 9v9M16 22.5v.01"),
    };
    html! {
        // The attributes are for a browser that shows the page without its style sheet.
        svg.mark.(class) viewBox="0 0 32 32" width="44" height="44" fill="none" stroke="currentColor"
            aria-hidden="true" focusable="false" {
            circle cx="16" cy="16" r="16" {}
            path d=(path) {}
        }
    }
}
