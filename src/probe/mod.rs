//! Active health checks: one task per node, each at its own pace.
//!
//! Unless a path is set a check is a TCP connection, because a plain Flask app has no `/health` and a 404 there says
//! nothing about it. Checks run on the control thread with connections of their own, so that a node is judged by
//! whether it answers *now* and not by a connection that was opened an hour ago. The first check of a node comes at
//! once; later ones are spread by a tenth of the interval, so that many proxies do not ask in step. What nodes publish of
//! themselves is read by [`exposition`] and [`engine`], for a person who asks and not for checks.

pub mod engine;
pub mod exposition;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::address::Reach;
use crate::app::App;
use crate::fleet::Node;
use crate::node::NodeId;

/// How often the set of checked nodes is compared with the fleet.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// How much of a response is read to find its status.
const STATUS_LINE_MAX: usize = 64;

/// Checks every node of the fleet, for as long as it is polled.
pub async fn watch_fleet(app: Arc<App>) {
    let mut checks: HashMap<NodeId, JoinHandle<()>> = HashMap::new();
    let mut seen = None;
    let mut every = tokio::time::interval(FOLLOW_EVERY);
    loop {
        every.tick().await;
        let fleet = app.balancer.fleet();
        if seen.replace(fleet.version()) == Some(fleet.version()) {
            continue;
        }
        checks.retain(|id, check| {
            let stays = fleet.nodes().iter().any(|node| node.id == *id);
            if !stays {
                check.abort();
            }
            stays
        });
        for node in fleet.nodes() {
            checks.entry(node.id).or_insert_with(|| tokio::spawn(watch_node(Arc::clone(&app), Arc::clone(node))));
        }
    }
}

async fn watch_node(app: Arc<App>, node: Arc<Node>) {
    loop {
        let settings = app.settings.load_full();
        let health = &settings.health;
        let passed = tokio::time::timeout(health.timeout, check(&node, settings.reach(), health.path.as_deref())).await;
        let problem = match passed {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some(format!("no answer within {:?}", health.timeout)),
        };
        conclude(&app, &node, problem.as_deref());
        let spread = 0.9 + 0.2 * fastrand::f64();
        tokio::time::sleep(health.interval.mul_f64(spread)).await;
    }
}

/// A check ended. That the node is up or down is said where every change is, and once; here only why.
fn conclude(app: &App, node: &Node, problem: Option<&str>) {
    let change = app.balancer.checked(node, problem.is_none());
    if let Some(problem) = problem.filter(|_| change.is_some()) {
        tracing::warn!(node = %node.spec.name, problem, "too many health checks failed");
    }
}

async fn check(node: &Node, reach: Reach<'_>, path: Option<&str>) -> Result<(), String> {
    let mut stream = reach.connect(&node.spec).await.map_err(|error| error.to_string())?;
    let Some(path) = path else { return Ok(()) };
    let request = format!(
        "GET {}{path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: bellwether-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        node.spec.base_path(),
        node.spec.authority(),
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut head = Vec::with_capacity(STATUS_LINE_MAX);
    let mut limited = stream.take(STATUS_LINE_MAX as u64);
    while !head.contains(&b'\n') {
        match limited.read_buf(&mut head).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    status_of(&head)
}

/// 2xx and 3xx pass.
fn status_of(head: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(head);
    let mut words = text.split(' ');
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    match words.next().and_then(|status| status.get(..3)).and_then(|status| status.parse::<u16>().ok()) {
        Some(200..400) if is_http => Ok(()),
        Some(status) if is_http => Err(format!("status {status}")),
        _ => Err("the answer is not HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;
    use crate::config::Settings;
    use crate::node::NodeSpec;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Write::write(&mut *self.0.lock().expect("not poisoned"), bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_change_is_told_once_and_why_beside_it() {
        let nodes = vec![NodeSpec::new("http://127.0.0.1:1").named("a")];
        let app = App::new(Settings { nodes, ..Settings::default() }).expect("valid");
        let node = Arc::clone(&app.balancer.fleet().nodes()[0]);
        let page = Page::default();
        let written = page.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            (0..5).for_each(|_| conclude(&app, &node, Some("connection refused")));
            (0..5).for_each(|_| conclude(&app, &node, None));
        });
        let text = String::from_utf8(page.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        let told = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!([told("node is down"), told("connection refused"), told("node is up")], [1, 1, 1], "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn only_good_statuses_pass() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r\n"), Ok(()));
        assert_eq!(status_of(b"HTTP/1.0 302 Found\r\n"), Ok(()));
        assert_eq!(status_of(b"HTTP/1.1 503 Service Unavailable\r\n"), Err("status 503".to_owned()));
        assert_eq!(status_of(b"HTTP/1.1 404\r\n"), Err("status 404".to_owned()));
        assert!(status_of(b"SSH-2.0-OpenSSH_9.2\r\n").is_err());
        assert!(status_of(b"").is_err());
    }
}
