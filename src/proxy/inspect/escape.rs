//! The text that the escapes of a JSON string stand for, piece by piece and without a copy.

use memchr::memchr;

/// Gives the unescaped bytes of `raw` (between its quotes) to `each`, in order. A broken escape, and half of a pair of
/// surrogates, stand for themselves: servers differ in what they make of them, and so do two strings with them. An
/// escape that is cut off at the end is left out.
pub(super) fn unescaped(raw: &[u8], mut each: impl FnMut(&[u8])) {
    let mut rest = raw;
    while let Some(at) = memchr(b'\\', rest) {
        each(&rest[..at]);
        let escape = &rest[at..];
        let len = match escape {
            [_, b'u', ..] => match code_point(escape) {
                Some((char, len)) => {
                    each(char.encode_utf8(&mut [0; 4]).as_bytes());
                    len
                }
                None if escape.len() < 6 => return,
                None => {
                    each(&escape[..6]);
                    6
                }
            },
            [_, byte, ..] => {
                each(&[match byte {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' => 8,
                    b'f' => 12,
                    byte => *byte,
                }]);
                2
            }
            _ => return,
        };
        rest = &escape[len..];
    }
    each(rest);
}

/// The character of a `\u` with four digits, or of a pair of them, and the length of the escape.
fn code_point(escape: &[u8]) -> Option<(char, usize)> {
    let first = unit(escape)?;
    if let 0xd800..0xdc00 = first {
        let second = unit(escape.get(6..)?).filter(|unit| (0xdc00..0xe000).contains(unit))?;
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some((char::from_u32(code)?, 12));
    }
    Some((char::from_u32(first)?, 6))
}

fn unit(escape: &[u8]) -> Option<u32> {
    let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(raw: &str) -> Vec<u8> {
        let mut text = Vec::new();
        unescaped(raw.as_bytes(), |piece| text.extend_from_slice(piece));
        text
    }

    proptest! {
        #[test]
        fn it_is_what_a_parser_reads(written in "\\PC{0,20}[\\n\\t\"\\\\/\u{1}]{0,4}\\PC{0,10}") {
            let json = serde_json::to_string(&written).expect("a string");
            prop_assert_eq!(text(&json[1..json.len() - 1]), written.as_bytes());
            let ascii: String = written.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            prop_assert_eq!(text(&ascii), written.as_bytes());
        }

        #[test]
        fn anything_is_read_without_panic(raw in prop::collection::vec(prop_oneof![Just(b'\\'), Just(b'u'), Just(b'd'), any::<u8>()], 0..40)) {
            let mut len = 0;
            unescaped(&raw, |piece| len += piece.len());
            prop_assert!(len <= raw.len());
        }
    }

    #[test]
    fn halves_stand_for_themselves_and_a_cut_one_for_nothing() {
        assert_eq!(text(r"a\ud83db"), br"a\ud83db");
        assert_eq!(text(r"a\ud8"), b"a");
        assert_eq!(text("a\\"), b"a");
    }
}
