//! A YAML document as a tree that remembers its lines, so that every finding can say where.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Options, Spanned};

/// A node and the line that it begins on, counted from 1.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) line: u64,
    pub(crate) node: Node,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: u64,
    pub(crate) value: Tree,
}

/// Why a text is not YAML, and on which line, if the parser knows.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: Option<u64>,
    pub(crate) sentence: String,
}

/// Where in a document something is: the keys and item numbers from the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

// === impl Tree ===

impl Tree {
    /// Reads one YAML document.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let options: Options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| SyntaxError {
            line: error.location().map(|location| location.line()).filter(|line| *line > 0),
            sentence: one_line(&error.without_snippet().to_string()),
        })
    }

    /// The line of a place, or of the nearest thing around it that is there.
    pub(crate) fn line_of(&self, place: &Place) -> u64 {
        let (mut tree, mut line) = (self, self.line);
        for step in &place.0 {
            let next = match (step, &tree.node) {
                (Step::Key(key), Node::Map(entries)) => {
                    entries.iter().find(|entry| entry.key == *key).map(|entry| (&entry.value, entry.line))
                }
                (Step::Item(number), Node::List(items)) => items.get(*number).map(|item| (item, item.line)),
                _ => None,
            };
            let Some(found) = next else { return line };
            (tree, line) = found;
        }
        line
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(items) => items.iter().map(Self::to_json).collect(),
            Node::Map(entries) => {
                Value::Object(entries.iter().map(|it| (it.key.clone(), it.value.to_json())).collect())
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), node: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Tree>()? {
            entries.push(Entry { line: key.referenced.line(), key: key.value, value });
        }
        Ok(Node::Map(entries))
    }
}

// === impl Place ===

impl Place {
    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    pub(crate) fn item(&self, number: usize) -> Self {
        self.with(Step::Item(number))
    }

    fn with(&self, step: Step) -> Self {
        let mut place = self.clone();
        place.0.push(step);
        place
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if number == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item(item) => write!(f, "[{item}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "id: a\nlist:\n  - name: x\n    on: no\n  - name: 2026-01-02\n";

    #[test]
    fn knows_the_line_of_every_place() {
        let tree = Tree::parse(TEXT).unwrap();
        let list = Place::default().key("list");
        assert_eq!(tree.line_of(&Place::default().key("id")), 1);
        assert_eq!(tree.line_of(&list.item(0).key("on")), 4);
        assert_eq!(tree.line_of(&list.item(1)), 5);
        assert_eq!(tree.line_of(&list.item(1).key("missing")), 5, "the nearest thing that is there");
    }

    #[test]
    fn what_looks_like_a_date_or_a_no_is_text() {
        let json = Tree::parse(TEXT).unwrap().to_json();
        assert_eq!(json["list"][0]["on"], "no");
        assert_eq!(json["list"][1]["name"], "2026-01-02");
    }

    #[test]
    fn a_syntax_error_says_on_which_line() {
        assert_eq!(Tree::parse("a: 1\nb: [1\nc: 2\n").unwrap_err().line.map(|line| line > 1), Some(true));
        assert!(Tree::parse("a: 1\na: 2\n").is_err(), "the same key twice");
    }
}
