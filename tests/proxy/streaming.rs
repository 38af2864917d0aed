//! Bodies pass as they come, in both directions, with their trailers, and no faster than the other side reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::rig::{Rig, Stage, chat, emulator, pauses, spec_of};
use crate::wire::{Piece, Wire, get};

const MB: usize = 1024 * 1024;
/// What is sent to somebody who does not read; far more than all buffers of the kernel between the two ends.
const LARGE: usize = 96 * MB;
/// The most that may be on its way: the kernel's buffers of two connections (4 MB to send and 6 MB to receive each, at
/// their default bounds) and a little.
const ON_ITS_WAY_MAX: usize = 32 * MB;

#[tokio::test]
async fn an_event_is_at_the_client_before_the_next_one_exists() {
    let node = emulator("a").await;
    let rig = Rig::of([spec_of(&node)]);
    let mut client = rig.client().await;
    client.send(chat(5, true)).await;
    node.wait_until(|counters| counters.live == 1).await;
    let head = client.head().await;
    assert_eq!(head.get("content-type"), Some("text/event-stream; charset=utf-8"));
    let mut framing = head.framing();
    for event in 0..5 {
        assert_eq!(node.step(1), 1);
        let Piece::Data(data) = client.piece(&mut framing).await else { panic!("event {event} is missing") };
        let text = String::from_utf8(data).expect("UTF-8");
        // The last one comes with the closing `[DONE]`.
        assert_eq!(text.matches("data: ").count(), if event == 4 { 2 } else { 1 }, "{text}");
        assert_eq!(node.counters().tokens, event + 1);
    }
    assert_eq!(client.piece(&mut framing).await, Piece::End(Vec::new()));
    rig.one_attempt("a", "completed").await;
}

#[tokio::test]
async fn trailers_of_a_request_reach_the_node() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    // One body that is looked at and kept, one that streams.
    for kind in ["application/json", "application/octet-stream"] {
        let mut client = rig.client().await;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n";
        client.send(format!("{head}content-type: {kind}\r\n\r\n2\r\n{{}}\r\n0\r\nx-sum: 42\r\n\r\n")).await;
        let (mut call, head) = node.request().await;
        let request = call.rest_of(head).await;
        assert_eq!(request.body, b"{}");
        assert_eq!(request.trailers, [("x-sum".to_owned(), "42".to_owned())], "{kind}: {:?}", request.head);
        call.send("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        assert_eq!(client.message().await.status(), 204);
    }
}

#[tokio::test]
async fn trailers_of_a_response_reach_a_client_that_wants_them() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    for (wish, trailers) in [("te: trailers\r\n", vec![("x-sum".to_owned(), "42".to_owned())]), ("", vec![])] {
        let mut client = rig.client().await;
        client.send(format!("GET / HTTP/1.1\r\nhost: h\r\nconnection: te\r\n{wish}\r\n")).await;
        let (mut call, head) = node.request().await;
        assert_eq!(head.get("te").is_some(), !trailers.is_empty());
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nconnection: close\r\n\r\n";
        call.send(format!("{answer}2\r\nhi\r\n0\r\nx-sum: 42\r\n\r\n")).await;
        let message = client.message().await;
        assert_eq!((message.text(), message.clean), ("hi", true));
        assert_eq!(message.trailers, trailers);
    }
}

/// Writes `LARGE` bytes to somebody who does not read. Comes back with the connection, when asked to, and meanwhile
/// tells how many bytes were taken.
fn pour(mut wire: Wire) -> (Arc<AtomicUsize>, tokio::task::JoinHandle<Wire>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&taken);
    let task = tokio::spawn(async move {
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..LARGE / piece.len() {
            wire.send(&piece).await;
            told.fetch_add(piece.len(), Ordering::Relaxed);
        }
        wire
    });
    (taken, task)
}

/// Returns how much was taken once no more is. A slow machine can only make it return early, with a smaller number.
async fn stalled(taken: &AtomicUsize) -> usize {
    let (mut before, mut quiet) = (0, 0);
    let mut tick = pauses(Duration::from_millis(5));
    while quiet < 50 {
        tick.tick().await;
        let now = taken.load(Ordering::Relaxed);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
    before
}

#[tokio::test]
async fn a_large_upload_waits_for_the_node_instead_of_piling_up() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(format!("POST /upload HTTP/1.1\r\nhost: h\r\ncontent-length: {LARGE}\r\n\r\n")).await;
    let (mut call, head) = node.request().await;
    assert_eq!(head.get("content-length"), Some(LARGE.to_string().as_str()));
    let (taken, pouring) = pour(client);
    let taken = stalled(&taken).await;
    assert!(taken < ON_ITS_WAY_MAX, "{taken} bytes were taken that nobody reads");
    let request = call.rest_of(head).await;
    assert_eq!((request.body.len(), request.clean), (LARGE, true));
    let mut client = pouring.await.expect("no panic");
    call.send(crate::wire::ok("got it")).await;
    assert_eq!(client.message().await.text(), "got it");
    rig.one_attempt("a", "completed").await;
}

#[tokio::test]
async fn a_large_response_waits_for_the_client_instead_of_piling_up() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send(get("/download")).await;
    let (mut call, _) = node.request().await;
    call.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
    let head = client.head().await;
    let (taken, pouring) = pour(call);
    let taken = stalled(&taken).await;
    assert!(taken < ON_ITS_WAY_MAX, "{taken} bytes were taken that nobody reads");
    let message = client.rest_of(head).await;
    assert_eq!((message.body.len(), message.clean), (LARGE, true));
    pouring.await.expect("no panic");
    rig.one_attempt("a", "completed").await;
}

#[tokio::test]
async fn an_upload_and_its_response_may_be_under_way_at_the_same_time() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send("POST /echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let (mut call, head) = node.request().await;
    call.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let (mut up, mut down) = (head.framing(), client.head().await.framing());
    for word in ["one", "two"] {
        client.send(format!("3\r\n{word}\r\n")).await;
        assert_eq!(call.piece(&mut up).await, Piece::Data(word.into()));
        call.send(format!("3\r\n{word}\r\n")).await;
        assert_eq!(client.piece(&mut down).await, Piece::Data(word.into()));
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(call.piece(&mut up).await, Piece::End(Vec::new()));
    call.send("0\r\n\r\n").await;
    assert_eq!(client.piece(&mut down).await, Piece::End(Vec::new()));
    rig.one_attempt("a", "completed").await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_an_answer() {
    let node = Stage::open("a").await;
    let rig = Rig::of([node.spec()]);
    let mut client = rig.client().await;
    client.send("POST /upload HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\nonly a little").await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\n\r\ntoo much").await;
    let message = client.message().await;
    assert_eq!((message.status(), message.text()), (413, "too much"));
    // Half an upload stands on both connections, which makes them useless for anything else.
    assert_eq!(call.until_closed().await, b"only a little");
    assert_eq!(client.until_closed().await, b"");
    rig.one_attempt("a", "completed").await;
    let mut client = rig.client().await;
    client.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(crate::wire::ok("next")).await;
    assert_eq!(client.message().await.text(), "next");
}
