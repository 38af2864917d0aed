//! What the tests with real programs need: processes that end with the test, ports that stay ours, the proxy's binary.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// Between two looks at something, unless its program says something meanwhile.
const PAUSE: Duration = Duration::from_millis(10);
/// How long anything may take on a busy machine before it counts as stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Says that something cannot be checked here. Under CI that is a failure; elsewhere it goes to standard error itself,
/// because what a passing test prints is not shown.
pub(crate) fn cannot_check(what: &str, remedy: &str) {
    let message = format!("NOT CHECKED: {what}. To make it possible:\n    {remedy}\n");
    assert!(std::env::var_os("CI").is_none(), "{message}");
    let _ = std::io::stderr().write_all(message.as_bytes());
}

/// The interpreter of the virtual environment; `None`, said aloud, if there is none.
pub(crate) fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    if !python.exists() {
        let remedy = "python3 -m venv .venv && .venv/bin/pip install -r tests/real/requirements.txt";
        cannot_check("real servers and clients, because there is no .venv", remedy);
        return None;
    }
    Some(python)
}

/// The browser; `None`, said aloud, if there is none to look at `what` with.
pub(crate) fn chromium(what: &str) -> Option<PathBuf> {
    let there =
        |name: &&str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(there);
    if found.is_none() {
        cannot_check(&format!("{what} in a browser, because there is no Chromium"), "apt-get install chromium");
    }
    found.map(PathBuf::from)
}

/// A script beside this file.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real").join(name)
}

/// A program whose lines are read as they come, and which is killed when this is dropped.
pub(crate) struct Running {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    complaints: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// Which of a program's outputs is read line by line; the other one is kept for when something goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listen {
    Out,
    Err,
}

impl Running {
    pub(crate) fn start(command: &mut Command, listen: Listen) -> Running {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{what} does not start: {error}"));
        let out: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("piped"));
        let err: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("piped"));
        let (heard, kept) = if listen == Listen::Out { (out, err) } else { (err, out) };
        let (sender, lines) = mpsc::channel();
        let complaints = Arc::new(Mutex::new(String::new()));
        let (heard_too, kept_only) = (Arc::clone(&complaints), Arc::clone(&complaints));
        let readers = vec![
            std::thread::spawn(move || {
                each_line(heard, |line| {
                    keep(&heard_too, &line);
                    // Nobody listens any more: the program must still not block on a full pipe.
                    let _ = sender.send(line);
                });
            }),
            std::thread::spawn(move || each_line(kept, |line| keep(&kept_only, &line))),
        ];
        Running { what, input: child.stdin.take(), child, lines, complaints, readers }
    }

    pub(crate) fn python<A: AsRef<OsStr>>(python: &Path, name: &str, args: impl IntoIterator<Item = A>) -> Running {
        // A proxy of the machine's must not come between.
        let mut command = Command::new(python);
        for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(variable);
        }
        Running::start(command.arg(script(name)).args(args), Listen::Out)
    }

    /// The next line.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| self.fail(&format!("no further line: {error}")))
    }

    /// Waits for a line that is `wanted`.
    pub(crate) fn wait_for(&self, wanted: &str) {
        while self.line() != wanted {}
    }

    /// Leaves the machine to others until it says something further, or for a moment.
    fn pause(&self) {
        self.lines.try_iter().for_each(drop);
        // Either will do.
        let _ = self.lines.recv_timeout(PAUSE);
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("not ended");
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("{} does not listen: {error}", self.what));
    }

    /// Ends its input, waits until it has ended well, and returns the lines that were not read yet.
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.input = None;
        let until = Instant::now() + PATIENCE;
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => rest.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => self.fail("it does not end"),
            }
        }
        let status = self.child.wait().expect("it was started");
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        if !status.success() {
            self.fail(&status.to_string());
        }
        rest
    }

    /// SIGKILL, and the end of it: its ports are closed when this returns.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill is everywhere");
        assert!(status.success());
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn fail(&self, how: &str) -> ! {
        panic!("{}: {how}\n{}", self.what, self.complaints.lock().expect("nobody panics with it"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn each_line(from: impl Read, mut take: impl FnMut(String)) {
    for line in BufReader::new(from).lines() {
        // Not UTF-8, or the pipe broke: the rest cannot be read, and the test will miss it.
        let Ok(line) = line else { return };
        take(line);
    }
}

fn keep(all: &Mutex<String>, line: &str) {
    let mut all = all.lock().expect("nobody panics with it");
    all.push_str(line);
    all.push('\n');
}

/// A port that only our own program can listen on, also after it was killed and before it is started again: a bound
/// socket that never listens keeps others away, and refuses connections.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _held: Socket,
}

impl Port {
    pub(crate) fn take() -> Port {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("reuse");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        Port { address, _held: socket }
    }

    pub(crate) fn number(&self) -> String {
        self.address.port().to_string()
    }
}

/// The proxy as it is shipped.
pub(crate) struct Proxy {
    running: Running,
    pub(crate) base: String,
    admin: String,
    _config: TempDir,
}

impl Proxy {
    /// Starts it with a configuration that says everything but the addresses.
    pub(crate) fn start(config: &str) -> Proxy {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("real.toml");
        std::fs::write(&file, config).expect("a file");
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("bellwether"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BELLWETHER")) {
            command.env_remove(name);
        }
        command.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]).arg(&file);
        let running = Running::start(&mut command, Listen::Err);
        let after = |name: &str| loop {
            if let Some(value) = running.line().trim().strip_prefix(name) {
                return value.trim().to_owned();
            }
        };
        let (base, admin) = (after("clients "), after("admin ").replace("http://", ""));
        Proxy { running, base, admin, _config: dir }
    }

    /// Where the admin API is.
    pub(crate) fn admin_base(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// GET from the admin API.
    pub(crate) fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin API listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let host = &self.admin;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("it listens");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers");
        let (head, body) = reply.split_once("\r\n\r\n").expect("HTTP");
        assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
        body.to_owned()
    }

    /// What the admin API says about a node.
    pub(crate) fn node(&self, name: &str) -> Json {
        let list: Json = serde_json::from_str(&self.admin("/api/v1/nodes")).expect("JSON");
        let mut nodes = list["nodes"].as_array().expect("a list").iter();
        nodes.find(|node| node["name"] == name).unwrap_or_else(|| panic!("{name} is not in {list}")).clone()
    }

    /// Looks at a node until it is as wanted.
    pub(crate) fn wait_until(&self, name: &str, wanted: impl Fn(&Json) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let node = self.node(name);
            if wanted(&node) {
                return;
            }
            if Instant::now() > until {
                self.running.fail(&format!("the node never became as wanted: {node}"));
            }
            self.running.pause();
        }
    }

    pub(crate) fn wait_for_state(&self, name: &str, state: &str) {
        self.wait_until(name, |node| node["state"] == state);
    }

    /// Tells it to stop, and expects that it does so in order.
    pub(crate) fn stop(self) {
        self.running.terminate();
        self.running.finish();
    }
}
