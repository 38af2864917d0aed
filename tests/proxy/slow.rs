//! Clients that are never quite silent: a little of a head, of a body or of the reading, now and then, for ever.

use std::time::Duration;

use bellwether::config::{Settings, Timeouts};

use crate::rig::{Rig, Stage, emulator, pauses, route, settings, spec_of};
use crate::wire::{Wire, chatty_head};

/// What a client may use up in all.
const PATIENCE: Duration = Duration::from_millis(500);
/// Its pauses: so short that none of them is too long by itself.
const PAUSE: Duration = Duration::from_millis(5);
/// A rate that nobody keeps, so that each byte gains no time.
const RATE: u64 = 1 << 30;

/// Sends `piece` again and again until nobody takes it any more.
async fn drip(mut client: Wire, piece: &str) {
    let mut pauses = pauses(PAUSE);
    while client.try_send(piece).await.is_ok() {
        pauses.tick().await;
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.timeouts.first_request = PATIENCE;
    let rig = Rig::start(settings);
    let (mut client, mut answers) = rig.client().await.twins();
    client.send("GET / HTTP/1.1\r\nhost: h\r\nx: ").await;
    let dripping = tokio::spawn(drip(client, "y"));
    assert_eq!(answers.until_closed().await, b"");
    dripping.abort();
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_before_a_node_and_at_one() {
    for kind in ["application/json", "text/plain"] {
        let node = Stage::open("a").await;
        let mut settings = settings([node.spec()]);
        settings.timeouts.between_chunks = PATIENCE;
        settings.limits.client_bytes_per_s_min = RATE;
        let rig = Rig::start(settings);
        let (mut client, mut answers) = rig.client().await.twins();
        client.send(chatty_head(kind)).await;
        let dripping = tokio::spawn(drip(client, " "));
        let message = answers.message().await;
        assert_eq!((message.status(), &message.json()["error"]["code"]), (408, &"body_timeout".into()), "{kind}");
        assert_eq!(answers.until_closed().await, b"");
        dripping.abort();
        if kind == "text/plain" {
            // It held a place at the node, and no longer does.
            rig.one_attempt("a", "client_error").await;
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_a_little_now_and_then_is_cut() {
    let node = emulator("a").await;
    let mut settings: Settings = settings([spec_of(&node)]);
    // The node may be silent for ever, so that what ends this is the client's reading.
    let patient = Timeouts { between_chunks: Duration::from_secs(3_600), ..settings.timeouts.clone() };
    settings.routes = vec![route("/", patient)];
    settings.limits.client_bytes_per_s_min = RATE;
    // How often a busy connection is looked at, and what the client may use up.
    (settings.timeouts.header_read, settings.timeouts.between_chunks) = (10 * PAUSE, PATIENCE);
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send(crate::rig::chat(100_000, true)).await;
    node.wait_until(|counters| counters.live == 1).await;
    node.step(90_000);
    client.head().await;
    let reading = tokio::spawn(async move {
        let mut pauses = pauses(PAUSE);
        loop {
            client.take(4 * 1024).await;
            pauses.tick().await;
        }
    });
    let counters = node.wait_until(|counters| counters.cancelled == 1).await;
    assert_eq!(counters.live, 0);
    rig.one_attempt("a", "client_gone").await;
    reading.abort();
}
