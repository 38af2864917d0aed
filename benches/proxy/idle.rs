//! The memory that idle keep-alive clients cost. Each has made a request, and makes another at the end, which proves
//! that none was dropped meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::client::{Client, small_request};
use crate::cost::NODES;
use crate::node::Nodes;
use crate::peer::{Kind, Proxy, Site, Under};
use crate::process::{FILES_BESIDE, file_limit, resident};
use crate::section::{Section, cell, verdict};

/// Resident bytes with all clients, at most.
const TARGET_BYTES: f64 = 200e6;
/// The target is about so many.
const TARGET_CLIENTS: usize = 10_000;
/// Clients that connect and ask at the same time.
const AT_ONCE: usize = 64;
/// Opening, or asking again, that takes longer is broken: the slowest known router answers a hundred requests a second.
const TIME_MAX: Duration = Duration::from_secs(300);
/// For what a proxy does after an answer.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) async fn measure(kinds: &[Kind], wanted: usize) -> Result<Section, Failure> {
    let room = usize::try_from(file_limit()?.saturating_sub(FILES_BESIDE))?;
    let clients = wanted.min(room);
    let nodes = Nodes::start(NODES).await?;
    let site = Site { nodes: nodes.addresses.clone(), clients, streams: false };
    let (mut rows, mut data, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for &kind in kinds {
        let (before, after, again) = match hold(kind, &site, clients).await {
            Ok(held) => held,
            // One that cannot hold so many says nothing of the others.
            Err(error) if kind != Kind::Bellwether => {
                missing.push(format!("{}: not held within {} s: {error}", kind.name(), TIME_MAX.as_secs()));
                continue;
            }
            Err(error) => return Err(error),
        };
        let own = kind == Kind::Bellwether && clients >= TARGET_CLIENTS;
        rows.push(vec![
            kind.to_string(),
            cell(Some(before / 1e6), 1),
            cell(Some(after / 1e6), 1),
            cell(Some((after - before) / clients as f64 / 1e3), 1),
            again.to_string(),
            if own { verdict(Some(after), TARGET_BYTES) } else { "" }.to_owned(),
        ]);
        data.push(json!({
            "proxy": kind.name(),
            "clients": clients,
            "rss_before_bytes": before,
            "rss_bytes": after,
            "bytes_per_client": (after - before) / clients as f64,
            "answered_again": again,
            "target_bytes": own.then_some(TARGET_BYTES),
        }));
    }
    let mut notes = vec![format!("target: under {} MB with {TARGET_CLIENTS} clients", TARGET_BYTES / 1e6)];
    notes.append(&mut missing);
    if clients < wanted {
        notes.push(format!(
            "only {clients} clients instead of {wanted}: raise the hard limit of open files (ulimit -Hn)"
        ));
    }
    Ok(Section {
        name: "idle",
        title: format!("memory with {clients} idle keep-alive clients"),
        notes,
        columns: vec!["proxy", "RSS before MB", "RSS with MB", "kB per client", "answered again", "target"],
        rows,
        data: Value::Array(data),
    })
}

/// Resident bytes before and with the clients, and how many of them were answered again.
async fn hold(kind: Kind, site: &Site, clients: usize) -> Result<(f64, f64, usize), Failure> {
    let proxy = Proxy::start(kind, site, &Under::Nothing).await?;
    let before = resident(&proxy.pids())?;
    let mut opening = JoinSet::new();
    for part in 0..AT_ONCE {
        let (address, count) = (proxy.address, (clients + part) / AT_ONCE);
        opening.spawn(async move {
            let request = small_request();
            let mut held = Vec::with_capacity(count);
            for _ in 0..count {
                let mut client = Client::connect(address).await?;
                client.ask(&request).await?;
                held.push(client);
            }
            Ok::<_, Failure>(held)
        });
    }
    let mut held = Vec::with_capacity(AT_ONCE);
    while let Some(part) = timeout(TIME_MAX, opening.join_next()).await? {
        held.push(part??);
    }
    sleep(SETTLE).await;
    let after = resident(&proxy.pids())?;
    let mut asking = JoinSet::new();
    for mut part in held {
        asking.spawn(async move {
            let request = small_request();
            let mut answered = 0;
            for client in &mut part {
                answered += usize::from(client.ask(&request).await.is_ok());
            }
            answered
        });
    }
    let mut again = 0;
    while let Some(answered) = timeout(TIME_MAX, asking.join_next()).await? {
        again += answered?;
    }
    Ok((before as f64, after as f64, again))
}
