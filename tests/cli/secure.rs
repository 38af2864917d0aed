//! The admin API by TLS with client certificates, from `run` to the verbs that ask it, and to `curl`.

use std::fs;
use std::process::Command;

use crate::certificates::Authority;
use crate::stage::Proxy;
use crate::{bellwether, run};

#[test]
fn verbs_reach_a_proxy_by_tls_and_show_their_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(), Authority::new());
    let [ca, wrong] = [ours.write(dir.path(), "ca.pem"), other.write(dir.path(), "other.pem")];
    ours.issue(dir.path(), "listener");
    let [cert, key] = ours.issue(dir.path(), "me").map(|file| file.display().to_string());
    let [ca, wrong] = [ca, wrong].map(|file| file.display().to_string());
    let file = dir.path().join("b.toml");
    let tls =
        "certificate = \"listener.pem\"\nkey = \"listener.key\"\nclient_ca = \"ca.pem\"\nclient_role = \"operate\"\n";
    fs::write(&file, format!("listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n[admin.tls]\n{tls}")).unwrap();
    let proxy = Proxy::start(&mut bellwether(&["run", "--allow-no-nodes", "--config", &file.display().to_string()]));
    let admin = proxy.admin().to_owned();
    assert!(admin.starts_with("https://127.0.0.1:"), "{admin}");

    let ask = |args: &[&str], trust: &[&str]| run(bellwether(args).args(["--admin", &admin]).args(trust));
    let me = ["--ca", &ca, "--cert", &cert, "--key", &key];
    let shown = ask(&["model", "show"], &me);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""), "{}", shown.out);
    let changed = ask(&["model", "reset"], &me);
    assert_eq!((changed.code, changed.err.as_str()), (Some(0), ""), "{}", changed.out);
    let well = ask(&["doctor"], &me);
    assert!(well.out.contains("TLS to operators"), "{}{}", well.out, well.err);
    for (trust, code, words) in [
        (&["--ca", &*ca][..], 1, "--cert FILE --key FILE"),
        (&["--ca", &wrong, "--cert", &cert, "--key", &key], 1, "no secure connection to https://"),
        (&[], 2, "needs --ca FILE"),
        (&["--ca", &key], 2, "has no certificate in PEM form"),
        (&["--ca", &ca, "--cert", &cert], 2, "--key <FILE>"),
    ] {
        let refused = ask(&["model", "show"], trust);
        assert!(refused.code == Some(code) && refused.err.contains(words), "{trust:?}: {}", refused.err);
    }
    let plain = run(bellwether(&["model", "show", "--ca", &ca, "--admin"]).arg(&admin["https://".len()..]));
    assert!(plain.code == Some(2) && plain.err.contains("allowed with them: https://HOST:PORT"), "{}", plain.err);

    // A client that we did not write must be able to speak with us.
    let curl = |trust: &[&str]| {
        let asked =
            Command::new("curl").args(["-sS", &format!("{admin}/api/v1/policy"), "--cacert", &ca]).args(trust).output();
        let ran = asked.expect("this test needs curl: apt-get install curl");
        (ran.status.success(), String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let (known, unknown) = (curl(&me[2..]), curl(&[]));
    assert!(known.0 && known.1.contains("\"policy\":\"adaptive\""), "{known:?}");
    assert!(!unknown.0 && unknown.1.is_empty(), "{unknown:?}");
    let log = proxy.stop();
    let secret = fs::read_to_string(dir.path().join("listener.key")).unwrap();
    assert!(log.contains("who=certificate ") || log.contains("who=\"certificate "), "{log}");
    assert!(!log.contains(secret.lines().nth(1).unwrap()), "{log}");
}
