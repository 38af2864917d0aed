//! The charts of the page, each from what was seen of runs.

use super::svg::{Axis, COLOURS, Chart, decade, seconds};
use super::{ORACLE, Seen};
use crate::sim::report::Row;
use crate::sim::watch::BINS;

/// Points of a distribution.
const POINTS: usize = 160;

/// Nodes that have a colour of their own; the others share the last.
const NODES_MAX: usize = COLOURS.len() - 1;

/// Who took longer than what, one line per policy, down to one request in a thousand.
pub(super) fn distributions(seen: &[&Seen]) -> String {
    let lines: Vec<Vec<(f64, f64)>> = seen
        .iter()
        .map(|seen| {
            let mut total_s = seen.watched.total_s.clone();
            let share = |point: usize| 10f64.powf(-3.0 * point as f64 / POINTS as f64);
            (0..=POINTS).map(share).map(|share| (share, total_s.quantile(1.0 - share))).collect()
        })
        .collect();
    let named = seen.iter().zip(&lines).map(|(seen, line)| (seen.policy.as_str(), line.as_slice()));
    distribution_lines(&named.collect::<Vec<_>>())
}

/// The same of lines that are known: the share that took longer, and than what.
pub(super) fn distribution_lines(lines: &[(&str, &[(f64, f64)])]) -> String {
    let points = |line: &[(f64, f64)]| -> Vec<(f64, f64)> {
        line.iter().filter(|(_, time_s)| *time_s > 0.0 && time_s.is_finite()).map(|(share, s)| (*s, *share)).collect()
    };
    let all = || lines.iter().flat_map(|(_, line)| points(line)).map(|(time_s, _)| time_s);
    let x = Axis::log(all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let percent = |share: f64| format!("{} %", (share * 1e4).round() / 1e2);
    let mut chart = Chart::new(x, Axis::log(0.001, 1.0), &decade, &percent);
    for (at, (name, line)) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        chart.line(&points(line), colour);
        chart.name(name, colour);
    }
    chart.finish("Distribution of response times")
}

/// Who sent how much to which node: a bar for each, from the top.
pub(super) fn shares_by_name(bars: &[(&str, &[(String, f64)])]) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let count = bars.len().max(1) as f64;
    let mut chart = Chart::new(Axis::linear(0.0, 1.0), Axis::linear(0.0, count), &percent, &|_| String::new());
    let mut names: Vec<&str> =
        bars.iter().flat_map(|(_, shares)| shares.iter().map(|(node, _)| node.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let colour = |at: usize| COLOURS[at.min(NODES_MAX)];
    for (at, (name, shares)) in bars.iter().enumerate() {
        let (floor, mut left) = (count - 1.0 - at as f64, 0.0);
        let (low, high) = (floor + 0.1, floor + 0.9);
        for (node, share) in *shares {
            let right = left + share;
            let place = names.iter().position(|known| known == node).unwrap_or(NODES_MAX);
            chart.area(&[(left, low), (right, low)], &[(left, high), (right, high)], colour(place));
            left = right;
        }
        chart.label(0.02, floor + 0.5, name);
    }
    names.iter().enumerate().take(NODES_MAX).for_each(|(at, name)| chart.name(name, colour(at)));
    if names.len() > NODES_MAX {
        chart.name(&format!("{} others", names.len() - NODES_MAX), colour(NODES_MAX));
    }
    chart.finish("Share of the answers by node")
}

/// Nodes by their attempts, the most first, as many as have a colour; and the others together.
fn groups(seen: &Seen, nodes: &[String]) -> Vec<(String, Vec<usize>)> {
    let attempts = |at: usize| -> u32 { seen.watched.nodes[at].starts.iter().sum() };
    let count = nodes.len().min(seen.watched.nodes.len());
    if count <= NODES_MAX {
        return (0..count).map(|at| (nodes[at].clone(), vec![at])).collect();
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(attempts(*at)), *at));
    let rest = order.split_off(NODES_MAX);
    let named = order.into_iter().map(|at| (nodes[at].clone(), vec![at]));
    let others = format!("{} others", rest.len());
    named.chain([(others, rest)]).collect()
}

fn time_axis(bin_s: f64) -> Axis {
    Axis::linear(0.0, bin_s * BINS as f64)
}

fn whole_seconds(at_s: f64) -> String {
    format!("{at_s} s")
}

/// How attempts were shared out, stacked to 100 %.
pub(super) fn shares(seen: &Seen, nodes: &[String], bin_s: f64) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let mut chart = Chart::new(time_axis(bin_s), Axis::linear(0.0, 1.0), &whole_seconds, &percent);
    let of = |members: &[usize], bin: usize| -> f64 {
        members.iter().map(|at| f64::from(seen.watched.nodes[*at].starts[bin])).sum()
    };
    let groups = groups(seen, nodes);
    let mut below = vec![0.0; BINS];
    for (at, (name, members)) in groups.iter().enumerate() {
        let mut above = below.clone();
        for (bin, above) in above.iter_mut().enumerate() {
            let all: f64 = groups.iter().map(|(_, members)| of(members, bin)).sum();
            *above += if all > 0.0 { of(members, bin) / all } else { 0.0 };
        }
        let line = |values: &[f64]| -> Vec<(f64, f64)> {
            values.iter().enumerate().map(|(bin, value)| ((bin as f64 + 0.5) * bin_s, *value)).collect()
        };
        let colour = COLOURS[at % COLOURS.len()];
        chart.area(&line(&below), &line(&above), colour);
        chart.name(name, colour);
        below = above;
    }
    chart.finish(&format!("{}: share of attempts by node over time", seen.policy))
}

/// How many were in flight at each node; of the others on average.
pub(super) fn in_flight(seen: &Seen, nodes: &[String], bin_s: f64) -> String {
    let groups = groups(seen, nodes);
    let of = |members: &[usize], bin: usize| -> f64 {
        members.iter().map(|at| seen.watched.nodes[*at].in_flight[bin]).sum::<f64>() / members.len().max(1) as f64
    };
    let lines: Vec<Vec<(f64, f64)>> = groups
        .iter()
        .map(|(_, members)| (0..BINS).map(|bin| ((bin as f64 + 0.5) * bin_s, of(members, bin))).collect())
        .collect();
    let most = lines.iter().flatten().map(|(_, y)| *y).fold(0.0, f64::max);
    let plain = |value: f64| format!("{value}");
    let mut chart = Chart::new(time_axis(bin_s), Axis::linear(0.0, most * 1.05), &whole_seconds, &plain);
    for (at, (line, (name, _))) in lines.iter().zip(&groups).enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        chart.line(line, colour);
        chart.name(name, colour);
    }
    chart.finish(&format!("{}: attempts in flight by node over time", seen.policy))
}

/// What was predicted against what came, with the line on which both agree.
pub(super) fn predictions(predictions: &[(f32, f32)]) -> String {
    let points =
        || predictions.iter().map(|(x, y)| (f64::from(*x), f64::from(*y))).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let values = || points().flat_map(|(x, y)| [x, y]);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let axis = Axis::log(least, most);
    let mut chart = Chart::new(axis, axis, &decade, &decade);
    chart.dots(points(), COLOURS[5]);
    chart.line(&[(least, least), (most, most)], COLOURS[1]);
    chart.name("one attempt", COLOURS[5]);
    chart.name("predicted = observed", COLOURS[1]);
    chart.finish("Predicted and observed response times")
}

/// How much longer the mean is than the oracle's; `None` where it did not run.
pub(super) fn regret(rows: &[Row]) -> Option<String> {
    let oracle_s = rows.iter().find(|row| row.policy == ORACLE)?.mean_s;
    let others: Vec<(&str, f64)> = rows
        .iter()
        .filter(|row| row.policy != ORACLE && row.mean_s.is_finite())
        .map(|row| (row.policy.as_str(), row.mean_s - oracle_s))
        .collect();
    let most = others.iter().map(|(_, regret)| *regret).fold(0.0, f64::max);
    let least = others.iter().map(|(_, regret)| *regret).fold(0.0, f64::min);
    let x = Axis::linear(least, if most > least { most * 1.02 } else { 1.0 });
    let short = |value: f64| {
        if value.abs() < 1.0 && value != 0.0 {
            format!("{:.0} ms", value * 1e3)
        } else {
            format!("{} s", (value * 1e3).round() / 1e3)
        }
    };
    let mut chart = Chart::new(x, Axis::linear(0.0, others.len().max(1) as f64), &short, &|_| String::new());
    for (at, (policy, regret)) in others.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let floor = (others.len() - 1 - at) as f64;
        chart.bar(*regret, floor + 0.15, floor + 0.85, colour);
        let sign = if *regret < 0.0 { "−" } else { "+" };
        chart.name(&format!("{policy}: {sign}{}", seconds(regret.abs())), colour);
    }
    Some(chart.finish("Mean response time above that of an oracle"))
}
