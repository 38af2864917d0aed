//! Text from elsewhere, made harmless for whoever looks at it in a terminal or an editor.
//!
//! Clients choose paths, models and headers, and these end up in logs and in answers to operators. JSON need only escape
//! what is below U+0020; a terminal also obeys DEL and the C1 controls, and marks that turn the direction of text make a
//! line read as another one. The escape is JSON's own, so that a document still says the same; in lines of text it is as
//! good as any. It knows nothing of who wrote the text or where it goes.

use std::borrow::Cow;

/// Whether a terminal shows the character and nothing else happens.
pub fn is_harmless(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}

/// UTF-8 text with every character from U+007F on that is not harmless written as `\u` and four digits. What is below, a
/// writer of JSON has escaped, and a line needs its end. Pieces may be given one by one if none is cut within a character.
pub fn escaped(text: &[u8]) -> Cow<'_, [u8]> {
    // Nearly every line and answer is plain, and this loop compares many bytes at once.
    if !text.iter().fold(false, |found, byte| found | (*byte >= 0x7F)) {
        return Cow::Borrowed(text);
    }
    let mut clean: Vec<u8> = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while at < text.len() {
        let (code, length) = match &text[at..] {
            [0x7F, ..] => (0x7F, 1),
            [0xC2, low @ 0x80..=0x9F, ..] => (u32::from(*low), 2),
            [0xD8, 0x9C, ..] => (0x61C, 2),
            [0xE2, 0x80, low @ (0x8E | 0x8F | 0xA8..=0xAE), ..] => (0x2000 + u32::from(low & 0x3F), 3),
            [0xE2, 0x81, low @ 0xA6..=0xA9, ..] => (0x2040 + u32::from(low & 0x3F), 3),
            _ => {
                at += 1;
                continue;
            }
        };
        clean.extend_from_slice(&text[copied..at]);
        clean.extend_from_slice(format!("\\u{code:04x}").as_bytes());
        at += length;
        copied = at;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    clean.extend_from_slice(&text[copied..]);
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_character_that_is_not_harmless_is_escaped_and_no_other() {
        for c in '\u{7f}'..='\u{10ffff}' {
            let text = c.to_string();
            let escaped = escaped(text.as_bytes());
            assert_eq!(escaped == text.as_bytes(), is_harmless(c), "{c:?}");
        }
    }

    proptest! {
        #[test]
        fn a_json_text_still_says_the_same(text in "(\\PC|[\u{7f}-\u{9f}\u{200e}\u{202e}\u{2066}\u{1b}\"\\\\\n]){0,40}") {
            let json = serde_json::to_vec(&text).expect("a string");
            let escaped = escaped(&json);
            prop_assert_eq!(serde_json::from_slice::<String>(&escaped).expect("JSON"), text);
            prop_assert!(String::from_utf8_lossy(&escaped).chars().all(is_harmless));
        }
    }
}
