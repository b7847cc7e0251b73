use std::fmt;

use http::uri::Scheme;

use crate::{Host, HostPort, Refusal, Rules};

/// The longest URL, in bytes.
const MAX_LEN: usize = 2048;

/// A URL that may be called as far as its text tells: made only by parsing it, with nothing repaired.
///
/// What its host's name resolves to is judged anew for every request, and so is the target itself: rules can
/// have changed since it was parsed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    encrypted: bool,
    host: Host,
    port: u16,
    path_and_query: String,
}

impl Target {
    /// Reads a URL and judges all that needs no lookup: its text and form, the host's name or address, the
    /// port. Pure; use it wherever a URL enters.
    ///
    /// # Errors
    /// The first rule that the URL breaks.
    pub fn parse(text: &str, rules: &Rules) -> Result<Self, Refusal> {
        judge_text(text)?;
        let (encrypted, rest) = split_scheme(text)?;
        if text.contains('#') {
            return Err(Refusal::Fragment);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err(Refusal::NotAbsolute);
        }
        if authority.contains('@') {
            return Err(Refusal::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        let host = Host::parse(host)?;
        let port = port.map_or(Ok(default_port(encrypted)), parse_port)?;
        let target = Self { encrypted, host, port, path_and_query: parse_path(path)? };
        rules.judge(&target)?;
        Ok(target)
    }

    /// Whether it is called over TLS. Not, only where a `[danger]` entry permits that.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The host, as it was typed but for the case of its letters.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path and the query. They can hold secrets: never log them.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The scheme, the host and the port: what may be logged.
    pub fn origin(&self) -> Origin<'_> {
        Origin(self)
    }

    /// The whole URL. It can hold secrets: never log it.
    pub fn to_url(&self) -> String {
        format!("{}{}", self.origin(), self.path_and_query)
    }

    /// The host and port as the `Host` header has them: without the scheme's own port.
    pub(crate) fn authority(&self) -> String {
        match self.port == default_port(self.encrypted) {
            true => self.host.to_string(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub(crate) fn host_port(&self) -> HostPort {
        HostPort::new(self.host.clone(), self.port)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}, …)", self.origin())
    }
}

/// The part of a [`Target`] that may be logged.
#[derive(Clone, Copy)]
pub struct Origin<'a>(&'a Target);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.0.encrypted { Scheme::HTTPS } else { Scheme::HTTP };
        write!(f, "{scheme}://{}", self.0.authority())
    }
}

impl fmt::Debug for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === The steps of parsing ===

fn judge_text(text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_LEN {
        return Err(Refusal::TooLong);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::Characters);
    }
    if text.contains('\\') {
        return Err(Refusal::Backslash);
    }
    if !text.split('%').skip(1).all(begins_with_printable_escape) {
        return Err(Refusal::Escape);
    }
    Ok(())
}

/// Whether what follows a `%` stands for anything but a control character.
fn begins_with_printable_escape(rest: &str) -> bool {
    let digits = rest.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).is_some_and(|byte| !byte.is_ascii_control())
}

fn split_scheme(text: &str) -> Result<(bool, &str), Refusal> {
    let (scheme, rest) = text.split_once("://").ok_or(Refusal::NotAbsolute)?;
    match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Ok((true, rest)),
        _ if scheme.eq_ignore_ascii_case("http") => Ok((false, rest)),
        _ => Err(Refusal::Scheme),
    }
}

pub(crate) fn split_port(authority: &str) -> Result<(&str, Option<&str>), Refusal> {
    let host_end = match authority.starts_with('[') {
        true => authority.find(']').ok_or(Refusal::AddressSpelling)? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    match port.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if port.is_empty() => Ok((host, None)),
        None => Err(Refusal::AddressSpelling),
    }
}

pub(crate) fn parse_port(text: &str) -> Result<u16, Refusal> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten().ok_or(Refusal::PortSyntax)
}

const fn default_port(encrypted: bool) -> u16 {
    if encrypted { 443 } else { 80 }
}

fn parse_path(text: &str) -> Result<String, Refusal> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if !path.starts_with('/') && !text.is_empty() {
        return Err(Refusal::Path);
    }
    if !path.bytes().all(is_path_byte) || !query.bytes().all(|byte| is_path_byte(byte) || byte == b'?') {
        return Err(Refusal::Path);
    }
    if path.split('/').any(is_dot_segment) {
        return Err(Refusal::Path);
    }
    Ok(if text.is_empty() { "/".to_owned() } else { text.to_owned() })
}

/// `pchar`, `/` and the `%` of an escape (RFC 3986, section 3.3).
const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'/' | b':' | b'@')
        // sub-delims
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// A segment that lenient parsers remove, with the one before it: `.`, `..`, and their escaped spellings.
fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    plain == "." || plain == ".."
}

#[cfg(test)]
mod tests;
