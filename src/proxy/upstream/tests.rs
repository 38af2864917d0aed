//! A node that writes its answers in pieces, on a real socket.

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::proxy::upload::RequestBody;

/// A connection, and its other end, which has Nagle's algorithm on as sockets have by default.
async fn connected() -> (Upstream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let upstream = Upstream {
        wire: Box::new(Wire::new(stream.expect("connected"))),
        node: NodeId(0),
        slot: 0,
        born: Time::ZERO,
        idle_since: Time::ZERO,
        used: false,
        begun: None,
        connecting: None,
        acknowledged: false,
        lease: Lease(Arc::new(AtomicUsize::new(1))),
    };
    (upstream, accepted.expect("accepted").0)
}

/// Asks, and has the node answer so; returns when the head is there.
async fn asked(upstream: &mut Upstream, node: &mut TcpStream, answer: &str) {
    let request = Request::get("/").header("host", "node").body(RequestBody::Empty).expect("sound");
    let answered = async {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(node.read_u8().await.expect("a request"));
        }
        node.write_all(answer.as_bytes()).await.expect("written");
    };
    let (head, ()) = tokio::join!(upstream.exchange(Box::new(Outgoing::from(request))), answered);
    assert_eq!(head.expect("a head").status, 200);
}

/// The whole body.
async fn body(upstream: &mut Upstream) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| upstream.poll_frame(cx)).await {
        body.extend_from_slice(&frame.expect("sound").into_data().unwrap_or_default());
    }
    body
}

#[tokio::test]
async fn a_head_is_acknowledged_at_once_if_its_body_is_waited_for() {
    let (mut upstream, mut node) = connected().await;
    // On a kept connection, whose acknowledgements wait for something to go along with, each answer anew.
    for _ in 0..3 {
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_quickack(upstream.wire.io(), false).expect("an option of TCP");
        asked(&mut upstream, &mut node, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
        assert!(!upstream.acknowledged);
        let waits = std::future::poll_fn(|cx| Poll::Ready(upstream.poll_frame(cx).is_pending())).await;
        assert!(waits && upstream.acknowledged);
        #[cfg(target_os = "linux")]
        assert!(rustix::net::sockopt::tcp_quickack(upstream.wire.io()).expect("an option of TCP"));
        node.write_all(b"body").await.expect("written");
        assert_eq!(body(&mut upstream).await, b"body");
        assert!(upstream.wire.settle());
    }
}

#[tokio::test]
async fn a_body_that_comes_with_its_head_costs_nothing_more() {
    let (mut upstream, mut node) = connected().await;
    for _ in 0..3 {
        asked(&mut upstream, &mut node, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody").await;
        assert_eq!(body(&mut upstream).await, b"body");
        assert!(!upstream.acknowledged && upstream.wire.settle());
    }
}
