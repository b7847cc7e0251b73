use std::collections::BTreeSet;

use keyholder_domain::Text;

use super::check_text;
use crate::definition::{FieldDefinition, FormatDefinition};
use crate::field::Carriers;
use crate::findings::Findings;
use crate::tree::Place;
use crate::{Field, Format, Pattern};

pub(super) const NAME_RULE: &str = "must be 1 to 63 characters of a-z, 0-9 and _, beginning with a letter";

pub(super) fn is_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=63).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(inside)
}

/// Compiles the fields of a credential or of the config. A field with findings is kept, so that what
/// refers to it does not look wrong as well.
pub(super) fn compile_fields(
    definitions: Vec<FieldDefinition>,
    place: &Place,
    findings: &mut Findings,
) -> Vec<Field> {
    let mut seen = BTreeSet::new();
    let mut fields = Vec::with_capacity(definitions.len());
    for (number, definition) in definitions.into_iter().enumerate() {
        let place = place.item(number);
        if !seen.insert(definition.name.clone()) {
            findings.add(&place.key("name"), "is the name of another field too");
        }
        fields.push(compile_field(definition, &place, findings));
    }
    fields
}

fn compile_field(definition: FieldDefinition, place: &Place, findings: &mut Findings) -> Field {
    if !is_name(&definition.name) {
        findings.add(&place.key("name"), NAME_RULE);
    }
    check_text(&definition.title, &place.key("title"), findings);
    findings.accept(&place.key("help"), Text::parse(&definition.help));
    if definition.learned && (definition.required.is_some() || definition.default.is_some()) {
        findings.add(&place.key("learned"), "goes neither with required nor with default");
    }
    if definition.required == Some(true) && definition.default.is_some() {
        findings.add(&place.key("required"), "must not be true for a field that has a default");
    }
    let pattern = definition.pattern.and_then(|source| {
        let sentence = "is not a regular expression of the syntax of Rust's regex crate";
        findings.accept(&place.key("pattern"), Pattern::parse(&source).ok_or(sentence))
    });
    Field {
        required: definition.required.unwrap_or(definition.default.is_none() && !definition.learned),
        learned: definition.learned,
        name: definition.name,
        title: definition.title,
        help: definition.help,
        secret: definition.secret,
        multiline: definition.multiline,
        allow_empty: definition.allow_empty,
        default: definition.default,
        pattern,
        format: definition.format.map(format),
        carriers: Carriers::default(),
    }
}

const fn format(definition: FormatDefinition) -> Format {
    match definition {
        FormatDefinition::HttpsUrl => Format::HttpsUrl,
        FormatDefinition::HeaderName => Format::HeaderName,
        FormatDefinition::ParameterName => Format::ParameterName,
        FormatDefinition::HostLabel => Format::HostLabel,
        FormatDefinition::UrlPath => Format::UrlPath,
    }
}

/// What holds for the fields of the config, once it is known what templates make of them.
pub(super) fn check_config(fields: &[Field], findings: &mut Findings) {
    for (number, field) in fields.iter().enumerate() {
        let place = Place::default().key("config").item(number);
        if field.secret {
            let sentence = "must not be true: config is shown to everyone who may see the connection";
            findings.add(&place.key("secret"), sentence);
        }
        if let Some(default) = &field.default {
            findings.accept(&place.key("default"), field.check(default));
        }
    }
}

/// What holds for the fields of a credential.
pub(super) fn check_credential(fields: &[Field], place: &Place, findings: &mut Findings) {
    for (number, field) in fields.iter().enumerate() {
        let place = place.item(number);
        if field.default.is_some() {
            findings.add(&place.key("default"), "must not be there: a credential has no default");
        }
        if field.allow_empty {
            findings.add(&place.key("allow_empty"), "must not be true: a credential is never empty");
        }
        if field.learned {
            findings.add(&place.key("learned"), "must not be true: a credential is typed in");
        }
    }
}
