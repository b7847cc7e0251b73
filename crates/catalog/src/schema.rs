//! The JSON Schema of the file format, for editors and for the shape check.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::definition::Definition;

/// The JSON Schema (draft 2020-12) of a provider definition, as pretty-printed JSON.
///
/// The same text is published as `provider.schema.json` beside this crate's manifest.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&schema_value()).expect("a JSON value serializes");
    text.push('\n');
    text
}

pub(crate) fn schema_value() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Definition>().to_value()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalog::BUILTIN;
    use crate::tree::Tree;

    #[test]
    fn the_published_schema_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("provider.schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, schema()).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == schema(),
            "provider.schema.json is stale: UPDATE_SCHEMA=1 cargo nextest run -p keyholder-catalog"
        );
    }

    #[test]
    fn every_built_in_definition_follows_the_schema() {
        let validator = jsonschema::draft202012::new(&schema_value()).unwrap();
        for file in BUILTIN.files() {
            let document = Tree::parse(file.contents_utf8().unwrap()).unwrap().to_json();
            let errors: Vec<String> =
                validator.iter_errors(&document).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", file.path().display());
        }
    }

    #[test]
    fn the_schema_refuses_an_unknown_key_at_every_depth() {
        let validator = jsonschema::draft202012::new(&schema_value()).unwrap();
        let text = BUILTIN.get_file("github.yaml").unwrap().contents_utf8().unwrap();
        let document = Tree::parse(text).unwrap().to_json();
        assert!(validator.is_valid(&document));
        for pointer in [
            "",
            "/auth_methods/0",
            "/auth_methods/0/fields/0",
            "/auth_methods/0/http",
            "/auth_methods/0/test",
            "/auth_methods/0/test/account",
            "/scopes/0",
        ] {
            let mut changed = document.clone();
            changed.pointer_mut(pointer).unwrap()["surprise"] = true.into();
            assert!(!validator.is_valid(&changed), "{pointer}");
        }
    }
}
