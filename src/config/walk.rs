//! The walk that holds one source of settings against the schema.
//!
//! Serde stops at the first mistake and does not know where a merged value came from. The walk visits every value,
//! notes each mistake with its place, and cuts the value out, so that what is left always deserializes and the
//! checks behind it can go on looking. It understands exactly the keywords that `raw.rs` produces (a test in `schema.rs`
//! fails when a new one appears). It shows a wrong value only where no secret can be: never a text that stands
//! where a table belongs, as in `token = "..."`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::error::{Complaint, ConfigError, closest, quoted};
use super::schema::{has_type, leaves};
use super::tree::{Tree, Value};
use super::value::{self, Scalar, Size, Span, Variable};

/// The tree without what is wrong in it; `None` if that is all of it. Mistakes go to `errors`.
pub(super) fn sound(tree: Tree, schema: &Json, errors: &mut Vec<ConfigError>) -> Option<Tree> {
    let Tree { key, at, label, value } = tree;
    let mut complain = |complaint: Complaint| errors.push(complaint.at(at.clone(), &*label));
    let value = match value {
        Value::Table(entries) if has_type(schema, "object") => {
            for missing in required(schema).filter(|key| !entries.contains_key(*key)) {
                let meant = schema.pointer(&format!("/properties/{missing}")).map(allowed).unwrap_or_default();
                complain(Complaint::new(format!("has no {missing}, which it needs")).allowed(meant));
            }
            Value::Table(table(entries, schema, errors)?)
        }
        Value::List(items) if has_type(schema, "array") => {
            let most = schema.get("maxItems").and_then(Json::as_u64).unwrap_or(u64::MAX);
            if items.len() as u64 > most {
                complain(Complaint::new(format!("has {} entries", items.len())).allowed(format!("at most {most}")));
            }
            let inner = schema.get("items").unwrap_or(&Json::Null);
            Value::List(items.into_iter().filter_map(|item| sound(item, inner, errors)).collect())
        }
        other => match judge(&other, schema, &label) {
            Ok(()) => other,
            Err(complaint) => {
                complain(complaint);
                return None;
            }
        },
    };
    Some(Tree { key, at, label, value })
}

/// The sound entries; `None` if a required one is not among them.
fn table(
    entries: BTreeMap<String, Tree>,
    schema: &Json,
    errors: &mut Vec<ConfigError>,
) -> Option<BTreeMap<String, Tree>> {
    let known = schema.get("properties").and_then(Json::as_object)?;
    let mut kept = BTreeMap::new();
    for (key, tree) in entries {
        match known.get(&key) {
            Some(inner) => kept.extend(sound(tree, inner, errors).map(|tree| (key, tree))),
            None => {
                let keys: Vec<&str> = known.keys().map(String::as_str).collect();
                let complaint = unknown(&key, &keys);
                errors.push(complaint.at(tree.key, tree.label));
            }
        }
    }
    required(schema).all(|key| kept.contains_key(key)).then_some(kept)
}

fn required(schema: &Json) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn unknown(key: &str, known: &[&str]) -> Complaint {
    // A key that is right elsewhere was put into the wrong table.
    let elsewhere = || {
        let paths = leaves();
        let found = paths.into_iter().find(|(path, _)| path.rsplit_once('.').is_some_and(|(_, last)| last == key));
        found.map(|(path, _)| path)
    };
    let suggestion = closest(key, known.iter().copied()).map(str::to_owned).or_else(elsewhere);
    Complaint::new("unknown key").allowed(known.join(", ")).suggest(suggestion)
}

/// Whether a value that is no fitting table or list is what the schema wants.
fn judge(value: &Value, schema: &Json, label: &str) -> Result<(), Complaint> {
    let format = schema.get("format").and_then(Json::as_str);
    let fits = match value {
        Value::Text(_) => has_type(schema, "string"),
        Value::Integer(_) => has_type(schema, "integer") || has_type(schema, "number"),
        Value::Float(_) => has_type(schema, "number"),
        Value::Bool(_) => has_type(schema, "boolean"),
        Value::List(_) | Value::Table(_) | Value::Other(_) => false,
    };
    if !fits {
        return Err(wrong_type(value, schema, format, label));
    }
    if let (Value::Text(text), Some(words)) = (value, schema.get("enum").and_then(Json::as_array)) {
        let words: Vec<&str> = words.iter().filter_map(Json::as_str).collect();
        if !words.contains(&text.as_str()) {
            let complaint = Complaint::new(format!("{} is unknown", quoted(text))).allowed(allowed(schema));
            return Err(complaint.suggest(closest(text, words).map(quoted)));
        }
    }
    let text = match value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        _ => return Ok(()),
    };
    if let Some(verdict) = format.and_then(|format| value::judge(format, &text)) {
        verdict.map_err(|complaint| with_range(complaint, schema))?;
    }
    let number = match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ if format.is_some_and(|format| format.starts_with(Size::FORMAT)) => {
            Size::parse(&text).ok().map(|size| size.0 as f64)
        }
        _ => None,
    };
    match number {
        Some(number) if !in_range(number, schema) => {
            Err(Complaint::new(format!("{text} is out of range")).allowed(allowed(schema)))
        }
        _ => Ok(()),
    }
}

/// The allowed values of a size depend on the key, those of other formats do not.
fn with_range(complaint: Complaint, schema: &Json) -> Complaint {
    match schema.get("minimum").is_some() {
        true => complaint.allowed(allowed(schema)),
        false => complaint,
    }
}

fn wrong_type(value: &Value, schema: &Json, format: Option<&str>, label: &str) -> Complaint {
    let secret = has_type(schema, "object") || has_type(schema, "array") || format == Some(Variable::FORMAT);
    let (problem, suggestion) = match value {
        Value::Text(_) if secret => ("the value (not shown) is a string".to_owned(), None),
        Value::Text(text) => {
            let meant = ["integer", "number"].iter().any(|kind| has_type(schema, kind)) && text.parse::<f64>().is_ok();
            let meant = meant || (has_type(schema, "boolean") && ["true", "false"].contains(&text.as_str()));
            (format!("{} is a string", quoted(text)), meant.then(|| format!("{text} without quotes")))
        }
        Value::Integer(number) => {
            let span = format.is_some_and(|format| format.starts_with(Span::FORMAT));
            (format!("{number} is an integer"), span.then(|| format!("\"{number}s\"")))
        }
        Value::Float(number) => (format!("{number} is a number with a fraction"), None),
        Value::Bool(word) => (format!("{word} is a boolean"), None),
        Value::List(_) => ("the value is an array".to_owned(), None),
        Value::Table(_) => {
            let tables = schema.get("items").is_some_and(|items| has_type(items, "object"));
            ("the value is a table".to_owned(), tables.then(|| format!("[[{label}]]")))
        }
        Value::Other(kind) => (format!("the value is {kind}"), None),
    };
    Complaint::new(problem).allowed(allowed(schema)).suggest(suggestion)
}

fn in_range(number: f64, schema: &Json) -> bool {
    let bound = |keyword: &str| schema.get(keyword).and_then(Json::as_f64);
    number.is_finite()
        && bound("minimum").is_none_or(|least| number >= least)
        && bound("exclusiveMinimum").is_none_or(|less| number > less)
        && bound("maximum").is_none_or(|most| number <= most)
}

/// What the schema allows, for people.
fn allowed(schema: &Json) -> String {
    if let Some(words) = schema.get("enum").and_then(Json::as_array) {
        let words: Vec<String> = words.iter().filter_map(Json::as_str).map(quoted).collect();
        return words.join(", ");
    }
    let bytes = |number: &Json| number.as_u64().map_or_else(|| number.to_string(), |bytes| Size(bytes).show());
    let shown = |number: &Json| number.to_string();
    let format = schema.get("format").and_then(Json::as_str);
    let sized = format.is_some_and(|format| format.starts_with(Size::FORMAT));
    let bound = |keyword: &str| schema.get(keyword).map(|n| if sized { bytes(n) } else { shown(n) });
    let range = match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum")) {
        (Some(least), _, Some(most)) => format!(" from {least} to {most}"),
        (_, Some(less), Some(most)) => format!(" above {less} and at most {most}"),
        (Some(least), ..) => format!(" of at least {least}"),
        _ => String::new(),
    };
    if let Some(text) = format.and_then(value::allowed) {
        let comma = if range.is_empty() { "" } else { "," };
        return format!("{text}{comma}{range}");
    }
    if has_type(schema, "array") {
        return format!("an array, each entry {}", schema.get("items").map(allowed).unwrap_or_default());
    }
    let kinds = [
        ("object", "a table"),
        ("boolean", "true or false"),
        ("integer", "an integer"),
        ("number", "a number"),
        ("string", "a string"),
    ];
    let kind = kinds.iter().find(|(kind, _)| has_type(schema, kind)).map_or("nothing", |(_, words)| words);
    format!("{kind}{range}")
}
