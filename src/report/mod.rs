//! A comparison as one page that needs nothing else: no network, no script, no font.
//!
//! What the table of `simulate` says in numbers, and what it cannot say: distributions, who got what over time, how good
//! predictions were, and what was left on the table. Drawn here as inline SVG and not by a chart library in the
//! browser: a page that is archived must look the same in ten years, must print, and must hold nothing that runs. All
//! text from outside is escaped. The page holds no date, so that the same seeds give the same bytes.

mod charts;
mod frame;
pub mod measured;
mod svg;

use std::fmt::Write;

use crate::sim::report::{Report, Row};
use crate::sim::statistics::Ratio;
use crate::sim::watch::Watched;

use frame::{document, figure, made_by, table};
use svg::escape;

/// The yardstick that knows every size.
pub const ORACLE: &str = crate::sim::roster::GREEDY;

/// One run that was watched.
#[derive(Clone, Debug)]
pub struct Seen {
    /// At which load.
    pub load: f64,
    /// Who routed.
    pub policy: String,
    /// What was seen.
    pub watched: Watched,
}

/// Everything that a page shows.
#[derive(Clone, Debug)]
pub struct Page {
    /// The figures.
    pub report: Report,
    /// Runs under the first seed.
    pub seen: Vec<Seen>,
    /// Names of the nodes, in the order of what was seen.
    pub nodes: Vec<String>,
    /// Length of a bin in seconds.
    pub bin_s: f64,
    /// The command that makes this page again.
    pub command: String,
    /// What advice says of it in text, if it was asked for.
    pub advice: Option<String>,
}

impl Page {
    /// The page.
    pub fn html(&self) -> String {
        // Writing to a string cannot fail.
        let mut body = format!(
            "<p>{}. The fleet can do {:.1} requests/s; requests arrive for {:.0} s under {} seeds. Times are of answered \
             requests; charts show the first seed.</p>\n",
            escape(&self.report.about),
            self.report.capacity_rps,
            self.report.seconds,
            self.report.seeds.len()
        );
        if let Some(advice) = &self.advice {
            let _ = write!(body, "<h2>Advice</h2>\n<div class=\"wide\"><pre>{}</pre></div>\n", escape(advice));
        }
        for of_load in self.report.rows.chunk_by(|a, b| a.load == b.load) {
            self.load(of_load, &mut body);
        }
        let seeds = self.report.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let remark = format!("seeds {seeds}. The same command and binary give the same page.");
        body.push_str(&made_by(&self.command, &remark));
        document(&self.report.scenario, &body)
    }

    fn load(&self, rows: &[Row], html: &mut String) {
        let Some(first) = rows.first() else { return };
        let percent = first.load * 100.0;
        let _ = write!(html, "<h2>Load {percent:.0} %</h2>\n<div class=\"wide\">{}</div>\n", rows_table(rows));
        let seen: Vec<&Seen> = self.seen.iter().filter(|seen| seen.load == first.load).collect();
        html.push_str("<div class=\"charts\">\n");
        let mut figure = |caption: String, chart: String| html.push_str(&figure(&caption, &chart));
        figure("Share of requests that took longer (both axes logarithmic)".to_owned(), charts::distributions(&seen));
        if let Some(chart) = charts::regret(rows) {
            figure(
                "Regret: mean response time above that of an oracle that knows every size and sends each request where \
                 it ends first. Below zero: it is selfish, and can be beaten."
                    .to_owned(),
                chart,
            );
        }
        for seen in &seen {
            let policy = escape(&seen.policy);
            figure(
                format!("{policy}: share of attempts by node over time"),
                charts::shares(seen, &self.nodes, self.bin_s),
            );
            figure(
                format!("{policy}: attempts in flight by node over time"),
                charts::in_flight(seen, &self.nodes, self.bin_s),
            );
        }
        for seen in seen.iter().filter(|seen| !seen.watched.predictions.is_empty()) {
            let (policy, shown) = (escape(&seen.policy), seen.watched.predictions.len());
            let caption = format!(
                "{policy}: predicted (across) and observed (up) response times, {shown} of {} attempts",
                seen.watched.predicted
            );
            figure(caption, charts::predictions(&seen.watched.predictions));
        }
        html.push_str("</div>\n");
    }
}

fn rows_table(rows: &[Row]) -> String {
    let columns =
        ["policy", "mean", "p50", "p90", "p99", "p99.9", "first byte", "its p99", "errors", "mean ratio", "p99 ratio"];
    let cells = |row: &Row| {
        let times = [row.mean_s, row.p50_s, row.p90_s, row.p99_s, row.p999_s, row.ttfb_mean_s, row.ttfb_p99_s];
        let mut cells = vec![row.policy.clone()];
        cells.extend(times.map(svg::seconds));
        cells.push(format!("{:.2} %", row.error_share * 100.0));
        cells.extend([row.mean_ratio, row.p99_ratio].map(interval));
        cells
    };
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table(columns, &cells) + "<p>Ratios are to the first row, with their 95 % confidence over paired seeds.</p>"
}

fn interval(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "–".to_owned(),
        Some(Ratio { value, low: Some(low), high: Some(high) }) => format!("{value:.3} [{low:.3}, {high:.3}]"),
        Some(Ratio { value, .. }) => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::balancer::Observer;
    use crate::sim::report::{Plan, execute_watched};
    use crate::sim::scenario::Scenario;
    use crate::sim::watch::Watch;

    fn page() -> Page {
        let scenario = Scenario::named("plain-mixed").expect("shipped").expect("sound");
        let scenario =
            Scenario { about: "<b>\"bold\" & 'bad'".to_owned(), ..scenario.lasting(Duration::from_secs(40)) };
        let watches = ["adaptive", "round-robin", ORACLE].map(|name| (name, Arc::new(Watch::new(&scenario))));
        let plan = Plan {
            loads: vec![0.4],
            policies: watches.iter().map(|(name, _)| (*name).to_owned()).collect(),
            seeds: vec![1],
            threads: 1,
            promise: None,
            scenario,
        };
        let report = execute_watched(&plan, &|_, _| (), &|job| {
            let of = watches.iter().find(|(name, _)| *name == job.policy);
            of.map(|(_, watch)| Arc::clone(watch) as Arc<dyn Observer>).into_iter().collect()
        });
        let seen = |(policy, watch): &(&str, Arc<Watch>)| Seen {
            load: 0.4,
            policy: (*policy).to_owned(),
            watched: watch.take(),
        };
        Page {
            report: report.expect("known"),
            bin_s: watches[0].1.bin_s(),
            seen: watches.iter().map(seen).collect(),
            nodes: plan.scenario.nodes.iter().map(|node| node.node.name.clone()).collect(),
            command: "bellwether simulate --trace '</pre><script>'".to_owned(),
            advice: Some("</pre><script>".to_owned()),
        }
    }

    #[test]
    fn a_page_has_every_chart_once_per_policy_and_is_the_same_every_time() {
        let html = page().html();
        assert_eq!(html, page().html());
        // Distribution, regret, two over time for each of three, and predictions of the one that predicts.
        assert_eq!(html.matches("<figure>").count(), 9);
        assert_eq!(html.matches("<svg ").count(), 9);
        assert!(html.contains("Regret") && html.contains("predicted (across)"));
        assert!(!html.contains("NaN") && !html.contains("inf"), "every coordinate is a number");
    }

    #[test]
    fn nothing_from_outside_becomes_markup_and_nothing_is_fetched() {
        let html = page().html();
        assert!(!html.contains("<script") && !html.contains("<b>"), "escaped");
        assert!(html.contains("&lt;b&gt;&quot;bold&quot; &amp; &#39;bad&#39;"));
        for word in ["http:", "https:", "src=", "url(", "@import"] {
            assert!(!html.contains(word), "{word}");
        }
    }
}
