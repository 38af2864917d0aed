//! What the adaptive policy makes short: a word, or a number between the two words.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use super::super::error::{Complaint, closest, quoted};
use super::{Objective, Scalar};

/// Words and the weights of the first byte that they stand for.
const WORDS: [(&str, f64); 2] = [("total", 0.0), ("first-byte", 1.0)];

impl Scalar for Objective {
    const FORMAT: &'static str = "objective";
    const ALLOWED: &'static str = "\"total\", \"first-byte\", or the weight of the first byte: a number";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let word = WORDS.iter().find(|(word, _)| *word == text).map(|(_, weight)| *weight);
        let weight = word.or_else(|| text.trim().parse().ok());
        match weight {
            Some(weight) if (0.0..=1.0).contains(&weight) => Ok(Objective(weight)),
            Some(_) => Err(Complaint::new(format!("{text} is out of range"))),
            None => {
                let meant = closest(text, WORDS.iter().map(|(word, _)| *word)).map(quoted);
                Err(Complaint::new(format!("{} is not an objective", quoted(text))).suggest(meant))
            }
        }
    }

    fn show(&self) -> String {
        let word = WORDS.iter().find(|(_, weight)| *weight == self.0);
        word.map_or_else(|| self.0.to_string(), |(word, _)| (*word).to_owned())
    }
}

impl Serialize for Objective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match WORDS.iter().find(|(_, weight)| *weight == self.0) {
            Some((word, _)) => serializer.serialize_str(word),
            None => serializer.serialize_f64(self.0),
        }
    }
}

struct WordOrNumber;

impl Visitor<'_> for WordOrNumber {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Objective::ALLOWED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

impl<'de> Deserialize<'de> for Objective {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(WordOrNumber)?;
        Objective::parse(&text).map_err(de::Error::custom)
    }
}

impl JsonSchema for Objective {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Objective".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "string"], "format": Objective::FORMAT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_is_a_word_or_a_weight_between_them() {
        for (text, weight) in [("total", 0.0), ("first-byte", 1.0), ("0.25", 0.25), ("0", 0.0)] {
            assert_eq!(Objective::parse(text), Ok(Objective(weight)));
            assert_eq!(Objective::parse(&Objective(weight).show()), Ok(Objective(weight)));
        }
        assert_eq!(Objective::parse("totl").expect_err("typo").suggestion.as_deref(), Some("\"total\""));
        for bad in ["", "1.5", "-0.1", "NaN", "inf"] {
            assert!(Objective::parse(bad).is_err(), "{bad}");
        }
    }
}
