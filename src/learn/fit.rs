//! The hierarchical fit of one target: what the fleet has in common, how fast each node is, how it deviates.
//!
//! A node's own samples rarely span enough loads to say how it answers at others, so each node starts as the fleet's
//! curve at its own speed and moves away only as its evidence grows (20 pseudo-samples of the fleet). Fleet curve and
//! speed factors depend on each other and alternate three times, from the last known factors. Plain pooled regression
//! was rejected because it cannot tell a slow node from a busy one, and one regression per node because its slopes are
//! noise wherever the policy keeps the node near one load.

use crate::learn::features::{COLUMNS_MAX, Row, Target};
use crate::learn::nonneg::{Rows, SolveError};
use crate::learn::speed;
use crate::learn::stats::Stats;

/// Pseudo-samples of the fleet in each node's own fit.
const KAPPA: f64 = 20.0;

/// Weight at which a node's say in the fleet's curve is halved, so that the busiest does not own it.
const SAY_HALF: f64 = 100.0;

/// Relative and absolute ridge toward zero of the fleet's curve: keeps collinear columns harmless.
const RIDGE: f64 = 1e-3;
const RIDGE_FLOOR: f64 = 1e-9;

/// How often fleet curve and speed factors alternate.
const ROUNDS: usize = 3;

/// Weight in the whole fleet below which there is nothing to fit.
pub const FLEET_EVIDENCE_MIN: f64 = 5.0;

/// The result for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetFit {
    /// What the fleet has in common.
    pub fleet: Row,
    /// Speed factor and coefficients of each node, in the order in which they were given.
    pub nodes: Vec<NodeFit>,
}

/// The result for one node and target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeFit {
    /// Below 1 is faster than the fleet.
    pub speed: f64,
    /// Coefficients.
    pub beta: Row,
}

/// Fits `target` to the nodes' sums, decayed to one time. `speeds` are the last factors (1 where unknown), `prior` is
/// evidence from elsewhere that counts as one node of average speed. `shrinks` is false only in comparisons: each node
/// is then fitted alone, at a speed that is believed as it was measured.
///
/// `None` where the fleet has less than [`FLEET_EVIDENCE_MIN`].
///
/// # Errors
/// The regression failed or left finite numbers.
pub fn fit(
    target: Target,
    nodes: &[Stats],
    speeds: &[f64],
    prior: Option<&Stats>,
    shrinks: bool,
) -> Result<Option<TargetFit>, SolveError> {
    let evidence: f64 = nodes.iter().chain(prior).map(Stats::weight).sum();
    if evidence < FLEET_EVIDENCE_MIN {
        return Ok(None);
    }
    let width = target.width();
    let mut speeds = speeds.to_vec();
    speeds.resize(nodes.len(), 1.0);
    let mut pooled = pool(nodes, &speeds, prior);
    let scale: Row = std::array::from_fn(|j| (pooled.g2[j][j] / pooled.weight()).sqrt());
    let mut fleet = [0.0; COLUMNS_MAX];
    for round in 0..ROUNDS {
        if round > 0 {
            pooled = pool(nodes, &speeds, prior);
        }
        let mut rows = Rows::new(width, &scale);
        rows.push_stats(&pooled);
        for j in 0..width {
            rows.push_prior(j, RIDGE * pooled.g2[j][j] + RIDGE_FLOOR, 0.0);
        }
        fleet = rows.solve()?;
        speeds = speed::factors(nodes, &fleet, shrinks);
    }
    let kappa = if shrinks { KAPPA } else { 0.0 };
    let pseudo: Row = std::array::from_fn(|j| kappa * pooled.g2[j][j] / pooled.weight() + RIDGE_FLOOR);
    let own = nodes.iter().zip(speeds).map(|(stats, speed)| {
        let beta = deviation(width, stats, &fleet.map(|b| speed * b), &pseudo, &scale)?;
        Ok(NodeFit { speed, beta })
    });
    Ok(Some(TargetFit { fleet, nodes: own.collect::<Result<_, SolveError>>()? }))
}

/// All nodes' sums at the fleet's speed, each node's say bounded.
pub(super) fn pool(nodes: &[Stats], speeds: &[f64], prior: Option<&Stats>) -> Stats {
    let mut pooled = Stats::default();
    for (stats, speed) in nodes.iter().zip(speeds).chain(prior.map(|stats| (stats, &1.0))) {
        let say = 1.0 / (1.0 + stats.weight() / SAY_HALF);
        pooled.merge(stats, say, 1.0 / speed);
    }
    pooled
}

/// A node's own coefficients, held toward `prior` by `pseudo` weights.
fn deviation(width: usize, stats: &Stats, prior: &Row, pseudo: &Row, scale: &Row) -> Result<Row, SolveError> {
    if stats.weight() < speed::EVIDENCE_MIN {
        return Ok(*prior);
    }
    let mut rows = Rows::new(width, scale);
    rows.push_stats(stats);
    for j in 0..width {
        rows.push_prior(j, pseudo[j], prior[j]);
    }
    rows.solve()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::features::{dot, gap, total};

    /// A node whose gap is `speed * (0.01 + 0.002 n)` with a tenth of noise, seen at loads of `range`.
    fn node(rng: &mut fastrand::Rng, speed: f64, range: std::ops::Range<u32>, samples: u32) -> Stats {
        let mut stats = Stats::default();
        for _ in 0..samples {
            let n = f64::from(rng.u32(range.clone()));
            let noise = 0.9 + 0.2 * rng.f64();
            stats.add(0.0, &gap(n, 0.0), speed * (0.01 + 0.002 * n) * noise);
        }
        stats
    }

    #[test]
    fn known_coefficients_are_recovered() {
        let mut rng = fastrand::Rng::with_seed(1);
        let speeds = [0.5, 0.5, 1.0, 1.0, 3.0, 3.0];
        let nodes: Vec<Stats> = speeds.iter().map(|s| node(&mut rng, *s, 1..40, 500)).collect();
        let fit = fit(Target::Gap, &nodes, &[], None, true).expect("solvable").expect("evidence");
        for (speed, own) in speeds.iter().zip(&fit.nodes) {
            assert!((own.beta[0] / (speed * 0.01) - 1.0).abs() < 0.1, "{speed} {own:?}");
            assert!((own.beta[1] / (speed * 0.002) - 1.0).abs() < 0.03, "{speed} {own:?}");
        }
    }

    #[test]
    fn a_node_seen_at_one_load_borrows_the_slope_of_the_fleet() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut nodes: Vec<Stats> = (0..5).map(|_| node(&mut rng, 1.0, 1..40, 300)).collect();
        nodes.push(node(&mut rng, 2.0, 10..11, 30));
        let fit = fit(Target::Gap, &nodes, &[], None, true).expect("solvable").expect("evidence");
        let at_30 = dot(&gap(30.0, 0.0), &fit.nodes[5].beta);
        assert!((at_30 / (2.0 * 0.07) - 1.0).abs() < 0.25, "{at_30}");
    }

    #[test]
    fn a_falling_curve_is_not_believed() {
        let mut stats = Stats::default();
        for i in 0..200 {
            let n = f64::from(i % 20) + 1.0;
            stats.add(0.0, &total(n), 1.0 - 0.04 * n);
        }
        let fit = fit(Target::Total, &[stats, stats], &[], None, true).expect("solvable").expect("evidence");
        for own in &fit.nodes {
            assert!(dot(&total(40.0), &own.beta) >= dot(&total(1.0), &own.beta), "{own:?}");
        }
    }

    #[test]
    fn without_evidence_there_is_no_fit() {
        assert_eq!(fit(Target::Gap, &[Stats::default()], &[], None, true), Ok(None));
    }
}
