//! Requests for nodes that are at their limit: they wait their turn, leave, are refused in time, and never too many run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bellwether::config::{Priority, Settings};
use bellwether::emulator::{Emulator, EmulatorSpec};
use bellwether::node::NodeSpec;
use bellwether::sim::{BatchSpec, ServerSpec};

use crate::rig::{Rig, Stage, route, settings, until};
use crate::wire::{Wire, get, ok};

fn limited(spec: NodeSpec, max_in_flight: u32) -> NodeSpec {
    NodeSpec { max_in_flight: Some(max_in_flight), ..spec }
}

/// A proxy before one node that takes one request at a time.
async fn rig(change: impl FnOnce(&mut Settings)) -> (Rig, Stage) {
    let node = Stage::open("a").await;
    let mut settings = settings([limited(node.spec(), 1)]);
    change(&mut settings);
    (Rig::start(settings), node)
}

async fn queued(rig: &Rig, length: usize) {
    until(&format!("{length} waiting"), || rig.app.balancer.queued().0.iter().sum::<usize>() == length).await;
}

/// A client that asks for `path` and of whom one knows that it waits as the `nth`.
async fn waits(rig: &Rig, path: &str, fields: &str, nth: usize) -> Wire {
    let mut client = rig.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n{fields}\r\n")).await;
    queued(rig, nth).await;
    client
}

#[tokio::test]
async fn who_waits_is_served_in_order_as_the_node_frees() {
    let (rig, node) = rig(|_| {}).await;
    let mut first = rig.client().await;
    first.send(get("/0")).await;
    let (mut call, head) = node.request().await;
    assert_eq!(head.line, "GET /0 HTTP/1.1");
    let mut clients = Vec::new();
    for nth in 1..=3 {
        clients.push(waits(&rig, &format!("/{nth}"), "", nth).await);
    }
    assert_eq!(rig.metric("bellwether_queue_length{class=\"default\"}"), 3.0);
    call.send(ok("0")).await;
    assert_eq!(first.message().await.text(), "0");
    for (nth, client) in (1..).zip(&mut clients) {
        // The connection was kept and is used again.
        let head = call.head().await;
        assert_eq!(head.line, format!("GET /{nth} HTTP/1.1"));
        assert_eq!(rig.in_flight("a"), 1);
        call.send(ok("next")).await;
        assert_eq!(client.message().await.text(), "next");
    }
    until("all ended", || rig.in_flight("a") == 0).await;
    assert_eq!(rig.metric("bellwether_queue_wait_seconds_count"), 3.0);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_and_no_node_hears_of_it() {
    let (rig, node) = rig(|_| {}).await;
    let mut first = rig.client().await;
    first.send(get("/first")).await;
    let (mut call, _) = node.request().await;
    let leaves = waits(&rig, "/leaves", "", 1).await;
    let mut stays = waits(&rig, "/stays", "", 2).await;
    drop(leaves);
    queued(&rig, 1).await;
    call.send(ok("first")).await;
    assert_eq!(call.head().await.line, "GET /stays HTTP/1.1");
    call.send(ok("stays")).await;
    assert_eq!(stays.message().await.text(), "stays");
    assert_eq!(rig.attempts("a", "completed") + rig.attempts("a", "client_gone"), 2.0);
}

#[tokio::test]
async fn the_first_node_that_frees_gets_whoever_waits() {
    let (a, b) = (Stage::open("a").await, Stage::open("b").await);
    let rig = Rig::of([limited(a.spec(), 1), limited(b.spec(), 1)]);
    let (mut one, mut two) = (rig.client().await, rig.client().await);
    one.send(get("/1")).await;
    two.send(get("/2")).await;
    let (mut on_a, mut on_b) = (a.request().await.0, b.request().await.0);
    let mut third = waits(&rig, "/3", "", 1).await;
    on_b.send(ok("done")).await;
    assert_eq!(on_b.head().await.line, "GET /3 HTTP/1.1");
    on_b.send(ok("from b")).await;
    assert_eq!(third.message().await.text(), "from b");
    on_a.send(ok("done")).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let (rig, node) = rig(|settings| settings.queue.rules.length_max = 1).await;
    let mut first = rig.client().await;
    first.send(get("/first")).await;
    let _call = node.request().await;
    let _second = waits(&rig, "/second", "", 1).await;
    let refused = rig.client().await.ask(get("/v1/third")).await;
    assert_eq!((refused.status(), refused.head.get("retry-after")), (503, Some("1")));
    assert_eq!(refused.json()["error"]["code"], "queue_full");
    assert_eq!(rig.metric("bellwether_rejected_total{reason=\"queue_full\"}"), 1.0);
}

#[tokio::test]
async fn nobody_waits_longer_than_the_client_says_or_the_operator() {
    for (own, timeout) in [("x-request-timeout: 0.05\r\n", 600_000), ("grpc-timeout: 50m\r\n", 600_000), ("", 50)] {
        let (rig, node) = rig(|settings| settings.queue.rules.timeout = Duration::from_millis(timeout)).await;
        let mut first = rig.client().await;
        first.send(get("/first")).await;
        let _call = node.request().await;
        let mut client = rig.client().await;
        let refused = client.ask(format!("GET /v1/x HTTP/1.1\r\nhost: h\r\n{own}\r\n")).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.head.get("retry-after").is_some());
        assert_eq!(refused.json()["error"]["code"], "queue_timeout");
        assert_eq!(rig.app.balancer.queued(), ([0; 3], 0));
    }
}

#[tokio::test]
async fn classes_come_from_routes_and_where_that_is_allowed_from_a_header() {
    let (rig, node) = rig(|settings| {
        let class = |prefix, priority| {
            let mut route = route(prefix, settings.timeouts.clone());
            route.priority = priority;
            route
        };
        settings.routes = vec![class("/chat", Priority::Interactive), class("/jobs", Priority::Batch)];
        settings.queue.priority_header = Some("x-priority".parse().expect("a name"));
    })
    .await;
    let mut first = rig.client().await;
    first.send(get("/first")).await;
    let (mut call, _) = node.request().await;
    let mut clients = Vec::new();
    for (nth, (path, fields)) in
        (1..).zip([("/jobs", ""), ("/other", ""), ("/urgent", "x-priority: Interactive\r\n"), ("/chat", "")])
    {
        clients.push(waits(&rig, path, fields, nth).await);
    }
    assert_eq!(rig.app.balancer.queued().0, [2, 1, 1]);
    for path in ["/urgent", "/chat", "/other", "/jobs"] {
        call.send(ok("next")).await;
        assert_eq!(call.head().await.line, format!("GET {path} HTTP/1.1"));
    }
    call.send(ok("last")).await;
}

#[tokio::test]
async fn under_tenfold_overload_the_limit_holds_and_everybody_has_an_answer() {
    // A millisecond per step, as many at once as come: only the proxy's limit keeps it from them.
    let server = ServerSpec::Batch(BatchSpec::new(0.001, 0.0, 1e9, 256));
    let node = Emulator::start(EmulatorSpec::new("a", server), 1).await.expect("a free port");
    let mut settings = settings([limited(NodeSpec::new(node.url()).named("a"), 4)]);
    settings.queue.rules.length_max = 16;
    let rig = Rig::start(settings);
    let ask = |nth: u32| {
        let address = rig.address;
        async move {
            let mut client = Wire::connect(address).await;
            let mut counts = (0, 0);
            for _ in 0..10 {
                let message = client.ask(crate::rig::chat(1 + nth % 3, false)).await;
                match message.status() {
                    200 => counts.0 += 1,
                    503 => {
                        assert!(message.head.get("retry-after").is_some());
                        counts.1 += 1;
                    }
                    other => panic!("{other}"),
                }
            }
            counts
        }
    };
    let clients: Vec<_> = (0..40).map(|nth| tokio::spawn(ask(nth))).collect();
    let most = AtomicU64::new(0);
    let done = async {
        let (mut served, mut refused) = (0, 0);
        for client in clients {
            let counts = client.await.expect("no panic");
            served += counts.0;
            refused += counts.1;
        }
        (served, refused)
    };
    let watch = node.wait_until(|counters| {
        most.fetch_max(counters.live, Ordering::Relaxed);
        false
    });
    let (served, refused) = tokio::select! {
        counts = done => counts,
        _ = watch => unreachable!("it watches for ever"),
    };
    assert_eq!(served + refused, 400);
    assert_eq!(node.counters().started, served);
    // Nobody is refused while there is room to wait: 4 run and 16 wait of 40.
    assert!(served >= 20, "{served}");
    assert!((1..=4).contains(&most.load(Ordering::Relaxed)), "{most:?}");
    assert_eq!((rig.in_flight("a"), rig.app.balancer.queued().0), (0, [0; 3]));
}

#[tokio::test]
async fn a_node_that_says_full_gets_a_smaller_limit_of_its_own() {
    let node = crate::rig::emulator("a").await;
    let full = bellwether::emulator::Fault::Status { status: 429, retry_after_s: Some(0) };
    node.set_fault(full).await.expect("listening");
    let rig = Rig::of([NodeSpec { auto_limit: true, ..crate::rig::spec_of(&node) }]);
    let before = rig.node("a").limit();
    let mut client = rig.client().await;
    for _ in 0..3 {
        assert_eq!(client.ask(crate::rig::chat(1, false)).await.status(), 429);
    }
    let after = rig.node("a").limit();
    assert!(after < before, "{after} of {before}");
    assert_eq!(rig.metric("bellwether_node_limit{node=\"a\"}"), f64::from(after));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_frees_its_place_too() {
    let (rig, node) = rig(|settings| settings.timeouts.header_read = Duration::from_millis(20)).await;
    let mut first = rig.client().await;
    first.send(get("/first")).await;
    let _call = node.request().await;
    let mut leaves = rig.client().await;
    let head = "POST /leaves HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length: 1000000";
    leaves.send(format!("{head}\r\n\r\n{}", "x".repeat(50_000))).await;
    queued(&rig, 1).await;
    drop(leaves);
    queued(&rig, 0).await;
}

#[tokio::test]
async fn a_client_whose_patience_is_shorter_than_the_work_of_the_others_may_still_wait() {
    let (rig, node) = rig(|settings| settings.queue.rules.timeout = Duration::from_millis(50)).await;
    let mut first = rig.client().await;
    first.send(get("/first")).await;
    let (mut call, _) = node.request().await;
    for _ in 0..4 {
        let refused = rig.client().await.ask(get("/v1/x")).await;
        assert_eq!(refused.json()["error"]["code"], "queue_timeout");
    }
    call.send(ok("first")).await;
    assert_eq!(first.message().await.text(), "first");
}

#[tokio::test]
async fn a_client_that_is_refused_while_it_uploads_gets_to_read_why() {
    let (rig, node) = rig(|settings| settings.queue.rules.length_max = 0).await;
    let mut first = rig.client().await;
    first.send(get("/first")).await;
    let _call = node.request().await;
    let mut client = rig.client().await;
    let body = "x".repeat(8 * 1024 * 1024);
    let head = "POST /v1/files HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length";
    // Like most clients it writes everything before it reads anything.
    client.send(format!("{head}: {}\r\n\r\n{body}", body.len())).await;
    let refused = client.message().await;
    assert_eq!((refused.status(), refused.clean), (503, true));
    assert_eq!(client.until_closed().await, b"");
}
