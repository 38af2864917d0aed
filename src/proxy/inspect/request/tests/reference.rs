//! The same, slowly: a real parser, and bodies as Python writes them.

use std::fmt::Write as _;
use std::io;

use proptest::prelude::*;
use serde_json::Value;
use serde_json::ser::Formatter;

use super::*;

/// Writes JSON as Python's `json.dumps` does by default: spaces after separators, everything beyond ASCII escaped.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut escaped = String::new();
        for letter in fragment.chars() {
            if letter.is_ascii() {
                escaped.push(letter);
                continue;
            }
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").map_err(io::Error::other)?;
            }
        }
        writer.write_all(escaped.as_bytes())
    }
}

pub(super) fn as_python(value: &Value) -> String {
    use serde::Serialize as _;
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Python)).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The same facts by the slow way: a parsed document, looked up by name. `write` is how the body was written.
pub(super) struct Reference {
    pub(super) write: fn(&Value) -> String,
    pub(super) size: Size,
}

impl Reference {
    pub(super) fn prompt(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.size.bytes += text.len() as u64,
            Value::Array(elements) => self.array(elements),
            Value::Object(members) => {
                for (key, value) in members {
                    match key.as_str() {
                        "content" | "text" | "output" | "thinking" | "reasoning_content" | "tool_calls"
                        | "function" => {
                            self.prompt(value);
                        }
                        "arguments" | "input" => self.json(value),
                        "image_url" | "source" => self.size.media |= !value.is_null(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn array(&mut self, elements: &[Value]) {
        let flat = !elements.iter().any(|element| element.is_string() || element.is_array() || element.is_object());
        let whole = |value: &Value| value.is_u64() || value.is_i64();
        if flat && elements.iter().all(whole) {
            self.size.token_ids += elements.len() as u64;
        } else if flat {
            self.size.elements += elements.len() as u64;
        } else {
            for element in elements {
                match element {
                    Value::Number(_) if whole(element) => self.size.token_ids += 1,
                    Value::Number(_) => self.size.elements += 1,
                    _ => self.prompt(element),
                }
            }
        }
    }

    pub(super) fn json(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.size.bytes += text.len() as u64,
            Value::Array(_) | Value::Object(_) => self.size.bytes += (self.write)(value).len() as u64,
            _ => {}
        }
    }
}

pub(super) fn limit(value: Option<&Value>) -> Option<u32> {
    let number = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
        _ => return None,
    };
    (number.is_sign_positive()).then_some(number as u32)
}

pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z \"\\\\/\n\t\u{1}é語😀]{0,40}",
        Just("model".to_owned()),
        Just("},{\"stream\":true".to_owned()),
        "[a-z]{60,90}",
    ]
}

pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no infinity", |number| number.is_finite()).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec!["content", "text", "function", "arguments", "source", "role", "model", "stream"])
            .prop_map(str::to_owned),
        text(),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(any::<u16>(), 0..20).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..5).prop_map(|members| members.into_iter().collect()),
        ]
    })
}
