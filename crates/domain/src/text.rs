use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Invalid;

/// Words for people: names, reasons, purposes. No control characters, so that a log line stays one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// Reads up to 256 characters of text; empty is allowed.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.chars().count() > 256 {
            return Err(Invalid("must be at most 256 characters"));
        }
        if text.chars().any(|character| character.is_control() || is_bidi_control(character)) {
            return Err(Invalid("must not contain control characters"));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The characters that make text read in another order than it is written (Unicode TR 9, section 2), and those that
/// are not seen at all.
fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// The caller's own key-value marks on a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Reads up to 64 labels; keys 1 to 63 characters of a-z, 0-9, `.`, `_`, `-`, `/`, values as [`Text`].
    pub fn parse<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Invalid> {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
        let mut map = BTreeMap::new();
        for (key, value) in labels {
            if !(1..=63).contains(&key.len()) || !key.bytes().all(inside) {
                return Err(Invalid("a label's key must be 1 to 63 characters of a-z, 0-9 and ._-/"));
            }
            map.insert(key.to_owned(), Text::parse(value)?.as_str().to_owned());
        }
        if map.len() > 64 { Err(Invalid("must be at most 64 labels")) } else { Ok(Self(map)) }
    }

    /// The labels in the order of their keys.
    pub const fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_text_that_would_break_a_log_line_or_deceive_a_reader() {
        for text in
            ["a\nb", "a\0", "\u{1b}[2J", "\u{202e}abc", "a\u{2028}b", "\u{200f}a", "\u{61c}a", "\u{e0041}"]
        {
            assert_eq!(Text::parse(text), Err(Invalid("must not contain control characters")), "{text:?}");
        }
        assert!(Text::parse(&"é".repeat(256)).is_ok());
        assert!(Text::parse(&"é".repeat(257)).is_err());
    }

    #[test]
    fn refuses_label_keys_outside_the_alphabet() {
        assert!(Labels::parse([("team.example/x", "a b")]).is_ok());
        for key in ["", "A", "a b", "a\n"] {
            assert!(Labels::parse([(key, "")]).is_err(), "{key:?}");
        }
    }
}
