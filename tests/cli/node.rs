//! A model server for verbs to look at, and a proxy before it, in this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use bellwether::config::Settings;
use bellwether::node::NodeSpec;
use bellwether::server::Server;

/// Answers `/fail` with 500, `/v1/models` with the model `served`, `/sick/health` with 500, `/busy/metrics` as an engine
/// that others keep busy, all else with 200.
pub(crate) fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            std::thread::spawn(move || connection.map(answer));
        }
    });
    address
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let path = first.split(' ').nth(1).unwrap_or_default();
        let (status, body) = match path {
            "/fail" | "/sick/health" => ("500 Internal Server Error", ""),
            "/v1/models" => ("200 OK", r#"{"object":"list","data":[{"id":"served","object":"model"}]}"#),
            "/busy/metrics" => ("200 OK", "vllm:num_requests_running{e=\"0\"} 3\nvllm:num_requests_waiting 5\n"),
            _ => ("200 OK", "{}"),
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        // In one piece: a second one would wait for an acknowledgement.
        reader.get_mut().write_all(answer.as_bytes())?;
    }
}

/// Settings of a proxy before `nodes` whose checks do not disturb.
pub(crate) fn settings(nodes: Vec<NodeSpec>) -> Settings {
    let mut settings = Settings { nodes, ..Settings::default() };
    settings.listen.set_port(0);
    settings.admin.listen.set_port(0);
    settings.limits.connections_max = 50;
    settings.health.thresholds.unhealthy_after = 100;
    settings.ejection.share_max = 0.0;
    settings
}

/// A proxy with those settings.
pub(crate) fn proxy(nodes: Vec<NodeSpec>) -> Server {
    Server::start(settings(nodes)).unwrap()
}

/// Sends one request through a proxy and reads its answer.
pub(crate) fn ask(proxy: &Server, path: &str, body: &str) {
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
    write!(client, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    client.read_to_string(&mut String::new()).unwrap();
}
