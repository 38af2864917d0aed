//! The proxy's own answers: whose fault it was, what to say, and in which shape.
//!
//! One table maps every error to a status, an RFC 9209 `Proxy-Status` and a sentence. On `/v1/*` the body has the
//! shape that OpenAI clients parse, so that their users read the sentence and not a parse error; elsewhere it is
//! problem+json (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::balancer::{Reason, Rejection};
use crate::outcome::Failure;
use crate::proxy::headers::{PSEUDONYM, X_REQUEST_ID};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// When to come back to a node that has no connection to spare: any response that ends frees one.
const NODE_FULL_PAUSE: Duration = Duration::from_secs(1);

/// When to come back for a client that has too much under way: any of it that ends makes room.
const CROWD_PAUSE: Duration = Duration::from_secs(1);

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The client's: another try of the same request will fail again.
    Client,
    /// A node's, or the lack of one.
    Node,
    /// Ours.
    Internal,
}

/// An answer that no node gave.
#[derive(Clone, Debug)]
pub(super) struct ProxyError {
    /// Whose fault.
    pub(super) side: Side,
    /// Status of the answer.
    pub(super) status: StatusCode,
    /// The error type of RFC 9209 in `Proxy-Status`.
    pub(super) token: &'static str,
    /// A word for clients' code and for metrics, from a known set.
    pub(super) code: &'static str,
    /// A sentence for people.
    pub(super) message: Cow<'static, str>,
    /// When coming back can help.
    pub(super) retry_after: Option<Duration>,
    /// Whether the client's connection cannot be used any more.
    pub(super) close: bool,
}

/// Whether who asks for `path` expects errors as OpenAI words them.
pub(super) fn is_openai(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

impl ProxyError {
    fn new(side: Side, status: StatusCode, token: &'static str, code: &'static str) -> ProxyError {
        ProxyError { side, status, token, code, message: Cow::Borrowed(""), retry_after: None, close: false }
    }

    fn saying(self, message: impl Into<Cow<'static, str>>) -> ProxyError {
        ProxyError { message: message.into(), ..self }
    }

    /// The client's request is wrong in a way that ends its connection.
    pub(super) fn bad_request(status: u16, code: &'static str, message: &'static str) -> ProxyError {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let error = ProxyError::new(Side::Client, status, "http_request_error", code).saying(message);
        ProxyError { close: true, ..error }
    }

    /// The method cannot be proxied.
    pub(super) fn method(method: &http::Method) -> ProxyError {
        ProxyError::new(Side::Client, StatusCode::NOT_IMPLEMENTED, "http_request_denied", "method_not_supported")
            .saying(format!("{method} is not supported by this proxy"))
    }

    /// The body is larger than allowed.
    pub(super) fn too_large(most: u64) -> ProxyError {
        let error =
            ProxyError::new(Side::Client, StatusCode::PAYLOAD_TOO_LARGE, "http_request_error", "body_too_large")
                .saying(format!("the request body is larger than the {most} bytes that this proxy accepts"));
        ProxyError { close: true, ..error }
    }

    /// The client did not send its body in time.
    pub(super) fn slow_client() -> ProxyError {
        let error = ProxyError::new(Side::Client, StatusCode::REQUEST_TIMEOUT, "http_request_error", "body_timeout")
            .saying("the request body did not arrive in time");
        ProxyError { close: true, ..error }
    }

    /// The client's body broke off.
    pub(super) fn broken_upload() -> ProxyError {
        ProxyError::bad_request(400, "body_incomplete", "the request body broke off or was malformed")
    }

    /// No node: the reason decides. `models` are the known ones, for an unknown model.
    pub(super) fn rejected(rejection: Rejection, model: Option<&str>, models: &[String]) -> ProxyError {
        let unavailable = |token, code| ProxyError {
            retry_after: rejection.retry_after,
            ..ProxyError::new(Side::Node, StatusCode::SERVICE_UNAVAILABLE, token, code)
        };
        let code = rejection.reason.word();
        match rejection.reason {
            Reason::UnknownModel => {
                let known = if models.is_empty() { "none".to_owned() } else { models.join(", ") };
                ProxyError::new(Side::Client, StatusCode::NOT_FOUND, "destination_not_found", "model_not_found")
                    .saying(format!("no node serves the model {:?}; known models: {known}", model.unwrap_or_default()))
            }
            Reason::NoNodes => {
                unavailable("destination_unavailable", code).saying("the fleet is empty: no node is configured")
            }
            Reason::NoHealthyNode => unavailable("destination_unavailable", code)
                .saying("no healthy node: every node that could serve this request is down or draining"),
            Reason::AllFull => unavailable("connection_limit_reached", code)
                .saying("every node that could serve this request is at its limit of requests in flight"),
            Reason::QueueFull => unavailable("connection_limit_reached", code)
                .saying("every node that could serve this request is at its limit, and as many wait as may"),
            Reason::QueueTooLong => unavailable("connection_limit_reached", code)
                .saying("every node that could serve this request is at its limit, and the wait would take too long"),
            Reason::QueueTimeout => unavailable("connection_limit_reached", code)
                .saying("every node that could serve this request was at its limit for as long as it could wait"),
            Reason::AllTried => unavailable("destination_unavailable", code)
                .saying("every node that could serve this request has been tried and failed"),
        }
    }

    /// The client has used up what it may ask for.
    pub(super) fn rate_limited(wait: Duration) -> ProxyError {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let error = ProxyError::new(Side::Client, status, "http_request_denied", "rate_limit_exceeded")
            .saying("this client has used up the requests or tokens that it may ask for at present");
        ProxyError { retry_after: Some(wait), ..error }
    }

    /// The client has as many requests under way as it may have.
    pub(super) fn crowded() -> ProxyError {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let error = ProxyError::new(Side::Client, status, "connection_limit_reached", "too_many_connections")
            .saying("this client has as many requests under way as it may have");
        ProxyError { retry_after: Some(CROWD_PAUSE), ..error }
    }

    /// A node has as many connections as it may have, and there is no other.
    pub(super) fn node_full(node: &str) -> ProxyError {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let error = ProxyError::new(Side::Node, status, "connection_limit_reached", "node_full")
            .saying(format!("the node {node} has as many connections as it may have"));
        ProxyError { retry_after: Some(NODE_FULL_PAUSE), ..error }
    }

    /// This proxy has no descriptor, memory or port left for a connection to a node.
    pub(super) fn exhausted(error: &std::io::Error) -> ProxyError {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let full = ProxyError::new(Side::Internal, status, "proxy_internal_error", "out_of_resources")
            .saying(format!("this proxy cannot open another connection: {error}"));
        ProxyError { retry_after: Some(NODE_FULL_PAUSE), ..full }
    }

    /// A connection to a node took too long, and there is no other.
    pub(super) fn connect_timeout(node: &str) -> ProxyError {
        let status = StatusCode::GATEWAY_TIMEOUT;
        ProxyError::new(Side::Node, status, "connection_timeout", "node_unreachable")
            .saying(format!("no connection to the node {node} in time"))
    }

    /// An attempt failed and none follows. `detail` is what was seen.
    pub(super) fn failed(failure: Failure, token: &'static str, detail: String) -> ProxyError {
        let status = match failure {
            Failure::Timeout => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        let code = match failure {
            Failure::Connect => "node_unreachable",
            Failure::Timeout => "node_timeout",
            Failure::Protocol => "node_protocol_error",
            Failure::Broken | Failure::BrokenBody | Failure::Status(_) => "node_failed",
        };
        ProxyError::new(Side::Node, status, token, code).saying(detail)
    }

    /// Something that should not happen.
    pub(super) fn internal(message: &'static str) -> ProxyError {
        ProxyError::new(Side::Internal, StatusCode::INTERNAL_SERVER_ERROR, "proxy_internal_error", "internal")
            .saying(message)
    }

    /// The answer, in the shape that the client reads.
    pub(super) fn into_response(self, openai: bool, request_id: Option<HeaderValue>) -> Response {
        let (kind, body) = if openai { self.openai_body() } else { self.problem_body() };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Ok(value) = HeaderValue::try_from(format!("{PSEUDONYM}; error={}", self.token)) {
            headers.insert(PROXY_STATUS, value);
        }
        if let Some(pause) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs_f64().ceil() as u64));
        }
        if let Some(id) = request_id {
            headers.insert(X_REQUEST_ID, id);
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn openai_body(&self) -> (&'static str, String) {
        let kind = match self.side {
            Side::Client if self.status == StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            Side::Client => "invalid_request_error",
            Side::Node => "service_unavailable",
            Side::Internal => "server_error",
        };
        let body = json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.code}});
        ("application/json", body.to_string())
    }

    fn problem_body(&self) -> (&'static str, String) {
        let title = self.status.canonical_reason().unwrap_or("error");
        let body = json!({
            "type": "about:blank", "title": title, "status": self.status.as_u16(),
            "detail": self.message, "code": self.code,
        });
        ("application/problem+json", body.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let rejection = Rejection { reason: Reason::AllFull, retry_after: Some(Duration::from_millis(1200)) };
        let response = ProxyError::rejected(rejection, None, &[]).into_response(is_openai("/api/x"), None);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["proxy-status"], "bellwether; error=connection_limit_reached");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[test]
    fn an_openai_client_can_read_the_error() {
        let rejection = Rejection { reason: Reason::UnknownModel, retry_after: None };
        let error = ProxyError::rejected(rejection, Some("gpt\"5"), &["llama".into(), "qwen".into()]);
        assert_eq!(error.status, 404);
        let (kind, body) = error.openai_body();
        let parsed: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(kind, "application/json");
        assert_eq!(parsed["error"]["code"], "model_not_found");
        assert!(
            parsed["error"]["message"].as_str().is_some_and(|m| m.ends_with("known models: llama, qwen")),
            "{body}"
        );
    }
}
