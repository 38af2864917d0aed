//! The limit of all nodes, from a flag alone: it holds at nodes of the command line and of the admin API, and a reload
//! changes it under both.

use bellwether::config::{Env, Flag, Settings, Sources};
use bellwether::emulator::Emulator;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::reach::add;
use crate::rig::{Rig, chat, emulator, settings, until};

/// What `--node a=URL --max-in-flight LIMIT` says; nobody waits.
fn flagged(node: &Emulator, limit: &str) -> Settings {
    let flag = |flag, key, value: String| Flag { flag, key, values: vec![value] };
    let flags = vec![
        flag("--node", "node", format!("{}={}", node.name(), node.url())),
        flag("--max-in-flight", "max_in_flight", limit.to_owned()),
    ];
    let said = Sources::new(None, flags, Env::default()).load().expect("flags as they should be").settings;
    let mut settings = Settings { max_in_flight: said.max_in_flight, ..settings(said.nodes) };
    (settings.workers, settings.queue.rules.length_max) = (2, 0);
    settings
}

/// Asks so many times at once, each on a connection of its own; what comes out are the statuses.
async fn ask(rig: &Rig, times: usize) -> Vec<JoinHandle<u16>> {
    let mut asking = Vec::new();
    for _ in 0..times {
        let mut client = rig.client().await;
        asking.push(tokio::spawn(async move { client.ask(chat(5, true)).await.status() }));
    }
    asking
}

async fn refused(rig: &Rig, count: f64) {
    until("the rest is refused", || rig.metric("bellwether_rejected_total{reason=\"all_full\"}") == count).await;
}

#[tokio::test]
async fn no_node_ever_has_more_than_the_limit_of_all_nodes() {
    let (a, b) = (emulator("a").await, emulator("b").await);
    let live = || (a.counters().live, b.counters().live);
    let rig = Rig::start(flagged(&a, "3"));
    let mut asking = ask(&rig, 10).await;
    refused(&rig, 7.0).await;
    until("3 are under way", || live() == (3, 0)).await;

    let added = add(&rig, &json!({ "url": b.url(), "name": "b" })).await;
    assert_eq!((added.status(), &added.json()["max_in_flight"]), (201, &json!(3)), "{added:?}");
    asking.extend(ask(&rig, 5).await);
    refused(&rig, 9.0).await;
    until("6 are under way", || live() == (3, 3)).await;

    let next = flagged(&a, "5");
    rig.app.reload.read_with(move || Ok(next.clone()));
    let changes = rig.app.reload("test").expect("valid");
    assert_eq!((changes.nodes_changed, changes.settings), (vec!["a".into(), "b".into()], vec!["max_in_flight".into()]));
    asking.extend(ask(&rig, 10).await);
    refused(&rig, 15.0).await;
    until("10 are under way", || live() == (5, 5)).await;
    assert_eq!((rig.in_flight("a"), rig.in_flight("b")), (5, 5));

    for node in [&a, &b] {
        node.step(u32::MAX);
    }
    let mut answered = 0;
    for asked in asking {
        let status = asked.await.expect("no panic");
        assert!([200, 503].contains(&status), "{status}");
        answered += usize::from(status == 200);
    }
    assert_eq!(answered, 10);
}
