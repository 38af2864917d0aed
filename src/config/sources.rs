//! Where settings come from: flags over environment over file over defaults, each turned into a [`Tree`].
//!
//! The environment is read once, when the process starts, and kept: a reload reads the file and the token files again, and
//! a test gives whatever environment it wants. A variable is named after the path of its key, `timeouts.first_byte`
//! is `BELLWETHER_TIMEOUTS_FIRST_BYTE`. An empty variable counts as not set, as container tools produce them. An
//! unknown `BELLWETHER_` variable is a mistake, except those that Kubernetes puts next to a service of that name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::error::{Complaint, ConfigError, Origin, closest};
use super::node_url::NodeArgument;
use super::schema::{has_type, leaves};
use super::tree::{Tree, Value};

/// What every variable of ours begins with.
const PREFIX: &str = "BELLWETHER_";

/// Names the configuration file where no flag does.
pub const FILE_VARIABLE: &str = "BELLWETHER_CONFIG";

/// The environment as it was when it was captured. `Debug` shows names only: values may be secrets.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// That of this process.
    pub fn of_process() -> Env {
        Env(std::env::vars_os().collect())
    }

    /// The value of a variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Ours that are set, by name.
    fn ours(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        let named = self.0.iter().filter_map(|(name, value)| Some((name.to_str()?, value.as_os_str())));
        named.filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Env {
        Env(vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ours().map(|(name, _)| name)).finish_non_exhaustive()
    }
}

/// A flag that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// With its dashes, for messages.
    pub flag: &'static str,
    /// The path of the key that it sets, such as `admin.listen`.
    pub key: &'static str,
    /// What was given, once per use; more than one only for keys that are lists. Without any the flag sets nothing.
    pub values: Vec<String>,
}

/// Everything that settings are made from; kept for the next reload.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The command line.
    pub flags: Vec<Flag>,
    /// The environment.
    pub env: Env,
}

impl Sources {
    /// The file that `--config` or else [`FILE_VARIABLE`] names, with flags and environment over it.
    pub fn new(file: Option<PathBuf>, flags: Vec<Flag>, env: Env) -> Sources {
        let file = file.or_else(|| env.get(FILE_VARIABLE).map(PathBuf::from));
        Sources { file, flags, env }
    }

    /// What the flags set.
    pub(super) fn flag_tree(&self, errors: &mut Vec<ConfigError>) -> Tree {
        let mut tree = Tree::empty();
        let leaves = leaves();
        for Flag { flag, key, values } in self.flags.iter().filter(|flag| !flag.values.is_empty()) {
            let at = Origin::Flag { flag };
            let schema = leaves.iter().find(|(path, _)| path == key).map(|(_, schema)| *schema);
            let value = match (schema, values.as_slice()) {
                (Some(schema), [one]) if !has_type(schema, "array") => from_text(one, schema, &at, key),
                (Some(schema), many) if has_type(schema, "array") => {
                    let items = many.iter().enumerate();
                    let item = |(i, text): (usize, &String)| entry(text, key, &at, &format!("{key}[{i}]"));
                    Ok(Tree::new(&at, *key, Value::List(items.map(item).collect())))
                }
                _ => Err(Complaint::new("the flag sets no key, or is given more than once")),
            };
            match value {
                Ok(value) => tree.insert(key, value),
                Err(complaint) => errors.push(complaint.at(at, *key)),
            }
        }
        tree
    }

    /// What the environment sets. `tokens` are variables that the file names as holding a token: they set nothing,
    /// even if they happen to be called like a key, `BELLWETHER_ADMIN_TOKEN`.
    pub(super) fn env_tree(&self, tokens: &[String], errors: &mut Vec<ConfigError>) -> Tree {
        let mut tree = Tree::empty();
        let known = variables();
        for (name, value) in self.env.ours().filter(|(name, _)| !tokens.iter().any(|token| token == name)) {
            let Some((path, schema)) = known.get(name) else { continue };
            let at = Origin::Environment { variable: name.to_owned() };
            let text = value.to_str().ok_or_else(|| Complaint::new("the value (not shown) is not UTF-8"));
            match text.and_then(|text| from_text(text, schema, &at, path)) {
                Ok(value) => tree.insert(path, value),
                Err(complaint) => errors.push(complaint.at(at, path)),
            }
        }
        tree
    }

    /// Complains about variables of ours that mean nothing. `tokens` are those that settings name as holding a token.
    pub(super) fn check_variables(&self, tokens: &[String], errors: &mut Vec<ConfigError>) {
        let known = variables();
        for (name, value) in self.env.ours() {
            let ours = known.contains_key(name) || name == FILE_VARIABLE || tokens.iter().any(|token| token == name);
            if ours || is_service_link(name, value) {
                continue;
            }
            let candidates = known.keys().map(String::as_str).chain([FILE_VARIABLE]);
            let complaint = Complaint::new("unknown variable")
                .allowed("BELLWETHER_ and the path of a key, such as BELLWETHER_ADMIN_LISTEN")
                .suggest(closest(name, candidates).map(str::to_owned));
            errors.push(complaint.at(Origin::Environment { variable: name.to_owned() }, ""));
        }
    }
}

/// Every variable that sets a key, with the key's path and schema.
pub(super) fn variables() -> BTreeMap<String, (String, &'static Json)> {
    let name = |path: &str| format!("{PREFIX}{}", path.replace('.', "_").to_uppercase());
    leaves().into_iter().map(|(path, schema)| (name(&path), (path, schema))).collect()
}

/// Whether Kubernetes (or Docker's links) made the variable for a service whose name begins with `bellwether`:
/// `BELLWETHER_SERVICE_HOST`, `BELLWETHER_ADMIN_SERVICE_PORT_HTTP`, `BELLWETHER_PORT=tcp://...`,
/// `BELLWETHER_PORT_8080_TCP_ADDR`. Refusing them would keep a pod from starting because of its own service.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let url = value.to_str().is_some_and(|value| ["tcp://", "udp://", "sctp://"].iter().any(|s| value.starts_with(s)));
    let port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        number && parts.next().is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && url)
        || port
}

/// The value that a text stands for where the schema wants something else than text. What does not fit stays a text,
/// for the walk to complain about.
fn from_text(text: &str, schema: &Json, at: &Origin, label: &str) -> Result<Tree, Complaint> {
    let trimmed = text.trim();
    let integer = trimmed.parse().ok().filter(|_| has_type(schema, "integer") || has_type(schema, "number"));
    let float = trimmed.parse().ok().filter(|_| has_type(schema, "number"));
    let word = trimmed.parse().ok().filter(|_| has_type(schema, "boolean"));
    let scalar = integer.map(Value::Integer).or(float.map(Value::Float)).or(word.map(Value::Bool));
    if let Some(value) = scalar {
        return Ok(Tree::new(at, label, value));
    }
    if !has_type(schema, "array") {
        return Ok(Tree::new(at, label, Value::Text(text.to_owned())));
    }
    if trimmed.starts_with('[') {
        let json = serde_json::from_str(trimmed);
        // Neither the text nor serde's message is shown: it might be a token.
        let json = json.map_err(|error| Complaint::new(format!("not JSON at column {}", error.column())))?;
        return Ok(Tree::from_json(json, at, label));
    }
    if schema.get("items").is_some_and(|items| has_type(items, "object")) && label != "node" {
        let example = match label {
            "admin.token" => r#"[{"env": "MY_TOKEN", "role": "operate"}]"#,
            _ => r#"[{"path_prefix": "/v1"}]"#,
        };
        let complaint = Complaint::new("the value (not shown) is no JSON array");
        return Err(complaint.allowed(format!("a JSON array such as {example}")));
    }
    let parts = trimmed.split(',').map(str::trim).filter(|part| !part.is_empty()).enumerate();
    let items = parts.map(|(i, part)| entry(part, label, at, &format!("{label}[{i}]"))).collect();
    Ok(Tree::new(at, label, Value::List(items)))
}

/// One entry of a list that is written as text; nodes have a short form.
fn entry(text: &str, key: &str, at: &Origin, label: &str) -> Tree {
    if key != "node" {
        return Tree::new(at, label, Value::Text(text.to_owned()));
    }
    let NodeArgument { name, url, weight } = NodeArgument::split(text);
    let mut node = Tree::new(at, label, Value::Table(BTreeMap::new()));
    let mut put = |key: &str, value| node.insert(key, Tree::new(at, format!("{label}.{key}"), value));
    put("url", Value::Text(url.to_owned()));
    if let Some(name) = name {
        put("name", Value::Text(name.to_owned()));
    }
    if let Some(weight) = weight {
        put("weight", Value::Float(weight));
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_variable_of_its_own() {
        let variables = variables();
        assert_eq!(variables.len(), leaves().len(), "two keys share a variable");
        for name in ["LISTEN", "ADMIN_LISTEN", "TIMEOUTS_FIRST_BYTE", "NODE", "ADMIN_TOKEN", "LIMITS_NODE_IDLE_MAX"] {
            assert!(variables.contains_key(&format!("{PREFIX}{name}")), "{name}");
        }
        assert!(!variables.contains_key(FILE_VARIABLE));
    }

    #[test]
    fn variables_of_kubernetes_services_are_not_mistaken_for_ours() {
        for (name, value) in [
            ("BELLWETHER_SERVICE_HOST", "10.0.0.1"),
            ("BELLWETHER_ADMIN_SERVICE_PORT_HTTP", "8081"),
            ("BELLWETHER_PORT", "tcp://10.0.0.1:8080"),
            ("BELLWETHER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("BELLWETHER_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_service_link(name, OsStr::new(value)), "{name}");
        }
        for (name, value) in
            [("BELLWETHER_PORT", "8080"), ("BELLWETHER_LISTEN_PORT_X", "1"), ("BELLWETHER_X", "tcp://")]
        {
            assert!(!is_service_link(name, OsStr::new(value)), "{name}");
        }
    }

    #[test]
    fn debug_shows_no_value_of_the_environment() {
        let env = Env::from_iter([("BELLWETHER_ADMIN_TOKEN", "hunter2"), ("OTHER", "hunter2")]);
        let sources = Sources { env, ..Sources::default() };
        assert!(!format!("{sources:?}").contains("hunter2"), "{sources:?}");
    }
}
