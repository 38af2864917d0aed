//! The regressors: what a response time is explained by, per target.
//!
//! One row per observation, a constant in the first column (the fits have no intercept of their own, so that prior and
//! ridge rows treat it like any other coefficient). Loads at work are *averages over the attempt's own life* when
//! fitting and the load now when predicting; tokens are in thousands and hundreds, so that columns have similar size.
//! Every regressor is non-negative and every coefficient is constrained to be, so more load never predicts faster.

use serde::{Deserialize, Serialize};

/// Version of the meaning of the columns: snapshots of another version are refused.
pub const SCHEMA: u32 = 1;

/// Columns of the widest target.
pub const COLUMNS_MAX: usize = 6;

/// A row of regressors; columns beyond the target's width are zero.
pub type Row = [f64; COLUMNS_MAX];

/// Prompt tokens per unit of the regressors.
pub const PROMPT_UNIT: f64 = 1000.0;

/// Output tokens per unit of the regressors.
pub const OUTPUT_UNIT: f64 = 100.0;

/// What is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Response time of an answer that is not streamed and does not tell its tokens.
    Total,
    /// Response time of an answer that is not streamed and tells its output tokens.
    TotalTokens,
    /// Time to the first byte of a streamed answer.
    FirstByte,
    /// Time between two events of a streamed answer.
    Gap,
}

/// How many targets there are.
pub const TARGETS: usize = 4;

/// Name and unit of a coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// What it multiplies.
    pub name: &'static str,
    /// Unit of the coefficient.
    pub unit: &'static str,
}

const fn column(name: &'static str, unit: &'static str) -> Column {
    Column { name, unit }
}

const TOTAL: &[Column] = &[
    column("base", "s"),
    column("in flight", "s"),
    column("in flight above 2", "s"),
    column("in flight above 4", "s"),
    column("in flight above 8", "s"),
    column("in flight above 16", "s"),
];
const TOTAL_TOKENS: &[Column] = &[
    column("base", "s"),
    column("in flight", "s"),
    column("prompt", "s per 1000 tokens"),
    column("output", "s per 100 tokens"),
    column("output x in flight", "s per 100 tokens"),
    column("output x in flight above 16", "s per 100 tokens"),
];
const FIRST_BYTE: &[Column] = &[
    column("base", "s"),
    column("prompt", "s per 1000 tokens"),
    column("waiting prompts", "s per 1000 tokens"),
    column("place in the queue for a slot", "s"),
    column("cached prompt", "s per 1000 tokens"),
];
const GAP: &[Column] = &[column("base", "s"), column("in flight", "s")];

/// The column of [`Target::Gap`] that fits have and predictions do not: see [`reading`](mod@crate::learn::reading).
pub(super) const READ: usize = 2;

impl Target {
    /// All of them, in the order of [`Target::index`].
    pub const ALL: [Target; TARGETS] = [Target::Total, Target::TotalTokens, Target::FirstByte, Target::Gap];

    /// Those of whole answers: the number of their samples says how well a node is known, as that of gaps, which are
    /// gathered by the clock, does not.
    pub const ANSWERS: [Target; TARGETS - 1] = [Target::Total, Target::TotalTokens, Target::FirstByte];

    /// Place in tables.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word for people and labels.
    pub fn word(self) -> &'static str {
        match self {
            Target::Total => "total",
            Target::TotalTokens => "total_tokens",
            Target::FirstByte => "first_byte",
            Target::Gap => "gap",
        }
    }

    /// Names and units of its coefficients.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Target::Total => TOTAL,
            Target::TotalTokens => TOTAL_TOKENS,
            Target::FirstByte => FIRST_BYTE,
            Target::Gap => GAP,
        }
    }

    /// How many columns its rows have. What prompts do to gaps is one that no prediction has.
    pub const fn width(self) -> usize {
        match self {
            Target::Gap => READ + 1,
            _ => self.columns().len(),
        }
    }
}

/// `x` above `knee`, or zero.
#[inline]
pub(super) fn above(x: f64, knee: f64) -> f64 {
    // `f64::max` minds what is not a number; this is one instruction, and makes zero of it too.
    let above = x - knee;
    if above > 0.0 { above } else { 0.0 }
}

/// [`Target::Total`]: a convex piecewise-linear curve over the number in flight `n`, the request itself included.
#[inline]
pub fn total(n: f64) -> Row {
    [1.0, n, above(n, 2.0), above(n, 4.0), above(n, 8.0), above(n, 16.0)]
}

/// [`Target::TotalTokens`]: `n` in flight, prompt and output in regressor units.
#[inline]
pub fn total_tokens(n: f64, prompt: f64, output: f64) -> Row {
    [1.0, n, prompt, output, output * n, output * above(n, 16.0)]
}

/// [`Target::FirstByte`]: own prompt without the part that may be cached, waiting prompts without what was expected to be,
/// the place in the queue for a slot, and the part that may be cached.
///
/// The last is what makes the price of reading right whether there is a cache or not, as both parts of a prompt have their
/// own coefficient: where a token that may be cached costs as much as another, nothing is.
#[inline]
pub fn first_byte(prompt: f64, waiting_prompt: f64, place: f64, past: f64) -> Row {
    [1.0, prompt, waiting_prompt, place, past, 0.0]
}

/// What a token that the node says it had cached is worth by the coefficients of a first byte: the share of a token's cost
/// that it spares, 0..=1.
pub fn worth(first_byte: &Row) -> f64 {
    let [_, prompt, _, _, cached, _] = *first_byte;
    if prompt > cached {
        1.0 - cached / prompt
    } else if prompt > 0.0 {
        0.0
    } else {
        1.0
    }
}

/// [`Target::Gap`]: `n` in flight, and thousands of prompt tokens read per second.
pub fn gap(n: f64, read: f64) -> Row {
    [1.0, n, read, 0.0, 0.0, 0.0]
}

/// The place in the queue for a slot of a request that finds `in_flight` others at a node of `slots` (infinite while
/// unknown).
#[inline]
pub fn place(in_flight: f64, slots: f64) -> f64 {
    above(in_flight + 1.0, slots)
}

/// The scalar product.
#[inline]
pub fn dot(a: &Row, b: &Row) -> f64 {
    // Written out: as a loop over pairs it costs four times as many instructions, and decisions live on it.
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3] + a[4] * b[4] + a[5] * b[5]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fill_exactly_the_columns_that_are_named() {
        let rows = [total(99.0), total_tokens(99.0, 1.0, 1.0), first_byte(1.0, 1.0, 1.0, 1.0), gap(9.0, 1.0)];
        for (target, row) in Target::ALL.iter().zip(rows) {
            let filled = row.iter().filter(|x| **x != 0.0).count();
            assert_eq!(filled, target.width(), "{}", target.word());
            assert_eq!(row[0], 1.0);
        }
    }

    #[test]
    fn an_unknown_slot_limit_means_no_queue() {
        assert_eq!(place(1e4, f64::INFINITY), 0.0);
        assert_eq!(place(16.0, 16.0), 1.0);
    }
}
