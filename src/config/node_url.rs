//! Addresses of nodes: the URL, and the short form `name=URL@weight` of flags and environment.
//!
//! A node's URL is where requests are sent, nothing else: a scheme, a host, a port, perhaps a base path. User names,
//! queries and fragments are refused instead of ignored, because each of them looks as if it did something. An
//! error never shows what stands before an `@`: that is where people put passwords.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::error::{Complaint, quoted};

/// The longest node URL.
const URL_CHARS_MAX: usize = 1_024;

const ALLOWED: &str = "http://HOST[:PORT][/BASE-PATH], such as \"http://10.0.0.1:8000\"";

/// A checked `http://host[:port][/base]`, without a trailing slash.
pub(super) fn parse_url(text: &str) -> Result<String, Complaint> {
    let wrong = |what: &str| Complaint::new(format!("{} {what}", masked(text))).allowed(ALLOWED);
    let Some((scheme, rest)) = text.split_once("://") else {
        let fits = !text.contains('@') && parse_url(&format!("http://{text}")).is_ok();
        return Err(wrong("has no scheme").suggest(fits.then(|| format!("\"http://{text}\""))));
    };
    match scheme {
        "http" => {}
        "https" => {
            return Err(wrong("asks for TLS to the node, which is not supported yet; put a TLS proxy next to it"));
        }
        _ => return Err(wrong("has an unknown scheme")),
    }
    if text.chars().count() > URL_CHARS_MAX {
        return Err(wrong(&format!("is longer than {URL_CHARS_MAX} characters")));
    }
    if rest.contains('?') || rest.contains('#') {
        return Err(wrong("has a query or fragment, which a node's URL cannot have"));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(wrong("has a user name or password, which a node's URL cannot have"));
    }
    check_authority(authority).map_err(|what| wrong(&what))?;
    let path = path.trim_end_matches('/');
    let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c);
    if !path.chars().all(unreserved) || text.parse::<http::Uri>().is_err() {
        return Err(wrong("has a path with characters that a URL cannot have"));
    }
    Ok(format!("http://{authority}{path}"))
}

fn check_authority(authority: &str) -> Result<(), String> {
    let (host, port) = match authority.rfind(']') {
        Some(end) => (&authority[..=end], &authority[end + 1..]),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let sound = match literal {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        // Four numbers that are not an IPv4 address would be looked up as a name and fail much later.
        None if host.chars().all(|c| c.is_ascii_digit() || c == '.') => host.parse::<Ipv4Addr>().is_ok(),
        None => host.len() <= 253 && host.chars().all(named),
    };
    if !sound {
        return Err("has a host that is neither a name nor an IP address (IPv6 goes in brackets)".to_owned());
    }
    let Some(digits) = port.strip_prefix(':') else {
        return if port.is_empty() { Ok(()) } else { Err("has something odd after its host".to_owned()) };
    };
    match digits.parse::<u16>() {
        Ok(number) if number > 0 && digits.chars().all(|c| c.is_ascii_digit()) => Ok(()),
        _ => Err("has a port that is not from 1 to 65535".to_owned()),
    }
}

/// The URL in quotes, with what stands between `//` and `@`, and in a query, replaced.
fn masked(text: &str) -> String {
    let text = match text.split_once('?') {
        Some((before, _)) => format!("{before}?***"),
        None => text.to_owned(),
    };
    match (text.find("://").map_or(0, |at| at + 3), text.rfind('@')) {
        (start, Some(end)) if start <= end => quoted(&format!("{}***{}", &text[..start], &text[end..])),
        _ => quoted(&text),
    }
}

/// The parts of `[name=]URL[@weight]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeArgument<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) url: &'a str,
    pub(super) weight: Option<f64>,
}

impl<'a> NodeArgument<'a> {
    /// Takes the parts apart; whether each is right is for the checks that all sources share.
    pub(super) fn split(text: &'a str) -> NodeArgument<'a> {
        let text = text.trim();
        let scheme = text.find("://").unwrap_or(text.len());
        let (name, rest) = match text.find('=') {
            Some(at) if at < scheme => (Some(text[..at].trim()), text[at + 1..].trim()),
            _ => (None, text),
        };
        // Only after a sound URL is `@5` a weight; otherwise it might be the end of `user:password@host`.
        let weighted = rest.rsplit_once('@').and_then(|(url, weight)| {
            let weight = weight.trim().parse::<f64>().ok()?;
            parse_url(url).is_ok().then_some((url, weight))
        });
        match weighted {
            Some((url, weight)) => NodeArgument { name, url, weight: Some(weight) },
            None => NodeArgument { name, url: rest, weight: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_a_node_can_have_are_kept_without_a_trailing_slash() {
        for (given, kept) in [
            ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
            ("http://gpu-1.internal:8000/", "http://gpu-1.internal:8000"),
            ("http://[::1]:8000/base/", "http://[::1]:8000/base"),
            ("http://host", "http://host"),
        ] {
            assert_eq!(parse_url(given).as_deref(), Ok(kept));
        }
    }

    #[test]
    fn urls_that_a_node_cannot_have_say_why() {
        for (given, why) in [
            ("https://host", "not supported yet"),
            ("ftp://host", "unknown scheme"),
            ("http://", "no host"),
            ("http://:80", "no host"),
            ("http://host:0", "port"),
            ("http://host:70000", "port"),
            ("http://host:+80", "port"),
            ("http://300.1.1.1:80", "IP address"),
            ("http://[::1", "IP address"),
            ("http://[::1]x", "odd"),
            ("http://ho st", "IP address"),
            ("http://host/a b", "path"),
            ("http://host/?q", "query or fragment"),
            ("http://host#f", "query or fragment"),
        ] {
            let complaint = parse_url(given).expect_err(given);
            assert!(complaint.problem.contains(why), "{given}: {complaint}");
        }
        let bare = parse_url("10.0.0.1:8000").expect_err("no scheme");
        assert_eq!(bare.suggestion.as_deref(), Some("\"http://10.0.0.1:8000\""));
    }

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        for given in [
            "http://user:hunter2@host",
            "http://user:hunter2@10",
            "user:hunter2@host",
            "https://hunter2@h",
            "http://h/?key=hunter2",
        ] {
            let complaint = parse_url(NodeArgument::split(given).url).expect_err(given);
            assert!(!complaint.to_string().contains("hunter2"), "{complaint}");
        }
    }

    #[test]
    fn the_short_form_has_a_name_and_a_weight_if_wanted() {
        let all = |name, url, weight| NodeArgument { name, url, weight };
        assert_eq!(NodeArgument::split("http://h:1"), all(None, "http://h:1", None));
        assert_eq!(NodeArgument::split("a=http://h:1@2.5"), all(Some("a"), "http://h:1", Some(2.5)));
        assert_eq!(NodeArgument::split("http://h:1/x=y@3"), all(None, "http://h:1/x=y", Some(3.0)));
        assert_eq!(NodeArgument::split("http://u:p@10"), all(None, "http://u:p@10", None));
    }
}
