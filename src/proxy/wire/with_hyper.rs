//! Agreement with an independent client: what we read in a response, hyper reads too.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::Wire;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::upload::RequestBody;

#[derive(Debug, PartialEq)]
struct Read {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// A node that waits for a request and answers `response`, in pieces.
async fn node(mut stream: DuplexStream, response: Vec<u8>, piece: usize) {
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
            return;
        }
    }
    for piece in response.chunks(piece) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn by_hyper(method: &str, response: &[u8]) -> Option<Read> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(node(theirs, response.to_vec(), usize::MAX));
    let (mut sender, driver) = http1::handshake(TokioIo::new(ours)).await.ok()?;
    let driving = tokio::spawn(driver);
    let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let (mut head, body) = response.into_parts();
    // It ends where it is understood.
    head.headers.remove("transfer-encoding");
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().cloned();
    let body = body.to_bytes().to_vec();
    serving.abort();
    driving.abort();
    Some(Read { status: head.status, fields: head.headers, body, trailers })
}

async fn by_us(method: &str, response: &[u8], piece: usize) -> Option<Read> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(node(theirs, response.to_vec(), piece));
    let mut wire = Wire::new(ours);
    let request = Request::builder().method(method).uri("/").body(RequestBody::Empty).ok()?;
    let request = Box::new(Outgoing::from(request));
    wire.begin(&request);
    let mut unsent = Some(request);
    let head = std::future::poll_fn(|cx| wire.poll_head(cx, &mut unsent)).await.ok()?;
    let (mut body, mut trailers) = (Vec::new(), None);
    while let Some(frame) = std::future::poll_fn(|cx| wire.poll_frame(cx)).await {
        match frame.ok()?.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    serving.abort();
    Some(Read { status: head.status, fields: head.headers, body, trailers })
}

fn both(method: &str, response: &[u8], piece: usize) -> (Option<Read>, Option<Read>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async { (by_us(method, response, piece).await, by_hyper(method, response).await) })
}

/// A valid response.
fn response() -> impl Strategy<Value = Vec<u8>> {
    let field = ("[A-Za-z][A-Za-z-]{0,12}", "([!-~]([ -~]{0,20}[!-~])?)?")
        .prop_filter("fields with a meaning for the framing", |(name, _)| {
            let name = name.to_ascii_lowercase();
            !["connection", "content-length", "transfer-encoding", "upgrade"].contains(&name.as_str())
        })
        .prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    let fields = prop::collection::vec(field, 0..8).prop_map(|fields| fields.concat());
    let status = prop_oneof![Just(200u16), Just(204), Just(304), Just(404), Just(503), 200u16..600];
    let version = prop::sample::select(vec!["1.1", "1.0"]);
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6);
    let trailers = prop::option::of("X-[a-z]{1,5}: [a-z]{0,9}\r\n");
    let interim = prop::sample::select(vec!["", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early\r\nA: b\r\n\r\n"]);
    let framing = 0..3;
    (version, status, fields, chunks, trailers, interim, framing).prop_map(
        |(version, status, fields, chunks, trailers, interim, framing)| {
            let bodiless = status == 204 || status == 304;
            let mut bytes = format!("{interim}HTTP/{version} {status} So it is\r\n{fields}").into_bytes();
            if framing == 0 && version == "1.1" {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in chunks.iter().filter(|_| !bodiless) {
                    bytes.extend_from_slice(format!("{:x};n=v\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                if !bodiless {
                    bytes.extend_from_slice(format!("0\r\n{}\r\n", trailers.unwrap_or_default()).as_bytes());
                }
                return bytes;
            }
            let body = chunks.concat();
            if framing == 1 {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            if !bodiless {
                bytes.extend_from_slice(&body);
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_responses_are_read_as_hyper_reads_them(bytes in response(), piece in 1usize..2000) {
        let (ours, theirs) = both("GET", &bytes, piece);
        prop_assert!(ours.is_some(), "{}", bytes.escape_ascii());
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn damaged_responses_are_refused_or_read_as_hyper_reads_them(
        bytes in response(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(b"\r\n:;, 0159aAfF\0\xff".to_vec()),
    ) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (mut ours, mut theirs) = both("GET", &bytes, usize::MAX);
        // A list of the same length goes on as that length; hyper leaves it as it is where there is no body.
        let is_list = |read: &Read| read.fields.get("content-length").is_some_and(|length| length.as_bytes().contains(&b','));
        if theirs.as_ref().is_some_and(is_list) {
            for read in [&mut ours, &mut theirs].into_iter().flatten() {
                read.fields.remove("content-length");
            }
        }
        if ours.is_some() {
            prop_assert_eq!(ours, theirs, "{}", bytes.escape_ascii());
        }
    }
}
