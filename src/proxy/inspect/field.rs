//! One field of a JSON body, wherever the operator says it is.

use super::json::{Cursor, Read};

/// The text or number at `path`, from the outermost object inwards, as it is written; `None` if it is not there, is
/// anything else, or lies beyond what was read. The last one counts, as in a [look](super::look).
pub fn field_in_json<'a>(body: &'a [u8], path: &[String]) -> Option<&'a [u8]> {
    let mut found = None;
    // What was found before the body broke off or went wrong stands.
    let _ = find(&mut Cursor::new(body), path, &mut found);
    found
}

fn find<'a>(cursor: &mut Cursor<'a>, path: &[String], found: &mut Option<&'a [u8]>) -> Read<()> {
    let Some((name, below)) = path.split_first() else {
        *found = match cursor.peek()? {
            b'"' => Some(cursor.text()?.whole()?.raw),
            b'0'..=b'9' | b'-' => Some(cursor.scalar()?),
            _ => return cursor.skip(),
        };
        return Ok(());
    };
    if cursor.peek()? != b'{' {
        return cursor.skip();
    }
    cursor.object(|cursor, key| if key == name.as_bytes() { find(cursor, below, found) } else { cursor.skip() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(body: &str, path: &str) -> Option<String> {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        field_in_json(body.as_bytes(), &path).map(|raw| String::from_utf8_lossy(raw).into_owned())
    }

    #[test]
    fn a_field_is_found_at_its_own_place_only() {
        let body = r#"{"messages": [{"user": "no"}], "user": "a\"b", "n": -12, "metadata": {"x": 1, "user": "deep"}}"#;
        assert_eq!(field(body, "user").as_deref(), Some(r#"a\"b"#));
        assert_eq!(field(body, "n").as_deref(), Some("-12"));
        assert_eq!(field(body, "metadata.user").as_deref(), Some("deep"));
        for path in ["metadata", "messages", "messages.user", "user.x", "nobody"] {
            assert_eq!(field(body, path), None, "{path}");
        }
    }

    #[test]
    fn what_was_found_before_the_body_broke_off_stands() {
        assert_eq!(field(r#"{"user": "a", "messages": [{"content": "x"#, "user").as_deref(), Some("a"));
        for body in ["", "{", r#"{"user": "#, r#"{"user": "a"#, "[1]", "x"] {
            assert_eq!(field(body, "user"), None, "{body}");
        }
    }
}
