//! A second attempt beside a late one: who gets it, who wins, and that the loser ends at once and teaches nothing.

use std::sync::Arc;
use std::time::Duration;

use bellwether::balancer::{Scratch, Ticket, Verdict};
use bellwether::clock::Time;
use bellwether::config::Settings;
use bellwether::learn::Learner;
use bellwether::node::NodeSpec;
use bellwether::outcome::Outcome;
use bellwether::request::RequestShape;

use crate::rig::{Rig, Stage, policy, route, settings, until};
use crate::wire::{Piece, get, ok, post};

/// Two nodes of which every request goes to "a" first, a route beneath "/hedged" that hedges, and as many hedges as requests.
pub(crate) async fn stages() -> (Stage, Stage, Settings) {
    let (a, b) = (Stage::open("a").await, Stage::open("b").await);
    // By the client's address, which is always the same; "b" is next to never its first choice.
    let specs = [NodeSpec { weight: 1_000.0, ..a.spec() }, NodeSpec { weight: 0.001, ..b.spec() }];
    let mut settings = settings(specs);
    settings.policy = policy("ip-hash");
    let mut hedged = route("/hedged", settings.timeouts.clone());
    (hedged.hedge, hedged.retry_post) = (true, true);
    let mut once = route("/once", settings.timeouts.clone());
    once.hedge = true;
    settings.routes = vec![hedged, once];
    settings.retry.hedge_budget = 1.0;
    (a, b, settings)
}

/// A proxy that has learned, from attempts that nobody made, that each node answers in 20 ms and is late after 40.
pub(crate) fn taught(settings: Settings) -> Rig {
    let rig = Rig::start(settings);
    // From here on nobody else teaches.
    rig.app.trainer.stop();
    let balancer = &rig.app.balancer;
    let mut learner = Learner::new(Arc::clone(balancer.learned()));
    let kinds = ["/hedged", "/once", "/v1/chat/completions"].map(|name| rig.app.kinds.of(name, None));
    let attempt = |now: Time, node: &str, kind, took: Duration, teach: &mut dyn FnMut(&mut Ticket)| {
        let shape = RequestShape { kind, ..RequestShape::default() };
        let fleet = balancer.fleet();
        let others: Vec<_> = fleet.nodes().iter().filter(|n| n.spec.name != node).map(|n| n.id).collect();
        let verdict = balancer.decide(now, &shape, &others, &mut Scratch::with_seed(1));
        let Verdict::Go(mut ticket) = verdict else { panic!("{verdict:?}") };
        teach(&mut ticket);
        ticket.first_byte(now.after(took));
        ticket.finish(now.after(took), Outcome::Completed { status: 200 })
    };
    for tick in 0..80u32 {
        let now = Time::from_secs_f64(60.0 + 0.5 * f64::from(tick));
        for (node, kind) in ["a", "b"].into_iter().flat_map(|node| kinds.map(|kind| (node, kind))) {
            let took = Duration::from_micros(20_000 + u64::from(tick % 5) * 100);
            let sample = attempt(now, node, kind, took, &mut |_| {});
            learner.observe(now, &sample).expect("a label");
        }
        learner.refit(now);
    }
    assert_eq!(balancer.learned().fallback(rig.app.clock.now()), None);
    for _ in 0..40 {
        for node in ["a", "b"] {
            let shape = RequestShape { kind: kinds[0], ..RequestShape::default() };
            let mut foresee = |ticket: &mut Ticket| _ = balancer.late_after(ticket, &shape);
            attempt(Time::from_secs_f64(100.0), node, kinds[0], Duration::from_millis(40), &mut foresee);
        }
    }
    rig
}

/// Attempts of a node that ended so, besides those that taught.
fn ended(rig: &Rig, node: &str, outcome: &str) -> f64 {
    rig.attempts(node, outcome) - if outcome == "completed" { TAUGHT } else { 0.0 }
}

/// Attempts that each node was taught with.
const TAUGHT: f64 = 280.0;

fn hedges(rig: &Rig) -> [f64; 4] {
    ["won", "lost", "failed", "left"]
        .map(|result| rig.metric(&format!("bellwether_hedges_total{{result=\"{result}\"}}")))
}

fn nothing_runs(rig: &Rig) -> bool {
    rig.in_flight("a") == 0 && rig.in_flight("b") == 0
}

#[tokio::test]
async fn the_copy_of_a_late_request_wins_and_the_late_node_is_told_to_stop() {
    let (a, b, settings) = stages().await;
    let rig = taught(settings);
    for (round, request) in (1..).zip([get("/hedged"), post("/hedged", "{\"model\":\"m\"}")]) {
        let mut client = rig.client().await;
        client.send(&request).await;
        let (mut late, head) = a.request().await;
        late.rest_of(head).await;
        let (mut copy, head) = b.request().await;
        let body = copy.rest_of(head).await.body;
        assert!(request.as_bytes().ends_with(&body), "the copy is whole");
        assert_eq!((rig.in_flight("a"), rig.in_flight("b")), (1, 1));
        copy.send(ok("from b")).await;
        assert_eq!(client.message().await.text(), "from b");
        assert!(late.until_closed().await.is_empty(), "closed without a word");
        let round = f64::from(round);
        until("both have ended", || nothing_runs(&rig) && ended(&rig, "b", "completed") == round).await;
        assert_eq!((ended(&rig, "a", "hedged"), ended(&rig, "a", "completed")), (round, 0.0));
        assert_eq!(hedges(&rig), [round, 0.0, 0.0, 0.0]);
        assert_eq!(rig.metric("bellwether_request_seconds_count{node=\"a\"}"), TAUGHT, "no label");
        let remembered = rig.app.decisions.latest(1_000);
        assert!(remembered.iter().filter(|one| one.hedge).all(|one| one.contenders[one.chosen].node.name == "b"));
    }
}

#[tokio::test]
async fn the_late_one_may_still_be_first() {
    let (a, b, settings) = stages().await;
    let rig = taught(settings);
    let mut client = rig.client().await;
    client.send(get("/hedged")).await;
    let (mut late, _) = a.request().await;
    let (mut copy, _) = b.request().await;
    late.send(ok("from a")).await;
    assert_eq!(client.message().await.text(), "from a");
    assert!(copy.until_closed().await.is_empty());
    until("both have ended", || nothing_runs(&rig) && ended(&rig, "b", "hedged") == 1.0).await;
    assert_eq!((ended(&rig, "a", "completed"), hedges(&rig)), (1.0, [0.0, 1.0, 0.0, 0.0]));
}

#[tokio::test]
async fn a_head_without_a_body_is_no_answer_yet() {
    let (a, b, settings) = stages().await;
    let rig = taught(settings);
    let mut client = rig.client().await;
    client.send(get("/hedged")).await;
    let (mut late, _) = a.request().await;
    late.send("HTTP/1.1 200 OK\r\nx-from: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let (mut copy, _) = b.request().await;
    copy.send("HTTP/1.1 200 OK\r\nx-from: b\r\ncontent-length: 6\r\n\r\nfro").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.get("x-from"), head.get("content-length")), (200, Some("b"), Some("6")));
    let mut framing = head.framing();
    assert_eq!(client.piece(&mut framing).await, Piece::Data(b"fro".to_vec()), "what came first is not held back");
    copy.send("m b").await;
    assert_eq!(client.piece(&mut framing).await, Piece::Data(b"m b".to_vec()));
    assert!(late.until_closed().await.is_empty());
    until("both have ended", || nothing_runs(&rig)).await;
    assert_eq!((ended(&rig, "a", "hedged"), ended(&rig, "b", "completed")), (1.0, 1.0));
    assert_eq!(rig.metric("bellwether_requests_total{node=\"b\",code=\"200\"}"), 1.0);
}

#[tokio::test]
async fn bodies_without_bytes_and_ends_without_length_pass_the_wait_for_the_first_piece() {
    let (a, _b, settings) = stages().await;
    let rig = taught(settings);
    let answers = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n", "yes"),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", "until the end"),
    ];
    for (answer, expected) in answers {
        let mut client = rig.client().await;
        client.send(get("/hedged")).await;
        let (mut call, _) = a.request().await;
        call.send(answer).await;
        drop(call);
        let message = client.message().await;
        assert!(message.clean && message.text() == expected, "{message:?}");
    }
    until("all have ended", || nothing_runs(&rig)).await;
}

#[tokio::test]
async fn an_answer_that_says_failed_does_not_win_while_the_other_runs() {
    let (a, b, settings) = stages().await;
    let rig = taught(settings);
    let mut client = rig.client().await;
    client.send(get("/hedged")).await;
    let (mut late, _) = a.request().await;
    let (mut copy, _) = b.request().await;
    copy.send("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    until("the copy has ended", || ended(&rig, "b", "failed_status") == 1.0).await;
    late.send(ok("from a")).await;
    assert_eq!(client.message().await.text(), "from a");
    until("all has ended", || nothing_runs(&rig) && ended(&rig, "a", "completed") == 1.0).await;
    assert_eq!(hedges(&rig), [0.0, 1.0, 0.0, 0.0]);
    drop(late);
    // If the other fails as well, the client hears of it, and nobody is tried again.
    client.send(get("/hedged")).await;
    let (late, _) = a.request().await;
    let (copy, _) = b.request().await;
    drop(late);
    until("the late one has ended", || ended(&rig, "a", "failed_broken") == 1.0).await;
    drop(copy);
    assert_eq!(client.message().await.status(), 502);
    until("all has ended", || nothing_runs(&rig) && ended(&rig, "b", "failed_broken") == 1.0).await;
    assert_eq!(hedges(&rig), [0.0, 1.0, 1.0, 0.0]);
}

#[tokio::test]
async fn a_client_that_leaves_ends_both() {
    let (a, b, settings) = stages().await;
    let rig = taught(settings);
    let mut client = rig.client().await;
    client.send(get("/hedged")).await;
    let (mut late, _) = a.request().await;
    let (mut copy, _) = b.request().await;
    drop(client);
    assert!(late.until_closed().await.is_empty() && copy.until_closed().await.is_empty());
    until("both have ended", || nothing_runs(&rig)).await;
    assert_eq!((ended(&rig, "a", "client_gone"), ended(&rig, "b", "client_gone")), (1.0, 1.0));
    assert_eq!(hedges(&rig), [0.0, 0.0, 0.0, 1.0]);
}

#[tokio::test]
async fn what_must_not_be_sent_twice_is_not_hedged_however_late_it_is() {
    let (a, b, settings) = stages().await;
    let rig = taught(settings);
    let upload = "POST /hedged HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let never = [post("/once", "{}"), upload.to_owned(), post("/v1/chat/completions", "{}")];
    let mut waiting = Vec::new();
    for request in &never {
        let mut client = rig.client().await;
        client.send(request).await;
        waiting.push((client, a.request().await));
    }
    // They have been late for longer than this one when its copy comes.
    let mut client = rig.client().await;
    client.send(get("/once")).await;
    let _late = a.request().await;
    let (mut copy, _) = b.request().await;
    assert_eq!((rig.in_flight("a"), rig.in_flight("b")), (4, 1));
    copy.send(ok("from b")).await;
    assert_eq!(client.message().await.text(), "from b");
    for (mut client, (mut call, head)) in waiting {
        call.rest_of(head).await;
        call.send(ok("from a")).await;
        assert_eq!(client.message().await.text(), "from a");
    }
    assert_eq!(hedges(&rig), [1.0, 0.0, 0.0, 0.0]);
}

#[tokio::test]
async fn the_budget_is_never_exceeded() {
    let (a, b, mut settings) = stages().await;
    settings.retry.hedge_budget = 0.02;
    let rig = taught(settings);
    // With the two that follow, fifty have paid for one hedge.
    (0..48).for_each(|_| rig.app.hedges.deposit());
    let mut clients = [rig.client().await, rig.client().await];
    let mut calls = Vec::new();
    for client in &mut clients {
        client.send(get("/hedged")).await;
        calls.push(a.request().await.0);
    }
    let (mut copy, _) = b.request().await;
    copy.send(ok("")).await;
    until("one has lost", || ended(&rig, "a", "hedged") == 1.0).await;
    assert!(!rig.app.hedges.try_withdraw());
    for mut call in calls {
        // To one of them nobody listens any more.
        let _ = call.try_send(ok("")).await;
    }
    for client in &mut clients {
        assert_eq!(client.message().await.status(), 200);
    }
    assert_eq!(hedges(&rig).iter().sum::<f64>(), 1.0);
}

#[tokio::test]
async fn a_copy_waits_for_room_and_never_exceeds_a_limit() {
    let (a, b, mut settings) = stages().await;
    settings.nodes[1].max_in_flight = Some(1);
    let rig = taught(settings);
    let mut clients = [rig.client().await, rig.client().await];
    let mut late = Vec::new();
    for client in &mut clients {
        client.send(get("/hedged")).await;
        late.push(a.request().await);
    }
    for _ in 0..2 {
        let (mut copy, _) = b.request().await;
        assert_eq!(rig.in_flight("b"), 1);
        // The other one has been late all the time, and its turn comes when this one has ended.
        copy.send(ok("from b")).await;
    }
    for client in &mut clients {
        assert_eq!(client.message().await.text(), "from b");
    }
    until("all has ended", || nothing_runs(&rig)).await;
    assert_eq!(hedges(&rig), [2.0, 0.0, 0.0, 0.0]);
}
