//! The request target's four forms (RFC 9112, 3.2) and the value of `Host` (RFC 9110, 7.2).
//!
//! Host and authority are narrower here than RFC 3986: no user information, no percent-encoding, no comma, IPv6 only as
//! an address that parses. Nothing is lost that a DNS name, an address or a container's name needs, and hyper's `Uri` takes
//! all that is left. An `https` target is refused: the client believes in a secured connection that ends elsewhere.

use std::net::Ipv6Addr;

use super::alphabet::{self, HOST};

/// Whether a host must be followed by a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Optional,
    Required,
}

/// Whether `target`, already made of allowed characters, has a form that `method` may have.
pub(super) fn is_target(method: &[u8], target: &[u8]) -> bool {
    if method == b"CONNECT" {
        return is_host(target, Port::Required);
    }
    match target.first() {
        Some(b'/') => true,
        Some(b'*') => target.len() == 1 && method == b"OPTIONS",
        _ => is_absolute(target),
    }
}

fn is_absolute(target: &[u8]) -> bool {
    const SCHEME: &[u8] = b"http://";
    let Some((scheme, rest)) = target.split_at_checked(SCHEME.len()) else { return false };
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    scheme.eq_ignore_ascii_case(SCHEME) && is_host(&rest[..end], Port::Optional)
}

/// Whether `value` is a host with a port, which may be empty where it is optional.
pub(super) fn is_host(value: &[u8], port: Port) -> bool {
    let end = match value.first() {
        Some(b'[') => {
            let Some(close) = memchr::memchr(b']', value) else { return false };
            let address = std::str::from_utf8(&value[1..close]).ok();
            if address.and_then(|a| a.parse::<Ipv6Addr>().ok()).is_none() {
                return false;
            }
            close + 1
        }
        _ => alphabet::run(value, 0, HOST),
    };
    if end == 0 {
        return false;
    }
    match value[end..].split_first() {
        None => port == Port::Optional,
        Some((b':', digits)) => is_port(digits, port),
        Some(_) => false,
    }
}

fn is_port(digits: &[u8], port: Port) -> bool {
    if digits.is_empty() {
        return port == Port::Optional;
    }
    digits.len() <= 5
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0')) <= u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_an_optional_port() {
        for good in
            ["a", "a.b:80", "a:", "127.0.0.1:65535", "[::1]", "[fe80::1]:8080", "my_service:0", "xn--bcher-kva.ch"]
        {
            assert!(is_host(good.as_bytes(), Port::Optional), "{good}");
        }
        for bad in
            ["", ":80", "a b", "a,b", "u@a", "a/b", "a:b", "a:65536", "a:80:80", "::1", "[::1", "[x]", "[::1]x", "a%41"]
        {
            assert!(!is_host(bad.as_bytes(), Port::Optional), "{bad}");
        }
    }

    #[test]
    fn each_form_belongs_to_its_methods() {
        for (method, target) in [
            ("GET", "/"),
            ("OPTIONS", "*"),
            ("GET", "http://a"),
            ("GET", "HTTP://a:80/x?y"),
            ("GET", "http://a?y"),
            ("CONNECT", "a:443"),
        ] {
            assert!(is_target(method.as_bytes(), target.as_bytes()), "{method} {target}");
        }
        for (method, target) in [
            ("GET", "*"),
            ("OPTIONS", "**"),
            ("GET", "a:443"),
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "/"),
            ("GET", "https://a/"),
            ("GET", "http:///x"),
            ("GET", "http://u@a/"),
            ("GET", "x"),
        ] {
            assert!(!is_target(method.as_bytes(), target.as_bytes()), "{method} {target}");
        }
    }
}
