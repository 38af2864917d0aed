//! Nodes of a live event as columns, of which a stream repeats only those that have changed.
//!
//! As objects, two hundred nodes are eighty kilobytes a second, two thirds of it the names of fields. As columns each
//! name is there once, and most columns (names, states, weights, limits, what was learned) are not there at all: they
//! are as in the event before. A column that changed comes whole, as that is shorter than saying which rows did.

use serde_json::{Map, Value};

/// The columns that one stream has told.
#[derive(Debug, Default)]
pub(super) struct Told(Map<String, Value>);

impl Told {
    /// The same event with `columns` and their length, `count`, in place of `nodes`.
    pub(super) fn compact(&mut self, mut event: Value) -> Value {
        let Some(fields) = event.as_object_mut() else { return event };
        let Some(Value::Array(nodes)) = fields.remove("nodes") else { return event };
        let count = nodes.len();
        let mut columns: Map<String, Value> = Map::new();
        for node in nodes {
            let Value::Object(node) = node else { continue };
            for (key, value) in node {
                if let Value::Array(column) =
                    columns.entry(key).or_insert_with(|| Value::Array(Vec::with_capacity(count)))
                {
                    column.push(value);
                }
            }
        }
        let told = std::mem::replace(&mut self.0, columns);
        let changed = self.0.iter().filter(|(key, column)| told.get(*key) != Some(*column));
        let changed: Map<String, Value> = changed.map(|(key, column)| (key.clone(), column.clone())).collect();
        fields.insert("count".to_owned(), count.into());
        fields.insert("columns".to_owned(), changed.into());
        event
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_columns_that_changed_are_told_again_and_each_with_all_its_rows() {
        let event = |loads: &[u32]| {
            let nodes: Vec<Value> = loads.iter().map(|load| json!({ "name": "n", "in_flight": load })).collect();
            json!({ "now_s": 1.5, "nodes": nodes })
        };
        let mut told = Told::default();
        let first = json!({ "now_s": 1.5, "count": 2, "columns": { "name": ["n", "n"], "in_flight": [1, 2] } });
        assert_eq!(told.compact(event(&[1, 2])), first);
        assert_eq!(told.compact(event(&[1, 2]))["columns"], json!({}));
        assert_eq!(told.compact(event(&[1, 3]))["columns"], json!({ "in_flight": [1, 3] }));
        // Of another fleet every column is another.
        assert_eq!(told.compact(event(&[1]))["columns"], json!({ "name": ["n"], "in_flight": [1] }));
        assert_eq!(told.compact(event(&[])), json!({ "now_s": 1.5, "count": 0, "columns": {} }));
    }
}
