//! The admin API on a socket in the file system, from `run` to the verbs that ask it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::{Running, bellwether, run};

#[test]
fn verbs_reach_a_proxy_by_its_socket_which_is_for_its_user_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let admin = format!("unix:{}", path.display());
    let args =
        ["run", "--listen", "127.0.0.1:0", "--admin", &admin, "--node", "http://127.0.0.1:9", "--log-level", "off"];
    let mut child = bellwether(&args).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let running = Running(child);
    assert!(lines.any(|line| line.trim() == format!("admin     {admin}")));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let shown = run(&mut bellwether(&["model", "show", "--admin", &admin]));
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    assert!(shown.out.contains("no model yet"), "{}", shown.out);
    let explained = run(bellwether(&["explain", "--output", "json"]).env("BELLWETHER_ADMIN_LISTEN", &admin));
    assert_eq!((explained.code, explained.err.as_str()), (Some(0), ""));

    let second = run(&mut bellwether(&args));
    assert_eq!(second.code, Some(1));
    assert!(second.err.contains(&admin) && second.err.contains("another process listens there"), "{}", second.err);

    running.signal("-TERM");
    assert_eq!(running.wait().code(), Some(0));
    assert!(!path.exists());
    let gone = run(&mut bellwether(&["model", "show", "--admin", &admin]));
    assert_eq!(gone.code, Some(1));
    assert!(gone.err.contains(&format!("nothing answers at {admin}")), "{}", gone.err);
}
