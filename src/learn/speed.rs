//! How fast each node is against the fleet, believed only as far as the evidence goes.
//!
//! The plain ratio of a node's response times to the fleet's prediction is noisy, and on a fleet of equal nodes a
//! router that believes it chases noise and loses to least-connections. So the ratios are shrunk by empirical Bayes
//! (Efron and Morris 1975): the spread *between* nodes beyond what their standard errors explain is the prior
//! variance. Equal nodes have none, and all factors come out near 1.

use crate::learn::features::Row;
use crate::learn::stats::Stats;

/// Below this weight a node counts as without evidence.
pub const EVIDENCE_MIN: f64 = 0.5;

/// The least factor: nothing is 50 times as fast as the average of its fleet.
const SPEED_MIN: f64 = 0.02;

/// Floor of a ratio's squared standard error.
const VARIANCE_MIN: f64 = 1e-6;

/// Keeps one very certain node from being the whole mean.
const MEAN_SPREAD: f64 = 0.05;

/// The speed factors of nodes with these sums against `fleet`, in the same order; below 1 is faster than the fleet.
/// Without shrinkage they are the plain ratios.
pub(super) fn factors(nodes: &[Stats], fleet: &Row, shrinks: bool) -> Vec<f64> {
    let ratios: Vec<Option<(f64, f64)>> = nodes.iter().map(|stats| ratio(stats, fleet)).collect();
    let known: Vec<(f64, f64)> = ratios.iter().flatten().copied().collect();
    if known.len() < 2 || !shrinks {
        return ratios.iter().map(|known| known.map_or(1.0, |(r, _)| r.max(SPEED_MIN))).collect();
    }
    let weight = |v: f64| 1.0 / (v + MEAN_SPREAD);
    let mu =
        known.iter().map(|(r, v)| r * weight(*v)).sum::<f64>() / known.iter().map(|(_, v)| weight(*v)).sum::<f64>();
    let spread = known.iter().map(|(r, v)| (r - mu) * (r - mu) - v).sum::<f64>() / known.len() as f64;
    let tau2 = spread.max(0.0);
    let shrunk = |(r, v): (f64, f64)| ((mu * v + r * tau2) / (v + tau2)).max(SPEED_MIN) / mu.max(SPEED_MIN);
    ratios.into_iter().map(|known| known.map_or(1.0, shrunk)).collect()
}

/// The ratio of observed to predicted response times, and its squared standard error.
fn ratio(stats: &Stats, fleet: &Row) -> Option<(f64, f64)> {
    let weight = stats.weight();
    let predicted = stats.predicted_sum(fleet);
    if weight < EVIDENCE_MIN || predicted <= 0.0 {
        return None;
    }
    let r = stats.g[0] / predicted;
    let mean = predicted / weight;
    let count = stats.effective().min(2.0 * weight).max(f64::MIN_POSITIVE);
    let v = stats.squared_error(fleet, r) / weight / (mean * mean) / count;
    (r.is_finite() && v.is_finite()).then_some((r, v.max(VARIANCE_MIN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::features;

    fn node(rng: &mut fastrand::Rng, speed: f64, samples: u32) -> Stats {
        let mut stats = Stats::default();
        for _ in 0..samples {
            let n = 1.0 + rng.f64() * 9.0;
            // Exponential noise of mean 1.
            let noise = -(1.0 - rng.f64()).ln();
            stats.add(0.0, &features::gap(n, 0.0), speed * (1.0 + 0.1 * n) * noise);
        }
        stats
    }

    const FLEET: Row = [1.0, 0.1, 0.0, 0.0, 0.0, 0.0];

    #[test]
    fn equal_nodes_are_all_near_one() {
        let mut rng = fastrand::Rng::with_seed(11);
        let nodes: Vec<Stats> = (0..8).map(|_| node(&mut rng, 1.0, 60)).collect();
        let plain: Vec<f64> = nodes.iter().map(|s| s.g[0] / s.predicted_sum(&FLEET)).collect();
        let spread = |of: &[f64]| of.iter().map(|s| (s - 1.0).abs()).fold(0.0, f64::max);
        let shrunk = factors(&nodes, &FLEET, true);
        assert!(spread(&shrunk) < 0.1, "{shrunk:?}");
        assert!(spread(&shrunk) < 0.6 * spread(&plain), "{shrunk:?} {plain:?}");
    }

    #[test]
    fn real_differences_come_through_and_ignorance_is_one() {
        let mut rng = fastrand::Rng::with_seed(12);
        let mut nodes: Vec<Stats> = [1.0, 1.0, 4.0, 4.0].iter().map(|s| node(&mut rng, *s, 400)).collect();
        nodes.push(Stats::default());
        let s = factors(&nodes, &FLEET, true);
        assert!((s[2] / s[0] - 4.0).abs() < 0.6, "{s:?}");
        assert_eq!(s[4], 1.0);
    }
}
