//! What is remembered of prompts.

use std::path::PathBuf;

use secrecy::SecretString;

/// Remembering which node was sent which prompt.
#[derive(Clone, Debug)]
pub struct PrefixSettings {
    /// Whether beginnings of prompts are hashed and remembered.
    pub enabled: bool,
    /// The most bytes that the memory may use.
    pub memory_bytes_max: usize,
    /// The key of the hashes; a random one where there is none.
    pub key: Option<SecretString>,
    /// Where that is kept.
    pub key_file: Option<PathBuf>,
}
