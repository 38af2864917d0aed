//! What a gateway does to header fields (RFC 9110 sections 7.6 and 7.8, RFC 7239, W3C Trace Context).
//!
//! Hop-by-hop fields end here in both directions: the fixed ones and whatever `Connection` names. What the proxy tells
//! a node about the client replaces the client's own claims, unless the client is a trusted proxy; otherwise anybody
//! could write any address into a node's logs.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

/// How this proxy calls itself in `Via` and `Proxy-Status`.
pub(super) const PSEUDONYM: &str = "bellwether";
const VIA: HeaderValue = HeaderValue::from_static("1.1 bellwether");

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Names the request for all who handle it.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The longest client-made request id that is kept.
const REQUEST_ID_MAX: usize = 128;

/// Removes hop-by-hop fields and what `Connection` names; returns the `Upgrade` wish, if there was a proper one.
///
/// `TE: trailers` is kept as it is the one `TE` that has a meaning end to end for us: trailers pass.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut upgrade = None;
    if headers.contains_key(header::CONNECTION) {
        let named = named_by_connection(headers);
        if named.contains(&header::UPGRADE) {
            upgrade = headers.get(header::UPGRADE).cloned();
        }
        for name in named.iter().filter(|name| !is_essential(name)) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if let Some(te) = headers.remove(header::TE)
        && te.as_bytes().split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    for name in [header::UPGRADE, header::TRANSFER_ENCODING, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
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

fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&peer))
}

/// Tells the node who asks, through whom, and under which id. Returns that id.
pub(super) fn introduce(
    headers: &mut HeaderMap,
    peer: IpAddr,
    trusted: &[IpNet],
    rng: &mut fastrand::Rng,
) -> HeaderValue {
    // One growth of the table instead of two or three.
    headers.reserve(8);
    let believed = is_trusted(peer, trusted);
    let host = headers.get(header::HOST).cloned();
    let text = AddressText::new(peer);
    if believed && headers.contains_key(X_FORWARDED_FOR) {
        extend_list(headers, X_FORWARDED_FOR, text.plain());
    } else {
        insert_text(headers, X_FORWARDED_FOR, text.plain());
    }
    if !believed || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if let Some(host) = &host {
        if !believed || !headers.contains_key(X_FORWARDED_HOST) {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    } else if !believed {
        headers.remove(X_FORWARDED_HOST);
    }
    let element = forwarded_element(&text, host.as_ref());
    if believed && headers.contains_key(header::FORWARDED) {
        extend_list(headers, header::FORWARDED, &element);
    } else {
        insert_text(headers, header::FORWARDED, &element);
    }
    append_via(headers);
    if !headers.contains_key(TRACEPARENT) {
        let (trace, span) = (rng.u128(1..), rng.u64(1..));
        insert_text(headers, TRACEPARENT, &format!("00-{trace:032x}-{span:016x}-00"));
    }
    request_id(headers, rng)
}

/// Adds us to `Via`.
pub(super) fn append_via(headers: &mut HeaderMap) {
    headers.append(header::VIA, VIA);
}

/// The client's request id if it is presentable, else a new one.
fn request_id(headers: &mut HeaderMap, rng: &mut fastrand::Rng) -> HeaderValue {
    if let Some(id) = headers.get(X_REQUEST_ID) {
        let presentable = (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
        if presentable {
            return id.clone();
        }
    }
    let mut text = String::with_capacity(32);
    // Writing to a string cannot fail.
    let _ = write!(text, "{:032x}", rng.u128(..));
    let id = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"));
    headers.insert(X_REQUEST_ID, id.clone());
    id
}

/// An address as text in a small buffer: `192.0.2.7`, and as `Forwarded` wants it: `"[2001:db8::7]"`.
struct AddressText {
    quoted: String,
    is_v6: bool,
}

impl AddressText {
    fn new(address: IpAddr) -> AddressText {
        let mut quoted = String::with_capacity(44);
        let is_v6 = address.is_ipv6();
        let _ = if is_v6 { write!(quoted, "\"[{address}]\"") } else { write!(quoted, "{address}") };
        AddressText { quoted, is_v6 }
    }

    fn plain(&self) -> &str {
        if self.is_v6 { &self.quoted[2..self.quoted.len() - 2] } else { &self.quoted }
    }
}

/// `for=192.0.2.7;host=api.example;proto=http` (RFC 7239); a host with a port has to be quoted.
fn forwarded_element(client: &AddressText, host: Option<&HeaderValue>) -> String {
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut element = String::with_capacity(64 + host.len());
    element.push_str("for=");
    element.push_str(&client.quoted);
    if !host.is_empty() && !host.contains(['"', '\\']) {
        element.push_str(";host=\"");
        element.push_str(host);
        element.push('"');
    }
    element.push_str(";proto=http");
    element
}

fn insert_text(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    match HeaderValue::from_str(text) {
        Ok(value) => headers.insert(name, value),
        Err(_) => headers.remove(name),
    };
}

/// Appends to a comma-separated list that may be spread over several fields.
fn extend_list(headers: &mut HeaderMap, name: HeaderName, element: &str) {
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
        assert_eq!(strip_hop_by_hop(&mut map), None);
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "authorization", "te"]);
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn an_upgrade_counts_only_if_connection_names_it() {
        let mut named = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_hop_by_hop(&mut named), Some(HeaderValue::from_static("websocket")));
        let mut stray = headers(&[("upgrade", "h2c")]);
        assert_eq!(strip_hop_by_hop(&mut stray), None);
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
        introduce(&mut map, ip("192.0.2.7"), &[], &mut rng);
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
        introduce(&mut map, ip("10.0.0.1"), &trusted, &mut rng);
        assert_eq!(map["x-forwarded-for"], "198.51.100.1, 203.0.113.66, 10.0.0.9, 10.0.0.1");
        assert_eq!(map["x-forwarded-proto"], "https");
    }

    #[test]
    fn a_request_id_is_kept_if_presentable_and_made_otherwise() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut kept = headers(&[("x-request-id", "abc-123"), ("traceparent", "00-1-2-01")]);
        assert_eq!(introduce(&mut kept, ip("2001:db8::7"), &[], &mut rng), "abc-123");
        assert_eq!(kept["traceparent"], "00-1-2-01");
        assert_eq!(kept["forwarded"], "for=\"[2001:db8::7]\";proto=http");
        assert_eq!(kept["x-forwarded-for"], "2001:db8::7");
        let mut bad = headers(&[("x-request-id", "two words")]);
        let made = introduce(&mut bad, ip("192.0.2.7"), &[], &mut rng);
        assert_eq!(made.len(), 32);
        assert_eq!(bad["x-request-id"], made);
    }
}
