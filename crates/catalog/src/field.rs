//! One field that an owner fills in, and the rules for its value.

use regex::Regex;

use crate::check_https_url;
use crate::https_url::check_url_path;

/// The longest value, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// The longest value that goes into the path of a URL, in bytes: percent-encoded it takes up to three times
/// as much, and a URL has at most 2048.
const MAX_PATH_LEN: usize = 512;

/// Headers that belong to the connection or to the message's framing, not to the caller (RFC 9110,
/// section 7.6.1, and RFC 9112), and `Cookie`, which has a place of its own.
const RESERVED_HEADERS: [&str; 14] = [
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// One field of a credential or of a connection's config.
#[derive(Debug, Clone)]
pub struct Field {
    /// The name by which templates and callers refer to it.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Where to find it, in a sentence; may be empty.
    pub help: String,
    /// Whether it must never be shown again. Never set for config.
    pub secret: bool,
    /// Whether it must be given.
    pub required: bool,
    /// Whether the provider fills it in while an account is connected. Only for config.
    pub learned: bool,
    /// Whether it may hold line breaks, as a private key does.
    pub multiline: bool,
    /// Whether it may be empty. Only for config.
    pub allow_empty: bool,
    /// The value that is used when none is given. Only for config.
    pub default: Option<String>,
    /// What the whole value must match.
    pub pattern: Option<Pattern>,
    /// What kind of text it is.
    pub format: Option<Format>,
    pub(crate) carriers: Carriers,
}

/// Into what a definition's templates put a field as it is: what its value may hold follows from that.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Carriers {
    pub(crate) header: bool,
    pub(crate) cookie: bool,
    pub(crate) username: bool,
    pub(crate) path: bool,
}

/// A regular expression that a whole value must match.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles a pattern; it is anchored at both ends.
    pub(crate) fn parse(source: &str) -> Option<Self> {
        // Compiled alone first, so that `a)(b` cannot become valid by what is put around it.
        Regex::new(source).ok()?;
        let regex = Regex::new(&format!(r"\A(?:{source})\z")).ok()?;
        Some(Self { source: source.to_owned(), regex })
    }

    /// The pattern as it is written, without anchors of its own.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

/// A kind of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An absolute https URL without user name, query or fragment; see [`check_https_url`].
    HttpsUrl,
    /// The name of a header that a client may set (a token, RFC 9110 section 5.6.2).
    HeaderName,
    /// The name of a query parameter or a cookie (a token as well).
    ParameterName,
    /// One label of a host name, such as a subdomain (RFC 1123, section 2.1).
    HostLabel,
    /// A path that begins with a slash, without query or fragment.
    UrlPath,
}

impl Format {
    /// The format's name in definitions and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpsUrl => "https_url",
            Self::HeaderName => "header_name",
            Self::ParameterName => "parameter_name",
            Self::HostLabel => "host_label",
            Self::UrlPath => "url_path",
        }
    }
}

/// What is wrong with a value, in a sentence for the person who typed it. Never repeats the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// The value breaks the field's rules.
    #[error("{0}")]
    Invalid(&'static str),
    /// The value is a URL that may not be used.
    #[error("{0}")]
    UrlNotAllowed(&'static str),
}

impl Field {
    /// The field that a method with open fields makes of a name that it does not define: secret, and
    /// free in its form. Nothing if the name is not 1 to 64 of `A-Z a-z 0-9 . _ -`, beginning with a
    /// letter.
    pub(crate) fn open(name: &str) -> Option<Self> {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let well_named = (1..=64).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.bytes().all(inside);
        well_named.then(|| Self { secret: true, required: false, multiline: true, ..Self::plain(name) })
    }

    /// A field of which nothing is known but its name.
    pub(crate) fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: name.to_owned(),
            help: String::new(),
            secret: false,
            required: true,
            learned: false,
            multiline: false,
            allow_empty: false,
            default: None,
            pattern: None,
            format: None,
            carriers: Carriers::default(),
        }
    }

    /// Checks a value.
    ///
    /// A value that passes can be rendered: whatever a header, a cookie or a URL could not carry in this
    /// field's place is refused here.
    pub fn check(&self, value: &str) -> Result<(), FieldProblem> {
        self.check_text(value).map_err(FieldProblem::Invalid)?;
        match self.format {
            _ if value.is_empty() => {}
            None => {}
            Some(Format::HttpsUrl) => check_https_url(value).map_err(FieldProblem::UrlNotAllowed)?,
            Some(Format::HeaderName) => check_header_name(value).map_err(FieldProblem::Invalid)?,
            Some(Format::ParameterName) => check_token(value).map_err(FieldProblem::Invalid)?,
            Some(Format::HostLabel) => check_host_label(value).map_err(FieldProblem::Invalid)?,
            Some(Format::UrlPath) => check_url_path(value).map_err(FieldProblem::Invalid)?,
        }
        match &self.pattern {
            Some(pattern) if !pattern.matches(value) => {
                Err(FieldProblem::Invalid("does not have the form that the provider documents"))
            }
            _ => Ok(()),
        }
    }

    fn check_text(&self, value: &str) -> Result<(), &'static str> {
        if value.is_empty() && !self.allow_empty {
            return Err("must not be empty");
        }
        if value.len() > MAX_LEN {
            return Err("must be at most 16384 bytes");
        }
        if self.secret && !self.multiline && value.trim() != value {
            return Err("begins or ends with white space; a line break or a space was probably copied along");
        }
        let allowed = |character: char| self.multiline && matches!(character, '\n' | '\t');
        if value.chars().any(|character| character.is_control() && !allowed(character)) {
            return Err(if self.multiline {
                "must not contain control characters; line breaks must be LF, not CR LF"
            } else {
                "must not contain control characters, such as line breaks and tabs"
            });
        }
        if self.carriers.header && !is_header_text(value) {
            return Err("must be ASCII, since it is sent in a header");
        }
        if self.carriers.cookie && !is_cookie_text(value) {
            return Err("must be visible ASCII but \" , ; and \\, since it is sent in a cookie");
        }
        if self.carriers.username && value.contains(':') {
            return Err("must not contain a colon, which would end the user name");
        }
        if self.carriers.path && (value.len() > MAX_PATH_LEN || matches!(value, "." | "..")) {
            return Err("must be at most 512 bytes and neither . nor .., since it is sent in a URL");
        }
        Ok(())
    }
}

/// Whether a header can carry the text: visible ASCII and spaces (RFC 9110, section 5.5).
pub(crate) fn is_header_text(text: &str) -> bool {
    // All are looked at, which the processor does many at a time; tokens are long.
    text.bytes().filter(|byte| !matches!(byte, 0x20..=0x7e)).count() == 0
}

/// Whether a cookie can carry the text: cookie-octets (RFC 6265, section 4.1.1).
pub(crate) fn is_cookie_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte))
}

/// Checks the name of a header.
pub(crate) fn check_header_name(text: &str) -> Result<(), &'static str> {
    check_token(text)?;
    if RESERVED_HEADERS.iter().any(|reserved| text.eq_ignore_ascii_case(reserved)) {
        return Err("names a header that belongs to the connection, not to the caller");
    }
    Ok(())
}

/// Checks a name: a token, RFC 9110 section 5.6.2.
pub(crate) fn check_token(text: &str) -> Result<(), &'static str> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if (1..=256).contains(&text.len()) && text.bytes().all(inside) {
        Ok(())
    } else {
        Err("must be 1 to 256 characters of A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~")
    }
}

fn check_host_label(text: &str) -> Result<(), &'static str> {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let well_formed = (1..=63).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if well_formed {
        Ok(())
    } else {
        Err("must be 1 to 63 characters of a-z, 0-9 and -, not beginning or ending with -")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field() -> Field {
        Field { secret: false, multiline: false, ..Field::open("field").unwrap() }
    }

    fn secret() -> Field {
        Field { secret: true, ..field() }
    }

    fn refusal(field: &Field, value: &str) -> &'static str {
        match field.check(value).unwrap_err() {
            FieldProblem::Invalid(sentence) | FieldProblem::UrlNotAllowed(sentence) => sentence,
        }
    }

    #[test]
    fn a_value_is_1_to_16384_bytes() {
        assert_eq!(field().check(&"x".repeat(16384)), Ok(()));
        assert!(field().check(&"x".repeat(16385)).is_err());
        assert!(field().check("").is_err());
        assert_eq!(Field { allow_empty: true, ..field() }.check(""), Ok(()));
    }

    #[test]
    fn a_secret_that_was_pasted_with_a_line_break_is_refused_with_that_reason() {
        for value in ["sk-1\n", "\r\nsk-1", " sk-1", "sk-1\t", "sk-1\u{a0}"] {
            assert!(refusal(&secret(), value).contains("copied along"), "{value:?}");
        }
        assert_eq!(field().check("Bearer "), Ok(()));
    }

    #[test]
    fn control_characters_are_refused() {
        for value in ["a\0b", "a\nb", "a\tb", "a\u{7f}b", "a\u{85}b", "a\u{1b}[0m"] {
            assert!(field().check(value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_multiline_field_may_hold_a_private_key_as_it_comes() {
        let key = Field { multiline: true, ..secret() };
        assert_eq!(key.check("-----BEGIN KEY-----\nabc\n\tx\n-----END KEY-----\n"), Ok(()));
        assert!(refusal(&key, "a\r\nb").contains("CR LF"));
    }

    #[test]
    fn a_pattern_must_match_the_whole_value() {
        let field = Field { pattern: Pattern::parse("a|b"), ..field() };
        assert_eq!(field.check("a"), Ok(()));
        for value in ["ab", "xa", "bx"] {
            assert!(field.check(value).is_err(), "{value}");
        }
        assert!(Pattern::parse("a)(b").is_none());
    }

    #[test]
    fn a_header_name_is_a_token_that_a_caller_may_set() {
        let field = Field { format: Some(Format::HeaderName), ..field() };
        assert_eq!(field.check("X-API-Key"), Ok(()));
        for value in ["X Key", "X:Key", "Ü", "Host", "content-length", "Transfer-Encoding", "cookie"] {
            assert!(field.check(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_host_label_cannot_reach_another_host() {
        let field = Field { format: Some(Format::HostLabel), ..field() };
        assert_eq!(field.check("acme-2"), Ok(()));
        for value in ["acme.evil", "evil.com/", "a@b", "-a", "a-", "A", &"a".repeat(64)] {
            assert!(field.check(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_bad_url_is_its_own_problem() {
        let field = Field { format: Some(Format::HttpsUrl), ..field() };
        assert!(matches!(field.check("http://x"), Err(FieldProblem::UrlNotAllowed(_))));
    }

    #[test]
    fn what_a_carrier_cannot_carry_is_refused_when_it_is_typed() {
        let carried = |carriers| Field { carriers, ..secret() };
        assert!(carried(Carriers { header: true, ..Carriers::default() }).check("schlüssel").is_err());
        assert!(carried(Carriers { cookie: true, ..Carriers::default() }).check("a;b").is_err());
        assert!(carried(Carriers { username: true, ..Carriers::default() }).check("a:b").is_err());
        let path = carried(Carriers { path: true, ..Carriers::default() });
        assert_eq!(path.check(&"x".repeat(512)), Ok(()));
        for value in [".", "..", &"x".repeat(513)] {
            assert!(path.check(value).is_err(), "{value}");
        }
    }

    #[test]
    fn open_fields_have_plain_names() {
        for name in ["", "1a", "a b", "a\n", "ä", &"a".repeat(65)] {
            assert!(Field::open(name).is_none(), "{name}");
        }
        assert!(Field::open("clientKey.2").is_some());
    }
}
