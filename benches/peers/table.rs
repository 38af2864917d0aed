//! Tables of results: one per scenario, seeds averaged, ratios taken within each seed.
//!
//! Cells that are marked as invalid are left out of every figure and counted below the table. `>` says that somebody
//! still waited at the end, so the true figure is larger.

use bellwether::sim::statistics::Ratio;
use comfy_table::{CellAlignment, Table, presets};

use crate::cell::Cell;
use crate::results::Results;
use crate::section::cell as figure;

/// Own policies that an operator can have without learning and without knowing capacities.
const CLASSIC: [&str; 5] = [
    "bellwether/round-robin",
    "bellwether/least-connections",
    "bellwether/power-of-two",
    "bellwether/peak-ewma",
    "bellwether/peak-ewma-scan",
];
const ADAPTIVE: &str = "bellwether/adaptive";
const WEIGHTED: &str = "bellwether/weighted-least-connections";
/// What `adaptive` is to reach at most in a scenario.
struct Target {
    scenario: &'static str,
    /// Against the best classic policy.
    classic: f64,
    classic_p99: f64,
    /// Against least connections that knows the true capacities.
    weighted: f64,
    weighted_p99: Option<f64>,
}
const TARGETS: [Target; 2] = [
    Target { scenario: "llm-mixed", classic: 0.78, classic_p99: 0.6, weighted: 1.0, weighted_p99: Some(1.1) },
    Target { scenario: "plain-mixed", classic: 0.8, classic_p99: 0.8, weighted: 0.95, weighted_p99: None },
];
/// More of the machine in use than this, and figures are partly its own.
const BUSY_MAX: f64 = 0.5;

type Of = fn(&Cell) -> Option<f64>;
const MEAN: Of = |cell| cell.mean_s;
const P99: Of = |cell| cell.p99_s;

/// The cells of one scenario that are compared: the longest, valid ones.
pub(crate) struct Scene<'a> {
    cells: Vec<&'a Cell>,
    invalid: usize,
}

impl<'a> Scene<'a> {
    pub(crate) fn of(results: &'a Results, scenario: &str) -> Scene<'a> {
        let all = || results.cells.iter().filter(|cell| cell.scenario == scenario);
        let seconds = all().map(|cell| cell.seconds).max().unwrap_or_default();
        let (cells, invalid): (Vec<_>, Vec<_>) =
            all().filter(|cell| cell.seconds == seconds).partition(|cell| cell.invalid.is_none());
        Scene { cells, invalid: invalid.len() }
    }

    pub(crate) fn contenders(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = Vec::new();
        let order = crate::contender::ALL.map(|contender| contender.name());
        let mut cells = self.cells.clone();
        cells.sort_by_key(|cell| order.iter().position(|name| *name == cell.contender));
        for cell in cells {
            if !names.contains(&cell.contender.as_str()) {
                names.push(&cell.contender);
            }
        }
        names
    }

    pub(crate) fn runs(&self, contender: &str) -> Vec<&'a Cell> {
        self.cells.iter().copied().filter(|cell| cell.contender == contender).collect()
    }

    fn average(&self, contender: &str, of: Of) -> Option<f64> {
        let values: Vec<f64> = self.runs(contender).into_iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Over the seeds that both have.
    fn ratio(&self, contender: &str, reference: &str, of: Of) -> Option<Ratio> {
        let theirs = self.runs(reference);
        let pair = |cell: &&Cell| Some((of(cell)?, of(theirs.iter().find(|other| other.seed == cell.seed)?)?));
        let (values, base): (Vec<f64>, Vec<f64>) = self.runs(contender).iter().filter_map(pair).unzip();
        Ratio::paired(&values, &base)
    }

    fn is_lower_bound(&self, contender: &str) -> bool {
        self.runs(contender).iter().any(|cell| cell.lower_bound)
    }
}

fn ratio_text(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(Ratio { value, low: Some(low), high: Some(high) }) => format!("{value:.2} [{low:.2}, {high:.2}]"),
        Some(Ratio { value, .. }) => format!("{value:.2}"),
    }
}

pub(crate) const COLUMNS: [&str; 15] = [
    "contender",
    "runs",
    "requests",
    "lost",
    "mean ms",
    "p50 ms",
    "p99 ms",
    "TTFB p99 ms",
    "errors %",
    "unfinished",
    "mean x",
    "p99 x",
    "CPU us",
    "RSS MB",
    "late ms",
];

/// The rows of one scenario; ratios are to `reference`.
pub(crate) fn rows(scene: &Scene<'_>, reference: &str) -> Vec<Vec<String>> {
    let row = |name: &str| {
        let runs = scene.runs(name);
        let sum = |of: fn(&Cell) -> usize| runs.iter().map(|cell| of(cell)).sum::<usize>();
        let (requests, errors) = (sum(|cell| cell.requests), sum(|cell| cell.errors + cell.not_sent));
        // Without a right and whole answer, for whatever reason.
        let lost = requests - sum(|cell| cell.answered);
        let at_least = if scene.is_lower_bound(name) { ">" } else { "" };
        let ms = |of: Of| format!("{at_least}{}", figure(scene.average(name, of).map(|seconds| seconds * 1e3), 0));
        vec![
            name.to_owned(),
            runs.len().to_string(),
            requests.to_string(),
            lost.to_string(),
            ms(MEAN),
            ms(|cell| cell.p50_s),
            ms(P99),
            ms(|cell| cell.ttfb_p99_s),
            format!("{:.2}", 100.0 * errors as f64 / requests.max(1) as f64),
            sum(|cell| cell.unfinished).to_string(),
            ratio_text(scene.ratio(name, reference, MEAN)),
            ratio_text(scene.ratio(name, reference, P99)),
            figure(scene.average(name, |cell| Some(cell.cpu_us)), 0),
            figure(scene.average(name, |cell| Some(cell.rss_peak_bytes as f64 / 1e6)), 0),
            figure(scene.average(name, |cell| Some(cell.late_p99_s * 1e3)), 1),
        ]
    };
    scene.contenders().into_iter().map(row).collect()
}

/// The same as text.
fn table(scene: &Scene<'_>, reference: &str) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS);
    table.add_rows(rows(scene, reference));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What `adaptive` was to reach in a scenario, and what it did.
fn targets(scene: &Scene<'_>, scenario: &str) -> Vec<String> {
    let Some(target) = TARGETS.into_iter().find(|target| target.scenario == scenario) else { return Vec::new() };
    let figures =
        [("mean", MEAN, target.classic, Some(target.weighted)), ("p99", P99, target.classic_p99, target.weighted_p99)];
    let mut lines = Vec::new();
    for (word, of, classic, weighted) in figures {
        let known = CLASSIC.into_iter().filter_map(|name| Some((name, scene.average(name, of)?)));
        let best = known.min_by(|(_, one), (_, other)| one.total_cmp(other));
        let rivals = best.map(|(name, _)| (name, classic)).into_iter().chain(weighted.map(|most| (WEIGHTED, most)));
        for (rival, most) in rivals {
            let Some(ratio) = scene.ratio(ADAPTIVE, rival, of) else { continue };
            let verdict = if ratio.value <= most { "met" } else { "MISSED" };
            lines.push(format!("{word} {} x {rival}, target {most}: {verdict}", ratio_text(Some(ratio))));
        }
    }
    lines
}

fn notes(scene: &Scene<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let figures = |of: fn(&Cell) -> f64| scene.cells.iter().map(|cell| of(cell)).fold(0.0, f64::max);
    if let Some(cell) = scene.cells.first() {
        notes.push(format!(
            "{} s at {:.1} requests/s; machine in use at most {:.0} %, emulators and load {:.2} cores, latest sending \
             (99 %) {:.1} ms",
            cell.seconds,
            cell.rate_rps,
            100.0 * figures(|cell| cell.machine_busy),
            figures(|cell| cell.bench_cores),
            1e3 * figures(|cell| cell.late_p99_s),
        ));
    }
    let busy = scene.cells.iter().filter(|cell| cell.machine_busy > BUSY_MAX).count();
    if busy > 0 {
        notes.push(format!("{busy} runs while more than {:.0} % of the machine was in use", BUSY_MAX * 100.0));
    }
    if scene.invalid > 0 {
        notes.push(format!("{} runs were sent too late and are not in the figures", scene.invalid));
    }
    notes
}

/// What is to be said below the rows of a scenario: targets first.
pub(crate) fn remarks(scene: &Scene<'_>, scenario: &str) -> Vec<String> {
    targets(scene, scenario).into_iter().chain(notes(scene)).collect()
}

/// On which machine, and what ratios are to.
pub(crate) fn about(results: &Results, reference: &str) -> String {
    format!("{}; ratios to {reference}, 95 % intervals over paired seeds", results.machine)
}

/// Everything, as text.
pub(crate) fn render(results: &Results, reference: &str) -> String {
    let mut text = about(results, reference) + "\n";
    for (scenario, about) in &results.scenarios {
        let scene = Scene::of(results, scenario);
        text += &format!("\n{scenario}: {about}\n{}\n", table(&scene, reference));
        for line in remarks(&scene, scenario) {
            text += &format!("  {line}\n");
        }
    }
    if !results.skipped.is_empty() {
        text.push_str("\nnot measured:\n");
        for (name, why) in &results.skipped {
            text += &format!("  {name}: {why}\n");
        }
    }
    text
}

/// A cell for checks.
pub(crate) fn example(scenario: &str, contender: &str, seed: u64) -> Cell {
    Cell {
        scenario: scenario.to_owned(),
        contender: contender.to_owned(),
        version: "1.0".to_owned(),
        seed,
        seconds: 75,
        rate_rps: 20.0,
        requests: 1_000,
        answered: 1_000,
        errors: 0,
        errors_by_status: Vec::new(),
        unfinished: 0,
        not_sent: 0,
        mean_s: Some(1.0),
        p50_s: Some(0.5),
        p90_s: Some(2.0),
        p99_s: Some(4.0),
        ttfb_p50_s: Some(0.1),
        ttfb_p99_s: None,
        lower_bound: false,
        quantiles_s: Vec::new(),
        shares: Vec::new(),
        cpu_us: 50.0,
        rss_bytes: 1_000_000,
        rss_peak_bytes: 2_000_000,
        late_p99_s: 0.001,
        machine_busy: 0.3,
        bench_cores: 0.4,
        invalid: None,
    }
}

/// Checks averages, pairing and verdicts on made-up cells.
pub(crate) fn check() {
    let mut results = Results::default();
    results.scenarios.push(("llm-mixed".to_owned(), "about".to_owned()));
    let times = [(ADAPTIVE, [1.0, 4.0]), (CLASSIC[1], [2.0, 8.0]), (CLASSIC[0], [50.0, 60.0]), (WEIGHTED, [0.9, 3.6])];
    for (contender, means) in times {
        for (seed, mean_s) in (1..).zip(means) {
            results.add(Cell { mean_s: Some(mean_s), ..example("llm-mixed", contender, seed) });
        }
    }
    let invalid = Some("late".to_owned());
    results.add(Cell { invalid, mean_s: Some(1e9), ..example("llm-mixed", ADAPTIVE, 3) });
    let short = Cell { seconds: 10, ..example("llm-mixed", CLASSIC[2], 1) };
    results.add(short);
    let text = render(&results, CLASSIC[1]);
    let line = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_default();
    assert!(line(ADAPTIVE).contains(" 2500 ") && line(ADAPTIVE).contains("0.50 [0.50, 0.50]"), "{text}");
    assert!(line("mean 0.50").ends_with("bellwether/least-connections, target 0.78: met"), "{text}");
    assert!(line("mean 1.11").ends_with("weighted-least-connections, target 1: MISSED"), "{text}");
    assert!(text.contains("1 runs were sent too late") && !text.contains(CLASSIC[2]), "{text}");
}
