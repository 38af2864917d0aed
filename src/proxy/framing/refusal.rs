//! Why a request was refused: a status, a word for metrics, a sentence for the client.
//!
//! Every reason is a constant of this file, so that metrics know their labels before the first refusal and nothing that a
//! client sent ever becomes one.

use std::fmt;

/// A refused request. Also the inner error of the `io::Error` that breaks a connection in the middle of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status of the answer: 400, 414, 431 or 505.
    pub status: u16,
    /// A `snake_case` word, for metrics and logs.
    pub reason: &'static str,
    /// A sentence for the client.
    pub detail: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail)
    }
}

impl std::error::Error for Refusal {}

macro_rules! refusals {
    ($($name:ident = $status:literal $reason:literal $detail:literal;)*) => {
        $(pub(super) const $name: Refusal = Refusal { status: $status, reason: $reason, detail: $detail };)*

        impl Refusal {
            /// Every refusal there is, each with its own `reason`.
            pub const ALL: &[Refusal] = &[$($name),*];
        }
    };
}

refusals! {
    EMPTY_LINES = 400 "empty_lines" "More than one empty line stands before the request line.";
    BAD_REQUEST_LINE = 400 "bad_request_line" "The request line is not a method, a target and a version with single spaces between them.";
    BAD_METHOD = 400 "bad_method" "The method is not a token.";
    BAD_TARGET = 400 "bad_target" "The request target is malformed, or of a form that this method does not allow.";
    URI_TOO_LONG = 414 "uri_too_long" "The request target is too long.";
    UNSUPPORTED_VERSION = 505 "unsupported_version" "Only HTTP/1.1 and HTTP/1.0 are served here.";
    HTTP2_PREFACE = 505 "http2_preface" "HTTP/2 is not served here.";
    HEAD_TOO_LARGE = 431 "head_too_large" "The request head is too large.";
    TOO_MANY_FIELDS = 431 "too_many_fields" "The request has too many header fields.";
    BARE_LF = 400 "bare_lf" "A line ends in a line feed without a carriage return.";
    BARE_CR = 400 "bare_cr" "A carriage return stands without a line feed.";
    OBS_FOLD = 400 "obs_fold" "A header line begins with white space.";
    SPACE_BEFORE_COLON = 400 "space_before_colon" "White space stands between a field name and its colon.";
    BAD_FIELD_NAME = 400 "bad_field_name" "A field name is not a token followed by a colon.";
    BAD_FIELD_VALUE = 400 "bad_field_value" "A field value contains a control character.";
    UNDERSCORE_FRAMING = 400 "underscore_framing" "A framing field is spelled with an underscore.";
    BAD_CONTENT_LENGTH = 400 "bad_content_length" "Content-Length is not one decimal number.";
    REPEATED_CONTENT_LENGTH = 400 "repeated_content_length" "Content-Length occurs more than once.";
    BAD_TRANSFER_ENCODING = 400 "bad_transfer_encoding" "Transfer-Encoding is not exactly one \"chunked\".";
    TRANSFER_ENCODING_IN_HTTP10 = 400 "transfer_encoding_in_http10" "HTTP/1.0 has no Transfer-Encoding.";
    LENGTH_AND_ENCODING = 400 "length_and_encoding" "Content-Length and Transfer-Encoding exclude each other.";
    MISSING_HOST = 400 "missing_host" "An HTTP/1.1 request needs a Host field.";
    REPEATED_HOST = 400 "repeated_host" "Host occurs more than once.";
    BAD_HOST = 400 "bad_host" "Host is not a host name or address with an optional port.";
    BAD_CHUNK_SIZE = 400 "bad_chunk_size" "A chunk size is not a hexadecimal number that fits 63 bits.";
    BAD_CHUNK_EXTENSION = 400 "bad_chunk_extension" "A chunk extension is malformed.";
    CHUNK_EXTENSION_TOO_LONG = 400 "chunk_extension_too_long" "The chunk extensions are too long.";
    BAD_CHUNK_END = 400 "bad_chunk_end" "A chunk is longer than its size says.";
    BAD_TRAILER = 400 "bad_trailer" "A trailer line is malformed.";
    FORBIDDEN_TRAILER = 400 "forbidden_trailer" "A field that frames or routes the message stands in the trailers.";
    TRAILERS_TOO_LARGE = 431 "trailers_too_large" "The trailers are too large.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_one_snake_case_word_of_its_own() {
        for (i, refusal) in Refusal::ALL.iter().enumerate() {
            assert!(refusal.reason.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!([400, 414, 431, 505].contains(&refusal.status), "{}", refusal.reason);
            assert!(Refusal::ALL[..i].iter().all(|other| other.reason != refusal.reason), "{}", refusal.reason);
        }
    }
}
