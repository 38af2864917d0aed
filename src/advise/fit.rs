//! Emulated servers that answer as the recorded nodes did.
//!
//! Servers of language models get the form of [`BatchSpec`]: the sum of the gaps of an answer is regressed on its
//! tokens, on tokens times the number that streamed beside it, and on the prompt tokens that were computed meanwhile.
//! All three are known exactly from the recording itself, as it has every attempt. Other servers get workers and a queue:
//! with `c` workers, first come first served, the end of every attempt fixes when the next one began, so the number
//! of workers is the least that explains all ends. A curve "response time against load" would be simpler, but says
//! nothing about a load that was never seen, and could not be replayed.
//!
//! What was never reached is not known: a limit counts as seen only if requests queued at it.

use super::history::{Attempt, History};
use super::plain;
use super::timeline::Timeline;
use crate::sim::batch::BatchSpec;
use crate::sim::{PlainSpec, ServerSpec};

/// Attempts that a node needs for a fit of its own.
const OWN_MIN: usize = 50;

/// Slots that are assumed where no limit was seen: what model servers allow unless told otherwise.
const SLOTS_ASSUMED: u32 = 256;

/// A limit was seen if requests waited in numbers for so many seconds, mostly while it was reached.
const LIMIT_SEEN_S: f64 = 1.0;

/// A node as it is emulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// What it is.
    pub server: ServerSpec,
    /// Attempts that it was fitted to.
    pub attempts: usize,
    /// Whether requests were seen to queue at its limit: only then is its capacity known.
    pub limit_seen: bool,
    /// The most requests that were seen in work there at the same time.
    pub at_once: u32,
    /// Whether there was too little for a fit of its own, so that it has the fleet's.
    pub borrowed: bool,
}

impl Fitted {
    /// Requests per second that are certain for requests of that mean size: at the limit if it was seen, otherwise as
    /// many at once as were seen.
    pub fn capacity_rps(&self, mean: &MeanRequest) -> f64 {
        match self.server {
            ServerSpec::Batch(spec) => {
                let slots = if self.limit_seen { spec.slots } else { self.at_once.max(1) };
                BatchSpec { slots, ..spec }.capacity_rps(mean.prompt_tokens, mean.output_tokens)
            }
            ServerSpec::Plain(spec) => spec.capacity_rps(mean.work_s),
        }
    }
}

/// The mean request of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeanRequest {
    /// Tokens in.
    pub prompt_tokens: f64,
    /// Tokens out.
    pub output_tokens: f64,
    /// Seconds of a plain worker at speed 1.
    pub work_s: f64,
}

/// The fleet of a recording, and what each request is to it.
#[derive(Clone, Debug)]
pub struct FittedFleet {
    /// In the order of [`History::nodes`].
    pub nodes: Vec<Fitted>,
    /// Seconds of a plain worker at speed 1 for each attempt; empty for servers of language models.
    pub work_s: Vec<f64>,
    /// The mean over completed attempts.
    pub mean: MeanRequest,
}

/// Fits every node of a recording.
pub fn fit(history: &History) -> FittedFleet {
    if history.has_tokens() { batch_fleet(history) } else { plain::fleet(history) }
}

fn batch_fleet(history: &History) -> FittedFleet {
    let mut rows: Vec<Vec<Label>> = Vec::new();
    let mut timelines = Vec::new();
    for node in 0..history.nodes.len() as u32 {
        let timeline = Timeline::of(history.attempts.iter().filter(|attempt| attempt.node == node));
        let own = history.completed().filter(|attempt| attempt.node == node && attempt.output_tokens > 0);
        rows.push(own.filter_map(|attempt| Label::of(attempt, &timeline)).collect());
        timelines.push(timeline);
    }
    let pooled: Vec<Label> = rows.iter().flatten().copied().collect();
    let general = coefficients(&pooled);
    let nodes = rows.iter().zip(&timelines).map(|(rows, timeline)| {
        let borrowed = rows.len() < OWN_MIN;
        let [t0_s, t1_s, per_token_s] = if borrowed { general } else { coefficients(rows) };
        let per_token_s = if per_token_s > 0.0 { per_token_s } else { general[2] };
        let (at_once, limit_seen) = timeline.limit(LIMIT_SEEN_S);
        let slots = if limit_seen { at_once } else { SLOTS_ASSUMED.max(2 * at_once) };
        let spec = BatchSpec::new(t0_s.max(1e-5), t1_s, 1.0 / per_token_s.clamp(1e-7, 1.0), slots);
        Fitted { server: ServerSpec::Batch(spec), attempts: rows.len(), limit_seen, at_once, borrowed }
    });
    let nodes: Vec<Fitted> = nodes.collect();
    let count = history.completed().count().max(1) as f64;
    let mean = |pick: fn(&Attempt) -> u32| history.completed().map(|one| f64::from(pick(one))).sum::<f64>() / count;
    let mean = MeanRequest {
        prompt_tokens: mean(|one| one.prompt_tokens),
        output_tokens: mean(|one| one.output_tokens).max(1.0),
        work_s: 0.0,
    };
    FittedFleet { nodes, work_s: Vec::new(), mean }
}

/// What one answer says about its node: seconds, and what they were spent on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Label {
    seconds: f64,
    on: [f64; 3],
}

impl Label {
    fn of(attempt: &Attempt, timeline: &Timeline) -> Option<Label> {
        let end_s = attempt.end_s();
        // A stream's gaps begin at its first byte, and its own prompt is computed by then.
        let (from_s, seconds, tokens) = match attempt.ttfb_s {
            Some(ttfb_s) if attempt.streaming && attempt.events > 1 && attempt.gaps_s > 0.0 => {
                (attempt.start_s + ttfb_s, attempt.gaps_s, f64::from(attempt.output_tokens) - 1.0)
            }
            _ if attempt.streaming => return None,
            _ => (attempt.start_s, attempt.total_s, f64::from(attempt.output_tokens)),
        };
        if end_s <= from_s || seconds <= 0.0 || tokens < 1.0 {
            return None;
        }
        let beside = timeline.mean_running(from_s, end_s).max(1.0);
        let mut prompts = timeline.prompt_tokens(from_s, end_s);
        if !attempt.streaming {
            prompts = prompts.max(f64::from(attempt.prompt_tokens));
        }
        Some(Label { seconds, on: [tokens, tokens * beside, prompts] })
    }
}

/// Non-negative least squares of three columns, weighted for errors that grow with the number of tokens: the best of the
/// eight subsets of columns whose solution has no negative part.
fn coefficients(labels: &[Label]) -> [f64; 3] {
    let (mut gram, mut moment) = ([[0.0; 3]; 3], [0.0; 3]);
    for label in labels {
        let weight = 1.0 / label.on[0];
        for (i, row) in gram.iter_mut().enumerate() {
            moment[i] += weight * label.on[i] * label.seconds;
            for (cell, other) in row.iter_mut().zip(label.on) {
                *cell += weight * label.on[i] * other;
            }
        }
    }
    let mut best = ([0.0; 3], 0.0);
    for subset in 1u8..8 {
        let mask = [0, 1, 2].map(|column| subset >> column & 1 == 1);
        let Some(solution) = solve(&gram, &moment, mask) else { continue };
        // What the fit takes off the sum of squares.
        let gain: f64 = (0..3).map(|i| solution[i] * moment[i]).sum();
        if solution.iter().all(|value| *value >= 0.0) && gain > best.1 {
            best = (solution, gain);
        }
    }
    best.0
}

/// Solves the normal equations for the columns of `mask` (Gauss, columns scaled first); `None` if they are singular.
fn solve(gram: &[[f64; 3]; 3], moment: &[f64; 3], mask: [bool; 3]) -> Option<[f64; 3]> {
    let columns: Vec<usize> = (0..3).filter(|column| mask[*column]).collect();
    if columns.iter().any(|column| gram[*column][*column] <= 0.0) {
        return None;
    }
    let scale = |column: usize| gram[column][column].sqrt();
    let mut rows: Vec<Vec<f64>> = columns
        .iter()
        .map(|i| {
            let left = columns.iter().map(|j| gram[*i][*j] / scale(*i) / scale(*j));
            left.chain([moment[*i] / scale(*i)]).collect()
        })
        .collect();
    for pivot in 0..rows.len() {
        if rows[pivot][pivot] < 1e-9 {
            return None;
        }
        let (above, below) = rows.split_at_mut(pivot + 1);
        for row in below {
            let factor = row[pivot] / above[pivot][pivot];
            row.iter_mut().zip(&above[pivot]).for_each(|(cell, above)| *cell -= factor * above);
        }
    }
    let mut solution = [0.0; 3];
    for at in (0..rows.len()).rev() {
        let known: f64 = (at + 1..rows.len()).map(|j| rows[at][j] * solution[columns[j]] * scale(columns[j])).sum();
        solution[columns[at]] = (rows[at][columns.len()] - known) / rows[at][at] / scale(columns[at]);
    }
    Some(solution)
}

/// A server like `fitted`, for one more node.
pub fn copy_of(fitted: &Fitted) -> ServerSpec {
    match fitted.server {
        ServerSpec::Plain(PlainSpec { workers, speed }) => ServerSpec::Plain(PlainSpec { workers, speed }),
        batch @ ServerSpec::Batch(_) => batch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_squares_find_what_answers_are_made_of_and_never_a_negative_part() {
        let mut rng = fastrand::Rng::with_seed(4);
        let mut draw = |truth: [f64; 3], noise: f64| -> Vec<Label> {
            let label = |_| {
                let tokens = 20.0 + 300.0 * rng.f64();
                let on = [tokens, tokens * (1.0 + 40.0 * rng.f64()), tokens * 30.0 * rng.f64()];
                let exact: f64 = on.iter().zip(truth).map(|(on, truth)| on * truth).sum();
                Label { seconds: exact * (1.0 + noise * (rng.f64() - 0.5)), on }
            };
            (0..2_000).map(label).collect()
        };
        let found = coefficients(&draw([0.013, 0.000_12, 1e-4], 0.1));
        for (found, truth) in found.iter().zip([0.013, 0.000_12, 1e-4]) {
            assert!((found / truth - 1.0).abs() < 0.05, "{found} is not {truth}");
        }
        let flat = coefficients(&draw([0.02, 0.0, 0.0], 0.3));
        assert!(flat.iter().all(|value| *value >= 0.0) && (flat[0] / 0.02 - 1.0).abs() < 0.05, "{flat:?}");
        assert_eq!(coefficients(&[]), [0.0; 3]);
    }
}
