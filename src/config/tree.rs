//! Settings of any source as one kind of tree, in which every value knows where it was set.
//!
//! TOML, JSON in an environment variable and flags become the same tree, are held against the same schema, and are laid
//! over each other; then the whole turns into one JSON value for serde and a map from path to [`Origin`]. Tables merge
//! key by key; arrays are replaced whole, because "the third node" of two sources are unrelated.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Complaint, ConfigError, Origin};

/// A value and where it was set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree {
    /// Where its key is.
    pub(super) key: Origin,
    /// Where it is itself.
    pub(super) at: Origin,
    /// Its path in its own source, for messages.
    pub(super) label: String,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Tree>),
    Table(BTreeMap<String, Tree>),
    /// What no setting can be, as words.
    Other(&'static str),
}

impl Tree {
    /// A value whose key and place are the same.
    pub(super) fn new(at: &Origin, label: impl Into<String>, value: Value) -> Tree {
        Tree { key: at.clone(), at: at.clone(), label: label.into(), value }
    }

    /// An empty document.
    pub(super) fn empty() -> Tree {
        Tree::new(&Origin::Default, "", Value::Table(BTreeMap::new()))
    }

    /// The tree of a JSON value, all of it at one place.
    pub(super) fn from_json(json: Json, at: &Origin, label: &str) -> Tree {
        let value = match json {
            Json::Null => Value::Other("null"),
            Json::Bool(word) => Value::Bool(word),
            Json::String(text) => Value::Text(text),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Value::Integer(number),
                (None, Some(number)) => Value::Float(number),
                (None, None) => Value::Other("a number that is too large"),
            },
            Json::Array(items) => {
                let numbered = items.into_iter().enumerate();
                Value::List(numbered.map(|(i, item)| Tree::from_json(item, at, &format!("{label}[{i}]"))).collect())
            }
            Json::Object(map) => {
                let entry = |(key, json): (String, Json)| {
                    let tree = Tree::from_json(json, at, &super::schema::join(label, &key));
                    (key, tree)
                };
                Value::Table(map.into_iter().map(entry).collect())
            }
        };
        Tree::new(at, label, value)
    }

    /// Puts `tree` at a path of tables, over whatever is there.
    pub(super) fn insert(&mut self, path: &str, tree: Tree) {
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        let Value::Table(entries) = &mut self.value else { return };
        match rest {
            None => drop(entries.insert(head.to_owned(), tree)),
            Some(rest) => {
                let table = || Tree::new(&tree.at, head, Value::Table(BTreeMap::new()));
                entries.entry(head.to_owned()).or_insert_with(table).insert(rest, tree);
            }
        }
    }

    /// Lays `upper` over this tree.
    pub(super) fn overlay(&mut self, upper: Tree) {
        match (&mut self.value, upper.value) {
            (Value::Table(lower), Value::Table(entries)) => {
                for (key, tree) in entries {
                    match lower.get_mut(&key) {
                        Some(under) => under.overlay(tree),
                        None => drop(lower.insert(key, tree)),
                    }
                }
            }
            (_, value) => *self = Tree { value, ..upper },
        }
    }

    /// The plain value; what JSON cannot express becomes `null`.
    pub(super) fn to_json(&self) -> Json {
        match &self.value {
            Value::Text(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Bool(word) => (*word).into(),
            Value::List(items) => items.iter().map(Tree::to_json).collect(),
            Value::Table(entries) => entries.iter().map(|(key, tree)| (key.clone(), tree.to_json())).collect(),
            Value::Other(_) => Json::Null,
        }
    }

    /// Calls `visit` with the path of this and every tree below.
    pub(super) fn each(&self, path: &str, visit: &mut dyn FnMut(&str, &Tree)) {
        visit(path, self);
        match &self.value {
            Value::List(items) => {
                items.iter().enumerate().for_each(|(i, item)| item.each(&format!("{path}[{i}]"), visit));
            }
            Value::Table(entries) => {
                entries.iter().for_each(|(key, tree)| tree.each(&super::schema::join(path, key), visit));
            }
            _ => {}
        }
    }
}

/// Line and column of byte offsets in a text.
pub(super) struct Places<'a> {
    path: Arc<str>,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(super) fn new(path: &str, text: &'a str) -> Places<'a> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Places { path: path.into(), text, starts }
    }

    pub(super) fn at(&self, offset: usize) -> Origin {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts[line - 1];
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        Origin::File { path: Arc::clone(&self.path), line, column: before.chars().count() + 1 }
    }
}

/// The tree of a TOML file. A file that is no TOML gives every syntax error, and no tree: what its rest would mean
/// is a guess.
pub(super) fn from_toml(path: &str, text: &str) -> Result<Tree, Vec<ConfigError>> {
    let places = Places::new(path, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let at = Origin::File { path: Arc::clone(&places.path), line: 1, column: 1 };
        return Ok(Tree::new(&at, "", table(document.get_ref(), &places, "")));
    }
    let error = |error: &toml::de::Error| {
        let at = places.at(error.span().map_or(text.len(), |span| span.start));
        Complaint::new(format!("not TOML: {}", error.message())).at(at, "")
    };
    let mut found: Vec<ConfigError> = errors.iter().map(error).collect();
    found.dedup();
    Err(found)
}

fn table(entries: &DeTable<'_>, places: &Places<'_>, label: &str) -> Value {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        let mut tree = value_of(value, places, &super::schema::join(label, name));
        tree.key = places.at(key.span().start);
        (name.to_string(), tree)
    };
    Value::Table(entries.iter().map(entry).collect())
}

fn value_of(spanned: &Spanned<DeValue<'_>>, places: &Places<'_>, label: &str) -> Tree {
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("an integer that is too large"),
        },
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other("no number"), Value::Float),
        DeValue::Boolean(word) => Value::Bool(*word),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => {
            let numbered = items.iter().enumerate();
            Value::List(numbered.map(|(i, item)| value_of(item, places, &format!("{label}[{i}]"))).collect())
        }
        DeValue::Table(entries) => table(entries, places, label),
    };
    Tree::new(&places.at(spanned.span().start), label, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(tree: &Tree) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        tree.each("", &mut |path, tree| drop(found.insert(path.to_owned(), tree.at.to_string())));
        found
    }

    #[test]
    fn every_value_of_a_file_knows_its_line_and_column() {
        let text =
            "listen = \"é\"\n[admin]\n  metrics_public = true\n\n[[node]]\nurl = 1\n[[node]]\nmodels = [\n 'a']\n";
        let found = origins(&from_toml("f", text).expect("valid"));
        let at = |path: &str| found[path].as_str();
        assert_eq!(at("listen"), "f:1:10");
        assert_eq!(at("admin"), "f:2:1");
        assert_eq!(at("admin.metrics_public"), "f:3:20");
        assert_eq!(at("node[0].url"), "f:6:7");
        assert_eq!(at("node[1]"), "f:7:1");
        assert_eq!(at("node[1].models[0]"), "f:9:2");
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let found = origins(&from_toml("f", "log = { level = \"é\", access = 1 }").expect("valid"));
        assert_eq!(found["log.access"], "f:1:31");
    }

    #[test]
    fn all_syntax_errors_are_found_at_once() {
        let errors = from_toml("f", "a = \nb = 1\nb = 2\n[c\n").expect_err("three mistakes");
        let lines: Vec<String> = errors.iter().map(|error| error.origin.to_string()).collect();
        assert!(["f:1:", "f:3:", "f:4:"].iter().all(|at| lines.iter().any(|line| line.starts_with(at))), "{errors:?}");
    }

    #[test]
    fn tables_merge_and_arrays_are_replaced() {
        let json = |text: &str| Tree::from_json(serde_json::from_str(text).expect("JSON"), &Origin::Default, "");
        let mut lower = json(r#"{"a": {"x": 1, "y": [1, 2]}, "b": 1}"#);
        lower.overlay(json(r#"{"a": {"y": [3]}, "c": 2}"#));
        assert_eq!(lower, json(r#"{"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}"#));
    }
}
