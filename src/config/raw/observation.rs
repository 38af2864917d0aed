//! What is told to others about requests: traces, and the times in a response header.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::value::{Name, NodeUrl, OrOff};

/// Traces to an OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawTrace {
    /// Where spans are sent, OTLP over HTTP in JSON: "http://127.0.0.1:4318" means /v1/traces there; "off" records none.
    pub endpoint: OrOff<NodeUrl>,
    /// Share of the traces that begin here which are recorded; a client's `traceparent` decides for its own.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub share: f64,
    /// What the spans call this service.
    pub service: Name,
}

impl Default for RawTrace {
    fn default() -> Self {
        RawTrace { endpoint: OrOff(None), share: 1.0, service: Name("bellwether".to_owned()) }
    }
}

/// When responses carry `Server-Timing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "described once at the field; a description per word would turn the enum into a oneOf")]
pub enum RawServerTiming {
    Off,
    #[default]
    Asked,
    Always,
}
