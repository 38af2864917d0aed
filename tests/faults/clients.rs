//! Clients that misbehave or come in masses, and operators who change things meanwhile.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bellwether::emulator::{Emulator, EmulatorSpec};
use bellwether::fleet::FleetError;
use bellwether::node::NodeSpec;
use bellwether::sim::{BatchSpec, ServerSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::client::{Crowd, Ending, ask, request};
use crate::stage::{PATIENCE, Row, Scale, Stage, quick, settings, until};

fn row(case: &'static str, policy: &'static str, tally: crate::client::Tally, wrong: Vec<String>) -> Row {
    Row { case, policy, tally, reacted: None, recovered: None, wrong }
}

/// Clients that leave: after connecting, within the head, within the body, before the first byte, within the stream.
pub(crate) async fn leave_in_each_phase(policy: &'static str, scale: Scale) -> Row {
    // Slow enough that nobody has his answer before he leaves.
    let slow = ServerSpec::Batch(BatchSpec::new(0.05, 0.0, 1e6, 4_096));
    let stage = Stage::with(settings(policy), slow).await;
    let crowd = stage.crowd(&scale);
    let mut leaving = JoinSet::new();
    for at in 0..scale.clients {
        leaving.spawn(leave(stage.proxy, at));
        if at.is_multiple_of(10) {
            crowd.come(1).await;
        }
    }
    while let Some(left) = leaving.join_next().await {
        left.expect("a client does not panic");
    }
    let tally = crowd.gone().await;
    stage.quiet().await;
    let mut wrong = Vec::new();
    if tally.failed() > 0 {
        wrong.push("clients who stayed were not served".to_owned());
    }
    // Whoever left is computed for no longer.
    for node in &stage.nodes {
        node.wait_until(|counters| counters.live == 0).await;
    }
    row("clients leave", policy, tally, wrong)
}

/// Nothing that this client meets is an error to it.
async fn leave(proxy: SocketAddr, at: usize) {
    let Ok(mut wire) = TcpStream::connect(proxy).await else { return };
    let text = request(true, 40);
    let head = text.find("\r\n\r\n").unwrap_or(0);
    let sent = match at % 5 {
        0 => 0,
        1 => head / 2,
        2 => head + 4 + (text.len() - head) / 2,
        _ => text.len(),
    };
    let _ = wire.write_all(&text.as_bytes()[..sent]).await;
    if at % 5 == 4 {
        let _ = timeout(PATIENCE, wire.read(&mut [0; 256])).await;
    }
    // Every second one by a reset.
    if (at / 5).is_multiple_of(2) {
        let _ = wire.set_zero_linger();
    }
}

/// Many clients that send their heads byte by byte, while others want answers.
pub(crate) async fn slow_heads(policy: &'static str, scale: Scale) -> Row {
    let stage = Stage::open(policy).await;
    let calm = stage.crowd(&scale);
    calm.come(scale.requests[1]).await;
    let calm = calm.gone().await;
    let mut slow = JoinSet::new();
    let reached = std::sync::Arc::new(AtomicU64::new(0));
    for _ in 0..scale.clients {
        let (proxy, reached) = (stage.proxy, std::sync::Arc::clone(&reached));
        slow.spawn(async move {
            let Ok(mut wire) = TcpStream::connect(proxy).await else { return };
            reached.fetch_add(1, Ordering::Relaxed);
            let mut pace = interval(Duration::from_millis(200));
            for byte in request(true, 5).as_bytes() {
                pace.tick().await;
                if wire.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
    }
    until("they are connected", || reached.load(Ordering::Relaxed) == scale.clients as u64).await;
    let crowd = stage.crowd(&scale);
    crowd.come(scale.requests[1]).await;
    let mut tally = crowd.gone().await;
    slow.abort_all();
    let mut wrong = Vec::new();
    if tally.failed() > 0 {
        wrong.push("the others were not all served".to_owned());
    }
    let (was, is) = (calm.p99_s(), tally.p99_s());
    if scale.timed && is > 1.2 * was {
        wrong.push(format!("p99 {:.1} ms without and {:.1} ms with them", was * 1e3, is * 1e3));
    }
    tally.sent += calm.sent;
    tally.correct += calm.correct;
    stage.quiet().await;
    row("slow heads", policy, tally, wrong)
}

/// Ten times what the fleet can do. Two nodes' worth of limits, so that the queue and the refusals have work.
pub(crate) async fn overload(policy: &'static str, scale: Scale) -> Row {
    let mut settings = settings(policy);
    settings.nodes = vec![NodeSpec { max_in_flight: Some(4), ..NodeSpec::new("http://limit") }];
    settings.queue.rules.timeout = Duration::from_secs(1);
    // Five tokens in 100 ms, four at once: 40 a second for each of the three nodes.
    let stage = Stage::with(settings, ServerSpec::Batch(BatchSpec::new(0.02, 0.0, 1e6, 64))).await;
    let capacity = 120.0;
    let crowd = Crowd::before(stage.proxy, 10.0 * capacity);
    let most = AtomicU64::new(0);
    let began = Instant::now();
    let watching = async {
        let mut look = interval(Duration::from_millis(1));
        loop {
            look.tick().await;
            let live = stage.nodes.iter().map(|node| node.counters().live).max().unwrap_or(0);
            most.fetch_max(live, Ordering::Relaxed);
        }
    };
    let coming = crowd.come((10.0 * capacity * scale.overload.as_secs_f64()) as u64);
    tokio::select! { () = coming => {}, () = watching => {} }
    let tally = crowd.gone().await;
    let took = began.elapsed().as_secs_f64();
    stage.quiet().await;
    let ended = Instant::now();
    let recovered = recovered(&stage, &scale).await.then(|| ended.elapsed());
    let mut wrong = Vec::new();
    let most = most.load(Ordering::Relaxed);
    if most > 4 {
        wrong.push(format!("{most} on one node, at most 4 may be"));
    }
    if tally.cut > 0 || tally.clear == 0 {
        wrong.push(format!("{} were cut and {} refused", tally.cut, tally.clear));
    }
    if recovered.is_none_or(|time| scale.timed && time > Duration::from_secs(5)) {
        wrong.push(format!("it recovered after {recovered:?}"));
    }
    let goodput = tally.correct as f64 / (capacity * took);
    if scale.timed && goodput < 0.9 {
        wrong.push(format!("goodput is {:.0} % of what the fleet can do", 100.0 * goodput));
    }
    Row { recovered, ..row("10x overload", policy, tally, wrong) }
}

/// Whether a modest crowd is served without exception before long.
async fn recovered(stage: &Stage, scale: &Scale) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let crowd = stage.crowd(&Scale { rate: 50.0, ..*scale });
        crowd.come(25).await;
        if crowd.gone().await.failed() == 0 {
            return true;
        }
    }
    false
}

/// The configuration is read again and again, each time with other limits, while clients come.
pub(crate) async fn reloads(policy: &'static str, scale: Scale) -> Row {
    let stage = Stage::open(policy).await;
    let settings = bellwether::config::Settings::clone(&stage.app.settings.load());
    let turn = AtomicU64::new(0);
    stage.app.reload.read_with(move || {
        let mut next = settings.clone();
        next.queue.rules.timeout += Duration::from_millis(1 + turn.fetch_add(1, Ordering::Relaxed));
        next.nodes.truncate(2 + (turn.load(Ordering::Relaxed) % 2) as usize);
        Ok(next)
    });
    let crowd = stage.crowd(&scale);
    let mut wrong = Vec::new();
    for _ in 0..20 {
        crowd.come(scale.requests[1] / 20).await;
        let app = std::sync::Arc::clone(&stage.app);
        let read = tokio::task::spawn_blocking(move || app.reload("the suite")).await.expect("it does not panic");
        wrong.extend(read.err().map(|error| error.to_string()));
    }
    let tally = crowd.gone().await;
    stage.quiet().await;
    if tally.failed() > 0 {
        wrong.push("a reload is no reason to fail".to_owned());
    }
    row("reloads", policy, tally, wrong)
}

/// Nodes come and go while clients come.
pub(crate) async fn changes(policy: &'static str, scale: Scale) -> Row {
    let stage = Stage::open(policy).await;
    let extra = Emulator::start(EmulatorSpec::new("d", quick()), 4).await.expect("a free port");
    let crowd = stage.crowd(&scale);
    for turn in 0..20 {
        crowd.come(scale.requests[1] / 20).await;
        let changed: Result<_, FleetError> = stage.app.balancer.change_fleet(|fleet| match turn % 2 {
            0 => fleet.with(NodeSpec::new(extra.url()).named("d")),
            _ => fleet.without("d"),
        });
        changed.expect("it is there or not");
    }
    let tally = crowd.gone().await;
    stage.quiet().await;
    let mut wrong = Vec::new();
    if tally.failed() > 0 {
        wrong.push("a change of the fleet is no reason to fail".to_owned());
    }
    if extra.counters().finished == 0 {
        wrong.push("the node that came got nothing".to_owned());
    }
    row("nodes come and go", policy, tally, wrong)
}

/// The real binary, killed at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// More clients than the process has file descriptors: it stops accepting, and goes on when some leave.
pub(crate) async fn descriptors(policy: &'static str, _: Scale) -> Row {
    let node = Emulator::start(EmulatorSpec::new("a", quick()), 1).await.expect("a free port");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 96; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_bellwether")])
        .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--policy", policy, "--log-level", "off"])
        .args(["--node", &node.url()])
        .env("BELLWETHER_WORKERS", "1")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut process = Process(child);
    let proxy: SocketAddr = lines
        .map_while(Result::ok)
        .find_map(|line| line.trim().strip_prefix("clients").map(|rest| rest.trim().to_owned()))
        .and_then(|place| place.trim_start_matches("http://").parse().ok())
        .expect("the banner tells where it listens");
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(proxy).await.expect("the queue of the system has room"));
    }
    // Sent while there is no room: answered once there is.
    let mut waiting = JoinSet::new();
    for at in 0..10 {
        waiting.spawn(ask(proxy, at % 2 == 0));
    }
    tokio::task::yield_now().await;
    drop(idle);
    let mut wrong = Vec::new();
    let mut endings = Vec::new();
    while let Some(ending) = waiting.join_next().await {
        endings.push(ending.expect("a client does not panic"));
    }
    wrong.extend(endings.iter().find(|ending| **ending != Ending::Correct).map(|ending| format!("{ending:?}")));
    if process.0.try_wait().expect("a child").is_some() {
        wrong.push("the process ended".to_owned());
    }
    let crowd = Crowd::before(proxy, 100.0);
    crowd.come(20).await;
    let tally = crowd.gone().await;
    if tally.failed() > 0 {
        wrong.push(format!("{} of {} failed afterwards", tally.failed(), tally.sent));
    }
    row("no descriptors left", policy, tally, wrong)
}
