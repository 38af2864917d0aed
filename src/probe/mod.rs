//! Active health checks: one task per node, each at its own pace.
//!
//! Unless a path is set a check is a TCP connection, because a plain Flask app has no `/health` and a 404 there says
//! nothing about it. Checks run on the control thread with connections of their own, so that a node is judged by
//! whether it answers *now* and not by a connection that was opened an hour ago. The first check of a node comes at
//! once; later ones are spread by a tenth of the interval, so that many proxies do not ask in step.

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
        if app.balancer.checked(&node, problem.is_none()).is_some() {
            match &problem {
                None => tracing::info!(node = %node.spec.name, "the node is up"),
                Some(problem) => tracing::warn!(node = %node.spec.name, %problem, "the node is down"),
            }
        }
        let spread = 0.9 + 0.2 * fastrand::f64();
        tokio::time::sleep(health.interval.mul_f64(spread)).await;
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
    use super::*;

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
