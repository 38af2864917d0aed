//! The kinds of single values in a configuration: how each is written, read, and described.
//!
//! Every kind has one parser, which the file, the environment, the flags and serde share, and which says what it would
//! have taken instead. The JSON Schema carries the kind as its `format`; that is how the walk over a document
//! finds the parser (`judge`) without knowing the settings. None of the names is a format that JSON Schema defines.

mod admin;
mod objective;
mod quantity;
mod text;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use super::checked::{AdminListen, RateKey, SessionKey};
use super::error::Complaint;
use crate::address::Allowed;
use crate::policy::PolicyId;

/// A kind of value.
pub(super) trait Scalar: Sized {
    /// Its `format` in the JSON Schema.
    const FORMAT: &'static str;
    /// What can be written, for messages.
    const ALLOWED: &'static str;
    /// Whether a bare integer is also a way to write it.
    const INTEGER: bool = false;

    fn parse(text: &str) -> Result<Self, Complaint>;
    fn show(&self) -> String;
    /// As a JSON number, where it is one.
    fn number(&self) -> Option<u64> {
        None
    }
}

/// Reads `text` as the kind that `format` names and throws the value away; `None` for an unknown format.
pub(super) fn judge(format: &str, text: &str) -> Option<Result<(), Complaint>> {
    fn tried<T: Scalar>(text: &str) -> Result<(), Complaint> {
        T::parse(text).map(drop).map_err(|complaint| match complaint.allowed {
            None => complaint.allowed(T::ALLOWED),
            Some(_) => complaint,
        })
    }
    if let Some(base) = format.strip_suffix(OFF_SUFFIX) {
        let with_off = |complaint: Complaint| match &complaint.allowed {
            Some(allowed) => {
                let allowed = format!("\"{OFF}\" or {allowed}");
                complaint.allowed(allowed)
            }
            None => complaint,
        };
        return if text == OFF { Some(Ok(())) } else { judge(base, text).map(|judged| judged.map_err(with_off)) };
    }
    Some(match format {
        Span::FORMAT => tried::<Span>(text),
        Size::FORMAT => tried::<Size>(text),
        Workers::FORMAT => tried::<Workers>(text),
        InFlight::FORMAT => tried::<InFlight>(text),
        Address::FORMAT => tried::<Address>(text),
        AdminAddress::FORMAT => tried::<AdminAddress>(text),
        NodePlace::FORMAT => tried::<NodePlace>(text),
        PolicyName::FORMAT => tried::<PolicyName>(text),
        NodeUrl::FORMAT => tried::<NodeUrl>(text),
        Network::FORMAT => tried::<Network>(text),
        MethodName::FORMAT => tried::<MethodName>(text),
        UrlPath::FORMAT => tried::<UrlPath>(text),
        Name::FORMAT => tried::<Name>(text),
        HostName::FORMAT => tried::<HostName>(text),
        ModelName::FORMAT => tried::<ModelName>(text),
        Variable::FORMAT => tried::<Variable>(text),
        FilePath::FORMAT => tried::<FilePath>(text),
        LogFilter::FORMAT => tried::<LogFilter>(text),
        Objective::FORMAT => tried::<Objective>(text),
        PriorName::FORMAT => tried::<PriorName>(text),
        FieldName::FORMAT => tried::<FieldName>(text),
        ClientKey::FORMAT => tried::<ClientKey>(text),
        SessionName::FORMAT => tried::<SessionName>(text),
        _ => return None,
    })
}

/// What a value of that format may be, for messages.
pub(super) fn allowed(format: &str) -> Option<String> {
    if let Some(base) = format.strip_suffix(OFF_SUFFIX) {
        return allowed(base).map(|allowed| format!("\"{OFF}\" or {allowed}"));
    }
    // Every parser complains about a NUL, and the complaint says what is allowed.
    judge(format, "\0").and_then(Result::err).and_then(|complaint| complaint.allowed)
}

macro_rules! scalars {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(pub $inner);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.number() {
                    Some(number) => serializer.serialize_u64(number),
                    None => serializer.serialize_str(&self.show()),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = deserializer.deserialize_any(Written { expecting: Self::ALLOWED, integer: Self::INTEGER })?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                match Self::INTEGER {
                    true => json_schema!({ "type": ["integer", "string"], "format": Self::FORMAT }),
                    false => json_schema!({ "type": "string", "format": Self::FORMAT }),
                }
            }
        }
    )* };
}

scalars! {
    /// A duration, `"250ms"`.
    Span(Duration);
    /// A number of bytes, `65536` or `"64KiB"`.
    Size(u64);
    /// Threads; `None` is `"auto"`: one per core.
    Workers(Option<usize>);
    /// Attempts in flight at a node; `None` is `"auto"`.
    InFlight(Option<u32>);
    /// IP address and port.
    Address(SocketAddr);
    /// Where the admin API listens.
    AdminAddress(AdminListen);
    /// Where a node from the admin API may be.
    NodePlace(Allowed);
    /// The name of a policy.
    PolicyName(PolicyId);
    /// Where a node is.
    NodeUrl(String);
    /// A network or a single address.
    Network(IpNet);
    /// What tells clients apart.
    ClientKey(RateKey);
    /// What names a conversation.
    SessionName(SessionKey);
    /// The name of a header field.
    FieldName(http::HeaderName);
    /// An HTTP method.
    MethodName(http::Method);
    /// An absolute path.
    UrlPath(String);
    /// A name of a node or route.
    Name(String);
    /// A host name without a port.
    HostName(String);
    /// The name of an AI model.
    ModelName(String);
    /// The name of an environment variable.
    Variable(String);
    /// A file.
    FilePath(String);
    /// Which log lines are written.
    LogFilter(String);
    /// A snapshot to start from: a path, or `builtin:NAME`.
    PriorName(String);
}

/// What is made short, as the weight of the first byte: 0 is the total, 1 the first byte alone.
///
/// Not among the scalars above: the only one that is a word or a number with a fraction.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective(pub f64);

/// Takes a string, or where allowed an integer, as text.
struct Written {
    expecting: &'static str,
    integer: bool,
}

impl Visitor<'_> for Written {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        match self.integer {
            true => Ok(number.to_string()),
            false => Err(E::invalid_type(de::Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_type(de::Unexpected::Signed(number), &self)),
        }
    }
}

const OFF: &str = "off";
const OFF_SUFFIX: &str = "-or-off";

/// A value, or `"off"`: unlike leaving it out, that also takes back what a lower source set.
#[derive(Clone, Debug, PartialEq)]
pub struct OrOff<T>(pub Option<T>);

impl<T: Serialize> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(OFF),
        }
    }
}

impl<'de, T: Scalar> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(Written { expecting: T::ALLOWED, integer: T::INTEGER })?;
        if text == OFF {
            return Ok(OrOff(None));
        }
        T::parse(&text).map(|value| OrOff(Some(value))).map_err(de::Error::custom)
    }
}

impl<T: Scalar + JsonSchema> JsonSchema for OrOff<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        schema.insert("format".to_owned(), format!("{}{OFF_SUFFIX}", T::FORMAT).into());
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy;

    #[test]
    fn every_kind_says_what_it_allows_and_reads_what_it_shows() {
        for (format, sample) in [
            (Span::FORMAT, "10s"),
            (Size::FORMAT, "64KiB"),
            (Workers::FORMAT, "auto"),
            (Address::FORMAT, "[::1]:80"),
            (AdminAddress::FORMAT, "unix:/run/b.sock"),
            (NodePlace::FORMAT, "*.gpu.internal"),
            (PolicyName::FORMAT, policy::DEFAULT),
            (NodeUrl::FORMAT, "http://h:1/b"),
            (Network::FORMAT, "10.0.0.0/8"),
            (MethodName::FORMAT, "GET"),
            (UrlPath::FORMAT, "/v1"),
            (Name::FORMAT, "gpu-1:8000"),
            (HostName::FORMAT, "admin.example.org"),
            (ModelName::FORMAT, "meta/llama 3"),
            (Variable::FORMAT, "TOKEN_1"),
            (FilePath::FORMAT, "/run/secrets/token"),
            (LogFilter::FORMAT, "info"),
            (Objective::FORMAT, "first-byte"),
            (PriorName::FORMAT, "models/mine.json"),
            (SessionName::FORMAT, "body:metadata.user_id"),
            ("size-or-off", "off"),
        ] {
            assert_eq!(judge(format, sample), Some(Ok(())), "{format}");
            assert!(allowed(format).is_some_and(|text| text.len() > 3), "{format}");
        }
        assert_eq!(judge("date", "2026-01-01"), None);
    }
}
