//! The shipped binary between servers and clients that nobody here wrote: Flask and FastAPI on one side; httpx, curl,
//! websockets and the openai package on the other.
//!
//! Tests of ours against servers of ours share our misunderstandings of the protocols. The Python side lives in
//! `tests/real/` with its exact versions; `.ci/run` makes the virtual environment `.venv` from them. Without it these
//! tests fail under CI, and elsewhere say aloud that they checked nothing.

#[path = "real/dashboard.rs"]
mod dashboard;
#[path = "real/monitoring.rs"]
mod monitoring;
#[path = "real/stage.rs"]
mod stage;

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use bellwether::report::measured::{Contender, Measured, Scene};
use serde_json::{Value as Json, json};
use stage::{Listen, Port, Proxy, Running, cannot_check, chromium, python};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Only what is below /api may be sent twice. Checks come often, so that nobody waits for them.
const ROUTED: &str = r#"
policy = "round-robin"
health = { interval = "100ms" }
retry = { budget = 1.0, floor_per_s = 100.0 }
route = [{ path_prefix = "/api", retry_post = true }]
"#;

fn node_table(name: &str, port: &Port, rest: &str) -> String {
    format!("[[node]]\nname = \"{name}\"\nurl = \"http://{}\"\n{rest}\n", port.address)
}

/// One process of the Flask app. The first is Flask's server as it comes, which closes after every answer; the others
/// keep connections open.
fn flask(python: &Path, name: &str, port: &Port) -> Running {
    let number = port.number();
    let mut args = vec![name, &number];
    if name != NAMES[0] {
        args.push("--keep-alive");
    }
    let app = Running::python(python, "flask_app.py", args);
    app.wait_for("ready");
    app
}

/// From now on it answers nothing.
fn hold(app: &mut Running) {
    app.tell("hold");
    app.wait_for("holding");
}

/// Every endpoint through the proxy; thirty calls in a row must be ten for each process.
fn all_endpoints(python: &Path, proxy: &Proxy) {
    let lines = Running::python(python, "flask_client.py", ["endpoints", &proxy.base]).finish();
    let spread: Json = serde_json::from_str(lines.last().expect("a line")).expect("JSON");
    assert_eq!(spread, json!({"a": 10, "b": 10, "c": 10}));
}

#[test]
fn a_flask_app_is_spread_over_and_survives_that_its_processes_are_killed() {
    let Some(python) = python() else { return };
    let ports = NAMES.map(|_| Port::take());
    let [a, mut b, mut c] = [0, 1, 2].map(|i| flask(&python, NAMES[i], &ports[i]));
    let nodes: String = NAMES.iter().zip(&ports).map(|(name, port)| node_table(name, port, "")).collect();
    let proxy = Proxy::start(&format!("{ROUTED}{nodes}"));
    NAMES.iter().for_each(|name| proxy.wait_for_state(name, "up"));
    all_endpoints(&python, &proxy);
    call_with_curl(&proxy);

    // What may not be sent twice fails where the node died with it, and nowhere else.
    hold(&mut b);
    let once = Running::python(&python, "flask_client.py", ["once", &proxy.base]);
    assert_eq!(b.line(), "held POST /once/sum");
    b.kill();
    assert_eq!(once.finish(), ["200 a -", "200 c -", "502 - bellwether; error=connection_terminated"]);
    proxy.wait_for_state("b", "down");
    let b = flask(&python, "b", &ports[1]);
    proxy.wait_for_state("b", "up");

    // Under traffic: all six clients get stuck in the process that dies, are served by another, and it comes back.
    let traffic = Running::python(&python, "flask_client.py", ["traffic", &proxy.base]);
    traffic.wait_for("running");
    hold(&mut c);
    for _ in 0..6 {
        let held = c.line();
        assert!(held.starts_with("held "), "{held}");
    }
    c.kill();
    proxy.wait_for_state("c", "down");
    let c = flask(&python, "c", &ports[2]);
    proxy.wait_for_state("c", "up");
    let served = proxy.node("c")["attempts"]["completed"].as_u64();
    proxy.wait_until("c", |node| node["attempts"]["completed"].as_u64() > served);
    let report: Json = serde_json::from_str(traffic.finish().last().expect("a line")).expect("JSON");
    assert_eq!(report["failures"], json!([]), "{report}");
    assert!(report["calls"].as_u64() > Some(12), "{report}");

    all_endpoints(&python, &proxy);
    check_metrics(&proxy);
    proxy.stop();
    drop([a, b, c]);
}

fn fastapi(python: &Path, port: &Port, model: &str) -> Running {
    let app = Running::python(python, "fastapi_app.py", [&port.number(), model]);
    app.wait_for("ready");
    app
}

fn openai(python: &Path, args: &[&str]) {
    let lines = Running::python(python, "openai_client.py", args).finish();
    assert_eq!(lines, ["all right"]);
}

#[test]
fn openai_clients_get_answers_events_and_errors_through_the_proxy_as_from_a_server() {
    let Some(python) = python() else { return };
    let (tiny, narrow) = (Port::take(), Port::take());
    let apps = [fastapi(&python, &tiny, "tiny"), fastapi(&python, &narrow, "narrow")];
    // Nobody waits: what a full node means to a client is to be seen at once.
    let common = "health = { interval = \"100ms\" }\nqueue = { length_max = 0 }\n";
    let nodes = [
        node_table("tiny", &tiny, "models = [\"tiny\"]"),
        node_table("narrow", &narrow, "models = [\"narrow\"]\nmax_in_flight = 1"),
    ];
    let proxy = Proxy::start(&format!("{common}{}", nodes.concat()));
    let [tiny_url, narrow_url] = [&tiny, &narrow].map(|port| format!("http://{}", port.address));
    openai(&python, &["routed", &proxy.base, &tiny_url, &narrow_url]);

    let nodes = [node_table("tiny", &tiny, ""), node_table("narrow", &narrow, "")].concat();
    let unrouted = Proxy::start(&format!("{common}{nodes}"));
    openai(&python, &["merged", &unrouted.base]);
    unrouted.stop();

    drop(apps);
    ["tiny", "narrow"].iter().for_each(|name| proxy.wait_for_state(name, "down"));
    openai(&python, &["down", &proxy.base]);
    check_metrics(&proxy);
    proxy.stop();
}

/// A small body, and one that curl asks about with `Expect: 100-continue` before it sends it.
fn call_with_curl(proxy: &Proxy) {
    let present = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    if present.is_err() {
        return cannot_check("calls with curl, because it is not installed", "apt-get install curl");
    }
    let call = |endpoint: &str, body: &str| {
        let url = format!("{}/api/{endpoint}", proxy.base);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60"]);
        curl.args(["-H", "Content-Type: application/json", "-H", "Expect: 100-continue", "--expect100-timeout", "60"]);
        let mut running = Running::start(curl.args(["--data-binary", "@-", &url]), Listen::Out);
        running.tell(body);
        running.finish().concat()
    };
    let sum: Json = serde_json::from_str(&call("sum", "{\"numbers\": [20, 22]}")).expect("JSON");
    assert_eq!(sum, json!({"sum": 42}));
    let digest: Json = serde_json::from_str(&call("digest", &"x".repeat(2_000_000))).expect("JSON");
    assert_eq!(digest["bytes"], 2_000_001);
}

/// Prometheus' own tool reads what a proxy exports that has seen traffic, kills and refusals.
fn check_metrics(proxy: &Proxy) {
    let metrics = proxy.admin("/metrics");
    assert!(metrics.contains("bellwether_requests_total{"), "{metrics}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = promtool.spawn() else {
        return cannot_check("/metrics, because there is no promtool", "apt-get install prometheus");
    };
    promtool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("promtool reads");
    let checked = promtool.wait_with_output().expect("promtool ends");
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success() && said.is_empty(), "{}\n{metrics}", String::from_utf8_lossy(&said));
}

/// A report of two policies and what a browser says of it.
#[test]
fn a_report_is_legible_in_a_real_browser() {
    let (Some(python), Some(chromium)) = (python(), chromium("the report")) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let page = dir.path().join("report.html").display().to_string();
    let mut simulate = Command::new(assert_cmd::cargo::cargo_bin!("bellwether"));
    simulate.args(["simulate", "--scenario", "plain-mixed", "--load", "0.4", "--seconds", "60", "--seeds", "2"]);
    simulate.args(["--policies", "least-connections,adaptive", "--report", &page]).stdout(Stdio::null());
    assert!(simulate.status().expect("the binary runs").success());
    // Distribution, regret, two over time for each of the two and the oracle, and predictions.
    let args: [&OsStr; 2] = [chromium.as_ref(), page.as_ref()];
    let lines = Running::python(&python, "report_page.py", args).finish();
    assert_eq!(lines, ["9 charts"]);
    std::fs::write(&page, measured().html()).expect("written");
    // Twelve contenders: two charts of distributions, two of shares.
    let lines = Running::python(&python, "report_page.py", args).finish();
    assert_eq!(lines, ["4 charts"]);
}

/// What the benchmark of peers would have measured.
fn measured() -> Measured {
    let contender = |at: u32| Contender {
        name: format!("proxy-{at}/with-a-policy-of-a-long-name"),
        exceeded: (1..100).map(|point| (1.0 - f64::from(point) / 100.0, 0.02 * f64::from(point * (at + 1)))).collect(),
        shares: (0..10).map(|node| (format!("node-{node}"), 0.1)).collect(),
    };
    let contenders: Vec<Contender> = (0..12).map(contender).collect();
    let rows = contenders.iter().map(|one| [vec![one.name.clone()], vec!["1234".to_owned(); 13]].concat()).collect();
    let columns = (0..14).map(|column| format!("column {column}")).collect();
    let (name, about) = ("llm-mixed".to_owned(), "eight servers".to_owned());
    let scene = Scene { name, about, columns, rows, notes: vec!["a remark".to_owned()], contenders };
    let absent = vec![("envoy".to_owned(), "not installed: ".to_owned() + &"x".repeat(80))];
    Measured {
        title: "Peers".to_owned(),
        scenes: vec![scene],
        absent,
        command: "cargo bench".to_owned(),
        ..Measured::default()
    }
}
