//! `top` and `tap` as they run beside a proxy that works.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use bellwether::config::{AdminListen, Role, Token};
use bellwether::node::NodeSpec;
use bellwether::server::Server;
use serde_json::Value as Json;

use crate::node::{ask, proxy, settings, start};
use crate::{Running, bellwether, run, taught};

fn two() -> Server {
    let url = format!("http://{}", start());
    proxy(vec![NodeSpec::new(&url).named("one\u{1b}[2J"), NodeSpec::new(&url).named("two")])
}

/// What a verb writes while requests are sent, until it ends by itself.
fn while_asked(mut child: Child, requests: impl Fn()) -> (String, Option<i32>) {
    // A tap tells what begins after it has begun, and nobody tells when that is: so there is always another request.
    while child.try_wait().unwrap().is_none() {
        requests();
    }
    let output = child.wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn tap(server: &Server, args: &[&str]) -> Child {
    let admin = server.admin_address().to_string();
    bellwether(&[&["tap", "--admin", &admin][..], args].concat()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn tap_tells_what_came_of_decisions_and_keeps_to_its_filters() {
    let server = two();
    let requests = || {
        ask(&server, "/fail", "{}");
        ask(&server, "/v1/chat/completions", r#"{"model":"served","messages":[]}"#);
    };
    let (text, code) = while_asked(tap(&server, &["--status", "5xx", "--count", "3"]), requests);
    assert_eq!((code, text.lines().count()), (Some(0), 3), "{text}");
    assert!(
        text.lines().all(|line| line.contains(" 500 in ") && line.ends_with(": nothing has been learned yet")),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    let args = ["--node", "two", "--model", "served", "--fallback", "--count", "2", "--output", "json"];
    let (text, code) = while_asked(tap(&server, &args), requests);
    let told: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, told.len()), (Some(0), 2), "{text}");
    for decision in &told {
        assert_eq!((&decision["node"], &decision["why"]), (&"two".into(), &"fallback".into()), "{decision}");
        assert_eq!((&decision["end"]["status"], &decision["kind"]), (&200.into(), &"chat served".into()), "{decision}");
        assert_eq!(decision["candidates"].as_array().map(Vec::len), Some(2), "{decision}");
    }
    let wrong = run(&mut bellwether(&["tap", "--admin", &server.admin_address().to_string(), "--status", "9xx"]));
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(1), ""));
    assert!(wrong.err.contains("422") && wrong.err.contains("a class such as 5xx"), "{}", wrong.err);
    server.stop(Duration::ZERO);
}

#[test]
fn top_shows_the_fleet_once_as_a_table_or_as_the_event_itself() {
    let server = taught(Vec::new());
    let admin = server.admin_address().to_string();
    let shown = run(&mut bellwether(&["top", "--once", "--admin", &admin]));
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = shown.out.lines().collect();
    assert_eq!(lines[0], "bellwether  adaptive: the model routes");
    assert!(lines[1].contains("req/s") && lines[1].contains("nodes 2 of 2"), "{}", shown.out);
    assert!(lines[2].starts_with("model 1, "), "{}", shown.out);
    assert!(lines[4].starts_with("node") && lines[4].ends_with("failed"), "{}", shown.out);
    assert!(lines[5].starts_with("fast\\u{1b}[2J  up") && lines[6].starts_with("slow"), "{}", shown.out);
    assert!(!shown.out.contains('\u{1b}'), "{}", shown.out);
    let json = run(&mut bellwether(&["top", "--once", "--output", "json", "--admin", &admin]));
    let event: Json = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&event["fleet"]["nodes"], &event["nodes"][1]["name"]), (&2.into(), &"slow".into()));
    server.stop(Duration::ZERO);
}

#[test]
fn top_without_a_terminal_writes_a_line_per_interval_until_it_is_told_to_stop() {
    let server = two();
    let admin = server.admin_address().to_string();
    let mut child = bellwether(&["top", "--admin", &admin]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let running = Running(child);
    let lines: Vec<String> = lines.take(2).map(Result::unwrap).collect();
    assert!(lines.iter().all(|line| line.contains(" req/s ") && line.contains("adaptive: least-connections routes")));
    assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
    running.signal("-INT");
    assert_eq!(running.wait().code(), Some(0));
    server.stop(Duration::ZERO);
}

#[test]
fn watching_needs_the_token_that_the_api_asks_for() {
    let server = taught(vec![Token { secret: "0123456789abcdef".to_owned().into(), role: Role::Read }]);
    let admin = server.admin_address().to_string();
    for verb in ["top", "tap"] {
        let refused = run(&mut bellwether(&[verb, "--admin", &admin]));
        assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""));
        assert!(refused.err.contains("401") && refused.err.contains("--token-env"), "{}", refused.err);
    }
    let mut with = bellwether(&["top", "--once", "--admin", &admin, "--token-env", "LOOK"]);
    assert_eq!(run(with.env("LOOK", "0123456789abcdef")).code, Some(0));
    server.stop(Duration::ZERO);
}

#[test]
fn who_watches_reaches_a_proxy_by_its_socket_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(vec![NodeSpec::new(format!("http://{}", start())).named("n")]);
    settings.admin.listen = AdminListen::Unix(dir.path().join("admin.sock"));
    let server = Server::start(settings).unwrap();
    let admin = server.admin_address().to_string();
    assert!(admin.starts_with("unix:/"), "{admin}");
    let (text, code) = while_asked(tap(&server, &["--count", "2"]), || ask(&server, "/v1/chat/completions", "{}"));
    assert_eq!((code, text.lines().count()), (Some(0), 2), "{text}");
    assert!(text.lines().all(|line| line.contains(" n 200 in ")), "{text}");
    let top = run(&mut bellwether(&["top", "--once", "--admin", &admin]));
    assert_eq!((top.code, top.err.as_str()), (Some(0), ""));
    assert!(top.out.lines().any(|line| line.starts_with("n     up")), "{}", top.out);
    let doctor = run(&mut bellwether(&["doctor", "--admin", &admin]));
    assert_eq!((doctor.code, doctor.err.as_str()), (Some(0), ""), "{}", doctor.out);
    assert!(doctor.out.contains("instance: answers and takes requests"), "{}", doctor.out);
    server.stop(Duration::ZERO);
    for verb in ["tap", "top", "doctor"] {
        let gone = run(&mut bellwether(&[verb, "--admin", &admin]));
        assert_eq!(gone.code, Some(1));
        assert!((gone.out + &gone.err).contains(&format!("nothing answers at {admin}")), "{verb}");
    }
}
