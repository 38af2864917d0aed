//! The guard's verdicts: hostile and odd requests by name, each cut in every way, and properties of streams made of both.

use proptest::prelude::*;

use super::guard::{Answer, Next, RequestGuard};
use super::{Limits, Refusal};
use crate::fuzz::Verdict;

pub(super) const LIMITS: Limits = Limits { head_bytes_max: 700, headers_max: 8, uri_bytes_max: 100 };

fn judge<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    crate::fuzz::judge(LIMITS, pieces)
}

/// The verdict on `bytes`, which must be the same for every way to cut it in two (every 61st of a long one), and for
/// single bytes.
fn verdict(bytes: &[u8]) -> Verdict {
    let whole = judge([bytes]);
    assert_eq!(judge(bytes.chunks(1)), whole, "byte by byte: {}", bytes.escape_ascii());
    for cut in (0..=bytes.len()).step_by(if bytes.len() > 2_000 { 61 } else { 1 }) {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(judge([a, b]), whole, "cut at {cut}: {}", bytes.escape_ascii());
    }
    whole
}

fn filler(n: usize) -> String {
    "x".repeat(n)
}

/// Hostile heads, each with the reason of its refusal.
pub(super) fn hostile_heads() -> Vec<(&'static str, String)> {
    let fixed = [
        (
            "length_and_encoding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "length_and_encoding",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\ntransfer-encoding: CHUNKED\r\n\r\n",
        ),
        ("repeated_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
        ("repeated_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n"),
        ("bad_content_length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n"),
        ("bad_transfer_encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
        ("bad_transfer_encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        ("bad_transfer_encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
        ("bad_transfer_encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        ("bad_transfer_encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
        ("bad_transfer_encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n"),
        (
            "bad_transfer_encoding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("bad_field_value", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
        ("transfer_encoding_in_http10", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("underscore_framing", "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n"),
        ("underscore_framing", "POST / HTTP/1.1\r\nHost: a\r\ntransfer_encoding: chunked\r\n\r\n"),
        ("space_before_colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n"),
        ("space_before_colon", "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n"),
        ("space_before_colon", "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n"),
        ("bad_field_name", "GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n"),
        ("bad_field_name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
        ("bad_field_name", "GET / HTTP/1.1\r\nHost: a\r\nx(y): b\r\n\r\n"),
        ("bad_field_name", "GET / HTTP/1.1\r\nHost: a\r\nx\0y: b\r\n\r\n"),
        ("bad_field_name", "GET / HTTP/1.1\r\nHost: a\r\nüber: b\r\n\r\n"),
        ("obs_fold", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
        ("obs_fold", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\t\r\n\r\n"),
        ("obs_fold", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("bad_field_value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n"),
        ("bad_field_value", "GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[2J\r\n\r\n"),
        ("bad_field_value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\x7f\r\n\r\n"),
        ("bare_cr", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n"),
        ("bare_cr", "GET / HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n"),
        ("bare_cr", "GET / HTTP/1.1\rHost: a\r\n\r\n"),
        ("bare_cr", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bare_lf", "GET / HTTP/1.1\nHost: a\n\n"),
        ("bare_lf", "GET / HTTP/1.1\r\nHost: a\n\r\n"),
        ("bare_lf", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("bare_lf", "GET / HTTP/1.1\r\nHost: a\r\nX\n: b\r\n\r\n"),
        ("bare_lf", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bare_lf", "GET /\n"),
        ("empty_lines", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("missing_host", "GET / HTTP/1.1\r\n\r\n"),
        ("missing_host", "GET http://a/ HTTP/1.1\r\nX: y\r\n\r\n"),
        ("repeated_host", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("repeated_host", "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n"),
        ("bad_host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("bad_host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("bad_host", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("bad_host", "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n"),
        ("bad_host", "GET / HTTP/1.1\r\nHost: http://a/\r\n\r\n"),
        ("bad_host", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        ("bad_host", "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
        ("bad_request_line", "GET /\r\n\r\n"),
        ("bad_request_line", "GET\r\n\r\n"),
        ("bad_request_line", " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_request_line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_request_line", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_request_line", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        ("bad_request_line", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_request_line", "GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("bad_request_line", "GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
        ("bad_request_line", "GET / HTTP/1.1X\r\nHost: a\r\n\r\n"),
        ("bad_method", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_method", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_method", "\x16\x03\x01\x02"),
        ("bad_target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad_target", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("unsupported_version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("unsupported_version", "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        ("unsupported_version", "GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
        ("http2_preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ];
    let mut all: Vec<_> = fixed.into_iter().map(|(reason, head)| (reason, head.to_owned())).collect();
    all.push(("uri_too_long", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", filler(100))));
    all.push(("uri_too_long", format!("GET /{}", filler(100))));
    all.push(("bad_method", filler(65)));
    all.push(("bad_field_name", format!("GET / HTTP/1.1\r\nHost: a\r\n{}", filler(257))));
    all.push(("head_too_large", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", filler(800))));
    all.push(("head_too_large", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", filler(669))));
    all.push(("head_too_large", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", filler(800))));
    // The offence stands before the limit, the end of its line behind it.
    all.push(("bad_field_value", format!("GET / HTTP/1.1\r\nHost: a\r\nX: \0{}\r\n\r\n", filler(800))));
    all.push(("too_many_fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(8))));
    all
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Hostile chunked bodies: the reason, the part that is good, the rest.
pub(super) fn hostile_bodies() -> Vec<(&'static str, &'static str, String)> {
    let fixed = [
        ("bad_chunk_size", "", "g\r\n"),
        ("bad_chunk_size", "", "\r\n"),
        ("bad_chunk_size", "", "+5\r\nhello\r\n"),
        ("bad_chunk_size", "", "-5\r\nhello\r\n"),
        ("bad_chunk_size", "0", "x5\r\nhello\r\n"),
        ("bad_chunk_size", "5 ", "5\r\nhello\r\n"),
        ("bad_chunk_size", "5 ", "\r\nhello\r\n"),
        ("bad_chunk_size", "fffffffffffffff", "f\r\n"),
        ("bad_chunk_size", "0000000000000000", "5\r\nhello\r\n"),
        ("bad_chunk_size", "2\r\nab\r\n", "\r\n"),
        ("bare_lf", "5", "\nhello\r\n"),
        ("bare_lf", "5;a", "\nhello\r\n"),
        ("bare_lf", "5\r\nhello", "\n0\r\n\r\n"),
        ("bare_lf", "0\r\n", "\n"),
        ("bare_lf", "0\r\nX: y", "\n\r\n"),
        ("bare_lf", "0\r\nX", "\n\r\n"),
        ("bare_cr", "5\r", "hello\r\n"),
        ("bare_cr", "5;a\r", "b\r\nhello\r\n"),
        ("bare_cr", "5\r\nhello\r", "0\r\n\r\n"),
        ("bare_cr", "0\r\n\r", "X"),
        ("bare_cr", "0\r\nX: y\r", "z\r\n\r\n"),
        ("bad_chunk_end", "5\r\nhello", "world\r\n"),
        ("bad_chunk_extension", "5;a=", "\0\r\nhello\r\n"),
        ("bad_trailer", "0\r\n", "(: x\r\n\r\n"),
        ("bad_trailer", "0\r\n", ": x\r\n\r\n"),
        ("bad_trailer", "0\r\nGET", "\r\n\r\n"),
        ("bad_trailer", "0\r\nX: a", "\0b\r\n\r\n"),
        ("space_before_colon", "0\r\nGET", " / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("obs_fold", "0\r\nX: a\r\n", " b\r\n\r\n"),
        ("forbidden_trailer", "0\r\nContent-Length", ": 5\r\n\r\n"),
        ("forbidden_trailer", "0\r\nA: b\r\nTRANSFER_ENCODING", ": chunked\r\n\r\n"),
        ("forbidden_trailer", "0\r\nhost", ": b\r\n\r\n"),
    ];
    let mut all: Vec<_> = fixed.into_iter().map(|(reason, good, bad)| (reason, good, bad.to_owned())).collect();
    all.push(("trailers_too_large", "0\r\n", format!("X: {}\r\n\r\n", filler(800))));
    all.push(("trailers_too_large", "0\r\n", "X: y\r\n".repeat(9)));
    all.push(("chunk_extension_too_long", "5;", format!("{}\r\nhello\r\n", filler(300))));
    all.push(("chunk_extension_too_long", "", format!("1;{}\r\na\r\n", filler(200)).repeat(100)));
    all
}

/// Streams that must pass to the last byte, and their number of requests.
pub(super) fn legitimate() -> Vec<(u64, Vec<u8>)> {
    let fixed: [(u64, &str); 25] = [
        (1, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, "GET / HTTP/1.0\r\n\r\n"),
        (1, "M-SEARCH!#$%&'*+-.^_`|~1 /x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, "get / HTTP/1.1\r\nhOsT:a\r\n\r\n"),
        (1, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, "GET http://a.example:80/x?y=%20 HTTP/1.1\r\nHost: a.example:80\r\n\r\n"),
        (1, "GET HTTP://A?y HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, "GET //a/../%00?a=`&b[]={}?|^\\ HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n"),
        (1, "GET /{\"a\":1}/\u{fc} HTTP/1.1\r\nHost: a_b.c\r\n\r\n"),
        (1, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        (1, "GET / HTTP/1.1\r\nHost: \t a \t\r\nX:\r\nY: \r\nZ: \t\r\n\r\n"),
        (1, "GET / HTTP/1.1\r\nHost: a\r\nX: \"q\\\" <>(),;=\tt\r\n\r\n"),
        (1, "GET / HTTP/1.1\r\nHost: a\r\nSome_Header: b\r\nContent-Lengths: x\r\nXransfer_encoding: y\r\n\r\n"),
        (2, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  007 \r\n\r\n1234567"),
        (1, "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab"),
        (1, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\nsome"),
        (1, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab"),
        (2, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"),
        (
            2,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00A;x=y;z=\"\t,\"\r\n0\r\n\r\nGET\r\n\r\n0\r\n\r\n\
             GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            1,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \t;a\r\nx\r\n0\r\nX-Sum: 1\r\nY:\r\nhosts: b\r\n\r\n",
        ),
        (3, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.0\r\n\r\n"),
        (1, "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\nG: 7\r\n\r\n"),
    ];
    let mut all: Vec<_> = fixed.into_iter().map(|(n, stream)| (n, stream.as_bytes().to_vec())).collect();
    all.push((1, b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9 \x80\xff\r\n\r\n".to_vec()));
    // A head of exactly the limit.
    all.push((1, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", filler(668)).into_bytes()));
    all.push((1, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", filler(99)).into_bytes()));
    all
}

#[test]
fn every_hostile_head_is_refused_before_a_byte_of_it_passes() {
    let good = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
    for (reason, head) in hostile_heads() {
        let alone = verdict(head.as_bytes());
        let (refusal, in_head) = alone.refused.unwrap_or_else(|| panic!("accepted: {}", head.escape_debug()));
        assert_eq!(refusal.reason, reason, "{}", head.escape_debug());
        assert_eq!((alone.passed, alone.heads, in_head), (0, 0, true), "{}", head.escape_debug());

        let pipelined = verdict(format!("{good}{head}").as_bytes());
        assert_eq!(pipelined, Verdict { passed: good.len(), heads: 1, refused: alone.refused });
    }
}

#[test]
fn every_hostile_chunked_body_is_refused_at_its_first_wrong_byte() {
    for (reason, good, bad) in hostile_bodies() {
        let stream = format!("{CHUNKED}{good}{bad}");
        let found = verdict(stream.as_bytes());
        let (refusal, in_head) = found.refused.unwrap_or_else(|| panic!("accepted: {}", stream.escape_debug()));
        assert_eq!((refusal.reason, in_head, found.heads), (reason, false, 1), "{}", stream.escape_debug());
        if !reason.ends_with("_large") && !reason.ends_with("_long") {
            assert_eq!(found.passed, CHUNKED.len() + good.len(), "{}", stream.escape_debug());
        }
    }
}

#[test]
fn every_refusal_has_a_request_that_causes_it() {
    let heads = hostile_heads().into_iter().map(|(reason, _)| reason);
    let reasons: Vec<_> = heads.chain(hostile_bodies().into_iter().map(|(reason, ..)| reason)).collect();
    for refusal in Refusal::ALL {
        assert!(reasons.contains(&refusal.reason), "{} is never tested", refusal.reason);
    }
}

#[test]
fn legitimate_requests_pass_to_the_last_byte() {
    for (heads, stream) in legitimate() {
        let expected = Verdict { passed: stream.len(), heads, refused: None };
        assert_eq!(verdict(&stream), expected, "{}", stream.escape_ascii());
    }
}

#[test]
fn nothing_passes_after_a_refusal() {
    let mut guard = RequestGuard::new(LIMITS);
    let refused = guard.scan(b"GET / HTTP/1.1\n");
    let again = guard.scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(matches!(refused.next, Next::RefusedHead(_)));
    assert_eq!(again, refused);
}

#[test]
fn bytes_behind_a_request_for_a_tunnel_wait_for_its_answer() {
    let ask = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nab";
    let connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    for (ask, answer, tunnel) in [
        (&ask[..], Answer::Switching, true),
        (&ask[..], Answer::Success, false),
        (&ask[..], Answer::Other, false),
        (&connect[..], Answer::Success, true),
        (&connect[..], Answer::Other, false),
    ] {
        let mut guard = RequestGuard::new(LIMITS);
        let scan = guard.scan(&[ask, b"\0\0"].concat());
        assert_eq!((scan.passed, scan.next), (ask.len(), Next::Undecided));
        guard.decide(answer);
        let scan = guard.scan(b"\0\0");
        assert_eq!(scan.passed, if tunnel { 2 } else { 0 }, "{answer:?}");
        assert_eq!(matches!(scan.next, Next::RefusedHead(_)), !tunnel, "{answer:?}");
    }
}

/// Pieces of requests in no particular order: most streams of them go wrong somewhere, few at the first byte.
pub(super) fn soup() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 30] = [
        "GET / HTTP/1.1\r\n",
        "POST /x?y HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        "Host: a\r\n",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X-Y: z\r\n",
        "\r\n",
        "\r\n",
        "hello",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "3;a=b\r\nabc\r\n",
        "0\r\nX: y\r\n\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        ";",
        "_",
        "\0",
        "5",
        "chunked",
    ];
    let piece = prop_oneof![
        12 => prop::sample::select(&PIECES[..20]).prop_map(|piece| piece.as_bytes().to_vec()),
        2 => prop::sample::select(&PIECES[20..]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

/// `bytes` in the pieces between the `cuts`, which are taken modulo its length.
pub(super) fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter().map(|end| &bytes[std::mem::replace(&mut start, end)..end]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_on_a_stream_does_not_depend_on_its_cuts(
        stream in soup(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let whole = judge([&stream[..]]);
        prop_assert_eq!(&judge(cut(&stream, &cuts)), &whole);
        prop_assert_eq!(&judge(stream.chunks(1)), &whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(stream in prop::collection::vec(any::<u8>(), 0..300)) {
        let whole = judge([&stream[..]]);
        prop_assert!(whole.passed <= stream.len());
        prop_assert_eq!(judge(stream.chunks(1)), whole);
    }
}
