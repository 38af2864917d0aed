//! The W3C trace context: who our parent is, and who the parent of others is (W3C Recommendation, Level 1 and 2).
//!
//! A field that is not well formed counts as absent, as the recommendation wants: a new trace begins. `tracestate` is
//! other vendors' business and passes as it is; ours would say nothing that the span does not.

use std::ops::Range;

use http::{HeaderMap, HeaderName};

/// Names the trace, the caller's span, and whether it is recorded.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What other systems keep about the trace.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where the trace id stands in a [`render`]ed context.
pub const TRACE_ID: Range<usize> = 3..35;

/// Bytes of a rendered context.
pub const LENGTH: usize = 55;

/// The longest `tracestate` that is kept in a span; vendors must be able to handle 512 characters.
const STATE_BYTES_MAX: usize = 512;

/// What a caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: u128,
    /// The caller's span.
    pub span: u64,
    /// Whether the caller records.
    pub sampled: bool,
}

/// The caller's context, if there is exactly one and it is well formed.
pub fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut fields = headers.get_all(TRACEPARENT).iter();
    let field = fields.next()?;
    if fields.next().is_some() { None } else { parse(field.as_bytes()) }
}

/// The caller's `tracestate`, its fields joined.
pub fn state(headers: &HeaderMap) -> Option<String> {
    let fields: Vec<&str> = headers.get_all(TRACESTATE).iter().filter_map(|field| field.to_str().ok()).collect();
    Some(fields.join(",")).filter(|state| (1..=STATE_BYTES_MAX).contains(&state.len()))
}

/// `VERSION-TRACE-SPAN-FLAGS`; versions that are not known yet may have more behind it.
fn parse(text: &[u8]) -> Option<Parent> {
    let (version, rest) = (text.get(..2)?, text.get(LENGTH..)?);
    let length_fits = if version == b"00" { rest.is_empty() } else { rest.first().is_none_or(|byte| *byte == b'-') };
    let dashes = [2, 35, 52].iter().all(|at| text[*at] == b'-');
    let (trace, span, flags) = (hex(&text[TRACE_ID])?, hex(&text[36..52])?, hex(&text[53..55])?);
    let valid = hex(version)? != 0xff && length_fits && dashes && trace != 0 && span != 0;
    valid.then_some(Parent { trace, span: span as u64, sampled: flags & 1 == 1 })
}

/// Lower-case digits only, as the recommendation wants.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| match digit {
        b'0'..=b'9' => Some(value << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(value << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// The context that names `span` as the parent.
pub fn render(trace: u128, span: u64, sampled: bool) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let mut write = |from: usize, bytes: &[u8]| {
        for (place, byte) in text[from..].chunks_exact_mut(2).zip(bytes) {
            let pair = PAIRS[usize::from(*byte)].to_ne_bytes();
            (place[0], place[1]) = (pair[0], pair[1]);
        }
    };
    write(TRACE_ID.start, &trace.to_be_bytes());
    write(36, &span.to_be_bytes());
    text[LENGTH - 1] += u8::from(sampled);
    text
}

/// The two digits of each byte, as they are written: every request makes a context, recorded or not.
static PAIRS: [u16; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = u16::from_ne_bytes([digits[byte >> 4], digits[byte & 15]]);
        byte += 1;
    }
    pairs
};

/// Whether a trace that begins here is recorded, for a share of them: by its id, so that several proxies agree.
pub fn is_drawn(trace: u128, share: f64) -> bool {
    // The lowest 56 bits, which Level 2 of the recommendation asks to be random.
    const BITS: u32 = 56;
    let drawn = trace as u64 & ((1 << BITS) - 1);
    (drawn as f64) < share * (1_u64 << BITS) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_well_formed_is_a_parent() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good =
            Parent { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad_6b71_6920_3331, sampled: true };
        let of = |text: &str| parse(text.as_bytes());
        assert_eq!(of(&format!("00-{trace}-b7ad6b7169203331-01")), Some(good));
        assert_eq!(of(&format!("00-{trace}-b7ad6b7169203331-02")), Some(Parent { sampled: false, ..good }));
        assert_eq!(of(&format!("cc-{trace}-b7ad6b7169203331-01-what comes")), Some(good));
        let zeros = "0".repeat(32);
        for bad in [
            "".to_owned(),
            format!("00-{trace}-b7ad6b7169203331-01-more"),
            format!("cc-{trace}-b7ad6b7169203331-01more"),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{zeros}-b7ad6b7169203331-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            format!("00_{trace}-b7ad6b7169203331-01"),
            format!("00-{trace}-b7ad6b7169203331-0"),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, format!("00-{trace}-b7ad6b7169203331-01").parse().expect("a value"));
        assert_eq!(parent(&headers), Some(good));
        headers.append(TRACEPARENT, format!("00-{trace}-b7ad6b7169203332-01").parse().expect("a value"));
        assert_eq!(parent(&headers), None, "of two nobody knows which");
    }

    #[test]
    fn the_share_of_traces_is_kept_and_its_ends_are_exact() {
        let mut rng = fastrand::Rng::with_seed(1);
        let traces: Vec<u128> = (0..10_000).map(|_| rng.u128(1..)).collect();
        let drawn = |share| traces.iter().filter(|trace| is_drawn(**trace, share)).count();
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 10_000));
        assert!((2_300..2_700).contains(&drawn(0.25)), "{}", drawn(0.25));
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            prop_assert_eq!(parse(&render(trace, span, sampled)), Some(Parent { trace, span, sampled }));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            parse(&bytes);
        }
    }
}
