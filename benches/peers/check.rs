//! What can be checked of the benchmark without any other program: configurations, parsing, merging, scenarios.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bellwether::emulator::Fault;
use serde_json::Value;

use crate::Failure;
use crate::config::{self, Terms, Wanted};
use crate::contender::{ALL, Contender};
use crate::peer::{Kind, version_in};
use crate::scenario::Scenario;
use crate::{machine, page, results, scenario, table};

/// Runs every check; a false one panics.
pub(crate) fn everything() -> Result<(), Failure> {
    machine::check();
    results::check()?;
    table::check();
    page::check();
    versions();
    contenders();
    scenarios();
    configurations()?;
    println!("the benchmark's parts are sound; nothing measured: cargo bench --bench peers");
    Ok(())
}

fn versions() {
    for (text, version) in [
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12"),
        ("\nenvoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE", "1.40.0"),
        ("Version:      3.7.15\nCodename:     x", "3.7.15"),
    ] {
        assert_eq!(version_in(text).as_deref(), Some(version));
    }
    assert_eq!(version_in("no version"), None);
}

fn contenders() {
    let mut names = ALL.map(|contender| contender.name());
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    let words = ["adaptive".to_owned(), "nginx".to_owned()];
    let selected: Vec<String> = Contender::select(&words).iter().map(Contender::name).collect();
    assert_eq!(selected, ["bellwether/adaptive", "nginx/round_robin", "nginx/least_conn", "nginx/random-two"]);
    for contender in ALL.iter().filter(|contender| contender.kind == Kind::Bellwether) {
        assert!(bellwether::policy::names().contains(&contender.policy), "{}", contender.policy);
    }
}

fn scenarios() {
    let run = Duration::from_secs(75);
    for scenario in scenario::all() {
        let (fleet, incidents) = (scenario.fleet(), scenario.incidents(run, 7));
        assert!(fleet.nodes.len() == 8 && scenario.rate_rps() > 0.0, "{}", scenario.name);
        assert!(scenario.rate_rps() < fleet.capacity_rps(), "{}", scenario.name);
        assert_eq!(incidents, scenario.incidents(run, 7), "{}", scenario.name);
        assert!(incidents.iter().all(|incident| incident.node < 8 && incident.at < run), "{}", scenario.name);
        assert!(incidents.windows(2).all(|pair| pair[0].at <= pair[1].at), "{}", scenario.name);
    }
    for (name, fails, hangs) in [("faults", 4, 7), ("faults-unseen", 4, 7), ("failover", 4, 7), ("llm-faults", 2, 1)] {
        let faults = Scenario::named(name).map(|faults| faults.incidents(run, 1)).unwrap_or_default();
        let times: Vec<_> = faults.iter().map(|incident| (incident.at.as_secs(), incident.node)).collect();
        assert_eq!(times, [(15, fails), (35, fails), (45, hangs), (60, hangs)]);
    }
    let wandering = Scenario::named("antagonists").map(|wander| wander.incidents(run, 1)).unwrap_or_default();
    let slower = |incident: &scenario::Incident| matches!(incident.fault, Fault::Slow { factor } if factor > 1.0);
    let share = wandering.iter().filter(|incident| slower(incident)).count() as f64 / wandering.len() as f64;
    assert!((0.2..0.8).contains(&share), "{share}");
}

/// Our own configuration is checked by our own binary; those in JSON are JSON; every node is in every one.
fn configurations() -> Result<(), Failure> {
    let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let nodes = [(address(9001), 10.25), (address(9002), 5.0)];
    let every = || ALL.into_iter().flat_map(|contender| Terms::ALL.map(|(terms, _)| (contender, terms)));
    for (contender, terms) in every() {
        let directory = tempfile::tempdir()?;
        let (policy, nodes) = (contender.policy, &nodes);
        let wanted = Wanted { policy, nodes, clients: 100, terms, one_thread: false, one_process: false };
        let launch = config::write(contender.kind, &wanted, address(8080), address(8081), directory.path())?;
        let mut all = launch.arguments.join(" ");
        for entry in std::fs::read_dir(directory.path())?.flatten() {
            let text = std::fs::read_to_string(entry.path())?;
            if entry.path().extension().is_some_and(|extension| extension == "json" || extension == "yml") {
                serde_json::from_str::<Value>(&text)?;
            }
            all += &text;
        }
        for (node, _) in nodes {
            let found = all.contains(&node.to_string()) || all.contains(&format!("\"port_value\": {}", node.port()));
            assert!(found, "{} is not told of {node}: {all}", contender.name());
        }
        if let (Kind::Bellwether, Some(program)) = (contender.kind, contender.kind.program()) {
            check_own(&program, &directory.path().join("bellwether.toml"))?;
        }
    }
    Ok(())
}

fn check_own(program: &Path, file: &Path) -> Result<(), Failure> {
    let output = Command::new(program).arg("check").arg(file).output()?;
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    Ok(())
}
