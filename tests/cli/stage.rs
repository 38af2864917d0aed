//! A running binary with one node behind it, and everything that it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// The binary, serving.
pub(crate) struct Proxy {
    child: Child,
    clients: String,
    admin: String,
    log: JoinHandle<String>,
}

impl Proxy {
    /// Starts `command`, which listens on ports of its own choice.
    pub(crate) fn start(command: &mut Command) -> Proxy {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let (mut before, mut places) = (String::new(), Vec::new());
        for line in lines.by_ref() {
            let place = ["clients", "admin"].iter().find_map(|name| line.trim().strip_prefix(name));
            places.extend(place.map(|place| place.trim().replace("http://", "")));
            before.push_str(&format!("{line}\n"));
            if line.contains("settings  ") {
                break;
            }
        }
        let log = std::thread::spawn(move || before + &lines.map(|line| line + "\n").collect::<String>());
        let [clients, admin] = places.try_into().unwrap();
        Proxy { child, clients, admin, log }
    }

    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// The answer of the proxy to a whole request.
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> String {
        exchange(&self.clients, request.as_ref())
    }

    /// The answer of the admin API; `head` is the request line and fields, with line ends.
    pub(crate) fn ask_admin(&self, head: &str, body: &str) -> String {
        let length = body.len();
        let rest = format!("host: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        exchange(&self.admin, format!("{head}{rest}").as_bytes())
    }

    /// Stops it, and tells all that it has said.
    pub(crate) fn stop(mut self) -> String {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success() && self.child.wait().unwrap().success());
        self.log.join().unwrap()
    }
}

fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    // It may be refused, and the connection closed, before all of it is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A node that answers everything with `answer`, for as long as the test runs; its URL.
pub(crate) fn node(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut head = [0; 64 * 1024];
            if connection.read(&mut head).unwrap_or(0) > 0 {
                let length = answer.len();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n";
                let _ = connection.write_all(format!("{head}content-length: {length}\r\n\r\n{answer}").as_bytes());
            }
        }
    });
    url
}
