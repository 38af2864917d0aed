//! The command line as a user meets it: what it prints where, and with which exit code it ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "cli/advise.rs"]
mod advise;
mod certificates;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/hostile.rs"]
mod hostile;
#[path = "cli/manual.rs"]
mod manual;
#[path = "cli/node.rs"]
mod node;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cli/secure.rs"]
mod secure;
#[path = "cli/socket.rs"]
mod socket;
#[path = "cli/stage.rs"]
mod stage;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/watching.rs"]
mod watching;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bellwether::balancer::{Balancer, Scratch, Verdict};
use bellwether::clock::{Clock, Time};
use bellwether::config::{Env, Role, Settings, Sources, Token, changes, schema};
use bellwether::fleet::Fleet;
use bellwether::learn::Learner;
use bellwether::node::{MaxInFlight, NodeSpec};
use bellwether::outcome::Outcome;
use bellwether::policy::PolicyId;
use bellwether::request::RequestShape;
use bellwether::server::Server;
use serde_json::Value as Json;

/// The binary, with nothing of ours in its environment.
fn bellwether(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("bellwether"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BELLWETHER")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).display().to_string()
}

fn load(path: &str) -> Settings {
    let sources = Sources::new(Some(path.into()), Vec::new(), Env::default());
    sources.load().unwrap_or_else(|errors| panic!("{errors}")).settings
}

#[test]
fn check_tells_every_mistake_with_its_place_and_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.toml");
    fs::write(&file, "lisen = 1\n\n[timeouts]\n  connect = 2\n\n[[node]]\nurl = \"http://a b\"\n").unwrap();
    let shown = file.display().to_string();
    let ran = run(&mut bellwether(&["check", &shown]));
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.err);
    for (line, start) in
        lines.iter().zip([":1:1: lisen: ", ":4:13: timeouts.connect: ", ":7:7: node[0].url: ", ": 3 mistakes"])
    {
        assert!(line.starts_with(&format!("{shown}{start}")), "{line}");
    }
    let ran = run(&mut bellwether(&["check", &shown, "--output", "json"]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(2), ""));
    let report: Json = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((report["valid"].as_bool(), report["errors"].as_array().map(Vec::len)), (Some(false), Some(3)));
    let error = &report["errors"][1];
    assert_eq!((error["line"].as_u64(), error["column"].as_u64()), (Some(4), Some(13)));
    assert_eq!((error["key"].as_str(), error["suggestion"].as_str()), (Some("timeouts.connect"), Some("\"2s\"")));
    assert_eq!(run(&mut bellwether(&["check", "/nope.toml"])).code, Some(2));
}

#[test]
fn the_examples_are_fine() {
    let ran = run(&mut bellwether(&["check", &example("minimal.toml")]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.ends_with("minimal.toml: fine (2 nodes, 0 routes, policy adaptive)\n"), "{}", ran.out);
    let ran = run(&mut bellwether(&["check", &example("full.toml"), "--output", "json"]));
    assert_eq!(ran.code, Some(0));
    assert_eq!(serde_json::from_str::<Json>(&ran.out).unwrap()["valid"], true);
}

#[test]
fn the_full_example_has_every_key_with_its_default() {
    let full = example("full.toml");
    assert_eq!(changes(&load(&full), &Settings::default()), []);
    let text = fs::read_to_string(&full).unwrap();
    let table: toml::Table = toml::from_str(&text).unwrap();
    let mut missing = Vec::new();
    keys(schema(), "", &mut |path, optional| {
        let value = path.split('.').try_fold(&toml::Value::Table(table.clone()), |value, key| value.get(key)).is_some();
        let key = path.rsplit('.').next().unwrap_or_default();
        let mentioned = text.lines().any(|line| {
            let line = line.trim_start_matches('#');
            line.starts_with(&format!("{key} = "))
                || line.contains(&format!("{{ {key} = "))
                || line.contains(&format!(", {key} = "))
        });
        if !(if optional { mentioned } else { value }) {
            missing.push(path.to_owned());
        }
    });
    assert!(missing.is_empty(), "not in full.toml: {missing:?}");
}

#[test]
fn the_full_example_without_its_comment_signs_is_right_too() {
    let text = fs::read_to_string(example("full.toml")).unwrap();
    let uncommented = |line: &str| match line.strip_prefix('#') {
        // Comments proper have a space behind the sign. A token is in a variable or in a file, not in both.
        Some(code) if !code.starts_with(' ') && !code.starts_with("file = ") => format!("{code}\n"),
        _ => format!("{line}\n"),
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.toml");
    fs::write(&file, text.lines().map(uncommented).collect::<String>()).unwrap();
    let mut command = bellwether(&["config", "print", "--output", "json", "--config", &file.display().to_string()]);
    let ran = run(command.env("BELLWETHER_ADMIN_TOKEN", "0123456789abcdef"));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let printed: Json = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(printed["settings"]["node"][0]["name"], "gpu-1");
    assert_eq!(printed["settings"]["route"][0]["name"], "chat");
    assert!(!ran.out.contains("0123456789abcdef"), "{}", ran.out);
}

/// Calls `visit` with every key of the schema and whether it is inside of a list of tables.
fn keys(schema: &Json, path: &str, visit: &mut dyn FnMut(&str, bool)) {
    let (inner, list) = match schema.get("items") {
        Some(items) => (items, true),
        None => (schema, false),
    };
    for (key, schema) in inner.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let optional = list || path.starts_with("node") || path.starts_with("route") || path.starts_with("admin.token");
        if schema.get("properties").is_none() && schema.pointer("/items/properties").is_none() {
            visit(&path, optional);
        }
        keys(schema, &path, visit);
    }
}

#[test]
fn print_shows_what_is_in_force_and_where_it_was_set() {
    let minimal = example("minimal.toml");
    let flags = ["--policy", "round-robin", "--max-in-flight", "auto"];
    let mut command = bellwether(&[&["config", "print", "--config", &minimal][..], &flags].concat());
    let ran = run(command.env("BELLWETHER_TIMEOUTS_CONNECT", "3s"));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let line = |start: &str| ran.out.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert!(line("policy = \"round-robin\"").ends_with("# flag --policy"), "{}", ran.out);
    assert!(line("max_in_flight = \"auto\"").ends_with("# flag --max-in-flight"), "{}", ran.out);
    assert!(line("connect = \"3s\"").ends_with("# environment BELLWETHER_TIMEOUTS_CONNECT"), "{}", ran.out);
    assert!(line("url = \"http://127.0.0.1:8000\"").ends_with("minimal.toml:6:7"), "{}", ran.out);
    assert!(line("drain = \"30s\"").ends_with("# default"), "{}", ran.out);
    let dir = tempfile::tempdir().unwrap();
    let again = dir.path().join("again.toml");
    fs::write(&again, &ran.out).unwrap();
    let (again, limited) = (load(&again.display().to_string()).nodes, load(&minimal).nodes);
    let limited: Vec<_> = limited.into_iter().map(|node| node.or_limited(MaxInFlight::Auto)).collect();
    assert_eq!(again, limited);
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    let mut command = bellwether(&["config", "print", "--listen", "8080"]);
    let ran = run(command.env("BELLWETHER_WORKER", "2").env("BELLWETHER_RETRY_BUDGET", "2"));
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    for part in [
        "environment BELLWETHER_WORKER: unknown variable",
        "did you mean BELLWETHER_WORKERS?",
        "environment BELLWETHER_RETRY_BUDGET: retry.budget: 2 is out of range",
        "flag --listen: listen: \"8080\"",
        "error: the configuration has 3 mistakes",
    ] {
        assert!(ran.err.contains(part), "{part} is not in\n{}", ran.err);
    }
}

#[test]
fn the_schema_is_json_and_describes_every_example() {
    let ran = run(&mut bellwether(&["config", "schema"]));
    assert_eq!(ran.code, Some(0));
    assert_eq!(&serde_json::from_str::<Json>(&ran.out).unwrap(), schema());
    assert_eq!(schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn help_has_examples_and_exit_codes_and_wrong_usage_ends_with_2() {
    for args in [&["--help"][..], &["run", "--help"], &["check", "--help"], &["config", "print", "--help"]] {
        let ran = run(&mut bellwether(args));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
        assert!(ran.out.contains("Examples:") && ran.out.contains("Exit codes: 0"), "{}", ran.out);
    }
    let help = run(&mut bellwether(&["run", "--help"])).out;
    assert!(help.contains("[default: 127.0.0.1:8080]") && help.contains("round-robin"), "{help}");
    for args in [&[][..], &["rum"], &["run", "--nope"], &["check"]] {
        assert_eq!(run(&mut bellwether(args)).code, Some(2), "{args:?}");
    }
}

#[test]
fn run_without_nodes_says_how_to_add_one() {
    let ran = run(&mut bellwether(&["run"]));
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    for part in ["--node http://HOST:PORT", "BELLWETHER_NODE", "[[node]]", "--allow-no-nodes"] {
        assert!(ran.err.contains(part), "{}", ran.err);
    }
}

#[test]
fn run_on_an_address_that_is_taken_ends_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["run", "--listen", &address, "--admin", "127.0.0.1:0", "--node", "http://127.0.0.1:9"];
    let ran = run(&mut bellwether(&args));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains(&address), "{}", ran.err);
}

/// A proxy that is ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn wait(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

#[test]
fn run_serves_with_a_banner_until_it_is_told_to_stop() {
    let node = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("one=http://{}", node.local_addr().unwrap());
    let args = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--node", &url, "--log-level", "off"];
    let mut child = bellwether(&args).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let running = Running(child);
    assert_eq!(lines.next(), Some(format!("bellwether {}", env!("CARGO_PKG_VERSION"))));
    let banner: Vec<String> = lines.by_ref().take(5).collect();
    let value = |name: &str| {
        let line = banner.iter().find_map(|line| line.trim_start().strip_prefix(name));
        line.map(|line| line.trim().to_owned()).unwrap_or_default()
    };
    assert_eq!(value("nodes"), "1: one");
    assert_eq!(value("policy"), "adaptive");
    assert_eq!(value("settings"), "--admin, --listen, --log-level, --node, then defaults");
    let address = value("clients").replace("http://", "");
    let answering = std::thread::spawn(move || answer(&node));
    let mut client = TcpStream::connect(&address).unwrap();
    client.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("from the node"), "{reply}");
    answering.join().unwrap();
    running.signal("-TERM");
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn a_hangup_reads_the_configuration_again_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.toml");
    let text = "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n[[node]]\nurl = \"http://127.0.0.1:9\"\n";
    fs::write(&file, text).unwrap();
    let mut command = bellwether(&["run", "--config", &file.display().to_string(), "--log-format", "json"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let running = Running(child);
    let mut until = |part: &str| lines.by_ref().find(|line| line.contains(part)).expect("the process lives");
    until("settings  ");
    fs::write(&file, format!("lisen = 1\n{text}")).unwrap();
    running.signal("-HUP");
    let refused = until("reload refused");
    assert!(refused.contains("did you mean listen?"), "{refused}");
    fs::write(&file, format!("policy = \"random\"\n{text}[[node]]\nurl = \"http://127.0.0.1:10\"\n")).unwrap();
    running.signal("-HUP");
    let reloaded = until("configuration reloaded");
    assert!(reloaded.contains("127.0.0.1:10") && reloaded.contains("random"), "{reloaded}");
    running.signal("-INT");
    assert_eq!(running.wait().code(), Some(0));
}

/// Answers the first connection on which a request comes: health checks connect and say nothing.
fn answer(node: &TcpListener) {
    for connection in node.incoming() {
        let mut connection = connection.unwrap();
        let mut head = [0; 1024];
        if connection.read(&mut head).unwrap_or(0) > 0 {
            let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\nfrom the node";
            return connection.write_all(reply).unwrap();
        }
    }
}

/// A proxy in this process that has learned of two nodes, the second four times slower, and learns no more.
fn taught(tokens: Vec<Token>) -> Server {
    let node = |name: &str| NodeSpec::new(format!("http://127.0.0.1:9/{name}")).named(name);
    let mut settings = Settings { nodes: vec![node("fast\u{1b}[2J"), node("slow")], ..Settings::default() };
    settings.listen.set_port(0);
    settings.admin.listen.set_port(0);
    settings.admin.tokens = tokens;
    // Nobody listens at the nodes, and nobody should find out.
    settings.health.interval = Duration::from_secs(3_600);
    settings.health.thresholds.unhealthy_after = 100;
    let server = Server::start(settings).unwrap();
    let (app, mut scratch) = (server.app(), Scratch::with_seed(1));
    app.trainer.stop();
    let mut learner = Learner::new(Arc::clone(app.balancer.learned()));
    let random =
        Arc::new(Balancer::new(Fleet::clone(&app.balancer.fleet()), policy("random"), Clock::manual(), Vec::new()));
    // So late that it does not grow stale while the test runs.
    let now = Time::from_secs_f64(3_600.0);
    for _ in 0..300 {
        let Verdict::Go(ticket) = random.decide(now, &RequestShape::default(), &[], &mut scratch) else { panic!() };
        let took_ms = if ticket.node().slot == 0 { 100 } else { 400 };
        let ended = now.after(Duration::from_millis(took_ms));
        learner.observe(ended, &ticket.finish(ended, Outcome::Completed { status: 200 })).unwrap();
    }
    learner.refit(now);
    learner.refit(now);
    server
}

fn policy(name: &str) -> PolicyId {
    PolicyId::named(name).unwrap()
}

#[test]
fn model_and_explain_print_what_the_admin_api_says() {
    let server = taught(Vec::new());
    let admin = server.admin_address().to_string();
    let shown = run(&mut bellwether(&["model", "show", "--admin", &admin]));
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    for part in [
        "model version 1, made just now: the model routes\n",
        "objective total, social 1.0, explore 0.01, shadow false",
        "(fleet)",
        "a request takes ",
    ] {
        assert!(shown.out.contains(part), "{part} is not in\n{}", shown.out);
    }
    assert!(shown.out.contains("fast\\u{1b}[2J") && !shown.out.contains('\u{1b}'), "{}", shown.out);
    let json = run(bellwether(&["model", "show", "--output", "json"]).env("BELLWETHER_ADMIN_LISTEN", &admin));
    let model: Json = serde_json::from_str(&json.out).unwrap();
    assert_eq!(model["nodes"][1]["name"], "slow");

    let args = ["explain", "--admin", &admin, "--streaming", "--prompt-tokens", "9", "--max-tokens", "9"];
    let explained = run(&mut bellwether(&args));
    assert_eq!((explained.code, explained.err.as_str()), (Some(0), ""));
    let (first, rest) = explained.out.split_once('\n').unwrap();
    assert!(first.starts_with("fast") && first.ends_with(" %: it has the least score"), "{first}");
    assert!(rest.contains("policy adaptive, kind other, model version 1 prefers fast"), "{rest}");
    let args = ["explain", "--admin", &admin, "--policy", "least-connections", "--output", "json"];
    let explained: Json = serde_json::from_str(&run(&mut bellwether(&args)).out).unwrap();
    assert_eq!((&explained["probability"], &explained["in_force"]), (&Json::from(0.5), &Json::from(false)));
    let wrong = run(&mut bellwether(&["explain", "--admin", &admin, "--policy", "adaptiv"]));
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(1), ""));
    assert!(wrong.err.contains("422") && wrong.err.contains("\"adaptiv\" is not a policy"), "{}", wrong.err);

    let saved = run(&mut bellwether(&["model", "snapshot", "--admin", &admin]));
    assert_eq!((saved.code, saved.out.as_str()), (Some(1), ""));
    assert!(saved.err.contains("503") && saved.err.contains("the trainer does not answer"), "{}", saved.err);
    server.stop(Duration::ZERO);
}

#[test]
fn a_running_proxy_saves_and_forgets_what_it_learned_when_told() {
    let mut settings = Settings { nodes: vec![NodeSpec::new("http://127.0.0.1:9")], ..Settings::default() };
    settings.listen.set_port(0);
    settings.admin.listen.set_port(0);
    let server = Server::start(settings).unwrap();
    let admin = server.admin_address().to_string();
    let saved = run(&mut bellwether(&["model", "snapshot", "--admin", &admin]));
    let kept = "kept in memory only: adaptive.state_dir is off\n";
    assert_eq!((saved.code, saved.out.as_str(), saved.err.as_str()), (Some(0), kept, ""));
    assert_eq!(run(&mut bellwether(&["model", "reset", "--admin", &admin])).code, Some(0));
    let empty = run(&mut bellwether(&["model", "show", "--admin", &admin])).out;
    assert!(empty.starts_with("no model yet: least-connections routes: nothing has been learned yet\n"), "{empty}");
    server.stop(Duration::ZERO);
}

#[test]
fn a_token_is_asked_for_and_what_does_not_answer_is_named() {
    let token = |secret: &str, role| Token { secret: secret.to_owned().into(), role };
    let server = taught(vec![token("0123456789abcdef", Role::Read)]);
    let admin = server.admin_address().to_string();
    let without = run(&mut bellwether(&["model", "show", "--admin", &admin]));
    assert_eq!((without.code, without.out.as_str()), (Some(1), ""));
    assert!(
        without.err.contains("401") && without.err.contains("--token-env VAR or --token-file FILE"),
        "{}",
        without.err
    );
    let mut with = bellwether(&["model", "show", "--admin", &admin, "--token-env", "LOOK"]);
    assert_eq!(run(with.env("LOOK", "0123456789abcdef")).code, Some(0));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "0123456789abcdef\n").unwrap();
    let file = file.display().to_string();
    assert_eq!(run(&mut bellwether(&["explain", "--admin", &admin, "--token-file", &file])).code, Some(0));
    let reset = run(&mut bellwether(&["model", "reset", "--admin", &admin, "--token-file", &file]));
    assert_eq!(reset.code, Some(1));
    assert!(reset.err.contains("403") && !reset.err.contains("0123456789abcdef"), "{}", reset.err);
    server.stop(Duration::ZERO);

    // A port that is taken and on which nobody listens.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = taken.local_addr().unwrap().as_socket().unwrap().to_string();
    let nobody = run(&mut bellwether(&["model", "show", "--admin", &address]));
    assert_eq!((nobody.code, nobody.out.as_str()), (Some(1), ""));
    assert!(nobody.err.contains(&format!("nothing answers at http://{address}: ")), "{}", nobody.err);
    let hung_up = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hung_up.local_addr().unwrap().to_string();
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = hung_up.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
    });
    let nobody = run(&mut bellwether(&["model", "show", "--admin", &address]));
    assert_eq!((nobody.code, nobody.out.as_str()), (Some(1), ""));
    assert!(nobody.err.contains("is not the admin API of bellwether"), "{}", nobody.err);
    stranger.join().unwrap();
    let usage = ["--admin", "nonsense"];
    assert_eq!(run(&mut bellwether(&[&["explain"][..], &usage].concat())).code, Some(2));
    assert_eq!(run(&mut bellwether(&["model", "show", "--token-env", "NOT_SET"])).code, Some(2));
    assert_eq!(run(&mut bellwether(&["model"])).code, Some(2));
}
