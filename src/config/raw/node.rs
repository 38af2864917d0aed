//! A model server, as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::value::{InFlight, ModelName, Name, NodeUrl, OrOff};

/// A model server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawNode {
    /// `http://host:port`, perhaps with a base path.
    pub url: NodeUrl,
    /// Unique name; the URL without its scheme unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Relative capacity for the weighted policies.
    #[serde(default = "weight_default")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1000))]
    pub weight: f64,
    /// Attempts in flight at once, "auto": found out from the node's response times, or "off": as many as the proxy can
    /// count; without it what the default of all nodes says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<OrOff<InFlight>>,
    /// Prompt and expected output tokens in flight at once; without it no limit. One larger request goes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000000))]
    pub max_in_flight_tokens: Option<u64>,
    /// Models that the node serves; empty means every model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub models: Vec<ModelName>,
}

fn weight_default() -> f64 {
    1.0
}
