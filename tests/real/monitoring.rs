//! The examples for Prometheus, Grafana and Compose, held against a running proxy and a real Prometheus.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::dashboard::{Load, emulated, tables};
use crate::stage::{Proxy, Running, cannot_check, python};

/// Whether a Debian package's programs are here; said aloud if not.
fn present(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        cannot_check(&format!("rules and dashboards, because there is no {program}"), "apt-get install prometheus");
    }
    found
}

#[test]
fn every_panel_and_rule_has_data_in_a_real_prometheus() {
    let Some(python) = python() else { return };
    if !present("prometheus") || !present("promtool") {
        return;
    }
    let fleet = emulated();
    let dir = tempfile::tempdir().expect("a directory");
    // The first node has a limit, so that there is one to show.
    let nodes = tables(&fleet).replacen("[[node]]\n", "[[node]]\nmax_in_flight = 500\n", 1);
    let proxy = Proxy::start(&format!("log = {{ access = false }}\n{nodes}"));
    let early = dir.path().join("early.txt");
    std::fs::write(&early, proxy.admin("/metrics")).expect("a file");
    let address: SocketAddr = proxy.base.trim_start_matches("http://").parse().expect("an address");
    let load = Load::start(address, 25.0);
    let admin = proxy.admin_base();
    let args: [&std::ffi::OsStr; 4] = ["prometheus".as_ref(), "promtool".as_ref(), admin.as_ref(), early.as_ref()];
    let script = Running::python(&python, "monitoring.py", args);
    script.wait_for("all right");
    script.finish();
    drop(load);
    proxy.stop();
}

#[test]
fn the_compose_file_fits_the_files_that_it_names() {
    let Some(python) = python() else { return };
    if !present("promtool") {
        return;
    }
    let bellwether = assert_cmd::cargo::cargo_bin!("bellwether");
    let args: [&std::ffi::OsStr; 2] = [bellwether.as_ref(), "promtool".as_ref()];
    assert_eq!(Running::python(&python, "compose.py", args).finish(), ["all right"]);
}
