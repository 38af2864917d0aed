//! A connection against a scripted node, polled by hand: no sockets, no time.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::Body as AnyBody;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Wire, WireError};
use crate::proxy::outgoing::Outgoing;
use crate::proxy::upload::{RequestBody, Streaming, UploadState};

/// What the node does when it is read from. After the last step there is silence.
#[derive(Clone, Debug)]
enum Step {
    Says(Bytes),
    Waits,
    Closes,
    Breaks,
}

/// A node that follows a script.
#[derive(Debug)]
struct Script {
    steps: VecDeque<Step>,
    heard: Vec<u8>,
    /// How much each write takes.
    gulp: usize,
    /// After how many bytes it takes no more, and whether writing then fails or blocks.
    takes: usize,
    then_fails: bool,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Script {
        let steps = steps.into_iter().collect();
        Script { steps, heard: Vec::new(), gulp: usize::MAX, takes: usize::MAX, then_fails: false }
    }

    fn saying(bytes: &[u8]) -> Script {
        Script::new([Step::Says(Bytes::copy_from_slice(bytes))])
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.steps.pop_front() {
            None => return Poll::Pending,
            Some(Step::Waits) => return Poll::Pending,
            Some(Step::Breaks) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Step::Closes) => self.steps.push_front(Step::Closes),
            Some(Step::Says(mut bytes)) => {
                let now = bytes.split_to(bytes.len().min(buf.remaining()));
                buf.put_slice(&now);
                if !bytes.is_empty() {
                    self.steps.push_front(Step::Says(bytes));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.takes - self.heard.len().min(self.takes);
        let taken = buf.len().min(self.gulp).min(left);
        match (taken, self.then_fails) {
            (0, true) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            (0, false) => return Poll::Pending,
            _ => self.heard.extend_from_slice(&buf[..taken]),
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().flat_map(|slice| slice.iter().copied());
        let some: Vec<u8> = all.take(self.gulp).collect();
        self.poll_write(cx, &some)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client's body: pieces, pauses, trailers.
struct Pieces {
    frames: VecDeque<Option<Frame<Bytes>>>,
    length: Option<u64>,
    /// Bytes that were asked for.
    given: Arc<AtomicUsize>,
    endless: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = match self.frames.pop_front() {
            Some(Some(frame)) => frame,
            Some(None) => return Poll::Pending,
            None if self.endless => Frame::data(Bytes::from_static(&[b'x'; 1000])),
            None => return Poll::Ready(None),
        };
        self.given.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::Relaxed);
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn streaming(begun: &'static [u8], rest: Pieces) -> RequestBody {
    RequestBody::Streaming(Box::new(Streaming {
        begun: Bytes::from_static(begun),
        rest: AnyBody::new(rest),
        state: Arc::new(UploadState::default()),
        allowance: u64::MAX,
        patience: Duration::from_secs(3600),
        timer: None,
    }))
}

fn pieces(frames: &[Option<&'static [u8]>], length: Option<u64>) -> Pieces {
    let frames = frames.iter().map(|piece| piece.map(|bytes| Frame::data(Bytes::from_static(bytes)))).collect();
    Pieces { frames, length, given: Arc::default(), endless: false }
}

fn request(method: &str, fields: &[(&'static str, &'static str)], body: RequestBody) -> Box<Outgoing> {
    let mut request = Request::builder().method(method).uri("/v1/x?y=1");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    Box::new(Outgoing::from(request.body(body).expect("a valid request")))
}

fn get() -> Box<Outgoing> {
    request("GET", &[("host", "node")], RequestBody::Empty)
}

/// A response as its user sees it.
#[derive(Debug)]
struct Seen {
    head: Parts,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Whether another request may follow.
    reusable: bool,
}

/// More polls than any script here has pauses.
const POLLS_MAX: usize = 5_000;

fn drive<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let cx = &mut Context::from_waker(Waker::noop());
    (0..POLLS_MAX).find_map(|_| match poll(cx) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    })
}

/// Sends a request and reads the whole response; `None` if it does not end.
fn exchange(wire: &mut Wire<Script>, request: Box<Outgoing>) -> Option<Result<Seen, WireError>> {
    wire.begin(&request);
    let mut unsent = Some(request);
    let mut body = Vec::new();
    let mut trailers = None;
    let head = match drive(|cx| wire.poll_head(cx, &mut unsent))? {
        Ok(head) => head,
        Err(error) => return Some(Err(error)),
    };
    let ended = drive(|cx| {
        while let Some(frame) = ready!(wire.poll_frame(cx)) {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    })?;
    Some(ended.map(|()| Seen { head, body, trailers, reusable: wire.settle() }))
}

fn asks(script: Script, request: Box<Outgoing>) -> Result<Seen, WireError> {
    exchange(&mut Wire::new(script), request).expect("the response ends")
}

/// A response that ends with the connection, if nothing else ends it.
fn closing(response: &[u8]) -> Script {
    let mut script = Script::saying(response);
    script.steps.push_back(Step::Closes);
    script
}

fn is_fault(answer: &Result<Seen, WireError>) -> bool {
    answer.as_ref().is_err_and(WireError::is_parse)
}

#[test]
fn every_framing_ends_the_body_where_it_should() {
    let cases: [(&str, &[u8], &[u8], bool); 15] = [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", true),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", true),
        ("GET", b"HTTP/1.1 200\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", b"ok", true),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", b"ok", true),
        ("GET", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"ok", true),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end", false),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
            b"abc",
            true,
        ),
        ("GET", b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", b"ok", false),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", false),
        ("GET", b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", b"ok", true),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"", true),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"", true),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", true),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", true),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nA: b\r\n\r\nHTTP/1.1 204 No\r\n\r\n", b"", true),
    ];
    for (method, response, body, reusable) in cases {
        let text = String::from_utf8_lossy(response);
        let seen = asks(closing(response), request(method, &[], RequestBody::Empty)).expect(&text);
        assert_eq!((seen.body.as_slice(), seen.reusable), (body, reusable), "{text}");
        assert!(seen.head.headers.get_all("content-length").iter().count() <= 1, "{text}");
        assert!(!seen.head.headers.values().any(|value| value == "2, 2"), "{text}");
    }
}

#[test]
fn what_concerns_only_this_connection_ends_here() {
    let response = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: x-a, Keep-Alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let seen = asks(Script::saying(response), get()).expect("a valid response");
    let fields: Vec<_> = seen.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(fields, [("connection", b"x-a, Keep-Alive".as_slice())], "what it names must still be removed");
    let both = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    let seen = asks(Script::saying(both), request("HEAD", &[], RequestBody::Empty)).expect("a valid response");
    assert!(seen.head.headers.is_empty());
}

#[test]
fn the_nodes_own_words_for_a_status_are_kept() {
    let reason = |line: &str| {
        let seen = asks(closing(format!("{line}\r\n\r\n").as_bytes()), get()).expect("a valid response");
        seen.head.extensions.get::<hyper::ext::ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
    };
    assert_eq!(reason("HTTP/1.1 200 OK"), None);
    assert_eq!(reason("HTTP/1.1 200"), None);
    assert_eq!(reason("HTTP/1.1 200 "), None);
    assert_eq!(reason("HTTP/1.1 299 So be it"), Some(b"So be it".to_vec()));
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let heads: [&str; 27] = [
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        "SSH-2.0-x\r\n",
    ];
    for head in heads {
        let answer = asks(closing(head.as_bytes()), get());
        assert!(is_fault(&answer), "{head:?}: {answer:?}");
    }
}

#[test]
fn a_chunk_is_as_long_as_it_says_or_the_response_is_broken() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bad = [
        "x\r\n",
        "\r\n",
        "-1\r\n",
        "0x2\r\nab\r\n",
        "2 2\r\nab\r\n",
        "11111111111111111\r\n",
        "2\nab\r\n",
        "2\r\nabc\r\n",
        "2\r\nab\n0\r\n\r\n",
        "2;a\rb\r\nab\r\n",
        "0\r\nA b: c\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\r\n\n",
    ];
    for chunks in bad {
        let answer = asks(closing(format!("{head}{chunks}").as_bytes()), get());
        assert!(is_fault(&answer), "{chunks:?}: {answer:?}");
    }
    let long = format!("{head}2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(5000));
    assert!(is_fault(&asks(closing(long.as_bytes()), get())));
    let trailers = format!("{head}0\r\nA: {}\r\n\r\n", "x".repeat(20_000));
    assert!(is_fault(&asks(closing(trailers.as_bytes()), get())));
}

#[test]
fn heads_and_interim_responses_have_bounds() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(super::head::HEAD_BYTES_MAX));
    assert!(is_fault(&asks(closing(long.as_bytes()), get())));
    let many = |count| format!("HTTP/1.1 204 No\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(asks(closing(many(super::head::FIELDS_MAX).as_bytes()), get()).is_ok());
    assert!(is_fault(&asks(closing(many(super::head::FIELDS_MAX + 1).as_bytes()), get())));
    let interim = |count| format!("{}HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 102 P\r\n\r\n".repeat(count));
    assert!(asks(closing(interim(super::head::INTERIM_MAX as usize).as_bytes()), get()).is_ok());
    assert!(is_fault(&asks(closing(interim(super::head::INTERIM_MAX as usize + 1).as_bytes()), get())));
}

/// Responses that end by themselves, of every framing.
const WHOLE: [&[u8]; 4] = [
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 11\r\nX: 1\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=\"b\"\r\n world\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\nB\r\nhello world\r\n0\r\nX-Sum: 7\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
];

fn told(seen: &Seen) -> (u16, HeaderMap, Vec<u8>, Option<HeaderMap>, bool) {
    (seen.head.status.as_u16(), seen.head.headers.clone(), seen.body.clone(), seen.trailers.clone(), seen.reusable)
}

#[test]
fn it_does_not_matter_where_a_response_is_split() {
    for response in WHOLE {
        let whole = told(&asks(Script::saying(response), get()).expect("a valid response"));
        assert!(whole.4);
        let bytes = Bytes::from_static(response);
        for at in 1..response.len() {
            let steps = [Step::Says(bytes.slice(..at)), Step::Waits, Step::Says(bytes.slice(at..))];
            assert_eq!(told(&asks(Script::new(steps), get()).expect("a valid response")), whole, "split at {at}");
        }
        let drops = (0..response.len()).flat_map(|at| [Step::Says(bytes.slice(at..=at)), Step::Waits]);
        assert_eq!(told(&asks(Script::new(drops), get()).expect("a valid response")), whole);
    }
}

#[test]
fn a_response_that_is_cut_anywhere_is_never_taken_for_whole() {
    for response in WHOLE {
        for at in 0..response.len() {
            for end in [Step::Closes, Step::Breaks] {
                let steps = [Step::Says(Bytes::from_static(&response[..at])), Step::Waits, end];
                let answer = asks(Script::new(steps), get());
                assert!(matches!(answer, Err(WireError::Closed | WireError::Io(_))), "cut at {at}: {answer:?}");
            }
        }
    }
}

#[test]
fn trailers_are_delivered() {
    let seen = asks(Script::saying(WHOLE[2]), get()).expect("a valid response");
    assert_eq!(seen.trailers.expect("trailers")["x-sum"], "7");
}

#[test]
fn the_end_of_a_chunked_body_is_known_with_its_last_piece() {
    let mut wire = Wire::new(Script::saying(WHOLE[1]));
    let mut unsent = Some(get());
    wire.begin(&get());
    drive(|cx| wire.poll_head(cx, &mut unsent)).expect("a head").expect("a head");
    let mut ends = Vec::new();
    while let Some(frame) = drive(|cx| wire.poll_frame(cx)).expect("a frame") {
        assert!(frame.expect("a frame").is_data());
        ends.push(wire.is_end_stream());
    }
    assert_eq!(ends, [false, true]);
}

#[test]
fn bytes_that_nobody_asked_for_end_the_connection() {
    let mut response = WHOLE[0].to_vec();
    response.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
    let seen = asks(Script::saying(&response), get()).expect("a valid response");
    assert_eq!(seen.body, b"hello world");
    assert!(!seen.reusable);
    for (step, quiet) in [(Step::Waits, true), (Step::Says(Bytes::from_static(b"H")), false), (Step::Closes, false)] {
        let mut wire = Wire::new(Script::saying(WHOLE[0]));
        assert!(exchange(&mut wire, get()).expect("an end").expect("a response").reusable);
        wire.io.steps.push_back(step.clone());
        assert_eq!(wire.is_quiet(), quiet, "{step:?}");
    }
}

#[test]
fn one_connection_carries_many_requests() {
    let mut wire = Wire::new(Script::new([]));
    for round in 0..100 {
        wire.io.steps.push_back(Step::Says(Bytes::from_static(WHOLE[round % WHOLE.len()])));
        let seen = exchange(&mut wire, get()).expect("an end").expect("a response");
        assert!(seen.reusable && wire.is_quiet());
        assert_eq!(seen.head.headers.contains_key("x"), round % WHOLE.len() == 0, "no field of another response");
    }
}

#[test]
fn a_switch_of_protocols_hands_over_what_came_with_it() {
    let asking = request("GET", &[("upgrade", "websocket"), ("connection", "upgrade")], RequestBody::Empty);
    let script = Script::saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x01a");
    let mut wire = Wire::new(script);
    let seen = exchange(&mut wire, asking).expect("an end").expect("a response");
    assert_eq!((seen.head.status.as_u16(), seen.reusable), (101, false));
    let mut wire = Wire::new(Script::saying(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01a"));
    let asking = request("GET", &[("upgrade", "websocket")], RequestBody::Empty);
    wire.begin(&asking);
    let mut unsent = Some(asking);
    drive(|cx| wire.poll_head(cx, &mut unsent)).expect("a head").expect("a head");
    assert_eq!(wire.into_switched().expect("switched").1, b"\x81\x01a".as_slice());
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What the node hears of a request, which must not depend on how much it takes at a time.
fn heard(make: impl Fn() -> Box<Outgoing>) -> String {
    let mut all = Vec::new();
    for gulp in [usize::MAX, 1, 7, 5000] {
        let mut wire = Wire::new(Script { gulp, ..Script::new([]) });
        let asking = make();
        wire.begin(&asking);
        let mut unsent = Some(asking);
        assert!(drive(|cx| wire.poll_head(cx, &mut unsent)).is_none(), "the node says nothing");
        assert!(wire.sending.is_done());
        all.push(String::from_utf8(wire.io.heard).expect("text"));
    }
    assert!(all.iter().all(|text| *text == all[0]));
    all.swap_remove(0)
}

#[test]
fn a_request_without_a_body_says_nothing_about_its_length_unless_one_is_expected() {
    let line = |method: &str| format!("{method} /v1/x?y=1 HTTP/1.1\r\nhost: node\r\n");
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let text = heard(|| request(method, &[("host", "node")], RequestBody::Empty));
        assert_eq!(text, format!("{}\r\n", line(method)));
        let text = heard(|| request(method, &[("host", "node"), ("content-length", "0")], RequestBody::Empty));
        assert_eq!(text, format!("{}content-length: 0\r\n\r\n", line(method)));
    }
    let text = heard(|| request("POST", &[("host", "node")], RequestBody::Empty));
    assert_eq!(text, format!("{}content-length: 0\r\n\r\n", line("POST")));
}

#[test]
fn the_length_of_a_body_is_its_own_and_not_what_the_client_said() {
    for size in [1, 9, 10, 16 * 1024, 16 * 1024 + 1, 300_000] {
        let fields = [("content-length", "7"), ("transfer-encoding", "chunked")];
        let text = heard(|| request("POST", &fields, RequestBody::Whole(Bytes::from(vec![b'a'; size]))));
        let body = "a".repeat(size);
        assert_eq!(text, format!("POST /v1/x?y=1 HTTP/1.1\r\ncontent-length: {size}\r\n\r\n{body}"));
    }
}

#[tokio::test]
async fn a_streamed_body_of_known_length_is_not_chunked() {
    let text = heard(|| {
        let rest = pieces(&[Some(b"cd"), None, Some(b""), Some(b"ef")], Some(4));
        request("PUT", &[], streaming(b"ab", rest))
    });
    assert_eq!(text, "PUT /v1/x?y=1 HTTP/1.1\r\ncontent-length: 6\r\n\r\nabcdef");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_chunked_with_the_trailers_that_were_announced() {
    let text = heard(|| {
        let mut rest = pieces(&[Some(b"cdefghijklmnopqrst"), None, Some(b""), Some(b"u")], None);
        let large = Frame::data(Bytes::from(vec![b'v'; 20_000]));
        rest.frames.push_back(Some(large));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        trailers.insert("x-other", HeaderValue::from_static("8"));
        trailers.insert("host", HeaderValue::from_static("evil"));
        rest.frames.push_back(Some(Frame::trailers(trailers)));
        request("POST", &[("trailer", "X-Sum, Host")], streaming(b"ab", rest))
    });
    let large = "v".repeat(20_000);
    let head = "POST /v1/x?y=1 HTTP/1.1\r\ntrailer: X-Sum, Host\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = format!("2\r\nab\r\n12\r\ncdefghijklmnopqrst\r\n1\r\nu\r\n4e20\r\n{large}\r\n0\r\nx-sum: 7\r\n\r\n");
    assert_eq!(text, format!("{head}{body}"));
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_never_passed_off_as_whole() {
    for frames in [&[Some(b"a".as_slice())][..], &[Some(b"abc".as_slice())][..]] {
        let body = streaming(b"", pieces(frames, Some(2)));
        let answer = asks(Script::new([]), request("POST", &[], body));
        assert!(matches!(&answer, Err(error) if error.is_upload()), "{answer:?}");
    }
}

fn endless(given: &Arc<AtomicUsize>) -> RequestBody {
    streaming(b"", Pieces { frames: VecDeque::new(), length: None, given: Arc::clone(given), endless: true })
}

#[tokio::test]
async fn a_node_that_takes_nothing_stops_the_client() {
    let given = Arc::new(AtomicUsize::new(0));
    let mut wire = Wire::new(Script { takes: 100_000, ..Script::new([]) });
    assert!(exchange(&mut wire, request("POST", &[], endless(&given))).is_none());
    let waiting = given.load(Ordering::Relaxed) - wire.io.heard.len().min(given.load(Ordering::Relaxed));
    assert!(waiting <= 64 * 1024, "{waiting} bytes wait");
}

#[tokio::test]
async fn an_early_response_counts_and_the_rest_of_the_upload_does_not() {
    let given = Arc::new(AtomicUsize::new(0));
    for then_fails in [false, true] {
        let script = Script { takes: 100_000, then_fails, ..Script::saying(OK) };
        let seen = asks(script, request("POST", &[], endless(&given))).expect("the early response");
        assert_eq!((seen.body.as_slice(), seen.reusable), (b"ok".as_slice(), false));
    }
}

#[tokio::test]
async fn an_upload_goes_on_while_the_response_comes() {
    let says = |text: &'static str| Step::Says(Bytes::from_static(text.as_bytes()));
    let steps = [
        says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"),
        Step::Waits,
        Step::Waits,
        says("1\r\nb\r\n0\r\n\r\n"),
    ];
    let body = streaming(b"", pieces(&[Some(b"a"), None, None, Some(b"b")], None));
    let mut wire = Wire::new(Script::new(steps));
    let seen = exchange(&mut wire, request("POST", &[], body)).expect("an end").expect("a response");
    assert_eq!((seen.body.as_slice(), seen.reusable), (b"ab".as_slice(), true));
    assert!(wire.io.heard.ends_with(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"));
}

#[test]
fn only_a_request_of_which_nothing_was_written_comes_back() {
    for takes in [0, 1] {
        let mut wire = Wire::new(Script { takes, then_fails: true, ..Script::new([Step::Closes]) });
        let asking = request("POST", &[], RequestBody::Whole(Bytes::from_static(b"abc")));
        wire.begin(&asking);
        let mut unsent = Some(asking);
        let answer = drive(|cx| wire.poll_head(cx, &mut unsent)).expect("an end");
        assert!(matches!(answer, Err(WireError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe));
        let body = unsent.map(|request| request.body);
        assert_eq!(matches!(body, Some(RequestBody::Whole(bytes)) if bytes == b"abc".as_slice()), takes == 0);
        assert!(!wire.settle());
    }
}

#[test]
fn an_idle_connection_gives_back_large_buffers() {
    let length = 1_000_000;
    let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    response.resize(response.len() + length, b'x');
    let mut wire = Wire::new(Script::saying(&response));
    let asking = request("POST", &[], RequestBody::Whole(Bytes::from(vec![b'y'; 12_000])));
    let seen = exchange(&mut wire, asking).expect("an end").expect("a response");
    assert!(seen.reusable && seen.body.len() == length);
    assert!(wire.read.capacity() <= super::READ_MIN && wire.room == super::READ_MIN);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(
        start in prop::sample::select(vec![
            "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "HTTP/1.1 200 OK\r\nContent-Length: ",
        ]),
        noise in prop::collection::vec(prop_oneof![
            any::<u8>(),
            prop::sample::select(b"\r\n:;, 0159aAfF".to_vec()),
        ], 0..200),
    ) {
        let bytes = [start.as_bytes(), &noise].concat();
        // An error or a response, but an end: the node has closed the connection.
        let _ = asks(closing(&bytes), get());
    }

    #[test]
    fn results_do_not_depend_on_the_pieces(
        response in prop::sample::select(WHOLE.to_vec()),
        damage in prop::option::of((any::<prop::sample::Index>(), prop::sample::select(b"\r\n:;, 0159aAfF\0\xff".to_vec()))),
        sizes in prop::collection::vec(1usize..40, 1..20),
    ) {
        let mut bytes = response.to_vec();
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = asks(closing(&bytes), get());
        let mut rest = Bytes::from(bytes);
        let mut steps = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            steps.push(Step::Says(rest.split_to(rest.len().min(*size))));
            steps.push(Step::Waits);
        }
        steps.push(Step::Closes);
        let pieces = asks(Script::new(steps), get());
        match (&whole, &pieces) {
            // Bytes beyond the end may be in the same read, which then ends the connection, or in a later one.
            (Ok(whole), Ok(pieces)) => {
                let (whole, mut pieces) = (told(whole), told(pieces));
                prop_assert!(pieces.4 || !whole.4);
                pieces.4 = whole.4;
                prop_assert_eq!(whole, pieces);
            }
            _ => prop_assert_eq!(whole.is_err(), pieces.is_err(), "{:?} {:?}", whole, pieces),
        }
    }
}
