//! What a gateway does to header fields (RFC 9110 sections 7.6 and 7.8, RFC 7239, W3C Trace Context).
//!
//! Hop-by-hop fields end here in both directions: the fixed ones and whatever `Connection` names. What the proxy tells
//! a node about the client replaces the client's own claims, unless the client is a trusted proxy; otherwise anybody
//! could write any address into a node's logs.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::balancer::Decision;
use crate::spans::context::{TRACE_ID, TRACEPARENT, render};

/// How this proxy calls itself in `Via` and `Proxy-Status`.
pub(super) const PSEUDONYM: &str = "bellwether";
const VIA: HeaderValue = HeaderValue::from_static(VIA_TEXT);
const VIA_TEXT: &str = "1.1 bellwether";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Names the request for all who handle it.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

const TOLD_NODE: HeaderName = HeaderName::from_static("x-bellwether-node");
const TOLD_POLICY: HeaderName = HeaderName::from_static("x-bellwether-policy");
const TOLD_PREDICTED_MS: HeaderName = HeaderName::from_static("x-bellwether-predicted-ms");

/// The longest client-made request id that is kept.
const REQUEST_ID_MAX: usize = 128;

/// Room for the fields that carry the ids of a request.
const IDS_BYTES: usize = 128;

/// Tells a client that debugs which node answered, who chose it, and what was predicted. A node's own words of these
/// names go.
pub(super) fn tell_decision(headers: &mut HeaderMap, decision: &Decision) {
    let predicted = Some(decision.predicted_s).filter(|seconds| seconds.is_finite());
    let told = [
        // A name with a line break in it cannot be told.
        (TOLD_NODE, HeaderValue::from_bytes(decision.node.spec.name.as_bytes()).ok()),
        (TOLD_POLICY, Some(HeaderValue::from_static(decision.policy.name()))),
        (TOLD_PREDICTED_MS, predicted.and_then(|seconds| format!("{:.1}", seconds * 1e3).try_into().ok())),
    ];
    for (name, value) in told {
        match value {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        }
    }
}

/// What one pass over the fields of a message finds: asking for each name costs a hash every time, and most messages
/// have none of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Survey {
    connection: bool,
    te: bool,
    /// One of the other fields that end here.
    other_hop: bool,
    forwarding: bool,
    traceparent: bool,
    request_id: bool,
    host: bool,
    /// `Content-Encoding`.
    pub(super) coding: bool,
    /// `Retry-After`.
    pub(super) retry_after: bool,
    /// `Expect`.
    pub(super) expect: bool,
    /// `x-bellwether-timing`: the client asks where the time went.
    pub(super) timing: bool,
}

impl Survey {
    pub(super) fn of(headers: &HeaderMap) -> Survey {
        let mut seen = Survey::default();
        for name in headers.keys() {
            let flag = match name.as_str() {
                "connection" => &mut seen.connection,
                "te" => &mut seen.te,
                "upgrade" | "transfer-encoding" | "keep-alive" | "proxy-connection" => &mut seen.other_hop,
                "forwarded" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => &mut seen.forwarding,
                "traceparent" => &mut seen.traceparent,
                "x-request-id" => &mut seen.request_id,
                "expect" => &mut seen.expect,
                "host" => &mut seen.host,
                "content-encoding" => &mut seen.coding,
                "retry-after" => &mut seen.retry_after,
                "x-bellwether-timing" => &mut seen.timing,
                _ => continue,
            };
            *flag = true;
        }
        seen
    }
}

/// Removes hop-by-hop fields and what `Connection` names; returns the `Upgrade` wish, if there was a proper one.
///
/// `TE: trailers` is kept as it is the one `TE` that has a meaning end to end for us: trailers pass.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap, seen: Survey) -> Option<HeaderValue> {
    let mut upgrade = None;
    if seen.connection {
        let named = named_by_connection(headers);
        if named.contains(&header::UPGRADE) {
            upgrade = headers.get(header::UPGRADE).cloned();
        }
        for name in named.iter().filter(|name| !is_essential(name)) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if seen.te
        && let Some(te) = headers.remove(header::TE)
        && te.as_bytes().split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if seen.other_hop {
        for name in [header::UPGRADE, header::TRANSFER_ENCODING, KEEP_ALIVE, PROXY_CONNECTION] {
            headers.remove(name);
        }
    }
    upgrade
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok()).collect()
}

/// Fields that a client must not be able to remove from its request by naming them in `Connection`.
fn is_essential(name: &HeaderName) -> bool {
    [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::AUTHORIZATION, header::TE].contains(name)
}

/// The client as far as it can be believed: the peer, or, behind trusted proxies, the last untrusted address that
/// they report.
pub(super) fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let mut client = peer;
    let reported = headers.get_all(X_FORWARDED_FOR);
    let mut addresses: Vec<&str> =
        reported.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).collect();
    while let Some(address) = addresses.pop() {
        let Ok(address) = address.trim().parse() else { break };
        client = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    client
}

pub(super) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&peer))
}

/// What a client's connection lets us say of it: made once, used for each of its requests.
#[derive(Debug)]
pub(super) struct Introduction {
    peer: IpAddr,
    believed: bool,
    /// For `X-Forwarded-For`.
    address: HeaderValue,
    /// What is said with the last `Host`, since a client seldom changes it.
    said: Mutex<Option<Said>>,
}

/// What is said of requests with one `Host`.
#[derive(Debug)]
struct Said {
    host: Option<HeaderValue>,
    /// For `Forwarded`.
    element: HeaderValue,
    /// All fields that need no id, encoded.
    text: Vec<u8>,
}

impl Introduction {
    pub(super) fn new(peer: IpAddr, trusted: &[IpNet]) -> Introduction {
        let address = value(peer.to_string());
        Introduction { peer, believed: is_trusted(peer, trusted), address, said: Mutex::new(None) }
    }

    /// Tells the node who asks, through whom, and under which id: what is to be sent behind `headers`, encoded. From
    /// `headers` goes what would contradict it. Returns the request's id, too.
    pub(super) fn introduce(
        &self,
        headers: &mut HeaderMap,
        seen: Survey,
        trace: Option<u128>,
        rng: &mut fastrand::Rng,
    ) -> (Vec<u8>, HeaderValue) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let host = if seen.host { headers.get(header::HOST) } else { None };
        let said = match &mut *said {
            Some(said) if said.host.as_ref() == host => said,
            said => said.insert(self.say(host.cloned())),
        };
        let mut told;
        if self.believed && seen.forwarding {
            told = Vec::with_capacity(IDS_BYTES);
            self.extend(headers, &said.element);
            write_field(&mut told, header::VIA.as_str(), VIA_TEXT.as_bytes());
        } else {
            if seen.forwarding {
                for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, header::FORWARDED] {
                    headers.remove(name);
                }
            }
            told = Vec::with_capacity(said.text.len() + IDS_BYTES);
            told.extend_from_slice(&said.text);
        }
        let id = identify(headers, seen, trace, rng, &mut told);
        (told, id)
    }

    /// Adds to what a trusted proxy says, or says what it leaves out.
    fn extend(&self, headers: &mut HeaderMap, element: &HeaderValue) {
        let host = headers.get(header::HOST).cloned();
        extend_list(headers, X_FORWARDED_FOR, &self.address);
        extend_list(headers, header::FORWARDED, element);
        headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        if let Some(host) = host {
            headers.entry(X_FORWARDED_HOST).or_insert(host);
        }
    }

    fn say(&self, host: Option<HeaderValue>) -> Said {
        let element = self.forwarded_element(host.as_ref());
        let mut text = Vec::new();
        write_field(&mut text, X_FORWARDED_FOR.as_str(), self.address.as_bytes());
        write_field(&mut text, X_FORWARDED_PROTO.as_str(), b"http");
        if let Some(host) = &host {
            write_field(&mut text, X_FORWARDED_HOST.as_str(), host.as_bytes());
        }
        write_field(&mut text, header::FORWARDED.as_str(), element.as_bytes());
        write_field(&mut text, header::VIA.as_str(), VIA_TEXT.as_bytes());
        Said { host, element, text }
    }

    /// `for=192.0.2.7;host="api.example:8080";proto=http` (RFC 7239).
    fn forwarded_element(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let mut text = match self.peer {
            IpAddr::V4(peer) => format!("for={peer}"),
            IpAddr::V6(peer) => format!("for=\"[{peer}]\""),
        };
        if let Some(Ok(host)) = host.map(HeaderValue::to_str)
            && !host.is_empty()
            && !host.contains(['"', '\\'])
        {
            text.push_str(";host=\"");
            text.push_str(host);
            text.push('"');
        }
        text.push_str(";proto=http");
        value(text)
    }
}

/// Appends a field as it is sent.
fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// A value of text that has no control characters.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Adds us to `Via`.
pub(super) fn append_via(headers: &mut HeaderMap) {
    headers.append(header::VIA, VIA);
}

/// Keeps the client's trace and request id if they are presentable, else makes them and adds them to `told`. Returns the
/// request id.
///
/// Where both are made they are one: the request id is the trace id. A `trace` that is recorded is not told here, as its
/// context names the attempt; the other context says that nothing is recorded.
fn identify(
    headers: &mut HeaderMap,
    seen: Survey,
    trace: Option<u128>,
    rng: &mut fastrand::Rng,
    told: &mut Vec<u8>,
) -> HeaderValue {
    let kept = if seen.request_id { headers.get(X_REQUEST_ID).filter(|id| is_presentable(id)).cloned() } else { None };
    let has_context = seen.traceparent || trace.is_some();
    if has_context && let Some(kept) = kept {
        return kept;
    }
    let made = render(trace.unwrap_or_else(|| rng.u128(1..)), rng.u64(1..), false);
    if !has_context {
        write_field(told, TRACEPARENT.as_str(), &made);
    }
    kept.unwrap_or_else(|| {
        if seen.request_id {
            headers.remove(X_REQUEST_ID);
        }
        let id = &made[TRACE_ID];
        write_field(told, X_REQUEST_ID.as_str(), id);
        HeaderValue::from_bytes(id).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

fn is_presentable(id: &HeaderValue) -> bool {
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// Appends to a comma-separated list that may be spread over several fields.
fn extend_list(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    let mut list: Vec<u8> = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    match HeaderValue::from_bytes(&list) {
        Ok(value) => headers.insert(name, value),
        Err(_) => headers.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn strip(map: &mut HeaderMap) -> Option<HeaderValue> {
        strip_hop_by_hop(map, Survey::of(map))
    }

    /// Introduces as a connection would, and puts what is told into the map to what the client said.
    fn tell(map: &mut HeaderMap, peer: &str, trusted: &[IpNet], rng: &mut fastrand::Rng) -> HeaderValue {
        let (told, id) = Introduction::new(ip(peer), trusted).introduce(map, Survey::of(map), None, rng);
        let told = String::from_utf8(told).expect("text");
        assert!(told.ends_with("\r\n"));
        for field in told.split_terminator("\r\n") {
            let (name, value) = field.split_once(": ").expect("a field");
            let name = HeaderName::from_lowercase(name.as_bytes()).expect("a name");
            assert!(name == header::VIA || !map.contains_key(&name), "{name} is said twice");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        id
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_connection_names_ends_here_but_not_what_the_request_needs() {
        let mut map = headers(&[
            ("connection", "close, X-Private"),
            ("connection", "authorization"),
            ("x-private", "1"),
            ("authorization", "Bearer k"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("accept", "*/*"),
        ]);
        assert_eq!(strip(&mut map), None);
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "authorization", "te"]);
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn an_upgrade_counts_only_if_connection_names_it() {
        let mut named = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip(&mut named), Some(HeaderValue::from_static("websocket")));
        let mut stray = headers(&[("upgrade", "h2c")]);
        assert_eq!(strip(&mut stray), None);
        assert!(stray.is_empty());
    }

    #[test]
    fn an_untrusted_clients_claims_are_replaced() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut map = headers(&[
            ("host", "api.example:8080"),
            ("x-forwarded-for", "203.0.113.66"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=203.0.113.66"),
        ]);
        tell(&mut map, "192.0.2.7", &[], &mut rng);
        assert_eq!(map["x-forwarded-for"], "192.0.2.7");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-host"], "api.example:8080");
        assert_eq!(map["forwarded"], "for=192.0.2.7;host=\"api.example:8080\";proto=http");
        assert_eq!(map["via"], "1.1 bellwether");
        assert_eq!(map["traceparent"].len(), 55);
    }

    #[test]
    fn a_trusted_proxys_chain_is_extended_and_tells_the_client() {
        let trusted = ["10.0.0.0/8".parse().expect("a net")];
        let mut rng = fastrand::Rng::with_seed(1);
        let mut map = headers(&[
            ("host", "api"),
            ("x-forwarded-for", "198.51.100.1, 203.0.113.66"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "https"),
        ]);
        assert_eq!(client_address(&map, ip("10.0.0.1"), &trusted), ip("203.0.113.66"));
        assert_eq!(client_address(&map, ip("192.0.2.7"), &trusted), ip("192.0.2.7"));
        tell(&mut map, "10.0.0.1", &trusted, &mut rng);
        assert_eq!(map["x-forwarded-for"], "198.51.100.1, 203.0.113.66, 10.0.0.9, 10.0.0.1");
        assert_eq!(map["x-forwarded-proto"], "https");
    }

    #[test]
    fn a_request_id_is_kept_if_presentable_and_made_otherwise() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut kept = headers(&[("x-request-id", "abc-123"), ("traceparent", "00-1-2-01")]);
        assert_eq!(tell(&mut kept, "2001:db8::7", &[], &mut rng), "abc-123");
        assert_eq!(kept["traceparent"], "00-1-2-01");
        assert_eq!(kept["forwarded"], "for=\"[2001:db8::7]\";proto=http");
        assert_eq!(kept["x-forwarded-for"], "2001:db8::7");
        let mut bad = headers(&[("x-request-id", "two words")]);
        let made = tell(&mut bad, "192.0.2.7", &[], &mut rng);
        assert_eq!(made.len(), 32);
        assert_eq!(bad["x-request-id"], made);
    }
}
