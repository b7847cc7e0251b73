//! Templates: text with `{credential.name}` and `{config.name}` in it.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use zeroize::Zeroizing;

/// What a path segment cannot hold as it is: everything but RFC 3986's `pchar`.
const SEGMENT: AsciiSet = CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Where a referenced field lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Credential,
    Config,
}

/// Where in a URL a reference stands; elsewhere it is always [`Position::Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// Not in a URL: the value goes in as it is.
    Text,
    /// The value is the URL, or the URL's beginning.
    UrlStart,
    /// In the host's name.
    Host,
    /// In the path: the value is percent-encoded.
    Path,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) source: Source,
    pub(crate) field: String,
    pub(crate) position: Position,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Reference(Reference),
}

/// Text in which fields are filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                literal.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let inner = brace.strip_prefix('{').ok_or("has a } without a {; write }} for a brace")?;
            let (name, after) = inner.split_once('}').ok_or("has a { without a }; write {{ for a brace")?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Reference(parse_reference(name)?));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Reads a template for a URL, and notes where in the URL each reference stands.
    pub(crate) fn parse_url(text: &str) -> Result<Self, &'static str> {
        let mut template = Self::parse(text)?;
        let mut before = String::new();
        for part in &mut template.parts {
            match part {
                Part::Literal(literal) => before.push_str(literal),
                Part::Reference(reference) => {
                    reference.position = position_after(&before);
                    // A whole URL has been filled in; only a path can come behind it.
                    before.push_str(if before.is_empty() { "https://host/" } else { "x" });
                }
            }
        }
        Ok(template)
    }

    /// The template as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Reference(reference) => Some(reference),
        })
    }

    /// The only reference of a template that holds nothing else.
    pub(crate) fn sole_reference(&self) -> Option<&Reference> {
        match self.parts.as_slice() {
            [Part::Reference(reference)] => Some(reference),
            _ => None,
        }
    }

    /// Whether what follows a URL that is filled in at the very beginning could become a part of its host.
    pub(crate) fn start_is_open(&self) -> bool {
        match self.parts.as_slice() {
            [Part::Reference(_), Part::Literal(literal), ..] => !literal.starts_with('/'),
            [Part::Reference(_), Part::Reference(_), ..] => true,
            _ => false,
        }
    }

    /// Whether it is the same whatever the fields hold.
    pub(crate) fn is_literal(&self) -> bool {
        self.references().next().is_none()
    }

    /// Fills in the fields. The error is the reference that has no value.
    pub(crate) fn render<'t, 'v>(
        &'t self,
        value: &dyn Fn(&Reference) -> Option<&'v str>,
    ) -> Result<Zeroizing<String>, &'t Reference> {
        let mut length = 0;
        for part in &self.parts {
            length += match part {
                Part::Literal(literal) => literal.len(),
                Part::Reference(reference) => {
                    let value = value(reference).ok_or(reference)?;
                    // Percent-encoded, each byte may become three.
                    if reference.position == Position::Path { 3 * value.len() } else { value.len() }
                }
            };
        }
        // Room for everything from the start: a buffer that grows leaves copies of secrets behind.
        let mut out = Zeroizing::new(String::with_capacity(length));
        for part in &self.parts {
            match part {
                Part::Literal(literal) => out.push_str(literal),
                Part::Reference(reference) => push(&mut out, reference, value(reference).ok_or(reference)?),
            }
        }
        Ok(out)
    }
}

fn push(out: &mut String, reference: &Reference, value: &str) {
    match reference.position {
        Position::Path => utf8_percent_encode(value, &SEGMENT).for_each(|piece| out.push_str(piece)),
        Position::Text | Position::UrlStart | Position::Host => out.push_str(value),
    }
}

fn position_after(before: &str) -> Position {
    match before.strip_prefix("https://") {
        None if before.is_empty() => Position::UrlStart,
        Some(rest) if !rest.contains('/') => Position::Host,
        _ => Position::Path,
    }
}

fn parse_reference(name: &str) -> Result<Reference, &'static str> {
    let (source, field) = name.split_once('.').unwrap_or((name, ""));
    let source = match source {
        "credential" => Source::Credential,
        "config" => Source::Config,
        _ => return Err("may refer to {credential.name} and {config.name} only"),
    };
    if field.is_empty() {
        return Err("has a reference without a field's name, as in {credential.api_key}");
    }
    Ok(Reference { source, field: field.to_owned(), position: Position::Text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &Template) -> String {
        template.render(&|reference| (reference.field == "a").then_some("x/ü:1%")).unwrap().to_string()
    }

    #[test]
    fn fills_in_fields_and_keeps_doubled_braces() {
        assert_eq!(render(&Template::parse("{{k}} {credential.a}{config.a}!").unwrap()), "{k} x/ü:1%x/ü:1%!");
    }

    #[test]
    fn percent_encodes_in_a_path_and_keeps_what_a_segment_may_hold() {
        let template = Template::parse_url("https://h.example/bot{credential.a}").unwrap();
        assert_eq!(render(&template), "https://h.example/botx%2F%C3%BC:1%25");
    }

    #[test]
    fn knows_where_in_a_url_a_reference_stands() {
        let positions = |text: &str| {
            Template::parse_url(text).unwrap().references().map(|it| it.position).collect::<Vec<_>>()
        };
        assert_eq!(positions("{config.a}/{config.b}"), [Position::UrlStart, Position::Path]);
        assert_eq!(
            positions("https://{config.a}.{config.b}.x/{config.c}"),
            [Position::Host, Position::Host, Position::Path]
        );
        assert_eq!(positions("{config.a}{config.b}"), [Position::UrlStart, Position::Path]);
    }

    #[test]
    fn names_the_reference_that_has_no_value() {
        let template = Template::parse("{credential.a}{config.b}").unwrap();
        let missing = template.render(&|reference| (reference.field == "a").then_some("x")).unwrap_err();
        assert_eq!((missing.source, missing.field.as_str()), (Source::Config, "b"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in ["{", "}", "{credential}", "{credential.}", "{secret.a}", "{}", "a{config.b"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rendered_secret_never_outgrows_its_buffer() {
        let template = Template::parse_url("https://h/{credential.a}").unwrap();
        let value = "%".repeat(1000);
        let rendered = template.render(&|_| Some(&value)).unwrap();
        assert!(rendered.capacity() >= rendered.len() && rendered.len() == "https://h/".len() + 3000);
    }
}
