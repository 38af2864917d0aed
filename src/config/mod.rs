//! Configuration: from flags, environment, a file and defaults to [`Settings`].
//!
//! The way of a setting: `raw.rs` says which keys there are, with their defaults, ranges and descriptions; the JSON Schema
//! is derived from that; each source becomes a tree of values that know their place, is held against the schema, and is
//! laid over the one below it; serde turns the result into [`raw::Raw`]; `check.rs` turns that into [`Settings`], which are
//! valid by construction. Nothing stops at the first mistake. Loading has no side effects, so that a reload
//! can load first and decide then; what differs is what [`changes`] says. No configuration file is looked for where
//! nobody named one.

mod changes;
mod check;
mod checked;
mod error;
mod node_url;
mod origins;
pub mod raw;
mod schema;
mod sources;
#[cfg(test)]
mod tests;
mod tree;
pub mod value;
mod view;
mod walk;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use changes::{Changed, changes, changes_shown};
pub use checked::{
    Adaptive, Admin, AdminListen, AdminTls, Forward, Health, Limits, Log, LogFormat, PrefixSettings, Priority,
    QueueSettings, RateKey, RateLimit, Retry, Role, Route, ServerTiming, SessionKey, Settings, Timeouts, Token, Trace,
};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use origins::Origins;
pub use schema::schema;
pub use sources::{Env, FILE_VARIABLE, Flag, Sources};

use check::Check;
use error::{Complaint, quoted};
use raw::{Raw, RawAdaptive, RawNode, RawToken};
use serde::de::DeserializeOwned;
use tree::{Tree, Value};

use crate::node::{MaxInFlight, NodeSpec};

/// The largest configuration file: some twenty times what the largest fleet needs, and nothing endless.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Their origins.
    pub origins: Origins,
    /// Where the tokens are kept, for printing.
    tokens: Vec<RawToken>,
}

impl Default for Settings {
    /// What `raw.rs` says.
    fn default() -> Self {
        let (origins, env) = (Origins::default(), Env::default());
        Check { origins: &origins, env: &env, dir: PathBuf::new(), errors: Vec::new() }.settings(&Raw::default())
    }
}

#[cfg(any(test, fuzzing))]
impl Settings {
    /// The settings of a file with this content.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Settings, ConfigErrors> {
        let (file, errors) = match parse("file", bytes) {
            Ok(tree) => (Some(tree), Vec::new()),
            Err(errors) => (None, errors),
        };
        Sources::default().load_over(file, errors).map(|loaded| loaded.settings)
    }
}

impl Sources {
    /// Reads everything and checks it. Blocks on files.
    ///
    /// # Errors
    /// Every mistake in every source; an unreadable file.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let mut errors = Vec::new();
        let file = self.read_file(&mut errors);
        self.load_over(file, errors)
    }

    /// The settings of flags and environment over those of `file`, if that could be read; `errors` were found on the way.
    fn load_over(&self, file: Option<Tree>, mut errors: Vec<ConfigError>) -> Result<Loaded, ConfigErrors> {
        let legible = file.is_some();
        let file = file.unwrap_or_else(Tree::empty);
        let tokens = token_variables(&file);
        let env = self.env_tree(&tokens, &mut errors);
        let flags = self.flag_tree(&mut errors);
        let mut merged = Tree::empty();
        for source in [file, env, flags] {
            if let Some(sound) = walk::sound(source, schema(), &mut errors) {
                merged.overlay(sound);
            }
        }
        self.check_variables(&token_variables(&merged), &mut errors);
        let origins = Origins::of(&merged);
        let raw: Raw = serde_json::from_value(merged.to_json()).unwrap_or_else(|error| {
            errors.push(Complaint::new(error.to_string()).at(Origin::Default, ""));
            Raw::default()
        });
        let dir = self.file.as_deref().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        let mut check = Check { origins: &origins, env: &self.env, dir, errors };
        // Without the file it is unknown how values would fit together.
        let settings = if legible { check.settings(&raw) } else { Settings::default() };
        match ConfigErrors::of(check.errors) {
            Some(errors) => Err(errors),
            None => Ok(Loaded { settings, origins, tokens: raw.admin.tokens }),
        }
    }

    /// The tree of the file, empty without a file; `None` and errors if it cannot be read.
    fn read_file(&self, errors: &mut Vec<ConfigError>) -> Option<Tree> {
        let Some(path) = &self.file else { return Some(Tree::empty()) };
        let shown = path.display().to_string();
        match read(path).map_err(|complaint| {
            let at = Origin::File { path: shown.as_str().into(), line: 0, column: 0 };
            vec![complaint.at(at, "")]
        }) {
            Ok(bytes) => match parse(&shown, &bytes) {
                Ok(tree) => Some(tree),
                Err(mut found) => {
                    errors.append(&mut found);
                    None
                }
            },
            Err(mut found) => {
                errors.append(&mut found);
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Complaint> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| Complaint::new(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Complaint::new("is too large").allowed(format!("at most {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// The tree of a file's content, whatever bytes it is made of.
fn parse(path: &str, bytes: &[u8]) -> Result<Tree, Vec<ConfigError>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => tree::from_toml(path, text),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let at = tree::Places::new(path, &before).at(before.len());
            Err(vec![Complaint::new("not UTF-8").at(at, "")])
        }
    }
}

/// The variables that a tree names as holding a token.
fn token_variables(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    tree.each("", &mut |path, tree| {
        if let (true, Value::Text(text)) = (path.starts_with("admin.token[") && path.ends_with("].env"), &tree.value) {
            found.push(text.clone());
        }
    });
    found
}

/// A node as the configuration file would describe it, checked by itself: what the admin API takes. Without a limit of
/// its own it has `default`.
///
/// # Errors
/// A text that says what is wrong and what is allowed.
pub fn check_node(json: serde_json::Value, default: MaxInFlight) -> Result<NodeSpec, ConfigErrors> {
    let schema = schema().pointer("/properties/node/items").unwrap_or(&serde_json::Value::Null);
    checked_json(json, schema, "node").map(|raw: RawNode| check::node(&raw, default))
}

/// The settings of the adaptive policy that can be changed while it runs; absent ones are as in `present`.
pub const KNOBS: [&str; 4] = ["objective", "social", "explore", "shadow"];

/// `present` with some of [`KNOBS`] changed, given as they are written in the file: for the admin API.
///
/// # Errors
/// Every mistake: an unknown key, a value out of range.
pub fn check_knobs(present: &Adaptive, json: serde_json::Value) -> Result<Adaptive, ConfigErrors> {
    let mut schema = schema().pointer("/properties/adaptive").cloned().unwrap_or_default();
    if let Some(properties) = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut) {
        properties.retain(|key, _| KNOBS.contains(&key.as_str()));
    }
    let given: Vec<String> = json.as_object().map(|given| given.keys().cloned().collect()).unwrap_or_default();
    let raw: RawAdaptive = checked_json(json, &schema, "adaptive")?;
    let has = |key: &str| given.iter().any(|given| given == key);
    let knobs = crate::learn::Knobs {
        first_byte: if has("objective") { raw.objective.0 } else { present.knobs.first_byte },
        social: if has("social") { raw.social } else { present.knobs.social },
        explore: if has("explore") { raw.explore } else { present.knobs.explore },
        ..present.knobs
    };
    let shadow = if has("shadow") { raw.shadow } else { present.shadow };
    Ok(Adaptive { knobs, shadow, ..present.clone() })
}

/// A value that `schema` describes.
fn checked_json<T: DeserializeOwned>(
    json: serde_json::Value,
    schema: &serde_json::Value,
    what: &str,
) -> Result<T, ConfigErrors> {
    let mut errors = Vec::new();
    let sound = walk::sound(Tree::from_json(json, &Origin::Default, ""), schema, &mut errors);
    let value = sound.map(|tree| serde_json::from_value::<T>(tree.to_json()));
    match (ConfigErrors::of(errors), value) {
        (None, Some(Ok(raw))) => Ok(raw),
        (Some(errors), _) => Err(errors),
        (None, other) => {
            let problem =
                other.and_then(Result::err).map_or_else(|| format!("no {what}"), |error| quoted(&error.to_string()));
            Err(ConfigErrors::one(Complaint::new(problem).at(Origin::Default, "")))
        }
    }
}
