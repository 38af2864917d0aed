//! What a node says.

use super::*;

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
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(crate::proxy::wire::head::HEAD_BYTES_MAX));
    assert!(is_fault(&asks(closing(long.as_bytes()), get())));
    let many = |count| format!("HTTP/1.1 204 No\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(asks(closing(many(crate::proxy::wire::head::FIELDS_MAX).as_bytes()), get()).is_ok());
    assert!(is_fault(&asks(closing(many(crate::proxy::wire::head::FIELDS_MAX + 1).as_bytes()), get())));
    let interim = |count| format!("{}HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 102 P\r\n\r\n".repeat(count));
    assert!(asks(closing(interim(crate::proxy::wire::head::INTERIM_MAX as usize).as_bytes()), get()).is_ok());
    assert!(is_fault(&asks(closing(interim(crate::proxy::wire::head::INTERIM_MAX as usize + 1).as_bytes()), get())));
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
