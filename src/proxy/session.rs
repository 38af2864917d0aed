//! Which conversation a request belongs to, by what the operator says names it.
//!
//! Only a hash is kept. It is the same in every process, so that several proxies send a conversation to the same node. A
//! field of the body is looked for in the part that is read anyway, in a pass of its own that only those pay who configure
//! it, and counts as it is written: an escape more is another name.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use http::{HeaderMap, header};

use crate::config::SessionKey;
use crate::proxy::inspect::field_in_json;

/// A hash of the conversation's name, if the request tells it. `body` is the part of a JSON body that was read.
pub(super) fn session_of(key: &SessionKey, headers: &HeaderMap, body: &[u8]) -> Option<u64> {
    let name = match key {
        SessionKey::Header(name) => headers.get(name).map(|value| value.as_bytes()),
        SessionKey::Cookie(name) => cookie(headers, name.as_bytes()),
        SessionKey::Body(path) => field_in_json(body, path),
    };
    let name = name.filter(|name| !name.is_empty())?;
    Some(BuildHasherDefault::<DefaultHasher>::default().hash_one(name))
}

/// The value of the first cookie of that name.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let cookies = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let mut values = cookies.filter_map(|cookie| cookie.trim_ascii().strip_prefix(name)?.strip_prefix(b"="));
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_conversation_is_known_by_what_is_configured_and_by_nothing_else() {
        let given = headers(&[("x-session-id", "7"), ("cookie", "a=1; sid=7"), ("cookie", "sid=8")]);
        let body = br#"{"model": "m", "metadata": {"user_id": "7"}, "user": 7}"#;
        let header = SessionKey::Header(http::HeaderName::from_static("x-session-id"));
        let body_key = |path: &[&str]| SessionKey::Body(path.iter().map(|name| (*name).to_owned()).collect());
        let seven = session_of(&header, &given, body);
        assert!(seven.is_some());
        for key in [SessionKey::Cookie("sid".to_owned()), body_key(&["metadata", "user_id"]), body_key(&["user"])] {
            assert_eq!(session_of(&key, &given, body), seven, "{key:?}");
            assert_eq!(session_of(&key, &HeaderMap::new(), b"{}"), None, "{key:?}");
        }
        assert_ne!(session_of(&header, &headers(&[("x-session-id", "8")]), body), seven);
    }

    #[test]
    fn an_empty_name_is_none() {
        let key = SessionKey::Cookie("sid".to_owned());
        assert_eq!(session_of(&key, &headers(&[("cookie", "sid=")]), b""), None);
        assert_eq!(session_of(&key, &headers(&[("cookie", "side=1; xsid=2")]), b""), None);
    }
}
