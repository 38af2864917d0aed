//! Which bytes may stand where: one table of 256 classes, and a search for control characters eight bytes at a time.
//!
//! A typical head has a few short names and longer values: names and targets go through the table byte by byte, values
//! are searched for their end and for forbidden characters in one pass of word arithmetic. Not `memchr` for the values: it
//! finds the line feed but would leave the controls before it to a second pass.

/// A `tchar` (RFC 9110, 5.6.2): methods and field names.
pub(super) const TOKEN: u8 = 1;
/// What hyper's `Uri` takes before the `?` of a target; bytes from 0x80 on must also be UTF-8.
pub(super) const PATH: u8 = 2;
/// The same after the `?`.
pub(super) const QUERY: u8 = 4;
/// A registered name or an IPv4 address (RFC 3986, 3.2.2), without percent-encoding, which `Uri` refuses in a host, and
/// without the comma, which only ever joins two hosts.
pub(super) const HOST: u8 = 8;

/// Every byte 1, and every byte's top bit.
const ONES: u64 = u64::MAX / 255;
const TOPS: u64 = ONES * 0x80;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        let alphanumeric = b.is_ascii_alphanumeric();
        let token = matches!(
            b,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        let host = matches!(
            b,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        );
        // The fragment sign is in neither: a client never sends it, and readers differ in what they make of it.
        let visible = b > 0x20 && b != 0x7f && b != b'<' && b != b'>' && b != b'#';
        let mut class = 0;
        if alphanumeric || token {
            class |= TOKEN;
        }
        if alphanumeric || host {
            class |= HOST;
        }
        if visible && b != b'?' && b != b'`' {
            class |= PATH;
        }
        if visible && b != b'"' {
            class |= QUERY;
        }
        table[i] = class;
        i += 1;
    }
    table
}

/// Whether `b` is in `class`.
#[inline]
pub(super) fn is(b: u8, class: u8) -> bool {
    CLASS[usize::from(b)] & class != 0
}

/// The index of the first byte at or after `from` that is not in `class`; the length where all are.
#[inline]
pub(super) fn run(bytes: &[u8], from: usize, class: u8) -> usize {
    let mut at = from;
    // Four look-ups per branch: names are too short for more.
    while let Some(&[a, b, c, d]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let all = CLASS[usize::from(a)] & CLASS[usize::from(b)] & CLASS[usize::from(c)] & CLASS[usize::from(d)];
        if all & class == 0 {
            break;
        }
        at += 4;
    }
    while at < bytes.len() && is(bytes[at], class) {
        at += 1;
    }
    at.min(bytes.len())
}

/// [`run`] of [`TOKEN`], fast over letters and dashes, of which nearly all names consist.
#[inline]
pub(super) fn token(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*word);
        // As in `control`: with the top bits out of the way, each addition tells per byte whether it reached 0x80.
        let low = word & !TOPS;
        let lower = low | (ONES * 0x20);
        let letter = (lower + ONES * (0x80 - b'a' as u64)) & !(lower + ONES * (0x80 - b'z' as u64 - 1));
        let no_dash = (low ^ (ONES * b'-' as u64)) + !TOPS;
        let others = ((!letter & no_dash) | word) & TOPS;
        if others != 0 {
            at += (others.trailing_zeros() / 8) as usize;
            break;
        }
        at += 8;
    }
    while at < bytes.len() && is(bytes[at], TOKEN) {
        at += 1;
    }
    at
}

/// The index of the first control character (0x00 to 0x1f without the tab, and 0x7f) at or after `from`.
#[inline]
pub(super) fn control(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        if let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*word);
            // Without the top bits no addition carries into the next byte: it sets the top bit of exactly those bytes that
            // are at least 0x20, or exactly 0x7f. Bytes that had a top bit themselves are never controls.
            let low = word & !TOPS;
            let alarms = (!(low + ONES * 0x60) | (low + ONES)) & !word & TOPS;
            if alarms == 0 {
                at += 8;
                continue;
            }
            at += (alarms.trailing_zeros() / 8) as usize;
        } else {
            let rest = bytes.get(at..)?;
            at += rest.iter().position(u8::is_ascii_control)?;
        }
        if bytes[at] != b'\t' {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_search_by_words_finds_what_a_search_by_bytes_finds(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(b'\t'), Just(0x7f)], 0..64),
            from in 0usize..70,
        ) {
            let plain = (from..bytes.len()).find(|&i| bytes[i].is_ascii_control() && bytes[i] != b'\t');
            prop_assert_eq!(control(&bytes, from), plain);
        }

        #[test]
        fn a_token_ends_where_a_search_by_bytes_ends_it(
            bytes in prop::collection::vec(prop_oneof![1 => any::<u8>(), 9 => b'A'..=b'z', 9 => Just(b'-'), 9 => 0x20u8..], 0..40),
            from in 0usize..40,
        ) {
            let from = from.min(bytes.len());
            let plain = (from..bytes.len()).find(|&i| !is(bytes[i], TOKEN)).unwrap_or(bytes.len());
            prop_assert_eq!(token(&bytes, from), plain);
            prop_assert_eq!(run(&bytes, from, TOKEN), plain);
        }
    }

    #[test]
    fn every_byte_that_a_target_or_host_may_have_is_one_that_hyper_takes() {
        for b in 0..=0x7f {
            let takes = |before: &str| http::Uri::try_from([before.as_bytes(), &[b, b'x']].concat()).is_ok();
            // A question mark in a path begins the query.
            assert!(!is(b, PATH) || (b != b'?' && takes("/")), "{b:#x} in a path");
            assert!(!is(b, QUERY) || takes("/?"), "{b:#x} in a query");
            assert!(!is(b, HOST) || takes("http://a"), "{b:#x} in a host");
            assert!(!is(b, TOKEN) || http::Method::from_bytes(&[b]).is_ok(), "{b:#x} in a method");
            assert!(!is(b, TOKEN) || http::HeaderName::from_bytes(&[b]).is_ok(), "{b:#x} in a field name");
        }
    }

    #[test]
    fn a_run_ends_at_the_first_byte_of_another_class() {
        assert_eq!(run(b"Content-Length: 1", 0, TOKEN), 14);
        assert_eq!(run(b"/a{}\"?q", 0, PATH), 5);
        assert_eq!(run(b"abc", 1, TOKEN), 3);
        assert_eq!(run(b"abc", 9, TOKEN), 3);
    }
}
