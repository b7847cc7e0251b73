//! Whether a document has the shape of a definition: every unknown key, missing key and wrong type, not
//! only the first, as a parser would report it.
//!
//! Walks the published schema, and knows just the words of JSON Schema that the schema uses. It exists
//! for its sentences and for its completeness; what it lets through is still read into types that refuse
//! unknown keys.

use serde_json::{Number, Value};

use crate::findings::Findings;
use crate::tree::{Entry, Node, Place, Tree};

/// The largest whole number that any key may have.
const MAX_NUMBER: u64 = u32::MAX as u64;

/// Checks a document against a schema and takes unknown keys out of it. Returns whether the rest can be
/// read into the types.
pub(crate) fn check(schema: &Value, tree: &mut Tree, findings: &mut Findings) -> bool {
    let mut walk = Walk { root: schema, findings, readable: true };
    walk.node(schema, tree, &Place::default());
    walk.readable
}

struct Walk<'a> {
    root: &'a Value,
    findings: &'a mut Findings,
    readable: bool,
}

impl<'a> Walk<'a> {
    fn node(&mut self, schema: &'a Value, tree: &mut Tree, place: &Place) {
        let schema = self.resolve(schema);
        if matches!(tree.node, Node::Scalar(Value::Null)) && allows_null(schema) {
            return;
        }
        if let Some(alternatives) = schema["anyOf"].as_array() {
            let (root, mut real) = (self.root, alternatives.iter());
            if let Some(real) = real.find(|it| resolve(root, it)["type"] != "null") {
                self.node(real, tree, place);
            }
            return;
        }
        match (type_of(schema), &mut tree.node) {
            ("object", Node::Map(entries)) => self.map(schema, entries, place),
            ("array", Node::List(items)) => self.list(schema, items, place),
            ("boolean", Node::Scalar(Value::Bool(_))) => {}
            ("string", Node::Scalar(Value::String(text))) => self.text(schema, text, place),
            ("integer", Node::Scalar(Value::Number(number))) => self.number(schema, number, place),
            ("scalar", Node::Scalar(Value::String(_) | Value::Bool(_))) => {}
            ("scalar", Node::Scalar(Value::Number(number))) if !number.is_f64() => {}
            ("scalar", _) => self.refuse(place, "must be text, a whole number, true or false"),
            ("integer", _) => self.refuse(place, "must be a whole number"),
            ("object", _) => self.refuse(place, "must be a map of keys and values"),
            ("array", _) => self.refuse(place, "must be a list"),
            ("boolean", _) => self.refuse(place, "must be true or false"),
            (_, Node::Scalar(_)) => self.refuse(place, "must be text: put it in quotes"),
            _ => self.refuse(place, "must be text"),
        }
    }

    fn map(&mut self, schema: &'a Value, entries: &mut Vec<Entry>, place: &Place) {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !entries.iter().any(|entry| entry.key == required) {
                self.refuse(place, &format!("lacks the key {required}"));
            }
        }
        let free = schema.get("additionalProperties").filter(|it| it.is_object());
        entries.retain_mut(|entry| {
            let at = place.key(&entry.key);
            match schema["properties"].get(&entry.key).or(free) {
                Some(inner) => {
                    self.node(inner, &mut entry.value, &at);
                    true
                }
                None => {
                    let known: Vec<&str> = schema["properties"]
                        .as_object()
                        .into_iter()
                        .flatten()
                        .map(|(key, _)| &**key)
                        .collect();
                    let sentence = format!("is not a known key; known here: {}", known.join(", "));
                    self.findings.add(&at, sentence);
                    false
                }
            }
        });
    }

    fn list(&mut self, schema: &'a Value, items: &mut [Tree], place: &Place) {
        if schema["minItems"].as_u64().is_some_and(|least| (items.len() as u64) < least) {
            self.refuse(place, "must not be empty");
        }
        for (number, item) in items.iter_mut().enumerate() {
            self.node(&schema["items"], item, &place.item(number));
        }
    }

    fn text(&mut self, schema: &'a Value, text: &str, place: &Place) {
        let names = schema["enum"].as_array().into_iter().flatten();
        let names = names.chain(schema["oneOf"].as_array().into_iter().flatten().map(|it| &it["const"]));
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        if !names.is_empty() && !names.contains(&text) {
            self.refuse(place, &format!("must be one of {}", names.join(", ")));
        }
    }

    fn number(&mut self, schema: &'a Value, number: &Number, place: &Place) {
        let least = schema["minimum"].as_u64().unwrap_or_default();
        let most = schema["maximum"].as_u64().unwrap_or(MAX_NUMBER);
        if !number.as_u64().is_some_and(|number| (least..=most).contains(&number)) {
            self.refuse(place, &format!("must be a whole number from {least} to {most}"));
        }
    }

    fn refuse(&mut self, place: &Place, sentence: &str) {
        self.readable = false;
        self.findings.add(place, sentence);
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        resolve(self.root, schema)
    }
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

/// The schema's type, null aside; if there are several, they are all scalars.
fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(types) => {
            let mut types = types.iter().filter_map(Value::as_str).filter(|it| *it != "null");
            match (types.next(), types.next()) {
                (Some(only), None) => only,
                _ => "scalar",
            }
        }
        // An enum of texts may come as `oneOf`, without a type of its own.
        other => other.as_str().unwrap_or("string"),
    }
}

fn allows_null(schema: &Value) -> bool {
    let is_null = |it: &Value| it == "null" || it["type"] == "null";
    ["type", "anyOf"].iter().any(|word| schema[*word].as_array().is_some_and(|list| list.iter().any(is_null)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalog::BUILTIN;
    use crate::schema::schema_value;

    /// Whether the walk and a complete validator both accept a document; they must agree.
    #[track_caller]
    fn accepted(text: &str) -> bool {
        let schema = schema_value();
        let mut tree = Tree::parse(text).unwrap();
        let by_validator = jsonschema::draft202012::is_valid(&schema, &tree.to_json());
        let mut findings = Findings::new(Path::new("test.yaml"));
        let readable = check(&schema, &mut tree, &mut findings);
        assert_eq!(by_validator, readable && findings.is_empty(), "{text}: {findings:?}");
        by_validator
    }

    #[test]
    fn agrees_with_a_complete_validator() {
        let text = BUILTIN.get_file("sendgrid.yaml").unwrap().contents_utf8().unwrap();
        assert!(accepted(text));
        for (from, to) in [
            ("name: Twilio SendGrid", "nome: Twilio SendGrid"),
            ("name: Twilio SendGrid", "name: 7"),
            ("name: Twilio SendGrid", "name: ~"),
            ("name: Twilio SendGrid", "name: [x]"),
            ("secret: true", "secret: 1"),
            ("secret: true", "secret: {}"),
            ("secret: true", "secrets: true"),
            ("format: https_url", "format: url"),
            ("format: https_url", "format: [https_url]"),
            ("method: api_key", "method: key"),
            ("method: api_key", "methods: api_key"),
            ("Authorization: Bearer", "Authorization: [x] # Bearer"),
            ("    http:", "    http: []\n    https:"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert!(changed != text && !accepted(&changed), "{to}");
        }
        assert!(accepted(&text.replacen("format: https_url", "format: ~", 1)), "nothing, said aloud");
        for statuses in ["[199]", "[300]", "['200']", "[200.5]", "[-200]", "[]", "200", "[~]"] {
            assert!(!accepted(&text.replacen("good: [200]", &format!("good: {statuses}"), 1)), "{statuses}");
        }
        let answer =
            |equals: &str| format!("{text}      answer: {{ ok: {{ pointer: /ok, equals: {equals} }} }}\n");
        for constant in ["true", "text", "7", "-7"] {
            assert!(accepted(&answer(constant)), "{constant}");
        }
        for other in ["[]", "{}", "~", "0.5"] {
            assert!(!accepted(&answer(other)), "{other}");
        }
        assert!(!accepted("[]"));
        assert!(!accepted("text"));
        assert!(!accepted("{}"));
    }

    #[test]
    fn what_it_lets_through_can_be_read() {
        let mut tree = Tree::parse("id: a\nsurprise: 1\n").unwrap();
        let mut findings = Findings::new(Path::new("a.yaml"));
        let schema = schema_value();
        assert!(!check(&schema, &mut tree, &mut findings));
        assert!(tree.to_json().get("surprise").is_none(), "an unknown key is taken out");
    }
}
