//! Whatever the guard lets through, hyper takes, and as it was meant.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The agreement: hyper calls the handler for exactly the heads that the guard counted, and never refuses one itself.
    #[test]
    fn hyper_never_refuses_what_the_guard_lets_through(
        stream in verdicts::soup(),
        cuts in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let outcome = run(converse(&verdicts::cut(&stream, &cuts), false));
        prop_assert_eq!(outcome.seen.len() as u64, outcome.state.heads_complete());
        let statuses = outcome.statuses();
        prop_assert!(statuses.iter().all(|status| [ACCEPTED.as_u16(), REFUSED.as_u16()].contains(status)), "{:?}", statuses);
        for seen in &outcome.seen {
            prop_assert!(seen.body_error != Some("hyper") || outcome.state.body_refusal().is_none());
        }
    }

    #[test]
    fn hyper_reads_well_formed_requests_as_they_were_meant(
        requests in prop::collection::vec(well_formed(), 1..4),
        cuts in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let outcome = run(converse(&verdicts::cut(&stream, &cuts), false));
        let meant: Vec<_> = requests.into_iter().map(|(_, seen)| seen).collect();
        prop_assert_eq!(outcome.seen, meant);
    }
}

/// A request over the whole alphabet of each of its parts, and what a handler should see of it.
fn well_formed() -> impl Strategy<Value = (Vec<u8>, Seen)> {
    let method = "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}".prop_filter("CONNECT has a target of its own", |m| m != "CONNECT");
    let target = "/[!-;=@-_a-z{|}~ü]{0,20}(\\?[!$-;=?-~é]{0,20})?"
        .prop_filter("the part before the question mark has no other", |t| !t.contains(['"', '#']) || !t.contains('?'))
        .prop_filter("no fragments", |t| !t.contains('#'));
    let name = "X[!#$%&'*+.^_`|~0-9A-Za-z-]{0,12}";
    let value = prop::collection::vec(prop_oneof![Just(b'\t'), 0x20u8..0x7f, 0x80u8..], 0..20);
    let body = prop_oneof![
        Just(None),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..4).prop_map(|chunks| Some((true, chunks))),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|body| Some((false, vec![body]))),
    ];
    (method, target, name, value, body).prop_map(|(method, target, name, value, body)| {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{name}:").into_bytes();
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(b"\r\n");
        let mut content = Vec::new();
        match body {
            None => bytes.extend_from_slice(b"\r\n"),
            Some((true, chunks)) => {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in &chunks {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                    content.extend_from_slice(chunk);
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            Some((false, body)) => {
                content = body.concat();
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
                bytes.extend_from_slice(&content);
            }
        }
        (bytes, Seen { method, target, body: content, ..Seen::default() })
    })
}
