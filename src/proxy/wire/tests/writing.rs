//! What a node hears.

use super::*;

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
fn a_request_that_was_sent_comes_back_from_a_node_that_may_be_full_and_from_no_other() {
    let whole = || RequestBody::Whole(Bytes::from_static(b"abc"));
    let stream = || streaming(b"ab", pieces(&[Some(b"c")], Some(1)));
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    for (answer, may_be_full) in [("429 x", true), ("503 x", true), ("200 OK", false), ("500 x", false)] {
        for before in ["", hints] {
            let response = format!("{before}HTTP/1.1 {answer}\r\nx: y\r\ncontent-length: 0\r\n\r\n");
            for (body, may_return, returns) in
                [(whole(), true, may_be_full), (whole(), false, false), (stream(), true, false)]
            {
                let mut wire = Wire::new(Script::saying(response.as_bytes()));
                let mut asking = request("POST", &[("a", "b")], body);
                asking.may_return = may_return;
                let seen = exchange(&mut wire, asking).expect("an end").expect("a response");
                assert!(seen.head.headers.len() == 2 && seen.head.headers["x"] == "y", "{seen:?}");
                let returned = wire.returned();
                assert_eq!(returned.is_some(), returns, "{answer} {before:?} {may_return}");
                assert!(returned.is_none_or(|request| request.head.headers["a"] == "b"
                    && matches!(&request.body, RequestBody::Whole(bytes) if bytes == b"abc".as_slice())));
            }
        }
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
    assert!(wire.read.capacity() <= crate::proxy::wire::READ_MIN && wire.room == crate::proxy::wire::READ_MIN);
}
