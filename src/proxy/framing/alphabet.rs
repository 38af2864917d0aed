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
    let rest = bytes.get(from..).unwrap_or_default();
    rest.iter().position(|&b| !is(b, class)).map_or(bytes.len(), |n| from + n)
}

/// The index of the first control character (0x00 to 0x1f without the tab, and 0x7f) at or after `from`.
#[inline]
pub(super) fn control(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES * 0x80;
    let mut at = from;
    loop {
        if let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*word);
            // The classic "has a byte less than n" and "has a zero byte" (Bit Twiddling Hacks): borrows can only raise
            // false alarms above a true one, so the lowest alarm is exact.
            let below_space = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
            let not_delete = word ^ (ONES * 0x7f);
            let delete = not_delete.wrapping_sub(ONES) & !not_delete & TOPS;
            let alarms = below_space | delete;
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
    }

    #[test]
    fn a_run_ends_at_the_first_byte_of_another_class() {
        assert_eq!(run(b"Content-Length: 1", 0, TOKEN), 14);
        assert_eq!(run(b"/a{}\"?q", 0, PATH), 5);
        assert_eq!(run(b"abc", 1, TOKEN), 3);
        assert_eq!(run(b"abc", 9, TOKEN), 3);
    }
}
