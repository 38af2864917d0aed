//! A new process in the place of a running one, under load: every request is answered, by one or the other.
//!
//! The real binary, restarted three times under up to 1,000 requests a second, half of them on a connection of their own,
//! half on connections that are kept as long as the proxy keeps them. As a measurement, with as many restarts as one likes
//! and requests that come at their rate however late the answers are, and with what was reached told:
//!
//!     BELLWETHER_RESTARTS=20 cargo test --release --test proxy no_request_is_lost -- --nocapture

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;

use crate::rig::{Stage, until};
use crate::wire::{Wire, get, ok, soon};

/// A running proxy, killed with the test however that ends.
struct Proxy {
    child: Child,
    /// Read no further, but kept: a closed pipe would be an error for whoever writes to it.
    _log: BufReader<ChildStderr>,
    clients: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts and returns when it says that it serves.
    async fn start(mut command: Command) -> Proxy {
        let started = tokio::task::spawn_blocking(move || {
            let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
            let mut log = BufReader::new(child.stderr.take().expect("piped"));
            let mut clients = None;
            let mut line = String::new();
            while !line.starts_with("  settings") {
                if let Some(address) = line.trim().strip_prefix("clients   http://") {
                    clients = Some(address.parse().expect("an address"));
                }
                line.clear();
                assert!(log.read_line(&mut line).expect("UTF-8") > 0, "it has ended");
            }
            Proxy { child, _log: log, clients: clients.expect("said before") }
        });
        soon("it serves", started).await.expect("no panic")
    }

    /// Waits until it has ended by itself.
    async fn left(mut self) {
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.child.wait().expect("a child");
            assert!(status.success(), "{status}");
        });
        soon("it leaves", ended).await.expect("no panic");
    }
}

/// Answers every request on every connection.
async fn serve(node: Stage) {
    loop {
        let mut wire = node.connection().await;
        tokio::spawn(async move {
            while let Some(head) = wire.try_head().await {
                wire.rest_of(head).await;
                if wire.try_send(ok("well")).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// A command that knows nothing of variables that are set for this process: an unknown one would be a mistake to it.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BELLWETHER")) {
        command.env_remove(name);
    }
    command
}

fn run(node: SocketAddr, listen: SocketAddr, dir: &Path) -> Command {
    let mut command = command(assert_cmd::cargo::cargo_bin!("bellwether"));
    command.env("BELLWETHER_HANDOVER", dir.join("handover")).args([
        "run",
        "--log-level",
        "off",
        "--listen",
        &listen.to_string(),
        "--admin",
        "127.0.0.1:0",
        "--node",
        &format!("http://{node}"),
    ]);
    command
}

/// Requests that were answered, and that were not.
#[derive(Debug, Default)]
struct Account {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Connections that are kept; one that the proxy has told to go is replaced.
type Kept = Arc<Mutex<Vec<Wire>>>;

async fn ask(address: SocketAddr, keep: Option<Kept>) -> bool {
    let Some(kept) = keep else {
        let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return false };
        return answered(&mut Wire::from(stream)).await.is_some();
    };
    let idle = kept.lock().await.pop();
    let mut wire = match idle {
        Some(wire) => wire,
        None => match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => Wire::from(stream),
            Err(_) => return false,
        },
    };
    match answered(&mut wire).await {
        Some(true) => kept.lock().await.push(wire),
        Some(false) => {}
        None => return false,
    }
    true
}

/// Whether the connection may be kept; `None` without the right answer.
async fn answered(wire: &mut Wire) -> Option<bool> {
    wire.try_send(get("/")).await.ok()?;
    let head = wire.try_head().await?;
    let keep = head.get("connection") != Some("close");
    let message = wire.rest_of(head).await;
    (message.clean && message.status() == 200 && message.text() == "well").then_some(keep)
}

#[tokio::test]
async fn no_request_is_lost_while_processes_take_over_from_each_other() {
    let by_hand = std::env::var("BELLWETHER_RESTARTS").ok();
    let restarts = by_hand.as_ref().map_or(3, |count| count.parse().expect("a number"));
    // Whoever measures wants the rate; a test must not pile up what a busy machine cannot do.
    let late = if by_hand.is_some() { MissedTickBehavior::Burst } else { MissedTickBehavior::Delay };
    let stage = Stage::open("a").await;
    let node = stage.address();
    tokio::spawn(serve(stage));
    let dir = tempfile::tempdir().expect("a directory");
    let mut proxy = Proxy::start(run(node, "127.0.0.1:0".parse().expect("an address"), dir.path())).await;
    let address = proxy.clients;
    let (account, enough) = (Arc::new(Account::default()), Arc::new(AtomicBool::new(false)));
    let load = tokio::spawn(load(address, late, Arc::clone(&account), Arc::clone(&enough)));
    let answered = || account.answered.load(Ordering::Relaxed);
    for _ in 0..restarts {
        let before = answered();
        until("it carries the load", || answered() > before + 200).await;
        let next = Proxy::start(run(node, address, dir.path())).await;
        std::mem::replace(&mut proxy, next).left().await;
    }
    let before = answered();
    until("the last one carries the load", || answered() > before + 200).await;
    enough.store(true, Ordering::Relaxed);
    let took_s = load.await.expect("no panic").as_secs_f64();
    let (answered, failed) = (answered(), account.failed.load(Ordering::Relaxed));
    let rate = (answered + failed) as f64 / took_s;
    println!("{restarts} restarts in {took_s:.1} s: {rate:.0} requests a second, {answered} answered, {failed} failed");
    assert_eq!(failed, 0);
}

/// A thousand requests a second until there are enough, and those that are `late`; how long they came, once all have ended.
async fn load(
    address: SocketAddr,
    late: MissedTickBehavior,
    account: Arc<Account>,
    enough: Arc<AtomicBool>,
) -> Duration {
    let kept = Kept::default();
    let mut asking = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    tick.set_missed_tick_behavior(late);
    let begun = Instant::now();
    while !enough.load(Ordering::Relaxed) {
        tick.tick().await;
        for keep in [None, Some(Arc::clone(&kept))] {
            let account = Arc::clone(&account);
            asking.spawn(async move {
                let counter = if ask(address, keep).await { &account.answered } else { &account.failed };
                counter.fetch_add(1, Ordering::Relaxed);
            });
        }
        while asking.try_join_next().is_some() {}
    }
    let came = begun.elapsed();
    asking.join_all().await;
    came
}

#[tokio::test]
async fn a_new_process_that_cannot_start_changes_nothing() {
    let stage = Stage::open("a").await;
    let node = stage.address();
    tokio::spawn(serve(stage));
    let dir = tempfile::tempdir().expect("a directory");
    let proxy = Proxy::start(run(node, "127.0.0.1:0".parse().expect("an address"), dir.path())).await;
    // It asks for another address, which is taken: it gets the sockets, cannot use them and dies.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut other = run(node, taken.local_addr().expect("bound"), dir.path());
    let status = tokio::task::spawn_blocking(move || other.stderr(Stdio::null()).status().expect("the binary runs"));
    assert_eq!(soon("it ends", status).await.expect("no panic").code(), Some(1));
    assert!(ask(proxy.clients, None).await);
    let next = Proxy::start(run(node, proxy.clients, dir.path())).await;
    let address = proxy.clients;
    proxy.left().await;
    assert_eq!(next.clients, address);
    assert!(ask(address, None).await);
}

#[tokio::test]
async fn sockets_that_systemd_has_opened_are_used_and_strangers_refused() {
    let stage = Stage::open("a").await;
    let node = stage.address();
    tokio::spawn(serve(stage));
    let dir = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    // A client that comes before the proxy does waits for it.
    let early = Wire::connect(address).await;
    let activated = |listen: SocketAddr| {
        let inner = run(node, listen, dir.path());
        // The protocol hands sockets over from number 3 on, and names the process that they are for.
        let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let mut command = command("sh");
        command.args(["-c", script]).arg(inner.get_program()).args(inner.get_args());
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().expect("a descriptor"))));
        command
    };
    let mut stray = activated(SocketAddr::from(([127, 0, 0, 1], 9)));
    let refused = tokio::task::spawn_blocking(move || stray.output().expect("the binary runs"));
    let refused = soon("it ends", refused).await.expect("no panic");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains(&format!("listens on {address}")), "{said}");
    let proxy = Proxy::start(activated(address)).await;
    assert_eq!(proxy.clients, address);
    let mut early = early;
    assert_eq!(answered(&mut early).await, Some(true));
}
