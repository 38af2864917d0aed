//! Nodes that say that they are full: their requests go to others, for as long as there are others.

use bellwether::config::Settings;
use bellwether::emulator::{Emulator, Fault};
use bellwether::node::NodeSpec;

use crate::rig::{Rig, Stage, chat, emulator, policy, settings, spec_of, until};
use crate::wire::{Head, Wire, get, ok, post};

/// Emulators under round robin, which begins with the first; each answers with its status, and `Retry-After` if it has one.
async fn fleet<const N: usize>(
    nodes: [(&str, u16, Option<u32>); N],
    change: impl FnOnce(&mut Settings),
) -> (Rig, [Emulator; N]) {
    let mut emulators = Vec::new();
    for (name, status, retry_after_s) in nodes {
        let node = emulator(name).await;
        node.set_fault(Fault::Status { status, retry_after_s }).await.expect("listening");
        emulators.push(node);
    }
    let mut settings = settings(emulators.iter().map(spec_of));
    settings.policy = policy("round-robin");
    change(&mut settings);
    (Rig::start(settings), emulators.try_into().expect("as many"))
}

/// Two nodes that the test plays, under round robin.
async fn stages(change: impl FnOnce(&mut Settings)) -> (Rig, Stage, Stage) {
    let (first, second) = (Stage::open("first").await, Stage::open("second").await);
    let mut settings = settings([first.spec(), second.spec()]);
    settings.policy = policy("round-robin");
    change(&mut settings);
    (Rig::start(settings), first, second)
}

fn retried(rig: &Rig) -> f64 {
    rig.metric("bellwether_retries_total{reason=\"full\"}")
}

type Change = fn(&mut Settings);

const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nfull";

#[tokio::test]
async fn a_post_goes_to_a_free_node_and_the_full_one_is_left_alone_for_its_time() {
    for status in [429, 503] {
        for stream in [false, true] {
            let (rig, [full, free]) = fleet([("full", status, Some(60)), ("free", 200, None)], |_| {}).await;
            let mut client = rig.client().await;
            for _ in 0..5 {
                assert_eq!(client.ask(chat(1, stream)).await.status(), 200);
            }
            assert_eq!((full.counters().started, free.counters().started), (1, 5));
            assert_eq!((rig.attempts("full", "full"), rig.attempts("free", "completed")), (1.0, 5.0));
            assert_eq!(rig.metric("bellwether_node_state{node=\"full\",state=\"full\"}"), 1.0);
            assert_eq!((retried(&rig), rig.in_flight("full")), (1.0, 0));
        }
    }
}

/// Without `Host`, which is each node's own.
fn fields(head: &Head) -> Vec<&(String, String)> {
    head.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")).collect()
}

#[tokio::test]
async fn the_request_arrives_as_it_came_whatever_the_full_node_said_before() {
    for before in ["", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"] {
        for large in [10, 100_000] {
            let (rig, first, second) = stages(|settings| settings.forward.preserve_host = false).await;
            let mut client = rig.client().await;
            client.send(post("/v1/chat/completions", &format!("{{\"prompt\": \"{}\"}}", "x".repeat(large)))).await;
            let (mut call, refused) = first.request().await;
            let refused = call.rest_of(refused).await;
            call.send(format!("{before}{FULL}")).await;
            let (mut call, head) = second.request().await;
            let message = call.rest_of(head).await;
            assert_eq!((&message.head.line, &message.body), (&refused.head.line, &refused.body));
            assert_eq!(fields(&message.head), fields(&refused.head));
            assert_eq!(message.head.get("host"), Some(second.address().to_string().as_str()));
            call.send(ok("second")).await;
            let answer = client.message().await;
            assert_eq!(
                (answer.text(), answer.head.get("link"), answer.head.get("retry-after")),
                ("second", None, None)
            );
        }
    }
}

#[tokio::test]
async fn where_all_are_full_the_last_ones_own_answer_reaches_the_client() {
    let (rig, nodes) = fleet([("a", 503, Some(50)), ("b", 429, Some(60))], |_| {}).await;
    let told = rig.client().await.ask(chat(1, false)).await;
    assert_eq!((told.status(), told.head.get("retry-after"), told.head.get("proxy-status")), (429, Some("60"), None));
    assert_eq!(told.json()["error"]["message"], "the emulated server fails");
    assert_eq!((rig.attempts("a", "full"), rig.attempts("b", "full"), retried(&rig)), (1.0, 1.0, 1.0));
    // Now it is known, and nobody is asked.
    let refused = rig.client().await.ask(chat(1, false)).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (503, &"all_full".into()));
    assert!(refused.head.get("retry-after").is_some());
    assert_eq!(nodes.map(|node| node.counters().started), [1, 1]);
}

#[tokio::test]
async fn no_more_nodes_are_asked_than_a_request_may_have_attempts_and_the_budget_allows() {
    let four = [("a", 429, Some(0)), ("b", 429, Some(0)), ("c", 429, Some(0)), ("d", 429, Some(0))];
    let by_switch: Change = |settings| settings.retry.full = false;
    let by_budget: Change = |settings| (settings.retry.budget, settings.retry.floor_per_s) = (0.0, 0.0);
    let cases: [(Change, u64); 3] = [(|_| {}, 3), (by_switch, 1), (by_budget, 1)];
    for (change, expected) in cases {
        let (rig, nodes) = fleet(four, change).await;
        let told = rig.client().await.ask(chat(1, false)).await;
        assert_eq!((told.status(), told.head.get("retry-after")), (429, Some("0")));
        let started = nodes.map(|node| node.counters().started);
        assert!(started.iter().all(|started| *started <= 1), "{started:?}");
        assert_eq!((started.iter().sum::<u64>(), retried(&rig)), (expected, expected as f64 - 1.0));
    }
}

#[tokio::test]
async fn a_body_that_streams_cannot_be_sent_twice_and_the_node_is_heard() {
    let text = "content-type: text/plain\r\ncontent-length: 4000";
    let json = "content-type: application/json\r\ncontent-length: 4000";
    for kind in [text, json] {
        let (rig, first, _second) = stages(|settings| settings.limits.inspect_bytes_max = 1_000).await;
        let mut client = rig.client().await;
        client.send(format!("POST /v1/x HTTP/1.1\r\nhost: h\r\n{kind}\r\n\r\n{}", "1".repeat(2_000))).await;
        let (mut call, head) = first.request().await;
        assert_eq!(head.get("content-length"), Some("4000"));
        call.take(2_000).await;
        call.send(FULL).await;
        let told = client.message().await;
        assert_eq!((told.status(), told.head.get("retry-after"), told.text()), (503, Some("7"), "full"));
        assert_eq!(retried(&rig), 0.0);
        assert_eq!(rig.metric("bellwether_decisions_total{node=\"second\",policy=\"round-robin\"}"), 0.0);
    }
}

/// Three clients whose requests are on the first node, the second, which can take no more, and the first again, in that
/// order; the last of them is refused. And the connections of those requests to the nodes.
async fn second_is_busy(change: impl FnOnce(&mut Settings)) -> (Rig, [Wire; 3], [Wire; 3]) {
    let (rig, first, second) = stages(|settings| {
        settings.nodes = settings.nodes.drain(..).map(limit_second).collect();
        change(settings);
    })
    .await;
    let (mut clients, mut calls) = (Vec::new(), Vec::new());
    for node in [&first, &second, &first] {
        let mut client = rig.client().await;
        client.send(get("/")).await;
        clients.push(client);
        calls.push(node.request().await.0);
    }
    calls[2].send(FULL).await;
    (rig, clients.try_into().expect("three"), calls.try_into().expect("three"))
}

fn limit_second(spec: NodeSpec) -> NodeSpec {
    NodeSpec { max_in_flight: (spec.name == "second").then_some(1), ..spec }
}

#[tokio::test]
async fn where_the_others_are_at_their_limit_it_waits_for_one() {
    let (rig, [_first, mut second, mut third], mut calls) = second_is_busy(|_| {}).await;
    until("it waits", || rig.app.balancer.queued().0.iter().sum::<usize>() == 1).await;
    // The full node is known to be full, and the attempt there is over.
    until("that attempt is over", || rig.in_flight("first") == 1).await;
    assert_eq!(rig.metric("bellwether_node_state{node=\"first\",state=\"full\"}"), 1.0);
    let busy = &mut calls[1];
    busy.send(ok("second")).await;
    assert_eq!(second.message().await.text(), "second");
    let head = busy.head().await;
    busy.rest_of(head).await;
    busy.send(ok("third")).await;
    assert_eq!(third.message().await.text(), "third");
    assert_eq!((retried(&rig), rig.attempts("first", "full")), (1.0, 1.0));
}

#[tokio::test]
async fn where_there_is_no_place_to_wait_the_full_nodes_own_answer_reaches_the_client() {
    let (rig, [_first, _second, mut third], _calls) =
        second_is_busy(|settings| settings.queue.rules.length_max = 0).await;
    let told = third.message().await;
    assert_eq!((told.status(), told.head.get("retry-after"), told.text()), (503, Some("7"), "full"));
    assert_eq!((retried(&rig), rig.attempts("first", "full")), (0.0, 1.0));
}
