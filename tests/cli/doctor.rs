//! `doctor` on instances that are well and that are not.

use std::fs;
use std::time::Duration;

use bellwether::node::NodeSpec;
use serde_json::Value as Json;

use crate::node::{proxy, start};
use crate::{Ran, bellwether, run};

/// Severity, subject and words of each finding.
fn findings(ran: &Ran) -> Vec<[String; 3]> {
    let report: Json =
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {} {}", ran.out, ran.err));
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    let told = |one: &Json| one["severity"] == "fine" || one["fix"].as_str().is_some_and(|fix| !fix.is_empty());
    findings
        .inspect(|one| assert!(told(one), "{one} has no fix"))
        .map(|one| [text(&one["severity"]), text(&one["about"]), text(&one["what"])])
        .collect()
}

/// The findings of that severity, as `subject: words`.
fn of(all: &[[String; 3]], severity: &str) -> Vec<String> {
    all.iter().filter(|one| one[0] == severity).map(|[_, about, what]| format!("{about}: {what}")).collect()
}

#[test]
fn an_instance_that_is_well_has_nothing_to_fix() {
    let node =
        NodeSpec { models: vec!["served".to_owned()], ..NodeSpec::new(format!("http://{}", start())).named("n") };
    let server = proxy(vec![node]);
    let admin = server.admin_address().to_string();
    let ran = run(&mut bellwether(&["doctor", "--admin", &admin, "--output", "json"]));
    let all = findings(&ran);
    assert_eq!((ran.code, of(&all, "warning"), of(&all, "problem")), (Some(0), Vec::new(), Vec::new()), "{}", ran.out);
    let fine = of(&all, "fine");
    for part in ["instance: answers and takes requests, up for ", "node n: up, 0 in flight", "file descriptors: "] {
        assert!(fine.iter().any(|line| line.starts_with(part)), "{part}: {fine:?}");
    }
    let notes = of(&all, "note");
    for part in [
        "policy: least-connections routes: nothing has been learned",
        "learning: a restart forgets",
        "node n: has a /health",
    ] {
        assert!(notes.iter().any(|line| line.starts_with(part)), "{part}: {notes:?}");
    }
    let text = run(&mut bellwether(&["doctor", "--admin", &admin]));
    assert!(
        text.out.contains("\nnote     learning: ") && text.out.ends_with("problems 0, warnings 0, notes 3\n"),
        "{}",
        text.out
    );
    server.stop(Duration::ZERO);
}

#[test]
fn each_ailment_is_found_and_has_its_fix() {
    // A port that is taken and on which nobody listens.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let absent = format!("http://{}", taken.local_addr().unwrap().as_socket().unwrap());
    let well = format!("http://{}", start());
    let wrong = NodeSpec { models: vec!["other".to_owned()], ..NodeSpec::new(&well).named("wrong") };
    let server =
        proxy(vec![wrong, NodeSpec::new(format!("{well}/sick")).named("sick"), NodeSpec::new(absent).named("absent")]);
    let admin = server.admin_address().to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.toml");
    let file_text = format!(
        "policy = \"random\"\nlisten = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n[[node]]\nname = \"wrong\"\nurl = \"{well}\"\n"
    );
    fs::write(&file, &file_text).unwrap();
    let path = file.display().to_string();
    let args = ["doctor", "--admin", &admin, "--config", &path, "--output", "json"];
    let ran = run(&mut bellwether(&args));
    let all = findings(&ran);
    assert_eq!(ran.code, Some(1));
    let problems = of(&all, "problem");
    assert!(problems.iter().any(|line| line == "node sick: /health says 500 Internal Server Error"), "{problems:?}");
    assert!(problems.iter().any(|line| line.contains("for the model other and lists served")), "{problems:?}");
    // Whether the instance has noticed yet decides how bad it is.
    assert!(all.iter().any(|[_, about, what]| about == "node absent" && what.starts_with("does not answer here: ")));
    let warnings = of(&all, "warning");
    for part in [
        "policy: \"adaptive\" runs, the file has \"random\"",
        "node[sick].url: ",
        "limits.connections_max: 50 runs, the file has 20000",
    ] {
        assert!(
            warnings.iter().any(|line| line.starts_with(&format!("configuration: {part}"))),
            "{part}: {warnings:?}"
        );
    }
    fs::write(&file, format!("lisen = 1\n{file_text}")).unwrap();
    let problems = of(&findings(&run(&mut bellwether(&args))), "problem");
    assert!(problems.iter().any(|line| line.contains("did you mean listen?")), "{problems:?}");
    server.stop(Duration::ZERO);
    let gone = run(&mut bellwether(&args));
    let problems = of(&findings(&gone), "problem");
    assert_eq!((gone.code, problems.len()), (Some(1), 2), "{problems:?}");
    assert!(problems[0].starts_with(&format!("instance: nothing answers at http://{admin}")), "{problems:?}");
}

#[test]
fn load_that_comes_past_the_proxy_and_waits_is_found() {
    let server = proxy(vec![NodeSpec::new(format!("http://{}/busy", start())).named("a b/c")]);
    let admin = server.admin_address().to_string();
    let ran = run(&mut bellwether(&["doctor", "--admin", &admin, "--output", "json"]));
    let all = findings(&ran);
    let about = "node a b/c: ";
    assert!(of(&all, "fine").contains(&format!("{about}vLLM: 3 running, 5 waiting")), "{all:?}");
    let notes = of(&all, "note");
    let told = |what: &str| notes.iter().any(|line| line.starts_with(&format!("{about}{what}")));
    assert!(told("has 8 requests, 0 of them from here") && told("lets 5 requests wait"), "{notes:?}");
    server.stop(Duration::ZERO);
}
