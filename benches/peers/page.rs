//! The results as a page: the same tables, distributions, and who sent how much where.

use bellwether::report::measured::{Contender, Measured, Scene};

use crate::results::Results;
use crate::table::{self, COLUMNS};

/// The page of `results`, with ratios to `reference`; `command` shows it again.
pub(crate) fn of(results: &Results, reference: &str, command: &str) -> Measured {
    let scene = |(name, about): &(String, String)| {
        let scene = table::Scene::of(results, name);
        Scene {
            name: name.clone(),
            about: about.clone(),
            columns: COLUMNS.map(str::to_owned).to_vec(),
            rows: table::rows(&scene, reference),
            notes: table::remarks(&scene, name),
            contenders: scene.contenders().into_iter().map(|contender| measured(&scene, contender)).collect(),
        }
    };
    Measured {
        title: "Response times behind proxies, on real sockets".to_owned(),
        about: table::about(results, reference),
        scenes: results.scenarios.iter().map(scene).filter(|scene| !scene.contenders.is_empty()).collect(),
        absent: results.skipped.clone(),
        command: command.to_owned(),
    }
}

/// Quantiles and shares, the mean over the runs of each.
fn measured(scene: &table::Scene<'_>, name: &str) -> Contender {
    let runs = scene.runs(name);
    let count = runs.len().max(1) as f64;
    let points = runs.iter().map(|run| run.quantiles_s.len()).min().unwrap_or(0);
    let mean = |point: usize| runs.iter().map(|run| run.quantiles_s[point]).sum::<f64>() / count;
    // Below the last point lies everything, which a logarithmic axis cannot show.
    let exceeded = (1..points).map(|point| (1.0 - point as f64 / points as f64, mean(point - 1))).collect();
    let nodes = runs.iter().flat_map(|run| run.shares.iter().map(|(node, _)| node.clone()));
    let mut nodes: Vec<String> = nodes.collect();
    nodes.sort();
    nodes.dedup();
    let share = |node: String| {
        let of = |shares: &[(String, f64)]| shares.iter().find(|(known, _)| *known == node).map_or(0.0, |(_, s)| *s);
        let share = runs.iter().map(|run| of(&run.shares)).sum::<f64>() / count;
        (node, share)
    };
    Contender { name: name.to_owned(), exceeded, shares: nodes.into_iter().map(share).collect() }
}

/// Checks that cells which were never measured become a page.
pub(crate) fn check() {
    let mut results = Results::default();
    results.scenarios.push(("llm-mixed".to_owned(), "about".to_owned()));
    for seed in 1..=2 {
        let quantiles_s = (1..=100).map(|point| f64::from(point) * seed as f64).collect();
        let shares = vec![("a".to_owned(), 0.25), ("b".to_owned(), 0.75)];
        let cell = table::example("llm-mixed", "bellwether/adaptive", seed);
        results.add(crate::cell::Cell { quantiles_s, shares, ..cell });
    }
    let page = of(&results, "bellwether/adaptive", "again");
    let seen = &page.scenes[0].contenders[0];
    assert_eq!((seen.exceeded[49], seen.exceeded.len()), ((0.5, 75.0), 99));
    assert_eq!(seen.shares, [("a".to_owned(), 0.25), ("b".to_owned(), 0.75)]);
    assert_eq!(page.html().matches("<svg ").count(), 2);
}
