//! Every timeout ends what it is for. They are set short, and the tests wait for what they cause.

use std::time::Duration;

use bellwether::config::{Settings, Timeouts};
use bellwether::node::NodeSpec;

use crate::rig::{Hole, Rig, Stage, chat, emulator, policy, route, settings, spec_of, until};
use crate::wire::{Message, Piece, get, ok, post};

const SHORT: Duration = Duration::from_millis(50);
/// For what must not be over before something else has happened, however busy the machine is.
const LONGER: Duration = Duration::from_millis(500);

/// A proxy with one node and one timeout that is short.
async fn scene(shorten: fn(&mut Timeouts)) -> (Stage, Rig) {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    shorten(&mut settings.timeouts);
    (node, Rig::start(settings))
}

fn is_timeout(message: &Message, token: &str, code: &str) {
    assert_eq!(message.status(), 504, "{message:?}");
    assert_eq!(message.head.get("proxy-status"), Some(format!("bellwether; error={token}").as_str()));
    assert_eq!(message.json()["error"]["code"], code);
}

#[tokio::test]
async fn a_connection_that_does_not_come_about() {
    let hole = Hole::open().await;
    let short = |nodes| {
        let mut settings: Settings = settings(nodes);
        settings.timeouts.connect = SHORT;
        settings.policy = policy("round-robin");
        Rig::start(settings)
    };
    let rig = short(vec![hole.spec("hole")]);
    let message = rig.client().await.ask(post("/v1/chat/completions", "{}")).await;
    is_timeout(&message, "connection_timeout", "node_unreachable");
    rig.one_attempt("hole", "failed_connect").await;
    // With another node it is only a detour.
    let node = Stage::open("a").await;
    let rig = short(vec![hole.spec("hole"), node.spec()]);
    let mut client = rig.client().await;
    client.send(post("/v1/chat/completions", "{}")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("at last")).await;
    assert_eq!(client.message().await.text(), "at last");
    rig.one_attempt("hole", "failed_connect").await;
}

#[tokio::test]
async fn a_node_that_does_not_answer() {
    let node = emulator("a").await;
    let mut settings = settings([spec_of(&node)]);
    settings.timeouts.first_byte = SHORT;
    let rig = Rig::start(settings);
    let message = rig.client().await.ask(chat(10, false)).await;
    is_timeout(&message, "http_response_timeout", "node_timeout");
    node.wait_until(|counters| counters.cancelled == 1 && counters.live == 0).await;
    rig.one_attempt("a", "failed_timeout").await;
}

#[tokio::test]
async fn a_node_that_falls_silent_breaks_the_stream_uncleanly() {
    let node = emulator("a").await;
    let mut settings = settings([spec_of(&node)]);
    settings.timeouts.between_chunks = LONGER;
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send(chat(10, true)).await;
    node.wait_until(|counters| counters.live == 1).await;
    node.step(2);
    let message = client.message().await;
    assert!(!message.clean && message.text().contains("data: ") && !message.text().contains("[DONE]"), "{message:?}");
    node.wait_until(|counters| counters.cancelled == 1).await;
    rig.one_attempt("a", "failed_timeout").await;
}

#[tokio::test]
async fn a_response_that_takes_too_long_in_all_though_it_moves() {
    let (node, rig) = scene(|timeouts| timeouts.total = Some(SHORT)).await;
    let mut client = rig.client().await;
    client.send(get("/v1/x")).await;
    let (mut call, _) = node.request().await;
    let dripping = async {
        let mut answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        // For as long as anybody listens.
        while call.try_send(&answer).await.is_ok() {
            answer = "1\r\nx\r\n".to_owned();
            tokio::task::yield_now().await;
        }
    };
    let (message, ()) = tokio::join!(client.message(), dripping);
    // On a slow machine the time may be over before the head comes.
    assert!(message.status() == 504 || !message.clean, "{message:?}");
    if message.status() == 200 && !message.body.is_empty() {
        rig.one_attempt("a", "dropped").await;
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_in_all_without_a_response() {
    let (node, rig) = scene(|timeouts| timeouts.total = Some(SHORT)).await;
    let mut client = rig.client().await;
    client.send(get("/v1/x")).await;
    let (mut call, _) = node.request().await;
    is_timeout(&client.message().await, "http_response_timeout", "node_timeout");
    assert_eq!(call.until_closed().await, b"");
}

#[tokio::test]
async fn a_node_that_does_not_take_the_upload() {
    let shorten: [fn(&mut Timeouts); 2] =
        [|timeouts| timeouts.total = Some(SHORT), |timeouts| timeouts.first_byte = SHORT];
    for shorten in shorten {
        let (node, rig) = scene(shorten).await;
        let (mut client, mut answers) = rig.client().await.twins();
        let pouring = tokio::spawn(async move {
            let head = format!("POST /v1/upload HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", 1_u64 << 32);
            let mut sent = client.try_send(&head).await;
            let piece = vec![b'x'; 64 * 1024];
            while sent.is_ok() {
                sent = client.try_send(&piece).await;
            }
        });
        let (call, _) = node.request().await;
        is_timeout(&answers.message().await, "http_response_timeout", "node_timeout");
        // Of the total time the client may have used up any part.
        let outcome = if rig.app.settings.load().timeouts.total.is_some() { "dropped" } else { "failed_timeout" };
        rig.one_attempt("a", outcome).await;
        drop(call);
        pouring.abort();
    }
}

#[tokio::test]
async fn a_client_that_does_not_go_on_with_its_body() {
    for kind in ["application/json", "text/plain"] {
        let (_node, rig) = scene(|timeouts| timeouts.between_chunks = SHORT).await;
        let mut client = rig.client().await;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\ncontent-type:";
        let message = client.ask(format!("{head} {kind}\r\n\r\n{{\"model\"")).await;
        assert_eq!((message.status(), &message.json()["error"]["code"]), (408, &"body_timeout".into()), "{kind}");
        assert_eq!(message.head.get("connection"), Some("close"));
        assert_eq!(client.until_closed().await, b"");
    }
}

#[tokio::test]
async fn a_first_request_that_does_not_come() {
    let (_node, rig) = scene(|timeouts| timeouts.first_request = SHORT).await;
    for sent in ["", "G", "GET / HTTP/1.1\r\nhost: h\r\n"] {
        let mut client = rig.client().await;
        client.send(sent).await;
        assert_eq!(client.until_closed().await, b"", "{sent:?}");
    }
}

/// A client whose first request was answered.
async fn answered(node: &Stage, rig: &Rig) -> crate::wire::Wire {
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("first")).await;
    assert_eq!(client.message().await.text(), "first");
    client
}

#[tokio::test]
async fn a_later_request_that_does_not_come_or_does_not_end() {
    let (node, rig) = scene(|timeouts| timeouts.idle = SHORT).await;
    assert_eq!(answered(&node, &rig).await.until_closed().await, b"");

    let (node, rig) = scene(|timeouts| timeouts.header_read = SHORT).await;
    let mut client = answered(&node, &rig).await;
    client.send("GET / HT").await;
    assert_eq!(client.until_closed().await, b"");
}

#[tokio::test]
async fn none_of_them_is_for_a_request_that_is_under_way() {
    let (node, rig) = scene(|timeouts| {
        (timeouts.first_request, timeouts.header_read, timeouts.idle) = (LONGER, LONGER, LONGER);
    })
    .await;
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut framing = client.head().await.framing();
    // A connection that says nothing, opened now, is closed before it; so at least that time passes.
    for _ in 0..3 {
        assert_eq!(rig.client().await.until_closed().await, b"");
        call.send("1\r\nx\r\n").await;
        assert_eq!(client.piece(&mut framing).await, Piece::Data(b"x".into()));
    }
}

#[tokio::test]
async fn a_route_has_timeouts_of_its_own() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    let timeouts = Timeouts { first_byte: SHORT, ..settings.timeouts.clone() };
    settings.routes = vec![crate::rig::route("/api/quick", timeouts)];
    let rig = Rig::start(settings);
    let mut patient = rig.client().await;
    patient.send(get("/api/slow")).await;
    let (mut call, _) = node.request().await;
    assert_eq!(rig.client().await.ask(get("/api/quick/x")).await.status(), 504);
    call.send(ok("slow")).await;
    assert_eq!(patient.message().await.text(), "slow");
}

#[tokio::test]
async fn a_client_that_stops_reading() {
    let node = emulator("a").await;
    let mut settings = settings([spec_of(&node)]);
    // The node may be silent for ever, so that what ends this is the client's silence.
    let patient = Timeouts { between_chunks: Duration::from_secs(3_600), ..settings.timeouts.clone() };
    settings.routes = vec![route("/", patient)];
    // How often a busy connection is looked at, and how long its client may take nothing.
    (settings.timeouts.header_read, settings.timeouts.between_chunks) = (SHORT, SHORT);
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send(chat(100_000, true)).await;
    node.wait_until(|counters| counters.live == 1).await;
    // Some 20 MB of events: more than the buffers of the kernel take.
    node.step(90_000);
    client.head().await;
    let counters = node.wait_until(|counters| counters.cancelled == 1).await;
    assert_eq!(counters.live, 0);
    rig.one_attempt("a", "client_gone").await;
    // It was there all the time.
    drop(client);
}

#[tokio::test]
async fn a_client_that_takes_all_the_time_there_is_for_its_body() {
    let (_node, rig) = scene(|timeouts| timeouts.total = Some(SHORT)).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 100";
    let message = rig.client().await.ask(format!("{head}\r\n\r\n{{")).await;
    assert_eq!((message.status(), &message.json()["error"]["code"]), (408, &"body_timeout".into()));
}

#[tokio::test]
async fn a_node_is_not_blamed_for_the_time_that_a_request_has_waited() {
    let node = Stage::open("a").await;
    let mut settings = settings([NodeSpec { max_in_flight: Some(1), ..node.spec() }]);
    let patient = Timeouts { total: None, ..settings.timeouts.clone() };
    settings.routes = vec![route("/patient", patient)];
    settings.timeouts.total = Some(4 * LONGER);
    let rig = Rig::start(settings);
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    first.send(get("/patient")).await;
    let (mut call, _) = node.request().await;
    second.send(get("/v1/x")).await;
    until("it waits", || rig.app.balancer.is_awaited()).await;
    let since = rig.app.clock.now();
    until("a quarter of its time", || rig.app.clock.now().since(since) >= LONGER).await;
    call.send(ok("first")).await;
    assert_eq!(first.message().await.text(), "first");
    let message = second.message().await;
    // On a very slow machine it may not get its turn at all.
    if message.status() == 504 {
        until("the end", || rig.attempts("a", "dropped") == 1.0).await;
    }
    assert_eq!(rig.attempts("a", "failed_timeout"), 0.0);
}
