//! A cursor over JSON bytes that reads what it is asked for and skips the rest.
//!
//! A proxy needs five numbers out of a body of 100 kB. A parser that builds values would allocate for all of it, and
//! even a validating one visits every byte of every string one by one. This one finds the end of a string with
//! vector instructions and looks closer only at what the caller names. It works on a body that is cut off anywhere,
//! uses no memory besides itself, takes linear time, and cannot panic or recurse without bound.
//!
//! It is deliberately lenient: numbers, words, escapes and UTF-8 are not checked where they are skipped. The bytes go
//! to the node as they came, and the node is the judge of them.

mod strings;

use memchr::{memchr, memchr3};

use strings::{escape, position, quote_or_backslash, quotes_and_backslashes, unescaped_key};

/// Nesting that is followed; the limit of `serde_json`, and far above what any of the known APIs needs.
pub(super) const DEPTH_MAX: u32 = 128;

/// The longest key that is told apart; longer ones are none of ours.
const KEY_BYTES_MAX: usize = 32;

/// Why reading ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes ended in the middle of a value.
    End,
    /// Not JSON.
    Malformed,
}

pub(super) type Read<T> = Result<T, Stop>;

/// A string as it stands in the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    /// Between the quotes, escapes untouched.
    pub(super) raw: &'a [u8],
    /// Length in bytes once unescaped.
    pub(super) len: usize,
    /// Whether it has escapes.
    pub(super) escaped: bool,
    /// Whether its closing quote was found.
    pub(super) closed: bool,
}

impl<'a> Text<'a> {
    /// Itself, if it is not cut off.
    pub(super) fn whole(self) -> Read<Text<'a>> {
        if self.closed { Ok(self) } else { Err(Stop::End) }
    }
}

/// A non-negative whole number as servers accept it: `128`, `128.0`, `1e3`. Saturates; `None` for anything else.
pub(super) fn whole_number(raw: &[u8]) -> Option<u32> {
    if !raw.is_empty() && raw.iter().all(u8::is_ascii_digit) {
        let number =
            raw.iter().fold(0u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
        return Some(number);
    }
    let number: f64 = std::str::from_utf8(raw).ok()?.parse().ok()?;
    (number.is_finite() && number >= 0.0 && raw[0] != b'-').then_some(number as u32)
}

/// An array without strings or nesting, such as token ids.
pub(super) struct Flat<'a> {
    /// Between its brackets.
    pub(super) inner: &'a [u8],
    /// Whether the closing bracket was found.
    pub(super) closed: bool,
}

/// Where reading stands.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    /// Never beyond the end.
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// A cursor that starts at a place where another was.
    pub(super) fn starting(bytes: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { bytes, at: at.min(bytes.len()) }
    }

    /// Another one over the same bytes, at a place where this one was.
    pub(super) fn clone_at(&self, at: usize) -> Cursor<'a> {
        Cursor::starting(self.bytes, at)
    }

    /// What lies between here and there.
    pub(super) fn passed(&self, there: &Cursor<'a>) -> &'a [u8] {
        self.bytes.get(self.at..there.at).unwrap_or_default()
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space, not yet consumed.
    pub(super) fn peek(&mut self) -> Read<u8> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte > b' ' => Ok(*byte),
            _ => self.peek_beyond_space(),
        }
    }

    #[inline(never)]
    fn peek_beyond_space(&mut self) -> Read<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                _ => return Ok(*byte),
            }
        }
        Err(Stop::End)
    }

    /// Consumes `byte`, which must be next.
    pub(super) fn expect(&mut self, byte: u8) -> Read<()> {
        if self.peek()? != byte {
            return Err(Stop::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// The string that begins here if it is short and plain, consumed then. Nearly all names are; others are left to
    /// [`Cursor::text`].
    fn short_text(&mut self) -> Option<&'a [u8]> {
        let text = self.bytes.get(self.at..)?.strip_prefix(b"\"")?;
        let (first, rest) = text.split_first_chunk::<8>()?;
        let end = match quotes_and_backslashes(*first) {
            0 => 8 + position(quotes_and_backslashes(*rest.first_chunk::<8>()?)),
            found => position(found),
        };
        if *text.get(end)? != b'"' {
            return None;
        }
        self.at += end + 2;
        text.get(..end)
    }

    /// The string that begins here, possibly cut off.
    pub(super) fn text(&mut self) -> Read<Text<'a>> {
        self.expect(b'"')?;
        let start = self.at;
        let (mut saved, mut escaped) = (0, false);
        loop {
            let rest = &self.bytes[self.at..];
            // Escapes come in rows where a whole script is escaped.
            let found = if rest.first() == Some(&b'\\') { Some(0) } else { quote_or_backslash(rest) };
            let Some(i) = found else {
                self.at = self.bytes.len();
                let raw = &self.bytes[start..];
                return Ok(Text { raw, len: raw.len() - saved, escaped, closed: false });
            };
            if rest[i] == b'"' {
                let raw = &self.bytes[start..self.at + i];
                self.at += i + 1;
                return Ok(Text { raw, len: raw.len() - saved, escaped, closed: true });
            }
            let (len, stands_for) = escape(&rest[i..]);
            saved += len - stands_for;
            escaped = true;
            self.at += i + len;
        }
    }

    /// A number or a word. `End` if it touches the end of the bytes: there might be more of it.
    pub(super) fn scalar(&mut self) -> Read<&'a [u8]> {
        self.peek()?;
        let rest = &self.bytes[self.at..];
        let of_scalar = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let len = rest.iter().position(|byte| !of_scalar(byte));
        match len {
            None => {
                self.at = self.bytes.len();
                Err(Stop::End)
            }
            Some(0) => Err(Stop::Malformed),
            Some(len) => {
                self.at += len;
                Ok(&rest[..len])
            }
        }
    }

    /// The value here as a whole number; anything else is skipped. A string of digits counts: servers take it.
    pub(super) fn number(&mut self) -> Read<Option<u32>> {
        match self.peek()? {
            b'"' => Ok(whole_number(self.text()?.whole()?.raw)),
            b'0'..=b'9' => Ok(whole_number(self.scalar()?)),
            _ => self.skip().map(|()| None),
        }
    }

    /// The value here as a truth value; anything else is skipped.
    pub(super) fn boolean(&mut self) -> Read<Option<bool>> {
        match self.peek()? {
            b't' | b'f' => Ok(match self.scalar()? {
                b"true" => Some(true),
                b"false" => Some(false),
                _ => return Err(Stop::Malformed),
            }),
            _ => self.skip().map(|()| None),
        }
    }

    /// Passes over one value.
    pub(super) fn skip(&mut self) -> Read<()> {
        match self.peek()? {
            b'"' => self.skip_text(),
            b'{' | b'[' => self.skip_nested(),
            _ => self.scalar().map(drop),
        }
    }

    fn skip_text(&mut self) -> Read<()> {
        match self.short_text() {
            Some(_) => Ok(()),
            None => self.text()?.whole().map(drop),
        }
    }

    /// Only strings and brackets are looked at. The open brackets are kept as bits, 1 for `{`.
    fn skip_nested(&mut self) -> Read<()> {
        let (mut open, mut depth) = (0u128, 0);
        loop {
            match self.peek()? {
                b'"' => self.skip_text()?,
                byte @ (b'{' | b'[') => {
                    if let Some(flat) = self.flat_array() {
                        if !flat.closed {
                            return Err(Stop::End);
                        }
                        if depth == 0 {
                            return Ok(());
                        }
                        continue;
                    }
                    if depth == DEPTH_MAX {
                        return Err(Stop::Malformed);
                    }
                    open = open << 1 | u128::from(byte == b'{');
                    depth += 1;
                    self.at += 1;
                }
                byte @ (b'}' | b']') => {
                    if (open & 1 == 1) != (byte == b'}') {
                        return Err(Stop::Malformed);
                    }
                    open >>= 1;
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                b',' | b':' => self.at += 1,
                _ => drop(self.scalar()?),
            }
        }
    }

    /// The array that begins here, if it holds neither strings nor nesting; consumed then.
    ///
    /// The search ends at the next thing that could begin another such array, so that however often it is tried, no
    /// byte is searched twice.
    pub(super) fn flat_array(&mut self) -> Option<Flat<'a>> {
        let rest = &self.bytes[self.at..];
        let rest = rest.strip_prefix(b"[")?;
        if matches!(rest.first(), Some(b'"' | b'[' | b'{')) {
            return None;
        }
        let reach = memchr3(b'"', b'[', b'{', rest);
        let near = &rest[..reach.unwrap_or(rest.len())];
        match (memchr(b']', near), reach) {
            (Some(close), _) => {
                self.at += close + 2;
                Some(Flat { inner: &near[..close], closed: true })
            }
            (None, None) => {
                self.at = self.bytes.len();
                Some(Flat { inner: near, closed: false })
            }
            (None, Some(_)) => None,
        }
    }

    /// Calls `each` for every key of the object that begins here; it must consume the value.
    ///
    /// Keys come unescaped; one that cannot be known because of its escapes comes empty.
    pub(super) fn object(&mut self, mut each: impl FnMut(&mut Self, &[u8]) -> Read<()>) -> Read<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let mut space = [0; KEY_BYTES_MAX];
            self.peek()?;
            let key = match self.short_text() {
                Some(key) => key,
                None => unescaped_key(self.text()?.whole()?, &mut space),
            };
            self.expect(b':')?;
            each(self, key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(Stop::Malformed),
            }
        }
    }

    /// Calls `each` for every element of the array that begins here; it must consume the element.
    pub(super) fn array(&mut self, mut each: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        self.expect(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            each(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(Stop::Malformed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(json: &str) -> Read<usize> {
        let mut cursor = Cursor::new(json.as_bytes());
        cursor.skip().map(|()| cursor.position())
    }

    #[test]
    fn skipping_ends_right_after_the_value() {
        for value in [
            "{}",
            "[]",
            "[[],[]]",
            r#""a\"b""#,
            r#"{"a":[1,{"b":"}]"}],"c":{}}"#,
            "[1, 2.5,-3e9 ]",
            "[null,true]",
            r#"["]","[",{"]":1}]"#,
            "[[1],2,2,[3]]",
            r#""\\""#,
        ] {
            assert_eq!(skipped(&format!("{value},1]")), Ok(value.len()), "{value}");
        }
    }

    #[test]
    fn a_cut_value_is_an_end_and_a_wrong_one_is_malformed() {
        for cut in ["", " ", "{", "[1,2", r#"{"a"#, r#"{"a":"#, "12", "tru", r#""abc\"#, r#"[["a""#, "[[1]"] {
            assert_eq!(skipped(cut), Err(Stop::End), "{cut}");
        }
        for wrong in ["}", ",", "[{]}", r#"{"a":["x"}"#, "\u{1}", "[{\u{7f}"] {
            assert_eq!(skipped(wrong), Err(Stop::Malformed), "{wrong}");
        }
    }

    #[test]
    fn nesting_is_followed_to_its_bound_and_no_further() {
        let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        assert!(skipped(&nested(DEPTH_MAX as usize)).is_ok());
        assert_eq!(skipped(&nested(DEPTH_MAX as usize + 1)), Err(Stop::Malformed));
        assert_eq!(skipped(&"[".repeat(1_000_000)), Err(Stop::Malformed));
    }

    #[test]
    fn unescaped_length_is_counted_without_unescaping() {
        for text in ["", "plain", "a\"b\\c/", "\n\t\u{8}", "\u{1}\u{7f}", "é", "語", "😀 long text beyond a vector 語"]
        {
            let plain = serde_json::to_string(text).unwrap();
            let ascii: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            for json in [plain, format!("\"{ascii}\"")] {
                let read = Cursor::new(json.as_bytes()).text().unwrap();
                assert!(read.closed);
                assert_eq!(read.len, text.len(), "{json}");
            }
        }
    }

    #[test]
    fn keys_are_recognised_even_if_escaped() {
        let key = |json: &str| {
            let object = format!("{{{json}:1}}");
            let mut seen = Vec::new();
            let read = Cursor::new(object.as_bytes()).object(|cursor, key| {
                seen.extend_from_slice(key);
                cursor.skip()
            });
            assert_eq!(read, Ok(()), "{json}");
            seen
        };
        assert_eq!(key(r#""a""#), b"a");
        assert_eq!(key(r#""""#), b"");
        assert_eq!(key(r#""sixteen_letters_""#), b"sixteen_letters_");
        assert_eq!(key(r#""more_than_sixteen_letters""#), b"more_than_sixteen_letters");
        assert_eq!(key(r#""model""#), b"model");
        assert_eq!(key(r#""\u006dodel""#), b"model");
        assert_eq!(key(r#""\u006D\u006f\u0064el""#), b"model");
        assert_eq!(key(r#""mo\ndel""#), b"");
        assert_eq!(key(r#""\u8a9e""#), b"");
        assert_eq!(key(&format!(r#""\u0061{}""#, "a".repeat(KEY_BYTES_MAX))), b"");
    }

    #[test]
    fn numbers_are_read_as_servers_read_them() {
        for (raw, number) in [
            ("0", Some(0)),
            ("128", Some(128)),
            ("128.0", Some(128)),
            ("1e3", Some(1000)),
            ("99999999999", Some(u32::MAX)),
            ("-1", None),
            ("-0.5", None),
            ("", None),
            ("nan", None),
            ("inf", None),
            ("1e999", None),
            ("12a", None),
        ] {
            assert_eq!(whole_number(raw.as_bytes()), number, "{raw}");
        }
    }
}
