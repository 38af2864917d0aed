//! Requests that are treated alike, and how they differ from all others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::value::{MethodName, ModelName, Name, OrOff, Span, UrlPath};

/// Requests that are treated alike. A route that an earlier one leaves nothing for is a mistake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRoute {
    /// What metrics and logs call it; its path prefix unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Paths at or below this one: "/v1" matches "/v1" and "/v1/chat", not "/v10"; a slash at the end
    /// changes nothing. "/" unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<UrlPath>,
    /// Only this method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<MethodName>,
    /// Only requests that name this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Whether a POST that was already sent may be sent again to another node.
    pub retry_post: bool,
    /// Whether an answer by which a node says that it failed (5xx, and 429 without `retry.full`) counts as none: what may
    /// be sent again goes to another node.
    pub retry_errors: bool,
    /// Whether a request that may be sent again is sent to a second node when the first is late; the first answer counts.
    pub hedge: bool,
    /// Class in the queue.
    pub priority: RawPriority,
    /// Timeouts that differ from the global ones.
    #[serde(skip_serializing_if = "RawRouteTimeouts::is_empty")]
    pub timeouts: RawRouteTimeouts,
}

/// Class in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "described once at the field; a description per word would turn the enum into a oneOf")]
pub enum RawPriority {
    Interactive,
    #[default]
    Default,
    Batch,
}

/// Timeouts of a route that differ from the global ones. Those of a connection are not among them: a connection
/// carries requests of many routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawRouteTimeouts {
    /// Opening a connection to a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Span>,
    /// From the request sent to the response head of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Span>,
    /// Between two pieces of a body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between_chunks: Option<Span>,
    /// A whole request with its response, or "off".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<OrOff<Span>>,
}

impl RawRouteTimeouts {
    pub(super) fn is_empty(&self) -> bool {
        *self == RawRouteTimeouts::default()
    }
}
