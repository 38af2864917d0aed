//! The emulator over its sockets. Everything runs under [`Pace::Manual`]: no test waits for a clock.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::*;
use crate::sim::{BatchSpec, PlainSpec};

async fn start(server: ServerSpec) -> Emulator {
    Emulator::start(EmulatorSpec::new("node", server).manual(), 1).await.expect("a free port")
}

async fn batch(slots: u32) -> Emulator {
    start(ServerSpec::Batch(BatchSpec::new(0.010, 0.0, 1e6, slots))).await
}

async fn connect(emulator: &Emulator) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(emulator.addr()).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_string()));
    Request::post(path).header("host", "node").body(body).expect("a request")
}

fn chat(output: u32, stream: bool) -> Request<Full<Bytes>> {
    let text = format!("{} [output={output}]", "x".repeat(40));
    let options = json!({"include_usage": true});
    let message = json!({"role": "user", "content": text});
    post("/v1/chat/completions", &json!({"messages": [message], "stream": stream, "stream_options": options}))
}

async fn send(emulator: &Emulator, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
    connect(emulator).await.expect("a connection").send_request(request).await
}

/// Sends a request that needs the engine, and steps it until it is done.
async fn send_and_step(emulator: &Emulator, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let response = send(emulator, request);
    let stepping = async {
        emulator.wait_until(|counters| counters.live == 1).await;
        emulator.step(u32::MAX);
    };
    tokio::join!(response, stepping).0.expect("a response")
}

async fn json_of(response: Response<Incoming>) -> Value {
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    serde_json::from_slice(&body).expect("JSON")
}

/// The next piece of the body: `None` at its end, an error where it breaks.
async fn next_piece(response: &mut Response<Incoming>) -> Option<hyper::Result<String>> {
    let frame = response.frame().await?;
    Some(frame.map(|frame| String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")))
}

#[tokio::test]
async fn a_stream_delivers_each_token_before_the_next_is_computed() {
    let emulator = batch(4).await;
    let mut response = send(&emulator, chat(3, true)).await.expect("a response");
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()[NODE_HEADER], "node");
    for events in [1, 1, 3] {
        assert_eq!(emulator.step(1), 1);
        let piece = next_piece(&mut response).await.expect("a piece").expect("sound");
        assert_eq!(piece.matches("data: ").count(), events, "{piece}");
    }
    assert!(next_piece(&mut response).await.is_none());
    let counters = emulator.wait_until(|counters| counters.finished == 1).await;
    assert_eq!((counters.tokens, counters.live, counters.cancelled), (3, 0, 0));
}

#[tokio::test]
async fn a_prompt_that_goes_on_where_another_ended_is_told_as_cached() {
    let spec = EmulatorSpec::new("node", ServerSpec::Batch(BatchSpec::new(0.010, 0.0, 1e6, 4)));
    let emulator = Emulator::start(EmulatorSpec { cache_tokens: Some(10_000), ..spec.manual() }, 1).await;
    let emulator = emulator.expect("a free port");
    let ask = |messages: &[Value]| post("/v1/chat/completions", &json!({"messages": messages}));
    let question = json!({"role": "user", "content": format!("{}[output=100]", "q".repeat(1_011))});
    let answer = json!({"role": "assistant", "content": openai::TOKEN.repeat(100)});
    // 1,023 bytes of question and 400 of answer: blocks of 256 bytes, which are 64 tokens.
    let (first, again, second) = ([question.clone()], [question.clone()], [question, answer]);
    for (messages, cached) in [(&first[..], 0), (&again[..], 192), (&second[..], 320)] {
        let told = json_of(send_and_step(&emulator, ask(messages)).await).await;
        assert_eq!(told["usage"]["prompt_tokens_details"]["cached_tokens"], cached);
    }
}

#[tokio::test]
async fn a_whole_answer_has_the_length_that_the_text_asked_for() {
    let emulator = batch(4).await;
    let answer = json_of(send_and_step(&emulator, chat(37, false)).await).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 13, "completion_tokens": 37, "total_tokens": 50}));
    assert_eq!(answer["choices"][0]["message"]["content"], openai::TOKEN.repeat(37));

    let limited = json!({"prompt": "x [output=37]", "max_tokens": 5, "model": "mine"});
    let answer = json_of(send_and_step(&emulator, post("/v1/completions", &limited)).await).await;
    assert_eq!((&answer["usage"]["completion_tokens"], &answer["model"]), (&json!(5), &json!("mine")));
}

#[tokio::test]
async fn other_endpoints_answer_in_their_shapes() {
    let emulator = start(ServerSpec::Plain(PlainSpec { workers: 1, speed: 1.0 })).await;
    let plain = post("/api/classify", &json!({"text": "[work_ms=250]"}));
    let answer = json_of(send_and_step(&emulator, plain).await).await;
    assert_eq!(answer, json!({"endpoint": "/api/classify", "work_ms": 250.0}));

    let embed = post("/v1/embeddings", &json!({"input": ["12345678", "12345678"], "model": "m"}));
    let answer = json_of(send_and_step(&emulator, embed).await).await;
    assert_eq!((answer["data"].as_array().map(Vec::len), &answer["usage"]["prompt_tokens"]), (Some(2), &json!(4)));

    let get = |path: &str| Request::get(path).header("host", "node").body(Full::default()).expect("a request");
    let models = json_of(send(&emulator, get("/v1/models")).await.expect("a response")).await;
    assert_eq!(models["data"][0]["id"], MODEL);
    assert_eq!(send(&emulator, get("/health")).await.expect("a response").status(), StatusCode::OK);
    assert_eq!(send(&emulator, get("/other")).await.expect("a response").status(), StatusCode::NOT_FOUND);
    let broken = Request::post("/v1/completions").header("host", "node").body(Full::from("{")).expect("a request");
    assert_eq!(send(&emulator, broken).await.expect("a response").status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_load_is_told_as_routers_ask_for_it() {
    let emulator = batch(1).await;
    let load = async || {
        let ask = Request::get("/get_load").header("host", "node").body(Full::default()).expect("a request");
        json_of(send(&emulator, ask).await.expect("a response")).await[0].clone()
    };
    assert_eq!(load().await, json!({"dp_rank": 0, "num_reqs": 0, "num_waiting_reqs": 0, "num_tokens": 0}));
    let _running = send(&emulator, chat(9, true)).await.expect("a response");
    let _waiting = send(&emulator, chat(9, true)).await.expect("a response");
    emulator.step(2);
    // 12 tokens in each prompt and one computed by each of two steps.
    assert_eq!(load().await, json!({"dp_rank": 0, "num_reqs": 2, "num_waiting_reqs": 1, "num_tokens": 26}));
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_computation_and_frees_the_slot() {
    let emulator = batch(1).await;
    let mut leaving = send(&emulator, chat(1_000, true)).await.expect("a response");
    let mut waiting = send(&emulator, chat(2, true)).await.expect("a response");
    emulator.step(3);
    assert!(next_piece(&mut leaving).await.expect("a piece").is_ok());
    drop(leaving);
    let counters = emulator.wait_until(|counters| counters.cancelled == 1).await;
    assert_eq!((counters.live, emulator.disconnects()[0].events), (1, 3));
    // One step ends empty, two serve the request that waited.
    assert_eq!(emulator.step(u32::MAX), 3);
    assert!(next_piece(&mut waiting).await.expect("a piece").expect("sound").ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_client_that_leaves_before_a_whole_answer_is_noticed_too() {
    let emulator = batch(1).await;
    let leaving = send(&emulator, chat(1_000, false));
    tokio::select! {
        _ = leaving => panic!("nothing was computed"),
        _ = emulator.wait_until(|counters| counters.live == 1) => {}
    }
    let counters = emulator.wait_until(|counters| counters.cancelled == 1).await;
    assert_eq!((counters.started, counters.live, counters.finished), (1, 0, 0));
}

#[tokio::test]
async fn statuses_come_at_once_and_end_with_the_fault() {
    let emulator = batch(1).await;
    emulator.set_fault(Fault::Status { status: 503, retry_after_s: Some(7) }).await.expect("listening");
    let refused = send(&emulator, chat(5, true)).await.expect("a response");
    assert_eq!(
        (refused.status(), &refused.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"7".parse().expect("a value"))
    );
    emulator.set_fault(Fault::None).await.expect("listening");
    assert_eq!(send_and_step(&emulator, chat(5, false)).await.status(), StatusCode::OK);
    assert_eq!(emulator.counters().faulted, 1);
}

#[tokio::test]
async fn a_dead_server_loses_what_was_in_flight_and_comes_back_on_its_port() {
    let emulator = batch(1).await;
    let mut lost = send(&emulator, chat(5, true)).await.expect("a response");
    emulator.set_fault(Fault::Refuse).await.expect("closed");
    assert!(next_piece(&mut lost).await.expect("an end").is_err());
    assert!(connect(&emulator).await.is_err());
    assert_eq!(emulator.counters().live, 0);
    emulator.set_fault(Fault::None).await.expect("listening");
    assert_eq!(send_and_step(&emulator, chat(5, false)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_broken_stream_ends_uncleanly_after_the_events_it_was_given() {
    for fault in [Fault::Break { after_events: 2 }, Fault::Reset { after_events: 2 }] {
        let emulator = batch(1).await;
        emulator.set_fault(fault).await.expect("listening");
        let mut response = send(&emulator, chat(9, true)).await.expect("a response");
        emulator.step(u32::MAX);
        let piece = next_piece(&mut response).await.expect("a piece").expect("sound");
        assert_eq!(piece.matches("data: ").count(), 2, "{fault:?}");
        assert!(next_piece(&mut response).await.expect("an end").is_err(), "{fault:?}");
        assert_eq!(emulator.wait_until(|counters| counters.faulted == 1).await.live, 0);
    }
}

#[tokio::test]
async fn a_reset_before_the_head_is_a_request_without_a_response() {
    let emulator = batch(1).await;
    emulator.set_fault(Fault::Reset { after_events: 0 }).await.expect("listening");
    assert!(send(&emulator, chat(9, true)).await.is_err());
    emulator.set_fault(Fault::Break { after_events: 0 }).await.expect("listening");
    let whole = send_and_step(&emulator, chat(9, false)).await;
    assert!(whole.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_hanging_engine_a_dead_one_and_a_silent_server_differ_in_their_health() {
    let emulator = batch(1).await;
    let health = || Request::get("/health").header("host", "node").body(Full::default()).expect("a request");
    emulator.set_fault(Fault::Hang).await.expect("listening");
    let mut stuck = send(&emulator, chat(2, true)).await.expect("a head");
    assert_eq!(emulator.step(10), 0);
    assert_eq!(send(&emulator, health()).await.expect("a response").status(), StatusCode::OK);
    emulator.set_fault(Fault::None).await.expect("listening");
    assert_eq!(emulator.step(10), 2);
    assert!(next_piece(&mut stuck).await.expect("a piece").is_ok());

    emulator.set_fault(Fault::EngineDead).await.expect("listening");
    for (request, status) in [(chat(2, true), 500), (health(), 503)] {
        assert_eq!(send(&emulator, request).await.expect("a response").status().as_u16(), status);
    }
    assert_eq!(emulator.counters().faulted, 1);

    emulator.set_fault(Fault::NeverAnswer).await.expect("listening");
    tokio::select! {
        _ = send(&emulator, chat(2, true)) => panic!("it answered"),
        _ = emulator.wait_until(|counters| counters.started == 3) => {}
    }
    assert_eq!(emulator.wait_until(|counters| counters.cancelled == 1).await.live, 0);
}

#[test]
fn a_fleet_on_its_own_thread_serves_in_real_time_and_ends_when_dropped() {
    let fleet = crate::sim::SimFleet::named("study").expect("named").faster(1_000.0);
    let fleet = EmulatedFleet::start(&fleet, 1).expect("started");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for node in fleet.nodes() {
            let answer = json_of(send(node, chat(20, false)).await.expect("a response")).await;
            assert_eq!(answer["usage"]["completion_tokens"], 20);
        }
    });
    let addrs: Vec<_> = fleet.nodes().iter().map(Emulator::addr).collect();
    fleet.stop();
    for addr in addrs {
        assert!(std::net::TcpStream::connect(addr).is_err(), "{addr} still listens");
    }
}
