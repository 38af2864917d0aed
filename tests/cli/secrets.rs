//! Secrets go in and never come out: not in logs, answers, errors or what is printed.

use std::fs;

use crate::stage::{Proxy, node};
use crate::{bellwether, run};

const FILE_TOKEN: &str = "canary-file-0123456789";
const ENV_TOKEN: &str = "canary-env-0123456789";
/// What clients send to the nodes.
const CLIENT_KEY: &str = "canary-client-0123456789";
const URL_PASSWORD: &str = "canary-url-0123456789";

fn check(what: &str, text: &str) {
    assert!(!text.contains("canary"), "{what}: {text}");
}

#[test]
fn no_secret_comes_out_of_a_running_proxy() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), format!("{FILE_TOKEN}\n")).unwrap();
    let file = dir.path().join("b.toml");
    let url = node("{}");
    let text = format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[[admin.token]]\nfile = \"token\"\nrole = \"operate\"\n\
         [[admin.token]]\nenv = \"LOOK\"\n[[node]]\nurl = \"{url}\"\n"
    );
    fs::write(&file, &text).unwrap();
    let path = file.display().to_string();
    let args = ["run", "--config", &path, "--log-level", "trace", "--debug-headers"];
    let proxy = Proxy::start(bellwether(&args).env("LOOK", ENV_TOKEN).env("RUST_BACKTRACE", "1"));

    let request = format!(
        "POST /v1/chat/completions?api_key={CLIENT_KEY} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: Bearer {CLIENT_KEY}\r\n\
         x-api-key: {CLIENT_KEY}\r\ncookie: s={CLIENT_KEY}\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{{\"model\":\"m\"}}"
    );
    let answer = proxy.ask(&request);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    check("the answer", &answer);
    check("a refusal", &proxy.ask(request.replace("host: h", "host: h\r\nhost: h")));

    let with = |token: &str| format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    for path in ["config", "nodes", "decisions", "model", "policy", "openapi.json", "live?events=1"] {
        let answer = proxy.ask_admin(&format!("GET /api/v1/{path} HTTP/1.1\r\n{}", with(ENV_TOKEN)), "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        check(path, &answer);
    }
    check("metrics", &proxy.ask_admin(&format!("GET /metrics HTTP/1.1\r\n{}", with(ENV_TOKEN)), ""));
    let post = |path: &str, token: &str, body: &str| {
        proxy.ask_admin(&format!("POST /api/v1/{path} HTTP/1.1\r\n{}", with(token)), body)
    };
    let node = format!("{{\"url\": \"http://user:{URL_PASSWORD}@10.0.0.1:1\"}}");
    let added = post("nodes", FILE_TOKEN, &node);
    assert!(added.starts_with("HTTP/1.1 422 "), "{added}");
    for (what, answer) in [
        ("a node with a password", added),
        ("a node with a key", post("nodes", FILE_TOKEN, &node.replace("user:", "x/?key=").replace('@', "#"))),
        ("a role that is too low", post("reload", ENV_TOKEN, "")),
        ("a wrong token", post("reload", &format!("{FILE_TOKEN}x"), "")),
        ("a reload", post("reload", FILE_TOKEN, "")),
    ] {
        check(what, &answer);
    }
    // A reload of a file that has a secret in the wrong place.
    fs::write(
        &file,
        format!("{text}[[node]]\nurl = \"http://user:{URL_PASSWORD}@h\"\n[admin.x]\ntoken = \"{FILE_TOKEN}\"\n"),
    )
    .unwrap();
    let refused = post("reload", FILE_TOKEN, "");
    assert!(refused.starts_with("HTTP/1.1 422 "), "{refused}");
    check("a refused reload", &refused);
    check("check", &run(bellwether(&["check", &path]).env("LOOK", ENV_TOKEN)).err);
    fs::write(&file, &text).unwrap();
    for output in ["toml", "json"] {
        let printed =
            run(bellwether(&["config", "print", "--config", &path, "--output", output]).env("LOOK", ENV_TOKEN));
        check("config print", &(printed.out + &printed.err));
    }
    let token = dir.path().join("token").display().to_string();
    let shown = run(&mut bellwether(&["model", "show", "--admin", proxy.admin(), "--token-file", &token]));
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    check("a verb", &(shown.out + &shown.err));
    let log = proxy.stop();
    assert!(log.contains("bellwether::access") && log.contains("reload refused"), "{log}");
    check("the log", &log);
}
