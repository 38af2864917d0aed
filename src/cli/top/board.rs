//! What `top` shows of a live event: a page of lines, or one line.
//!
//! Events tell counters as they are; a rate is the difference to the event shown before. Names come from
//! configurations and clients and are shown so that they cannot move the cursor.

use std::collections::HashMap;

use serde_json::Value;

use super::Sort;
use crate::cli::model::{number, table, time};
use crate::cli::remote::shown;

/// Lines above the nodes, and the one below that tells how many are not shown.
const LINES_BESIDE: usize = 6;

/// Nodes whose share a line tells.
const SHARES_MAX: usize = 8;

/// Counters of one event.
#[derive(Debug, Default)]
struct Counters {
    now_s: f64,
    answers: f64,
    errors: f64,
    /// Completed and failed attempts, by node.
    ended: HashMap<String, f64>,
}

impl Counters {
    fn of(event: &Value) -> Counters {
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let nodes = nodes(event).iter();
        Counters {
            now_s: number(&event["now_s"]),
            answers: number(&event["fleet"]["answers"]),
            errors: number(&event["fleet"]["errors"]),
            ended: nodes.map(|node| (name(node), number(&node["completed"]) + number(&node["failed"]))).collect(),
        }
    }
}

fn nodes(event: &Value) -> &[Value] {
    event["nodes"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn name(node: &Value) -> String {
    node["name"].as_str().unwrap_or_default().to_owned()
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// What is remembered between two events.
#[derive(Debug)]
pub(super) struct Board {
    sort: Sort,
    before: Option<Counters>,
}

impl Board {
    pub(super) fn new(sort: Sort) -> Board {
        Board { sort, before: None }
    }

    /// From now on rates are told against this event.
    pub(super) fn note(&mut self, event: &Value) {
        self.before = Some(Counters::of(event));
    }

    /// The counters before and the seconds since, unless there are none or another instance's.
    fn since(&self, now: &Counters) -> Option<(&Counters, f64)> {
        let before = self.before.as_ref()?;
        let passed_s = now.now_s - before.now_s;
        (passed_s > 0.0 && now.answers >= before.answers).then_some((before, passed_s))
    }

    /// Share of the answers since the event before that were errors; over the whole life for the first one.
    fn errors(&self, event: &Value) -> String {
        let now = Counters::of(event);
        let (answers, errors) = match self.since(&now) {
            Some((before, _)) => (now.answers - before.answers, now.errors - before.errors),
            None => (now.answers, now.errors),
        };
        if answers > 0.0 { format!("{:.1} %", errors.max(0.0) / answers * 100.0) } else { "-".to_owned() }
    }

    fn headline(&self, event: &Value) -> String {
        let fleet = &event["fleet"];
        format!(
            "{} req/s  p50 {}  p99 {}  errors {}  in flight {}  queued {}  nodes {} of {}",
            number(&fleet["rps"], 1),
            time(&fleet["p50_s"]),
            time(&fleet["p99_s"]),
            self.errors(event),
            shown(&fleet["in_flight"]),
            shown(&fleet["queued"]),
            shown(&fleet["serving"]),
            shown(&fleet["nodes"]),
        )
    }

    /// One line that tells the fleet.
    pub(super) fn line(&self, event: &Value) -> String {
        let policy = &event["policy"];
        let mut busiest: Vec<&Value> = nodes(event).iter().collect();
        let share = |node: &Value| node["share"].as_f64().unwrap_or_default();
        busiest.sort_by(|a, b| share(b).total_cmp(&share(a)));
        let shares = busiest.iter().take(SHARES_MAX).filter(|node| share(node) > 0.0);
        let shares: Vec<String> =
            shares.map(|node| format!("{} {:.0} %", shown(&node["name"]), share(node) * 100.0)).collect();
        let shares = if shares.is_empty() { String::new() } else { format!("  shares {}", shares.join(", ")) };
        format!(
            "{} s  {}  {}: {}{shares}",
            number(&event["now_s"], 0),
            self.headline(event),
            shown(&policy["name"]),
            shown(&policy["standing"]["detail"])
        )
    }

    /// A page of at most `height` lines.
    pub(super) fn page(&self, event: &Value, height: usize) -> Vec<String> {
        let (policy, model) = (&event["policy"], &event["model"]);
        let standing = &policy["standing"];
        let version = match model["version"].as_u64() {
            Some(0) | None => "no model yet".to_owned(),
            Some(version) => format!("model {version}, {} old", time(&model["age_s"])),
        };
        let error = match (standing["model_error"].as_f64(), standing["baseline_error"].as_f64()) {
            (Some(own), Some(average)) => format!(", error {own:.2} (a moving average has {average:.2})"),
            _ => String::new(),
        };
        let used = match event["fleet"]["utilization"].as_f64() {
            Some(_) if event["fleet"]["utilization_is_upper_bound"] == true => {
                format!("  at most {} used", percent(&event["fleet"]["utilization"]))
            }
            Some(_) => format!("  {} used", percent(&event["fleet"]["utilization"])),
            None => String::new(),
        };
        let mut lines = vec![
            format!("bellwether  {}: {}", shown(&policy["name"]), shown(&standing["detail"])),
            format!("{}{used}", self.headline(event)),
            format!("{version}{error}"),
            String::new(),
        ];
        let sorted = self.sorted(nodes(event));
        let rows = height.saturating_sub(LINES_BESIDE).max(1);
        let table = self.table(event, &sorted[..sorted.len().min(rows)]);
        // Every column has a space before it, the first too.
        lines.extend(table.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()));
        let total = event["fleet"]["nodes"].as_u64().unwrap_or_default() as usize;
        let unseen = total.max(sorted.len()).saturating_sub(rows.min(sorted.len()));
        if unseen > 0 {
            lines.push(format!("and {unseen} more"));
        }
        lines
    }

    fn sorted<'a>(&self, nodes: &'a [Value]) -> Vec<&'a Value> {
        let key = |node: &Value| match self.sort {
            Sort::Fleet => 0.0,
            Sort::Share => node["share"].as_f64().unwrap_or_default(),
            Sort::InFlight => node["in_flight"].as_f64().unwrap_or_default(),
            Sort::P99 => node["p99_s"].as_f64().unwrap_or_default(),
            Sort::Failed => node["failed"].as_f64().unwrap_or_default(),
        };
        let mut sorted: Vec<&Value> = nodes.iter().collect();
        // Stable, so that what is alike stays in the fleet's order.
        sorted.sort_by(|a, b| key(b).total_cmp(&key(a)));
        sorted.sort_by_key(|node| node["state"] == "up");
        sorted
    }

    fn table(&self, event: &Value, nodes: &[&Value]) -> String {
        let columns = [
            "node",
            "state",
            "share",
            "fair",
            "in flight",
            "waiting",
            "req/s",
            "p50",
            "p99",
            "predicted",
            "speed",
            "failed",
        ];
        let mut table = table(&columns, 2);
        let now = Counters::of(event);
        for node in nodes {
            let rate = self.since(&now).and_then(|(before, passed_s)| {
                let name = name(node);
                let ended = now.ended.get(&name)? - before.ended.get(&name)?;
                Some(format!("{:.1}", ended.max(0.0) / passed_s))
            });
            let state = if node["silent"] == true { Value::from("silent") } else { node["state"].clone() };
            let limit = node["limit"].as_u64().map_or(String::new(), |limit| format!("/{limit}"));
            table.add_row([
                shown(&node["name"]),
                shown(&state),
                percent(&node["share"]),
                percent(&node["fair_share"]),
                format!("{}{limit}", shown(&node["in_flight"])),
                shown(&node["waiting"]),
                rate.unwrap_or_else(|| "-".to_owned()),
                time(&node["p50_s"]),
                time(&node["p99_s"]),
                time(&node["expected_s"]),
                number(&node["speed"], 2),
                shown(&node["failed"]),
            ]);
        }
        table.trim_fmt()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(now_s: f64, answers: u64, nodes: u64) -> Value {
        let node = |i: u64| {
            json!({ "name": format!("n{i}\u{1b}[2J"), "state": if i == 2 { "down" } else { "up" }, "share": 0.1 * i as f64,
                "in_flight": 900 - i, "completed": answers * i, "failed": i, "limit": 12 })
        };
        json!({
            "now_s": now_s,
            "fleet": { "nodes": nodes, "serving": nodes, "answers": answers, "errors": answers / 10, "rps": 3.5 },
            "policy": { "name": "adaptive", "standing": { "detail": "the model routes" } },
            "model": { "version": 3, "age_s": 0.25 },
            "nodes": (0..nodes).map(node).collect::<Vec<_>>(),
        })
    }

    #[test]
    fn rates_are_told_against_the_event_before_and_not_against_another_instance() {
        let mut board = Board::new(Sort::Fleet);
        let first = board.page(&event(10.0, 100, 2), 50).join("\n");
        assert!(first.contains("errors 10.0 %") && first.contains("model 3, 250 ms old"), "{first}");
        board.note(&event(10.0, 100, 2));
        let mut second = event(12.0, 120, 2);
        second["fleet"]["errors"] = 20.into();
        let page = board.page(&second, 50);
        assert!(page[1].contains("errors 50.0 %"), "{page:?}");
        let row = page.iter().find(|line| line.starts_with("n1")).expect("a row");
        assert!(row.contains(" 10.5 ") || row.contains(" 10.0 "), "{row}");
        let restarted = board.page(&event(1.0, 20, 2), 50);
        assert!(restarted[1].contains("errors 10.0 %"), "{restarted:?}");
    }

    #[test]
    fn a_page_fits_its_height_with_the_nodes_first_that_get_no_work() {
        let board = Board::new(Sort::InFlight);
        for height in [0, 7, 10, 24, 500] {
            let page = board.page(&event(1.0, 50, 200), height);
            assert!(page.len() <= height.max(LINES_BESIDE + 1), "{height}: {}", page.len());
            assert!(page[5].starts_with("n2"), "{page:?}");
            let rows = page.len() - 5 - usize::from(height < 200);
            assert_eq!(page.last().is_some_and(|last| last == &format!("and {} more", 200 - rows)), height < 200);
        }
        let page = board.page(&event(1.0, 50, 4), 24);
        assert!(page[6].starts_with("n0") && page[7].starts_with("n1"), "{page:?}");
        assert!(page.iter().all(|line| !line.contains('\u{1b}')), "{page:?}");
    }

    #[test]
    fn a_line_tells_the_largest_shares() {
        let line = Board::new(Sort::Fleet).line(&event(61.0, 100, 12));
        assert!(line.starts_with("61 s  3.5 req/s"), "{line}");
        assert!(line.contains("adaptive: the model routes  shares n11"), "{line}");
        assert_eq!(line.matches(" %,").count(), SHARES_MAX - 1, "{line}");
    }
}
