//! The fault suite: what clients get while nodes, clients and operators do their worst, as one table.
//!
//!     cargo test --test faults                            a small one, which is part of the tests
//!     cargo test --release --test faults -- --full        ten times as much, with figures of time; about twenty minutes
//!     cargo test --test faults -- flaps                   one case
//!
//! Each case runs a real proxy before real sockets, under `adaptive` and under `least-connections`. A request is answered
//! correctly (complete, and what was asked for), with a clear error, with an answer that was honestly cut, or not at all;
//! the last must not be, nor an answer that only looks complete, and all that is counted as in flight must come back to
//! zero. Times are told and belong to the verdict only with `--full`. It has a `main` of its own, as what it is for is the
//! table, and a run of all cases at once takes a quarter of the time.

mod client;
mod clients;
mod nodes;
mod rogue;
mod stage;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::stage::{Row, Scale};

const POLICIES: [&str; 2] = ["adaptive", "least-connections"];

/// Cases at once; alone where times matter.
const AT_ONCE: usize = 4;

type Running = Pin<Box<dyn Future<Output = Row> + Send>>;

/// Every case by its name.
fn cases(policy: &'static str, scale: Scale) -> Vec<(&'static str, Running)> {
    let mut all: Vec<(&'static str, Running)> = Vec::new();
    for case in nodes::CASES {
        all.push((case.name, Box::pin(nodes::through(case, policy, scale))));
    }
    all.push(("dies under 100 requests", Box::pin(nodes::dies_under_load(policy, scale))));
    all.push(("all down and back", Box::pin(nodes::all_down_and_back(policy, scale))));
    all.push(("clients leave", Box::pin(clients::leave_in_each_phase(policy, scale))));
    all.push(("slow heads", Box::pin(clients::slow_heads(policy, scale))));
    all.push(("10x overload", Box::pin(clients::overload(policy, scale))));
    all.push(("no descriptors left", Box::pin(clients::descriptors(policy, scale))));
    all.push(("reloads", Box::pin(clients::reloads(policy, scale))));
    all.push(("nodes come and go", Box::pin(clients::changes(policy, scale))));
    all
}

async fn run(scale: Scale, only: Option<&str>) -> Vec<Row> {
    let places = Arc::new(Semaphore::new(if scale.timed { 1 } else { AT_ONCE }));
    let mut running = JoinSet::new();
    let wanted = POLICIES.into_iter().flat_map(|policy| cases(policy, scale));
    for (at, (_, case)) in wanted.filter(|(name, _)| only.is_none_or(|only| name.contains(only))).enumerate() {
        let places = Arc::clone(&places);
        running.spawn(async move {
            let _place = places.acquire().await;
            (at, case.await)
        });
    }
    let mut rows = running.join_all().await;
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// What is wrong with a row, whatever its case allows.
fn faults_of(row: &Row) -> Vec<String> {
    let mut wrong = row.wrong.clone();
    for (count, what) in [(row.tally.silent, "without any answer"), (row.tally.wrong, "wrong but complete")] {
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    }
    wrong
}

fn print(rows: &[Row]) {
    let time = |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
    println!(
        "{:<26} {:<18} {:>6} {:>8} {:>6} {:>5} {:>7} {:>7} {:>8} {:>10}",
        "case", "policy", "sent", "correct", "errors", "cut", "silent", "failed", "react s", "recover s"
    );
    for row in rows {
        let tally = &row.tally;
        println!(
            "{:<26} {:<18} {:>6} {:>8} {:>6} {:>5} {:>7} {:>7} {:>8} {:>10}",
            row.case,
            row.policy,
            tally.sent,
            tally.correct,
            tally.clear,
            tally.cut,
            tally.silent,
            tally.failed(),
            time(row.reacted),
            time(row.recovered)
        );
        for wrong in faults_of(row) {
            println!("    WRONG: {wrong}");
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    // Words choose, as they do for every other test; flags that are not ours are for those.
    let only = args.iter().find(|arg| !arg.starts_with('-')).map(String::as_str);
    if has("--list") {
        return ExitCode::SUCCESS;
    }
    let scale = if has("--full") { Scale::FULL } else { Scale::TEST };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let rows = runtime.expect("threads").block_on(run(scale, only));
    print(&rows);
    let wrong = rows.iter().filter(|row| !faults_of(row).is_empty()).count();
    println!("\n{} of {} rows as they should be", rows.len() - wrong, rows.len());
    if wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
