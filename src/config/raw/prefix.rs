//! What is remembered of prompts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::value::{FilePath, OrOff, Size};
use crate::prefix::BYTES_MAX_DEFAULT;

/// Remembering which node was sent which prompt: its cache makes the next one that begins alike cheap there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawPrefix {
    /// Whether beginnings of prompts are remembered, as keyed hashes.
    pub enabled: bool,
    /// What that may take; the least recently used goes first. Another size starts empty.
    #[schemars(extend("minimum" = 1048576, "maximum" = 17179869184_u64))]
    pub memory_bytes_max: Size,
    /// A file that contains the key of the hashes, as for a token, relative to the configuration file; "off" takes a
    /// random one. Change needs a restart.
    pub key_file: OrOff<FilePath>,
}

impl Default for RawPrefix {
    fn default() -> Self {
        // The number lives with the memory, which runs without any configuration too.
        RawPrefix { enabled: true, memory_bytes_max: Size(BYTES_MAX_DEFAULT as u64), key_file: OrOff(None) }
    }
}
