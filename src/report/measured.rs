//! The page of what was measured on real sockets: a table per scenario, distributions, and who got what.
//!
//! It knows less than the page of a simulation (nobody sees into another proxy, and no oracle ran), so it has fewer charts,
//! and shows what was not measured and why. Times come as they were measured; nothing is computed here.

use std::fmt::Write;

use super::charts::{distribution_lines, shares_by_name};
use super::frame::{document, figure, made_by, table};
use super::svg::escape;

/// Contenders in one chart of distributions, the first of all besides.
const TOGETHER: usize = 7;

/// One who was measured in a scenario.
#[derive(Clone, Debug, Default)]
pub struct Contender {
    /// Its name.
    pub name: String,
    /// Response times in seconds that the given share of requests exceeded, the largest share first.
    pub exceeded: Vec<(f64, f64)>,
    /// Share of the answers by node.
    pub shares: Vec<(String, f64)>,
}

/// One scenario.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Heads of the table.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
    /// What is to be said of them.
    pub notes: Vec<String>,
    /// Who was measured; the first is in every chart of distributions.
    pub contenders: Vec<Contender>,
}

/// Everything that a page shows.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Heading.
    pub title: String,
    /// On which machine, and what ratios are to.
    pub about: String,
    /// Scenario by scenario.
    pub scenes: Vec<Scene>,
    /// Who was not measured, and why.
    pub absent: Vec<(String, String)>,
    /// The command that shows this again.
    pub command: String,
}

impl Measured {
    /// The page.
    pub fn html(&self) -> String {
        let mut body = format!("<p>{}</p>\n", escape(&self.about));
        self.scenes.iter().for_each(|scene| scene.write(&mut body));
        if !self.absent.is_empty() {
            body.push_str("<h2>Not measured</h2>\n");
            // Writing to a string cannot fail.
            let line = |(name, why): &(String, String)| {
                let _ = writeln!(body, "<p>{}: {}</p>", escape(name), escape(why));
            };
            self.absent.iter().for_each(line);
        }
        body.push_str(&made_by(&self.command, "measured on this machine: another run gives other figures."));
        document(&self.title, &body)
    }
}

impl Scene {
    fn write(&self, body: &mut String) {
        let (name, about) = (escape(&self.name), escape(&self.about));
        let rows = table(self.columns.iter().map(String::as_str), &self.rows);
        let _ = write!(body, "<h2>{name}</h2>\n<p>{about}</p>\n<div class=\"wide\">{rows}</div>\n");
        self.notes.iter().for_each(|note| {
            let _ = writeln!(body, "<p>{}</p>", escape(note));
        });
        body.push_str("<div class=\"charts\">\n");
        if let [first, others @ ..] = self.contenders.as_slice() {
            let mut groups = others.chunks(TOGETHER).collect::<Vec<_>>();
            if groups.is_empty() {
                groups.push(&[]);
            }
            for group in groups {
                let lines: Vec<(&str, &[(f64, f64)])> =
                    [first].into_iter().chain(group).map(|one| (one.name.as_str(), one.exceeded.as_slice())).collect();
                body.push_str(&figure(
                    "Share of requests that took longer (both axes logarithmic)",
                    &distribution_lines(&lines),
                ));
            }
        }
        for group in self.contenders.chunks(TOGETHER + 1) {
            let bars: Vec<(&str, &[(String, f64)])> =
                group.iter().map(|one| (one.name.as_str(), one.shares.as_slice())).collect();
            body.push_str(&figure("Share of the answers by node", &shares_by_name(&bars)));
        }
        body.push_str("</div>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(contenders: usize) -> Measured {
        let contender = |at: usize| Contender {
            name: format!("<proxy {at}>"),
            exceeded: vec![(1.0, 0.1), (0.5, 0.4), (0.01, 2.0 + at as f64)],
            shares: vec![("a".to_owned(), 0.25), ("b".to_owned(), 0.75)],
        };
        let scene = Scene {
            name: "llm".to_owned(),
            columns: vec!["who".to_owned(), "mean".to_owned()],
            rows: vec![vec!["<proxy 0>".to_owned(), "1".to_owned()]],
            contenders: (0..contenders).map(contender).collect(),
            ..Scene::default()
        };
        let absent = vec![("x & y".to_owned(), "missing".to_owned())];
        Measured { title: "peers".to_owned(), scenes: vec![scene], absent, ..Measured::default() }
    }

    #[test]
    fn everybody_is_in_a_chart_and_the_first_in_all() {
        // Who is compared with the first, in groups of seven; shares in groups of eight.
        for (contenders, distributions, shares) in [(1, 1, 1), (8, 1, 1), (9, 2, 2), (18, 3, 3)] {
            let html = page(contenders).html();
            assert_eq!(html.matches("<svg ").count(), distributions + shares, "{contenders}");
            assert_eq!(html.matches("</span>&lt;proxy 0&gt;</li>").count(), distributions, "{contenders}");
        }
        assert!(page(2).html().contains("x &amp; y: missing"));
    }

    #[test]
    fn nothing_measured_is_no_broken_page() {
        let html = page(0).html();
        assert!(!html.contains("NaN") && !html.contains("inf") && !html.contains("<proxy"), "{html}");
    }
}
