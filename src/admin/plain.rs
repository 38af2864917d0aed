//! What was learned, in plain words: "each request in flight adds 14 ms to each gap".
//!
//! A coefficient is a number with a unit that only its author remembers. The sentences are made here, beside the JSON
//! that carries them, so that the command line and every other client say the same.

use crate::learn::Target;

/// A time of three digits with its unit; `nothing` below a tenth of a microsecond, a dash for what is not known.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s.is_nan() => "-".to_owned(),
        s if s < 1e-7 => "nothing".to_owned(),
        s if s >= 99.95 => format!("{s:.0} s"),
        s if s >= 9.995 => format!("{s:.1} s"),
        s if s >= 0.9995 => format!("{s:.2} s"),
        s if s >= 0.09995 => format!("{:.0} ms", s * 1e3),
        s if s >= 0.009995 => format!("{:.1} ms", s * 1e3),
        s if s >= 0.0009995 => format!("{:.2} ms", s * 1e3),
        s if s >= 0.00009995 => format!("{:.0} us", s * 1e6),
        s => format!("{:.1} us", s * 1e6),
    }
}

/// What the coefficient in `column` of `target` says if it is `seconds`.
pub(super) fn coefficient(target: Target, column: usize, seconds: f64) -> String {
    let time = span(seconds);
    let adds = |what: &str| format!("{what} adds {time}");
    match (target, column) {
        (Target::Total | Target::TotalTokens, 0) => format!("a request takes {time} by itself"),
        (Target::Total | Target::TotalTokens, 1) => adds("each request in flight"),
        (Target::Total, _) => {
            let above = target.columns().get(column).and_then(|column| column.name.rsplit(' ').next()).unwrap_or("?");
            format!("above {above} in flight, each further one adds {time} more")
        }
        (Target::TotalTokens, 2) => format!("each 1,000 prompt tokens add {time}"),
        (Target::TotalTokens, 3) => format!("each 100 output tokens add {time}"),
        (Target::TotalTokens, 4) => format!("each 100 output tokens add {time} for each request in flight"),
        (Target::TotalTokens, _) => {
            format!("each 100 output tokens add {time} more for each request in flight above 16")
        }
        (Target::FirstByte, 0) => format!("the first byte takes {time} by itself"),
        (Target::FirstByte, 1) => format!("each 1,000 tokens of the own prompt add {time} to the first byte"),
        (Target::FirstByte, 2) => format!("each 1,000 prompt tokens that wait there add {time} to the first byte"),
        (Target::FirstByte, 3) => format!("each place in the queue for a slot adds {time} to the first byte"),
        (Target::FirstByte, _) => format!("each 1,000 prompt tokens in the cache add {time} to the first byte"),
        (Target::Gap, 0) => format!("a gap between two events takes {time} by itself"),
        (Target::Gap, _) => format!("each request in flight adds {time} to each gap"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_coefficient_has_a_sentence_of_its_own_within_its_target() {
        for target in Target::ALL {
            let sentences: BTreeSet<String> =
                (0..target.columns().len()).map(|column| coefficient(target, column, 0.0143)).collect();
            assert_eq!(sentences.len(), target.columns().len(), "{sentences:?}");
            assert!(sentences.iter().all(|sentence| sentence.contains("14.3 ms")), "{sentences:?}");
        }
        assert_eq!(
            coefficient(Target::Total, 5, 0.0),
            "above 16 in flight, each further one adds nothing more",
            "the knee is that of the column"
        );
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0.0, 1.5e-5, 0.000143, 0.0014, 0.0527, 0.4032, 0.99951, 6.412, 49.56, 153.2, f64::NAN].map(span);
        let expected = [
            "nothing", "15.0 us", "143 us", "1.40 ms", "52.7 ms", "403 ms", "1.00 s", "6.41 s", "49.6 s", "153 s", "-",
        ];
        assert_eq!(shown, expected);
    }
}
