//! The guard in front of the real reader: what hyper's handler sees of hostile, odd and cut streams.

mod properties;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::verdicts::{self, LIMITS};
use super::{ConnState, GuardedIo, Refusal};

/// One call of the handler.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    method: String,
    target: String,
    body: Vec<u8>,
    trailers: usize,
    refused: Option<&'static str>,
    body_error: Option<&'static str>,
}

/// The handler's side of a connection. Requests with `Upgrade` get a 101 and an echo, if `upgrades` says so.
#[derive(Default)]
struct Handler {
    state: Arc<ConnState>,
    calls: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    upgrades: bool,
}

/// The handler's own answers; any other 4xx is hyper's, which the guard should have been first with.
const ACCEPTED: StatusCode = StatusCode::OK;
const REFUSED: StatusCode = StatusCode::IM_A_TEAPOT;

impl Handler {
    async fn call(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let index = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut seen = Seen {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            refused: self.state.refusal_of(index).map(|refusal| refusal.reason),
            ..Seen::default()
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = if seen.refused.is_some() { REFUSED } else { ACCEPTED };
        if self.upgrades && (request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT) {
            tokio::spawn(echo(hyper::upgrade::on(&mut request)));
            if request.method() != Method::CONNECT {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("echo"));
            }
        } else {
            match request.into_body().collect().await {
                Ok(body) => {
                    seen.trailers = body.trailers().map_or(0, http::HeaderMap::len);
                    seen.body = body.to_bytes().to_vec();
                }
                Err(error) => {
                    seen.body_error = Some(refusal_in(&error).map_or("hyper", |refusal| refusal.reason));
                    assert_eq!(self.state.body_refusal(), refusal_in(&error));
                    *response.status_mut() = REFUSED;
                }
            }
        }
        self.seen.lock().expect("as played here").push(seen);
        self.state.answered(index, response.status());
        response
    }
}

fn refusal_in(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    let io = std::iter::successors(Some(error), |e| e.source()).find_map(|e| e.downcast_ref::<std::io::Error>())?;
    io.get_ref()?.downcast_ref::<Refusal>().copied()
}

async fn echo(upgrade: hyper::upgrade::OnUpgrade) {
    let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.expect("as played here")));
    tokio::io::copy(&mut from, &mut to).await.expect("as played here");
    to.shutdown().await.expect("as played here");
}

/// What came of one connection.
struct Outcome {
    seen: Vec<Seen>,
    response: Vec<u8>,
    state: Arc<ConnState>,
}

impl Outcome {
    /// The status lines of all responses; bodies of the handler's are empty, so each `HTTP/1.x ` begins one.
    fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.response).into_owned();
        let rest = text.split("HTTP/1.").skip(1);
        rest.map(|line| line.split(' ').nth(1).expect("as played here").parse().expect("as played here")).collect()
    }
}

/// Sends `pieces`, each seen by the server before the next exists, then closes the client's side.
async fn converse(pieces: &[&[u8]], upgrades: bool) -> Outcome {
    let (mut client, server) = tokio::io::duplex(256 * 1024);
    let handler = Arc::new(Handler { upgrades, ..Handler::default() });
    let connection = tokio::spawn(serve(server, handler.clone()));
    let mut sent = 0;
    for piece in pieces {
        // The server may have closed already, after a refusal.
        if client.write_all(piece).await.is_err() {
            break;
        }
        sent += piece.len() as u64;
        while handler.state.bytes_read() < sent && !connection.is_finished() {
            tokio::task::yield_now().await;
            // What follows a decided refusal or stands behind an undecided tunnel need not be read any more.
            if handler.state.body_refusal().is_some() || Arc::strong_count(&handler) == 1 {
                break;
            }
        }
    }
    client.shutdown().await.expect("as played here");
    let mut response = Vec::new();
    client.read_to_end(&mut response).await.expect("as played here");
    connection.await.expect("as played here");
    let seen = handler.seen.lock().expect("as played here").clone();
    Outcome { seen, response, state: handler.state.clone() }
}

async fn serve(stream: DuplexStream, handler: Arc<Handler>) {
    let io = GuardedIo::new(stream, LIMITS, handler.state.clone());
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.call(request).await) }
    });
    // Half-closed clients are served here, so that every request of a stream that simply ends is answered.
    let connection = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(io), service);
    // A broken connection ends in an error, and that is what some of these tests cause.
    let _ = connection.with_upgrades().await;
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("as played here").block_on(future)
}

const GOOD: &str = "POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_refused_head_reaches_the_handler_as_such_and_nothing_behind_it_is_a_request() {
    for (reason, head) in verdicts::hostile_heads() {
        let stream = format!("{GOOD}{head}{SMUGGLED}");
        let (a, b) = stream.as_bytes().split_at(GOOD.len() + head.len() / 2);
        for pieces in [vec![stream.as_bytes()], vec![a, b]] {
            let outcome = run(converse(&pieces, false));
            let seen: Vec<_> = outcome.seen.iter().map(|seen| (&seen.target[..], seen.refused)).collect();
            // An incomplete head is completed, wrongly, by what follows: it is refused, but for another reason.
            if head.ends_with("\r\n\r\n") {
                assert_eq!(seen, [("/good", None), ("/", Some(reason))], "{}", head.escape_debug());
            } else {
                assert!(seen.iter().all(|(target, _)| *target != "/smuggled"), "{}", head.escape_debug());
                assert!(seen[1].1.is_some());
            }
            assert_eq!(outcome.statuses(), [200, 418]);
            assert_eq!(outcome.state.heads_complete(), 2);
            let last = String::from_utf8(outcome.response).expect("as played here");
            assert!(last.contains("connection: close"), "the connection ends after a refusal");
        }
    }
}

#[test]
fn a_refused_body_fails_with_its_reason_and_nothing_behind_it_is_a_request() {
    for (reason, good, bad) in verdicts::hostile_bodies() {
        let head = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let stream = format!("{head}{good}{bad}{SMUGGLED}");
        let (a, b) = stream.as_bytes().split_at(head.len() + good.len() / 2);
        for pieces in [vec![stream.as_bytes()], vec![a, b]] {
            let outcome = run(converse(&pieces, false));
            assert_eq!(outcome.seen.len(), 1, "{}", stream.escape_debug());
            assert_eq!((&outcome.seen[0].target[..], outcome.seen[0].body_error), ("/body", Some(reason)));
            assert_eq!(outcome.statuses(), [418], "no response had begun, so the handler's is sent");
        }
    }
}

#[test]
fn hyper_accepts_whatever_legitimate_request_the_guard_accepts() {
    for (heads, stream) in verdicts::legitimate() {
        let whole = run(converse(&[&stream], false));
        let bytes = run(converse(&stream.chunks(1).collect::<Vec<_>>(), false));
        assert_eq!(whole.seen, bytes.seen, "{}", stream.escape_ascii());
        assert_eq!(whole.seen.len() as u64, heads, "{}", stream.escape_ascii());
        // One of them is longer than what is sent of it; a body that merely ends is hyper's to report.
        let cut_off = stream.windows(4).any(|w| w == b"9223");
        let expected = if cut_off { REFUSED } else { ACCEPTED };
        assert!(whole.statuses().iter().all(|s| [expected.as_u16(), 100].contains(s)), "{}", stream.escape_ascii());
        assert_eq!(whole.state.body_refusal(), None);
    }
}

#[test]
fn bodies_and_trailers_arrive_as_they_were_sent() {
    let stream = format!(
        "{GOOD}POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         3;x=y\r\n\0\r\n\r\n6\r\nGET / \r\n0\r\nA: b\r\nC: d\r\n\r\n\r\nPOST /last HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\r\n\r"
    );
    for size in [1, 2, 3, 7, 50, stream.len()] {
        let outcome = run(converse(&stream.as_bytes().chunks(size).collect::<Vec<_>>(), false));
        let bodies: Vec<_> = outcome.seen.iter().map(|seen| (&seen.body[..], seen.trailers)).collect();
        assert_eq!(bodies, [(&b"ok"[..], 0), (b"\0\r\nGET / ", 2), (b"\r\n\r", 0)], "in pieces of {size}");
    }
}

#[test]
fn a_tunnel_carries_every_byte_from_its_first_even_if_the_client_did_not_wait() {
    let raw = b"\0\r\n\nGET / HTTP/1.1\nnot http\r\n\r\n\xff";
    for ask in [
        "GET /up HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    ] {
        let stream = [GOOD.as_bytes(), ask.as_bytes(), raw].concat();
        for size in [1, 5, stream.len()] {
            let outcome = run(converse(&stream.chunks(size).collect::<Vec<_>>(), true));
            assert!(outcome.response.ends_with(&[b"\r\n\r\n", &raw[..]].concat()), "{ask:?} in pieces of {size}");
            assert_eq!(outcome.seen.len(), 2);
        }
    }
}

#[test]
fn after_a_declined_upgrade_the_connection_goes_on_as_http() {
    let ask = "GET /up HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n";
    let stream = format!("{ask}{GOOD}{ask}GET / HTTP/1.1\n{SMUGGLED}");
    for size in [1, 9, stream.len()] {
        let outcome = run(converse(&stream.as_bytes().chunks(size).collect::<Vec<_>>(), false));
        let seen: Vec<_> = outcome.seen.iter().map(|seen| (&seen.target[..], seen.refused)).collect();
        assert_eq!(
            seen,
            [("/up", None), ("/good", None), ("/up", None), ("/", Some("bare_lf"))],
            "in pieces of {size}"
        );
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_head_gets_no_answer() {
    let outcome = run(converse(&[b"GET / HTTP/1.1\r\nHost", b": a\r\n"], false));
    assert_eq!((outcome.seen.len(), outcome.response.len()), (0, 0));
    assert_eq!((outcome.state.heads_complete(), outcome.state.bytes_read()), (0, 25));
}

#[test]
fn the_state_tells_a_slow_head_from_an_idle_connection() {
    run(async {
        let state = Arc::new(ConnState::new());
        let (mut client, server) = tokio::io::duplex(1024);
        let mut io = GuardedIo::new(server, LIMITS, state.clone());
        let mut buf = [0; 1024];
        assert!(!state.is_head_begun());

        client.write_all(b"GET / HTTP/1.1\r\n").await.expect("as played here");
        let waiting = poll_once(&mut io, &mut buf).await;
        assert_eq!(waiting, None, "an incomplete head is held back");
        assert!(state.is_head_begun() && state.heads_complete() == 0 && state.bytes_read() == 16);

        client.write_all(b"Host: a\r\n\r\n").await.expect("as played here");
        assert_eq!(poll_once(&mut io, &mut buf).await, Some(27));
        assert_eq!(&buf[..27], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(!state.is_head_begun() && state.heads_complete() == 1);
    });
}

/// The bytes of one poll for reading; `None` while there are none.
async fn poll_once(io: &mut GuardedIo<DuplexStream>, buf: &mut [u8]) -> Option<usize> {
    use std::task::Poll;
    std::future::poll_fn(|cx| {
        let mut buf = tokio::io::ReadBuf::new(buf);
        match tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut *io), cx, &mut buf) {
            Poll::Ready(result) => {
                result.expect("as played here");
                Poll::Ready(Some(buf.filled().len()))
            }
            Poll::Pending => Poll::Ready(None),
        }
    })
    .await
}

#[test]
fn a_small_buffer_of_the_reader_loses_nothing() {
    run(async {
        let stream = format!("{GOOD}{SMUGGLED}");
        let (mut client, server) = tokio::io::duplex(1024);
        let mut io = GuardedIo::new(server, LIMITS, Arc::new(ConnState::new()));
        let (mut got, mut buf) = (Vec::new(), [0; 5]);
        for piece in stream.as_bytes().chunks(30) {
            client.write_all(piece).await.expect("as played here");
            while let Some(n) = poll_once(&mut io, &mut buf).await {
                got.extend_from_slice(&buf[..n]);
            }
        }
        assert_eq!(got.escape_ascii().to_string(), stream.as_bytes().escape_ascii().to_string());
    });
}

#[test]
fn unread_bytes_behind_a_refusal_do_not_reset_the_connection_under_its_answer() {
    let head = b"GET / HTTP/1.1\n".to_vec();
    let body = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-".to_vec();
    for refused in [head, body] {
        run(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("as played here");
            let mut client = tokio::net::TcpStream::connect(listener.local_addr().expect("as played here"))
                .await
                .expect("as played here");
            client.write_all(&[refused, vec![b'x'; 40_000]].concat()).await.expect("as played here");
            let (server, _) = listener.accept().await.expect("as played here");

            let handler = Arc::new(Handler::default());
            let io = GuardedIo::new(server, LIMITS, handler.state.clone());
            let service = service_fn(|request| {
                let handler = handler.clone();
                async move { Ok::<_, Infallible>(handler.call(request).await) }
            });
            // Whether hyper reports the broken body as an error of the connection is its own affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;

            let mut response = Vec::new();
            client.read_to_end(&mut response).await.expect("as played here");
            assert!(response.starts_with(b"HTTP/1.1 418"));
        });
    }
}

#[test]
fn shutting_down_after_a_refusal_takes_what_has_arrived_out_of_the_socket_up_to_a_bound() {
    let head = b"GET / HTTP/1.1\n".to_vec();
    let body = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-".to_vec();
    for refused in [head, body] {
        run(async {
            let state = Arc::new(ConnState::new());
            let (mut client, server) = tokio::io::duplex(1024 * 1024);
            let mut io = GuardedIo::new(server, LIMITS, state.clone());
            client.write_all(&[&refused[..], &[b'x'; 40_000]].concat()).await.expect("as played here");
            assert!(poll_once(&mut io, &mut [0; 1024]).await.is_some());
            io.shutdown().await.expect("as played here");
            assert_eq!(state.bytes_read(), refused.len() as u64 + 40_000);

            client.write_all(&[b'x'; 800_000]).await.expect("as played here");
            io.shutdown().await.expect("as played here");
            assert!(state.bytes_read() < 300_000, "no client can make us read for ever");
        });
    }
}
