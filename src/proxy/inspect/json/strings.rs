//! Inside the strings of JSON: where they end, and what escapes stand for.

use super::{KEY_BYTES_MAX, Text};
use memchr::memchr2;

pub(super) fn unescaped_key<'b>(text: Text<'b>, space: &'b mut [u8; KEY_BYTES_MAX]) -> &'b [u8] {
    if text.escaped { unescape_key(text.raw, space).unwrap_or_default() } else { text.raw }
}

/// Known keys are letters and underscores, which JSON can only escape as `\u00XX`.
#[cold]
fn unescape_key<'b>(raw: &[u8], space: &'b mut [u8; KEY_BYTES_MAX]) -> Option<&'b [u8]> {
    let mut rest = raw;
    let mut len = 0;
    while let [first, more @ ..] = rest {
        let (byte, after) = match (first, more) {
            (b'\\', [b'u', digits @ ..]) => (u8::try_from(hex4(digits)?).ok()?, digits.get(4..)?),
            (b'\\', _) => return None,
            _ => (*first, more),
        };
        *space.get_mut(len)? = byte;
        len += 1;
        rest = after;
    }
    space.get(..len)
}

fn hex4(digits: &[u8]) -> Option<u32> {
    let mut code = 0;
    for digit in digits.get(..4)? {
        code = code << 4 | char::from(*digit).to_digit(16)?;
    }
    Some(code)
}

/// Length of the escape that `bytes` begins with, and the UTF-8 length of what it stands for.
pub(super) fn escape(bytes: &[u8]) -> (usize, usize) {
    match bytes {
        [_] | [] => (1, 0),
        // Python escapes all that is not ASCII, so that whole prompts can consist of these.
        [_, b'u', digits @ ..] => match digits.first_chunk::<4>() {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => (6, utf8_len(*digits)),
            _ => (2, 1),
        },
        _ => (2, 1),
    }
}

/// UTF-8 length of the UTF-16 unit with these hexadecimal digits.
fn utf8_len(digits: [u8; 4]) -> usize {
    // Makes letters lower-case and leaves digits as they are.
    match digits.map(|digit| digit | 0x20) {
        [b'0', b'0', b'0'..=b'7', _] => 1,
        [b'0', b'0'..=b'7', _, _] => 2,
        // Half of a pair, which together stands for four bytes.
        [b'd', b'8'..=b'9' | b'a'..=b'f', _, _] => 2,
        _ => 3,
    }
}

/// Marks in the top bit of its byte the first quote or backslash among eight bytes; 0 if there is none.
///
/// Exclusive-or makes the byte looked for zero, and `(x - 0x01..) & !x & 0x80..` has the top bit of the first zero byte
/// set (Mycroft's test, exact for the lowest such byte).
pub(super) fn quotes_and_backslashes(word: [u8; 8]) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |x: u64| x.wrapping_sub(LOW) & !x & HIGH;
    let word = u64::from_le_bytes(word);
    zero_bytes(word ^ (LOW * u64::from(b'"'))) | zero_bytes(word ^ (LOW * u64::from(b'\\')))
}

/// Which byte has the first mark; 8 for none.
pub(super) fn position(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

/// The next quote or backslash. The stretches between two escapes are often shorter than the set-up of a vector search
/// pays for, so the first words are searched one by one.
pub(super) fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    const WORDS_NEAR: usize = 4;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().take(WORDS_NEAR).enumerate() {
        let found = quotes_and_backslashes(*word);
        if found != 0 {
            return Some(8 * i + position(found));
        }
    }
    let near = 8 * WORDS_NEAR;
    if bytes.len() > near {
        return memchr2(b'"', b'\\', &bytes[near..]).map(|i| near + i);
    }
    let at = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(bytes.len() - rest.len() + at)
}
