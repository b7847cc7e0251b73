//! The rule for URLs that people type in.

use url::{Host, Url};

/// The longest URL, in bytes.
const MAX_LEN: usize = 2048;

/// The longest path that is put behind a URL, in bytes.
const MAX_PATH_LEN: usize = 512;

/// Checks that a text is an https URL that a request can be sent below: absolute, with a host, without
/// user name, query and fragment, and written so that no two readers take it differently.
///
/// In the clear only on this machine, for development: whether even that may be called, `[danger]` decides.
///
/// Looks nothing up; whether the address may be dialled is decided where it is dialled. The error is a
/// sentence for the person who typed the URL, and never repeats it.
pub fn check_https_url(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > MAX_LEN {
        return Err("must be a URL of 1 to 2048 bytes");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['\\', '"', '<', '>', '{', '}']) {
        return Err("must be visible ASCII without spaces, quotes, brackets and backslashes");
    }
    let rest = text
        .strip_prefix("https://")
        .or_else(|| local_in_the_clear(text))
        .ok_or("must begin with https://")?;
    if rest.contains(['?', '#']) {
        return Err("must not have a query (?) or a fragment (#)");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("must not contain a user name or a password");
    }
    let url = Url::parse(text).map_err(|_| "must be a URL, such as https://api.example.com/v1")?;
    if !host_is_plain(&url, authority) {
        return Err("must name its host plainly, such as api.example.com");
    }
    if path.split('/').any(is_dot_segment) {
        return Err("must not contain the path segments . or ..");
    }
    Ok(())
}

/// What stands behind `http://` of a URL on this machine.
fn local_in_the_clear(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("http://")?;
    let authority = rest.split('/').next()?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _port)| host);
    matches!(host, "127.0.0.1" | "[::1]" | "localhost").then_some(rest)
}

/// Checks that a text is a path that can be put behind such a URL.
pub(crate) fn check_url_path(text: &str) -> Result<(), &'static str> {
    if !text.starts_with('/') || text.len() > MAX_PATH_LEN {
        return Err("must be a path of 1 to 512 bytes that begins with a slash");
    }
    check_https_url(&format!("https://host.example{text}"))
}

/// Whether the parser understood the host just as it is written: no percent-encoding, no number that
/// turns out to be an address.
fn host_is_plain(url: &Url, authority: &str) -> bool {
    let written = match (url.host(), authority.rsplit_once(':')) {
        (Some(Host::Ipv6(_)), _) => authority.split_inclusive(']').next().unwrap_or(authority),
        (_, Some((host, _port))) => host,
        (_, None) => authority,
    };
    url.host_str().is_some_and(|host| host.eq_ignore_ascii_case(written))
}

fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_urls_as_people_write_them() {
        for url in [
            "https://api.example.com",
            "https://api.example.com/",
            "https://API.example.com/v1/a%20b",
            "https://example.com:8443/v1",
            "https://192.0.2.1/x",
            "https://[2001:db8::1]:8443/x",
            "https://hooks.slack.com/services/T0/B0/x.y",
        ] {
            assert_eq!(check_https_url(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn refuses_what_is_not_plain_https() {
        for url in [
            "",
            "http://example.com",
            "HTTPS://example.com",
            "ftp://example.com",
            "example.com",
            "//example.com",
            "https://",
            "https:///example.com",
            "https://user@example.com",
            "https://user:password@example.com",
            "https://example.com?x=1",
            "https://example.com/#x",
            "https://example.com/a b",
            " https://example.com",
            "https://example.com\n",
            "https://exämple.com",
            "https://example.com\\@evil.example",
            "https://ex%61mple.com",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://example.com/a/../b",
            "https://example.com/a/%2E%2e/b",
            "https://example.com:99999/",
        ] {
            assert!(check_https_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_longest_url_is_2048_bytes() {
        let url = |length: usize| format!("https://a.b/{}", "x".repeat(length - "https://a.b/".len()));
        assert!(check_https_url(&url(2048)).is_ok());
        assert!(check_https_url(&url(2049)).is_err());
    }

    #[test]
    fn a_path_begins_with_a_slash_and_cannot_leave_its_base() {
        for path in ["/", "/me", "/v1/a%20b/", "//me"] {
            assert_eq!(check_url_path(path), Ok(()), "{path}");
        }
        let long = format!("/{}", "x".repeat(512));
        for path in
            ["", "me", ".evil.example", "@evil.example/", "/a?b", "/a#b", "/../a", "/a b", "/\n", &long]
        {
            assert!(check_url_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_refusal_never_repeats_the_url() {
        for url in ["http://s3cret.example", "https://s3cret@x", "https://x/?s3cret", "https://x/s3cret\\"] {
            assert!(!check_https_url(url).unwrap_err().contains("s3cret"));
        }
    }
}
