//! Cookies, as RFC 6265 has them, each for the host that set it alone.

use keyholder_domain::Timestamp;
use time::Duration;
use url::Url;

/// A cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where it is sent to: this path and what is below it.
    pub path: String,
    /// Whether scripts cannot see it.
    pub http_only: bool,
    /// Whether it is sent over TLS only; loopback counts as if it were.
    pub secure: bool,
    /// Its `SameSite`, as it was written.
    pub same_site: Option<String>,
    /// When it ends; nothing: with the browser.
    pub ends: Option<Timestamp>,
    /// Host and port. Stricter than browsers, which do not look at the port: here every server is of one host.
    origin: String,
}

#[derive(Debug, Default)]
pub(super) struct Jar(Vec<Cookie>);

impl Jar {
    /// Keeps what a `Set-Cookie` says. What cannot be a cookie is ignored, as browsers do.
    pub(super) fn keep(&mut self, url: &Url, header: &str, now: Timestamp) {
        let Some(cookie) = parse(url, header, now) else { return };
        self.0.retain(|known| {
            (&known.origin, &known.name, &known.path) != (&cookie.origin, &cookie.name, &cookie.path)
        });
        if cookie.ends.is_none_or(|ends| now < ends) {
            self.0.push(cookie);
        }
    }

    /// The cookies for a URL, those with the longest path first.
    pub(super) fn for_url(&self, url: &Url, now: Timestamp) -> Vec<Cookie> {
        let origin = origin(url);
        let fits = |cookie: &&Cookie| {
            cookie.origin == origin
                && is_below(url.path(), &cookie.path)
                && cookie.ends.is_none_or(|ends| now < ends)
        };
        let mut cookies: Vec<_> = self.0.iter().filter(fits).cloned().collect();
        cookies.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        cookies
    }
}

fn parse(url: &Url, header: &str, now: Timestamp) -> Option<Cookie> {
    let mut parts = header.split(';').map(str::trim);
    let (name, value) = parts.next()?.split_once('=')?;
    let mut cookie = Cookie {
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
        path: default_path(url),
        http_only: false,
        secure: false,
        same_site: None,
        ends: None,
        origin: origin(url),
    };
    let mut has_domain = false;
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key.trim().to_ascii_lowercase().as_str() {
            "path" if value.starts_with('/') => cookie.path = value.to_owned(),
            "max-age" => cookie.ends = ends(value, now),
            "secure" => cookie.secure = true,
            "httponly" => cookie.http_only = true,
            "samesite" => cookie.same_site = Some(value.to_owned()),
            "domain" => has_domain = true,
            _ => {}
        }
    }
    let promises_host = name.starts_with("__Host-");
    let keeps_promise = cookie.secure && cookie.path == "/" && !has_domain;
    let is_secure = cookie.secure || !name.starts_with("__Secure-");
    (!cookie.name.is_empty() && is_secure && (keeps_promise || !promises_host)).then_some(cookie)
}

/// Zero and below is the past (RFC 6265 section 5.2.2).
fn ends(max_age: &str, now: Timestamp) -> Option<Timestamp> {
    let seconds: i64 = max_age.parse().ok()?;
    if seconds <= 0 {
        return Some(now);
    }
    // Farther than any date: as good as no end.
    now.checked_add(Duration::seconds(seconds))
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// RFC 6265 section 5.1.4.
fn default_path(url: &Url) -> String {
    match url.path().rfind('/') {
        None | Some(0) => "/".to_owned(),
        Some(last) => url.path()[..last].to_owned(),
    }
}

/// RFC 6265 section 5.1.4.
fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || folder.ends_with('/') || rest.starts_with('/'))
}
