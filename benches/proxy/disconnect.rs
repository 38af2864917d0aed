//! How soon a node hears that its client is gone: from the close of the client's socket to the emulated server's notice.
//!
//! A model server computes until it notices, so these milliseconds are work for nobody. Two cases: the client leaves in
//! the middle of a stream, and while it waits for an answer that is not streamed.

use std::time::{Duration, Instant};

use bellwether::emulator::{Emulator, EmulatorSpec};
use bellwether::sim::{ServerSpec, fleets};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::Failure;
use crate::client::{Client, post};
use crate::peer::{Kind, Proxy, Site, Under};
use crate::section::{Section, cell, median};

/// Disconnects per proxy and case.
const TIMES: u32 = 200;
/// A node that has not noticed for so long does not count as noticing.
const NOTICE_WAIT: Duration = Duration::from_secs(2);
/// A request that has not reached the node for so long is broken.
const ARRIVE_WAIT: Duration = Duration::from_secs(10);
const PATH: &str = "/v1/chat/completions";

#[derive(Clone, Copy, Debug)]
enum Case {
    Streaming,
    Waiting,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Streaming => "in a stream",
            Case::Waiting => "waiting for an answer",
        }
    }

    /// A request whose answer takes far longer than [`NOTICE_WAIT`].
    fn body(self) -> &'static str {
        match self {
            Case::Streaming => r#"{"stream":true,"messages":[{"role":"user","content":"[output=5000]"}]}"#,
            Case::Waiting => r#"{"stream":false,"messages":[{"role":"user","content":"[output=5000]"}]}"#,
        }
    }
}

pub(crate) async fn measure(kinds: &[Kind]) -> Result<Section, Failure> {
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    for &kind in kinds {
        for case in [Case::Streaming, Case::Waiting] {
            let spec = EmulatorSpec::new("node", ServerSpec::Batch(fleets::FAST));
            let emulator = Emulator::start(spec, 1).await?;
            let site = Site { nodes: vec![emulator.addr()], clients: 1_000, streams: true };
            let proxy = Proxy::start(kind, &site, &Under::Nothing).await?;
            let (noticed, missed) = leave(&proxy, &emulator, case).await?;
            let (low, high) = (noticed.iter().copied().reduce(f64::min), noticed.iter().copied().reduce(f64::max));
            let middle = median(noticed.iter().copied());
            rows.push(vec![
                format!("{kind}, {}", case.name()),
                cell(low, 2),
                cell(middle, 2),
                cell(high, 2),
                noticed.len().to_string(),
                if missed { "yes" } else { "no" }.to_owned(),
            ]);
            data.push(json!({
                "proxy": kind.name(),
                "case": case.name(),
                "min_ms": low,
                "median_ms": middle,
                "max_ms": high,
                "noticed": noticed.len(),
                "one_not_noticed": missed,
            }));
        }
    }
    Ok(Section {
        name: "disconnect",
        title: format!("milliseconds from a client's disconnect to the node's notice, {TIMES} times"),
        notes: vec![
            "the node computes a token every 8 ms; the target: it notices before its next five".to_owned(),
            format!("one missed: not noticed within {NOTICE_WAIT:?}, which ends the case"),
        ],
        columns: vec!["proxy, client", "min ms", "median ms", "max ms", "noticed", "one missed"],
        rows,
        data: Value::Array(data),
    })
}

/// Milliseconds of each disconnect that was noticed, and whether one was not, which ends the case.
async fn leave(proxy: &Proxy, emulator: &Emulator, case: Case) -> Result<(Vec<f64>, bool), Failure> {
    let request = post(PATH, case.body());
    let mut noticed = Vec::new();
    for _ in 0..TIMES {
        let before = emulator.counters();
        let mut client = Client::connect(proxy.address).await?;
        timeout(ARRIVE_WAIT, async {
            match case {
                Case::Streaming => client.ask_until(&request, b"data: ").await,
                Case::Waiting => {
                    client.send(&request).await?;
                    emulator.wait_until(|now| now.started > before.started && now.live > before.live).await;
                    Ok(())
                }
            }
        })
        .await??;
        let left = Instant::now();
        drop(client);
        if timeout(NOTICE_WAIT, emulator.wait_until(|now| now.cancelled > before.cancelled)).await.is_ok() {
            let last = emulator.disconnects().pop().ok_or("a disconnect was counted but not remembered")?;
            noticed.push(last.noticed.saturating_duration_since(left).as_secs_f64() * 1e3);
            continue;
        }
        // Its late notice could be taken for that of the next.
        return Ok((noticed, true));
    }
    Ok((noticed, false))
}
