//! TLS of the admin listener on real sockets: who is let in, what a certificate allows, and what a reload changes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwether::admin::Bounds;
use bellwether::config::{Env, Sources};
use bellwether::reload::ReloadError;
use bellwether::tls::{Authorities, ClientTls, certificates, private_key};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::certificates::Authority;
use crate::{App, Running, exchange, run, soon};

const READ: &str = "GET /api/v1/nodes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const CHANGE: &str = "PUT /api/v1/policy HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                      content-type: application/json\r\ncontent-length: 24\r\n\r\n{\"policy\":\"round-robin\"}";

/// A proxy whose settings are files.
struct Place {
    dir: TempDir,
    app: Arc<App>,
    running: Running,
}

impl Place {
    /// With a certificate of `authority`, whose clients it lets in; `more` is what else `[admin]` says, and what follows.
    async fn of(authority: &Authority, more: &str, bounds: Bounds) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        authority.write(dir.path(), "ca.pem");
        authority.issue(dir.path(), "listener");
        let tls = "[admin.tls]\ncertificate = \"listener.pem\"\nkey = \"listener.key\"\nclient_ca = \"ca.pem\"\n";
        fs::write(dir.path().join("b.toml"), format!("{tls}{more}")).expect("written");
        fs::write(dir.path().join("token"), "hunter2hunter2hunter2").expect("written");
        let sources = Sources::new(Some(dir.path().join("b.toml")), Vec::new(), Env::default());
        let load = move || sources.load().map(|loaded| loaded.settings);
        let app = App::new(load().unwrap_or_else(|errors| panic!("{errors}"))).expect("valid");
        app.reload.read_with(move || load().map_err(|errors| errors.iter().map(ToString::to_string).collect()));
        let running = run(Arc::clone(&app), bounds).await;
        Place { dir, app, running }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// A client that trusts `ca` and shows a new certificate of `signer`.
    fn client(&self, ca: &Authority, signer: Option<&Authority>) -> ClientTls {
        let authorities = Authorities::of(&ca.write(self.path(), "trusted")).expect("authorities");
        let identity = signer.map(|signer| {
            let [certificate, key] = signer.issue(self.path(), "client");
            (certificates(&certificate).expect("one"), private_key(&key).expect("one"))
        });
        ClientTls::new(&authorities, identity).expect("they fit")
    }

    /// The first line of the answer; empty if there is none.
    async fn ask(&self, client: &ClientTls, request: &str) -> String {
        let stream = TcpStream::connect(self.address()).await.expect("a connection");
        say(client, stream, request).await
    }
}

async fn say(client: &ClientTls, stream: TcpStream, request: &str) -> String {
    let Ok(mut stream) = client.connect("localhost", stream).await else { return String::new() };
    // Who is not let in learns it only now.
    let _ = stream.write_all(request.as_bytes()).await;
    answer(&mut stream).await
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let mut text = Vec::new();
    let _ = soon("the end of the connection", stream.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn who_shows_no_certificate_gets_no_answer_and_who_does_has_its_role() {
    let (ours, other) = (Authority::new(), Authority::new());
    let place = Place::of(&ours, "", Bounds::default()).await;
    let known = place.client(&ours, Some(&ours));
    assert_eq!(place.ask(&known, READ).await, "HTTP/1.1 200 OK");
    assert_eq!(place.ask(&known, CHANGE).await, "HTTP/1.1 403 Forbidden");
    for stranger in [place.client(&ours, None), place.client(&ours, Some(&other)), place.client(&other, Some(&ours))] {
        assert_eq!(place.ask(&stranger, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await, "");
    }
    let plain = exchange(place.address(), READ).await;
    assert!(!plain.contains("HTTP/1.1"), "{plain}");
    let place = Place::of(&ours, "client_role = \"operate\"\n", Bounds::default()).await;
    assert_eq!(place.ask(&place.client(&ours, Some(&ours)), CHANGE).await, "HTTP/1.1 200 OK");
    let foreign = CHANGE.replace("content-type", "origin: https://evil.example\r\ncontent-type");
    assert_eq!(place.ask(&place.client(&ours, Some(&ours)), &foreign).await, "HTTP/1.1 403 Forbidden");
}

#[tokio::test]
async fn a_token_allows_what_a_certificate_does_not() {
    let ours = Authority::new();
    let more = "client_role = \"none\"\n[[admin.token]]\nfile = \"token\"\nrole = \"operate\"\n";
    let place = Place::of(&ours, more, Bounds::default()).await;
    let known = place.client(&ours, Some(&ours));
    let with =
        |request: &str, token: &str| request.replace("host:", &format!("authorization: Bearer {token}\r\nhost:"));
    assert_eq!(place.ask(&known, READ).await, "HTTP/1.1 401 Unauthorized");
    assert_eq!(place.ask(&known, &with(CHANGE, "hunter2hunter2hunter2")).await, "HTTP/1.1 200 OK");
    assert_eq!(place.ask(&known, &with(READ, "wrong")).await, "HTTP/1.1 401 Unauthorized");
}

#[tokio::test]
async fn a_reload_brings_a_new_certificate_and_takes_old_authorities_away() {
    let (ours, new) = (Authority::new(), Authority::new());
    let place = Place::of(&ours, "", Bounds::default()).await;
    let former = place.client(&ours, Some(&ours));
    let stream = TcpStream::connect(place.address()).await.expect("a connection");
    let mut open = former.connect("localhost", stream).await.expect("it is trusted");
    assert_eq!(place.app.reload("test").expect("nothing is wrong").settings, [""; 0]);

    new.issue(place.path(), "listener");
    new.write(place.path(), "ca.pem");
    let changes = place.app.reload("test").expect("nothing is wrong");
    assert_eq!((changes.settings, changes.restart_needed), (vec!["admin.tls".to_owned()], Vec::new()));
    assert_eq!(place.ask(&place.client(&new, Some(&new)), READ).await, "HTTP/1.1 200 OK");
    assert_eq!(place.ask(&former, READ).await, "");
    // A connection from before stays, and its certificate counts no more.
    open.write_all(READ.as_bytes()).await.expect("it is open");
    assert_eq!(answer(&mut open).await, "HTTP/1.1 401 Unauthorized");

    ours.issue(place.path(), "other");
    fs::copy(place.path().join("other.key"), place.path().join("listener.key")).expect("copied");
    let Err(ReloadError::Invalid(mistakes)) = place.app.reload("test") else { panic!("the key is another's") };
    assert!(mistakes.len() == 1 && mistakes[0].contains("is not the key of the certificate"), "{mistakes:?}");
    assert_eq!(place.ask(&place.client(&new, Some(&new)), READ).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn who_says_nothing_in_a_handshake_keeps_nobody_else_out() {
    let ours = Authority::new();
    let patient = Duration::from_secs(600);
    let bounds = Bounds { connections_max: 4, client_handshakes_max: 2, handshake: patient, ..Bounds::default() };
    let place = Place::of(&ours, "", bounds).await;
    let mut silent = Vec::new();
    for at in 0..20 {
        let mut stream = TcpStream::connect(place.address()).await.expect("a connection");
        // Two are let in, in the order of their coming; each further one is cut.
        if at >= 2 {
            assert_eq!(answer(&mut stream).await, "");
        }
        silent.push(stream);
    }
    // Another machine, as far as anybody can tell.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("all of 127/8 is this machine");
    let stream = socket.connect(place.address()).await.expect("a connection");
    assert_eq!(say(&place.client(&ours, Some(&ours)), stream, READ).await, "HTTP/1.1 200 OK");

    let hasty = Bounds { handshake: Duration::from_millis(50), ..bounds };
    let place = Place::of(&ours, "", hasty).await;
    // Returns only when the server closes the connection.
    exchange(place.address(), "").await;
    exchange(place.address(), "\u{16}\u{3}\u{1}").await;
}
