//! Snapshots that ship with the program: what a fleet of which nothing is known yet may start from.
//!
//! They lie in `models/` with a page that says what each was fitted on and how good it is, and are compiled in, so that
//! `prior = "builtin:NAME"` needs no path. A prior is worth twenty samples: real evidence soon outweighs it.

/// What the name of a shipped snapshot begins with in the configuration.
pub const PREFIX: &str = "builtin:";

/// Name and document of each.
const SHIPPED: &[(&str, &[u8])] = &[];

/// The document of the snapshot that the configuration calls `name`, such as `builtin:llm-streaming`.
pub fn builtin(name: &str) -> Option<&'static [u8]> {
    let name = name.strip_prefix(PREFIX)?;
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, document)| *document)
}

/// All names, as the configuration calls them.
pub fn names() -> Vec<String> {
    SHIPPED.iter().map(|(name, _)| format!("{PREFIX}{name}")).collect()
}
