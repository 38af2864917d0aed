//! Where operators come in, on real sockets: the socket in the file system, and those who try tokens.

use std::path::Path;
use std::sync::Arc;

use bellwether::admin::{self, Bounds, Door};
use bellwether::config::{Role, Settings, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::{App, Running, exchange, run, soon};

/// The settings of a proxy without nodes that this token operates.
fn guarded(token: &str) -> Settings {
    let mut settings = Settings::default();
    settings.admin.tokens = vec![Token { secret: token.to_owned().into(), role: Role::Operate }];
    settings
}

fn serve_at(path: &Path, settings: Settings) -> Arc<App> {
    let settings = Settings {
        admin: bellwether::config::Admin {
            listen: bellwether::config::AdminListen::Unix(path.to_owned()),
            ..settings.admin
        },
        ..settings
    };
    let app = App::new(settings).expect("valid");
    let door = Door::at(path).expect("bound");
    tokio::spawn(admin::serve_within(Bounds::default(), door, Arc::clone(&app), std::future::pending()));
    app
}

async fn ask_at(path: &Path, head: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("a connection");
    stream.write_all(format!("{head}host: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("written");
    let mut answer = String::new();
    soon("the end of the connection", stream.read_to_string(&mut answer)).await.expect("text");
    answer
}

#[tokio::test]
async fn a_socket_in_the_file_system_serves_its_owner_without_a_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    let app = serve_at(&path, Settings::default());
    let list = ask_at(&path, "GET /api/v1/nodes HTTP/1.1\r\n").await;
    assert!(list.starts_with("HTTP/1.1 200 ") && list.ends_with("{\"nodes\":[]}"), "{list}");
    let body = "content-type: application/json\r\ncontent-length: 24\r\n";
    let mut stream = UnixStream::connect(&path).await.expect("a connection");
    let put = format!("PUT /api/v1/policy HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{body}\r\n");
    stream.write_all(format!("{put}{{\"policy\":\"round-robin\"}}").as_bytes()).await.expect("written");
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(app.balancer.policy().name(), "round-robin");
}

#[tokio::test]
async fn a_socket_asks_for_the_token_where_there_is_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    serve_at(&path, guarded("hunter2hunter2hunter2"));
    let without = ask_at(&path, "GET /api/v1/nodes HTTP/1.1\r\n").await;
    assert!(without.starts_with("HTTP/1.1 401 "), "{without}");
    let with = ask_at(&path, "GET /api/v1/nodes HTTP/1.1\r\nauthorization: Bearer hunter2hunter2hunter2\r\n").await;
    assert!(with.starts_with("HTTP/1.1 200 "), "{with}");
}

#[tokio::test]
async fn who_guesses_tokens_is_sent_away_for_a_while() {
    // Time stands still, so that a slow machine is not a patient guesser.
    let clock = bellwether::clock::Clock::manual();
    let app = App::with_clock(guarded("hunter2hunter2hunter2"), clock).expect("valid");
    let Running { address, stop: _stop, .. } = run(app, Bounds::default()).await;
    let ask = async |token: &str| {
        let head = "GET /api/v1/nodes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer ";
        exchange(address, &format!("{head}{token}\r\n\r\n")).await
    };
    for _ in 0..10 {
        assert!(ask("wrong").await.starts_with("HTTP/1.1 401 "));
    }
    let refused = ask("hunter2hunter2hunter2").await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("\r\nretry-after: 6\r\n"), "{refused}");
    let alive = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(exchange(address, alive).await.starts_with("HTTP/1.1 200 "));
}
