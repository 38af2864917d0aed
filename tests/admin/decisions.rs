//! The stream of decisions, from outside.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bellwether::admin;
use bellwether::balancer::{Scratch, Ticket, Verdict};
use bellwether::clock::Time;
use bellwether::outcome::{Failure, Outcome};
use bellwether::request::RequestShape;
use http_body_util::BodyExt;
use serde_json::Value;
use tower_service::Service;

use crate::{App, app_with, get, soon};

const DONE: Outcome = Outcome::Completed { status: 200 };

/// Makes decisions so far apart that each is remembered.
struct Decider {
    app: Arc<App>,
    scratch: Scratch,
    now_s: f64,
}

impl Decider {
    fn new(app: &Arc<App>) -> Decider {
        Decider { app: Arc::clone(app), scratch: Scratch::with_seed(1), now_s: 1_000.0 }
    }

    fn decide(&mut self, model: &str) -> Ticket {
        self.now_s += 0.02;
        let kind = self.app.kinds.of("chat", Some(model));
        let shape = RequestShape { kind, model: Some(model.into()), ..RequestShape::default() };
        match self.app.balancer.decide(Time::from_secs_f64(self.now_s), &shape, &[], &mut self.scratch) {
            Verdict::Go(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn finish(ticket: Ticket, after_s: u64, outcome: Outcome) -> String {
        let (node, ended) = (ticket.node().spec.name.clone(), ticket.started().after(Duration::from_secs(after_s)));
        ticket.finish(ended, outcome);
        node
    }
}

/// A stream that is open.
struct Stream {
    body: Body,
    unread: String,
}

impl Stream {
    /// Opens it and reads the first tally, after which it misses nothing.
    async fn open(router: &Router, query: &str) -> Stream {
        let uri = format!("/api/v1/decisions/stream?{query}");
        let request = Request::builder().uri(uri).header("host", "localhost").body(Body::empty());
        let response = router.clone().call(request.expect("a request")).await.expect("infallible");
        assert_eq!(response.status(), StatusCode::OK);
        let mut stream = Stream { body: response.into_body(), unread: String::new() };
        let (name, tally) = stream.next().await.expect("not its end");
        assert_eq!((name.as_str(), &tally["remembered"]), ("tally", &Value::from(0)));
        stream
    }

    async fn next(&mut self) -> Option<(String, Value)> {
        while !self.unread.contains("\n\n") {
            let frame = soon("an event", self.body.frame()).await?.expect("no error");
            self.unread.push_str(std::str::from_utf8(&frame.into_data().expect("data")).expect("UTF-8"));
        }
        let (block, rest) = self.unread.split_once("\n\n").expect("just seen");
        let (name, data) =
            block.strip_prefix("event: ").and_then(|block| block.split_once("\ndata: ")).expect("an event");
        let event = (name.to_owned(), serde_json::from_str(data).expect("JSON"));
        self.unread = rest.to_owned();
        Some(event)
    }

    /// The decisions up to the end of the stream.
    async fn decisions(mut self) -> Vec<Value> {
        let mut seen = Vec::new();
        while let Some((name, event)) = self.next().await {
            seen.extend((name == "decision").then_some(event));
        }
        seen
    }
}

#[tokio::test]
async fn a_stream_tells_the_decisions_that_match_when_they_have_ended() {
    let app = app_with(&["a", "b"]);
    let router = admin::router(Arc::clone(&app));
    let mut decider = Decider::new(&app);
    let before = decider.decide("llama");
    Decider::finish(before, 1, DONE);
    let all = Stream::open(&router, "events=5").await;
    let slow = Stream::open(&router, "events=1&slow_s=30").await;
    let bad = Stream::open(&router, "events=2&status=5xx").await;
    let model = Stream::open(&router, "events=1&model=qwen").await;
    let fallback = Stream::open(&router, "events=5&fallback=true&explored=false").await;
    let running = decider.decide("llama");
    let mut went = Vec::new();
    for (model, after_s, outcome) in [
        ("llama", 2, DONE),
        ("llama", 3, Outcome::Failed(Failure::Status(500))),
        ("qwen", 40, DONE),
        ("llama", 4, Outcome::Full { status: 503, retry_after: None }),
    ] {
        let ticket = decider.decide(model);
        went.push(Decider::finish(ticket, after_s, outcome));
    }
    let of = |event: &Value| (event["node"].clone(), event["end"]["total_s"].clone());
    let bad: Vec<(Value, Value)> = bad.decisions().await.iter().map(of).collect();
    assert_eq!(bad, [(went[1].clone().into(), 3.0.into()), (went[3].clone().into(), 4.0.into())]);
    let slow = slow.decisions().await;
    assert_eq!(slow.iter().map(of).collect::<Vec<_>>(), [(went[2].clone().into(), 40.0.into())]);
    assert_eq!((&model.decisions().await[0]["kind"], &slow[0]["kind"]), (&"chat qwen".into(), &"chat qwen".into()));
    // The one that ran longest is told last, and the one before the streams not at all.
    let longest = Decider::finish(running, 50, DONE);
    let all: Vec<(Value, Value)> = all.decisions().await.iter().map(of).collect();
    assert_eq!((all.len(), &all[4]), (5, &(longest.into(), 50.0.into())));
    assert_eq!(fallback.decisions().await.len(), 5, "nothing is learned yet, so the fallback decides");
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_bounded_and_says_what_it_missed() {
    let app = app_with(&["a", "b"]);
    let router = admin::router(Arc::clone(&app));
    let mut decider = Decider::new(&app);
    let mut stream = Stream::open(&router, "").await;
    for _ in 0..400 {
        let ticket = decider.decide("llama");
        Decider::finish(ticket, 1, DONE);
    }
    let (mut told, mut first) = (0, 0);
    let tally = loop {
        match stream.next().await.expect("it goes on") {
            (name, event) if name == "tally" && event["remembered"] == 400 => break event,
            (name, event) if name == "decision" => {
                first = if told == 0 { event["number"].as_u64().expect("a number") } else { first };
                told += 1;
            }
            _ => {}
        }
    };
    let number = |name: &str| tally[name].as_u64().expect("a number");
    assert_eq!((first, number("told") + number("missed"), number("decided"), number("running")), (1, 400, 400, 0));
    assert!(number("missed") > 0 && told >= 1, "{tally}");
}

#[tokio::test]
async fn nonsense_is_refused_and_streams_share_their_bound_with_dashboards() {
    let router = admin::router(app_with(&["a"]));
    for query in ["status=6xx", "slow_s=-1", "slow_s=NaN", "explored=perhaps", "nod=a", "events=-1"] {
        let refused = get(&router, &format!("/api/v1/decisions/stream?{query}")).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {}", refused.text);
    }
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(Stream::open(&router, "").await);
    }
    get(&router, "/api/v1/live").await.problem(503);
    let refused = get(&router, "/api/v1/decisions/stream").await.problem(503);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("16 streams")), "{refused}");
}
