//! The JSON Schema of the configuration, derived from `raw.rs`.
//!
//! It is printed for editors (`bellwether config schema`), it drives the walk that finds mistakes, and its paths name the
//! environment variables. Everything is inlined: no `$ref`, so that all of these readers stay small.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::raw::Raw;

/// The JSON Schema of the configuration file (draft 2020-12).
pub fn schema() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<Raw>().to_value();
        simplify(&mut schema);
        schema
    })
}

/// Removes what TOML cannot express (`null`) and the names of Rust's number types.
fn simplify(schema: &mut Json) {
    match schema {
        Json::Object(map) => {
            if let Some(Json::Array(types)) = map.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if map.get("default").is_some_and(Json::is_null) {
                map.remove("default");
            }
            if map.get("format").and_then(Json::as_str).is_some_and(|f| f.starts_with("uint") || f == "double") {
                map.remove("format");
            }
            // Defaults of tables repeat those of their keys.
            if map.get("properties").is_some() {
                map.remove("default");
            }
            map.values_mut().for_each(simplify);
        }
        Json::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// Every path that holds a value or an array, with its schema: `timeouts.first_byte`, `node`.
pub(super) fn leaves() -> Vec<(String, &'static Json)> {
    fn collect(path: &str, schema: &'static Json, out: &mut Vec<(String, &'static Json)>) {
        match schema.get("properties").and_then(Json::as_object) {
            Some(keys) => keys.iter().for_each(|(key, schema)| collect(&join(path, key), schema, out)),
            None => out.push((path.to_owned(), schema)),
        }
    }
    let mut out = Vec::new();
    collect("", schema(), &mut out);
    out
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether the schema allows values of that JSON type.
pub(super) fn has_type(schema: &Json, kind: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(only)) => only == kind,
        Some(Json::Array(kinds)) => kinds.iter().any(|k| k == kind),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the walk understands, and what it may ignore.
    const KEYWORDS: [&str; 12] = [
        "type",
        "format",
        "enum",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "maxItems",
        "items",
        "properties",
        "required",
        "additionalProperties",
        "default",
    ];

    fn visit(schema: &Json, path: &str, visitor: &mut dyn FnMut(&str, &Json)) {
        visitor(path, schema);
        if let Some(items) = schema.get("items") {
            visit(items, &format!("{path}[]"), visitor);
        }
        for (key, inner) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            visit(inner, &join(path, key), visitor);
        }
    }

    #[test]
    fn the_schema_has_no_keyword_that_the_walk_does_not_know() {
        visit(schema(), "", &mut |path, schema| {
            for keyword in schema.as_object().expect("a schema is an object").keys() {
                let about = ["$schema", "title", "description"].contains(&keyword.as_str());
                assert!(about || KEYWORDS.contains(&keyword.as_str()), "{path}: {keyword}");
            }
        });
    }

    #[test]
    fn every_key_is_described_and_every_number_and_list_is_bounded() {
        visit(schema(), "", &mut |path, schema| {
            if !path.is_empty() && !path.ends_with("[]") {
                assert!(schema.get("description").is_some(), "{path} has no description");
            }
            if has_type(schema, "array") {
                assert!(schema.get("maxItems").is_some(), "{path} is unbounded");
            }
            if has_type(schema, "number") || (has_type(schema, "integer") && schema.get("format").is_none()) {
                let lower = schema.get("minimum").or(schema.get("exclusiveMinimum"));
                assert!(lower.is_some() && schema.get("maximum").is_some(), "{path} is unbounded");
            }
            if has_type(schema, "object") {
                assert_eq!(schema.get("additionalProperties"), Some(&Json::Bool(false)), "{path} takes anything");
            }
        });
    }

    #[test]
    fn every_default_is_what_the_schema_says() {
        let defaults = serde_json::to_value(Raw::default()).expect("defaults are plain data");
        for (path, schema) in leaves() {
            let value = defaults.pointer(&format!("/{}", path.replace('.', "/")));
            let default = schema.get("default");
            // Lists of tables are empty, and left out where they are.
            let tables = schema.pointer("/items/properties").is_some();
            assert!(default == value && (default.is_some() || tables), "{path}: {default:?} {value:?}");
        }
    }
}
