//! What clients send, in all that operators look at: never as it came where it would do more than show.

use bellwether::escape::is_harmless;
use serde_json::{Value, json};

use crate::bellwether;
use crate::stage::{Proxy, node};

/// Ends a line and forges one, closes strings, clears a screen in both spellings, deletes, turns text around.
const NASTY: &str = "m\"\\'\r\n2026-01-01T00:00:00Z  INFO forged\n{\"forged\":1}\u{1b}[2J\u{9b}2J\u{7f}\u{0}\u{202e}\u{2066}\u{2028}\u{200f}\u{61c}\t#{a=\"b\"}";

fn check(what: &str, text: &str) {
    let odd: Vec<char> = text.chars().filter(|c| !is_harmless(*c) && *c != '\n').collect();
    assert!(odd.is_empty(), "{what}: {odd:?} in {text:?}");
    let forged = text.lines().find(|line| line.starts_with("{\"forged\"") || line.starts_with("2026-01-01T00:00:00Z"));
    assert_eq!(forged, None, "{what}");
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body)
}

#[test]
fn nothing_that_a_client_sends_appears_unescaped_to_an_operator() {
    for format in ["text", "json"] {
        let url = format!("a={}", node("{\"usage\":{\"prompt_tokens\":1}}"));
        let args = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--node", &url, "--log-level", "trace"];
        let proxy = Proxy::start(bellwether(&args).args(["--log-format", format]));
        let request = json!({ "model": NASTY, "stream": false, "messages": [{ "role": "user", "content": NASTY }] });
        let request = request.to_string();
        let length = request.len();
        let answered = proxy.ask(format!(
            "POST /v1/chat/completions?x='a' HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n\
             user-agent: \u{202e}\u{9b}\"x\r\nx-request-id: \u{202e}\"\r\nx-forwarded-for: \u{9b}31m\r\n\
             authorization: Bearer \u{9b}\r\ncontent-length: {length}\r\n\r\n{request}"
        ));
        assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
        // Bytes that a target can have, and heads that are refused.
        let path = "/v1/\u{202e}\u{9b}31m\"'{}|\\^%0aforged%1b[2J";
        let odd = proxy.ask(format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"));
        assert!(odd.starts_with("HTTP/1.1 200 "), "{odd}");
        for refused in ["G\u{1b}[2JT / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nhost: \u{1b}[2J\u{202e}\r\n\r\n"] {
            assert!(proxy.ask(refused).starts_with("HTTP/1.1 400 "));
        }

        let get = |path: &str| proxy.ask_admin(&format!("GET {path} HTTP/1.1\r\n"), "");
        let decisions = get("/api/v1/decisions");
        let told: Value = serde_json::from_str(body(&decisions)).unwrap();
        assert!(told.to_string().contains("forged"), "the model is told, escaped: {told}");
        for path in [
            "/metrics",
            "/api/v1/decisions",
            "/api/v1/nodes",
            "/api/v1/model",
            "/api/v1/live?events=2",
            "/api/v1/config",
        ] {
            let answer = get(path);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            check(path, body(&answer).replace('\r', "").as_str());
        }
        assert!(!get("/metrics").contains("forged"), "nothing of a client is a label");
        let explain = json!({ "model": NASTY }).to_string();
        let kind = "content-type: application/json\r\n";
        for (head, sent) in [
            (format!("POST /api/v1/explain HTTP/1.1\r\n{kind}"), explain.as_str()),
            (format!("POST /api/v1/nodes HTTP/1.1\r\n{kind}"), &json!({ "url": NASTY, "name": NASTY }).to_string()),
            (format!("PUT /api/v1/policy HTTP/1.1\r\n{kind}"), &json!({ "policy": NASTY }).to_string()),
            (format!("GET {path} HTTP/1.1\r\n"), ""),
            ("GET /api/v1/nodes/%1b%5b2J%e2%80%ae%0a%c2%9b HTTP/1.1\r\n".to_owned(), ""),
        ] {
            let answer = proxy.ask_admin(&head, sent);
            check(&head, body(&answer));
        }
        let log = proxy.stop();
        assert!(log.contains("forged"), "the access log tells the model, escaped: {log}");
        check(format, &log);
    }
}
