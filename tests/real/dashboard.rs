//! The dashboard in a real browser: Chromium before the shipped binary, under load, driven by `dashboard.py`.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bellwether::emulator::EmulatedFleet;
use bellwether::load::{self, Ask, LoadSpec, Recorder, Stop};
use bellwether::sim::{Lognormal, ServerSpec, SimFleet, SimNode, fleets};

use crate::stage::{Proxy, Running, chromium, python};

/// A name that is markup if somebody takes it for that; the script knows it too.
const HOSTILE: &str = "<script>window.broken++</script>";
const OPERATE: &str = "operate-token-of-the-test";
const READ: &str = "read-token-of-the-test";
/// Longer than any test: it is stopped before.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// Load that runs until this is dropped.
pub(crate) struct Load {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Short chat answers, so that a busy machine keeps up.
    pub(crate) fn start(target: SocketAddr, rate_rps: f64) -> Load {
        let stop = Stop::default();
        let stopped = stop.clone();
        let short = |mean: f64| Lognormal { mean, sigma: 0.6, min: 4.0, max: 200.0 };
        let ask = Ask::Chat { stream: true, prompts: short(60.0), outputs: short(12.0) };
        let spec = LoadSpec { ask, ..LoadSpec::new(target, rate_rps, FOR_EVER) };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(load::run(spec, &Arc::new(Recorder::default()), &stopped));
        });
        Load { stop, thread: Some(thread) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed, and the test may be failing already.
            let _ = thread.join();
        }
    }
}

/// Two fast nodes and a slow one, and one whose name is not nice.
pub(crate) fn emulated() -> EmulatedFleet {
    let batch = |name: &str, spec| SimNode { name: name.to_owned(), server: ServerSpec::Batch(spec) };
    let nodes = vec![
        batch("fast-1", fleets::FAST),
        batch("fast-2", fleets::FAST),
        batch("slow-1", fleets::SLOW),
        batch(HOSTILE, fleets::SLOW),
    ];
    EmulatedFleet::start(&SimFleet { nodes }.faster(4.0), 7).expect("emulators")
}

/// `[[node]]` tables of emulated servers.
pub(crate) fn tables(fleet: &EmulatedFleet) -> String {
    let table = |node: &bellwether::emulator::Emulator| {
        format!("[[node]]\nname = '{}'\nurl = \"{}\"\n", node.name(), node.url())
    };
    fleet.nodes().iter().map(table).collect()
}

#[test]
fn the_dashboard_shows_changes_and_survives_in_a_real_browser() {
    let (Some(python), Some(chromium)) = (python(), chromium("the dashboard")) else { return };
    let fleet = emulated();
    let dir = tempfile::tempdir().expect("a directory");
    let token = |name: &str, secret: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, secret).expect("a file");
        format!("[[admin.token]]\nfile = \"{}\"\nrole = \"{name}\"\n", path.display())
    };
    let common = "log = { access = false }\n";
    let tokens = token("operate", OPERATE) + &token("read", READ);
    let proxy = Proxy::start(&format!("{common}{tokens}{}", tables(&fleet)));
    let address: SocketAddr = proxy.base.trim_start_matches("http://").parse().expect("an address");
    let load = Load::start(address, 25.0);
    // Kept after the test: a picture of what went wrong says more than its message.
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    std::fs::create_dir_all(&pictures).expect("a directory");
    let admin = proxy.admin_base();
    let args: [&OsStr; 6] =
        [chromium.as_ref(), admin.as_ref(), proxy.base.as_ref(), OPERATE.as_ref(), READ.as_ref(), pictures.as_ref()];
    let mut script = Running::python(&python, "dashboard.py", args);
    script.wait_for("stop the proxy");
    drop(load);
    proxy.stop();
    script.tell("it is stopped");
    assert_eq!(script.finish().last().map(String::as_str), Some("all right"));
}

#[test]
fn what_views_show_of_answers_that_are_hard_to_come_by() {
    let (Some(python), Some(chromium)) = (python(), chromium("the views")) else { return };
    let proxy = Proxy::start("log = { access = false }\n[[node]]\nurl = \"http://127.0.0.1:1\"\n");
    let admin = proxy.admin_base();
    let args: [&OsStr; 2] = [chromium.as_ref(), admin.as_ref()];
    assert_eq!(Running::python(&python, "views.py", args).finish(), ["all right"]);
    proxy.stop();
}

/// Emulators for two hundred nodes would be the machine's work, not the page's: sixteen of them have many names.
#[test]
fn two_hundred_nodes_cost_the_page_a_bounded_number_of_elements_and_bytes() {
    let (Some(python), Some(chromium)) = (python(), chromium("a large dashboard")) else { return };
    let batch = |i: u32| SimNode { name: format!("e{i}"), server: ServerSpec::Batch(fleets::FAST) };
    let fleet =
        EmulatedFleet::start(&SimFleet { nodes: (0..16).map(batch).collect() }.faster(10.0), 7).expect("emulators");
    let url = |i: usize| fleet.nodes()[i % fleet.nodes().len()].url();
    let nodes: String =
        (0..200).map(|i| format!("[[node]]\nname = \"rack-{}/gpu-{i}\"\nurl = \"{}\"\n", i / 8, url(i))).collect();
    let proxy = Proxy::start(&format!("log = {{ access = false }}\nhealth = {{ interval = \"1h\" }}\n{nodes}"));
    let address: SocketAddr = proxy.base.trim_start_matches("http://").parse().expect("an address");
    let load = Load::start(address, 40.0);
    let admin = proxy.admin_base();
    let args: [&OsStr; 2] = [chromium.as_ref(), admin.as_ref()];
    assert_eq!(Running::python(&python, "large_dashboard.py", args).finish(), ["all right"]);
    drop(load);
    proxy.stop();
}
