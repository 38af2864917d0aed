//! A chunked body (RFC 9112, 7.1), byte by byte between the chunks and in one step over their data.
//!
//! Sizes, extensions and trailers are short beside the data, so a plain state machine is fast enough, and it has no memory
//! of where reads were cut. Its bytes are handed on as they come: the head is gone already, so an offence here breaks
//! the connection instead of replacing the request. Bounds are below hyper's own, which would end the body without a reason.

use super::Limits;
use super::alphabet::{self, TOKEN};
use super::head::Spelling;
use super::refusal::{self as no, Refusal};

/// Bytes of extensions after one chunk size. The longest in use, S3's chunk signatures, have 81.
const EXTENSION_BYTES_MAX: u32 = 256;
/// Bytes of extensions in one body; hyper stops at 16,384.
const EXTENSIONS_BYTES_MAX: u32 = 16_000;
/// Bytes of all trailers; hyper stops at 16,384.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// A size of more digits is refused: fifteen are 2^60, and leading zeros only serve to confuse.
const SIZE_DIGITS_MAX: u8 = 16;
/// As long as the longest name that may not stand in trailers.
const NAME_BYTES: usize = 17;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// White space between the size and the semicolon of an extension.
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer line or of the final line end.
    TrailerLine,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
}

/// What is known of a chunked body after another piece of it.
pub(super) enum Progress {
    More,
    /// The body ends before this index.
    Complete(usize),
    /// The byte at this index is refused; those before it are good.
    Refused(usize, Refusal),
}

/// The position in one chunked body.
#[derive(Debug, Default)]
pub(super) struct ChunkScan {
    at: At,
    /// The size as read so far, then the bytes of the chunk that are still to come.
    left: u64,
    digits: u8,
    extension_bytes: u32,
    extensions_bytes: u32,
    trailer_bytes: usize,
    trailers: usize,
    name: [u8; NAME_BYTES],
    name_bytes: usize,
}

impl ChunkScan {
    /// Judges the next `bytes` of the body.
    pub(super) fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Progress {
        let mut i = 0;
        while let Some(&b) = bytes.get(i) {
            if self.at == At::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - i);
                self.left -= here as u64;
                i += here;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            match self.step(b, limits) {
                Ok(Some(at)) => self.at = at,
                Ok(None) => return Progress::Complete(i + 1),
                Err(refusal) => return Progress::Refused(i, refusal),
            }
            i += 1;
        }
        Progress::More
    }

    /// The state after `b`; `None` at the end of the body.
    fn step(&mut self, b: u8, limits: &Limits) -> Result<Option<At>, Refusal> {
        let next = match (self.at, b) {
            (At::Size | At::SizeSpace | At::Extension, _) => self.size_line(b)?,
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                self.extension_bytes = 0;
                if self.left == 0 { At::TrailerLine } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataCr, b'\n') => return Err(no::BARE_LF),
            (At::DataCr | At::Data, _) => return Err(no::BAD_CHUNK_END),
            (At::DataLf, b'\n') => At::Size,
            (At::FinalLf, b'\n') => return Ok(None),
            (At::SizeLf | At::DataLf | At::FinalLf, _) => return Err(no::BARE_CR),
            (At::TrailerLine | At::TrailerName | At::TrailerValue | At::TrailerLf, _) => self.trailer(b, limits)?,
        };
        Ok(Some(next))
    }

    fn size_line(&mut self, b: u8) -> Result<At, Refusal> {
        if self.at == At::Size {
            if let Some(digit) = (b as char).to_digit(16) {
                self.digits += 1;
                if self.digits > SIZE_DIGITS_MAX || self.left >> 59 != 0 {
                    return Err(no::BAD_CHUNK_SIZE);
                }
                self.left = self.left << 4 | u64::from(digit);
                return Ok(At::Size);
            }
            if self.digits == 0 {
                return Err(if b == b'\n' { no::BARE_LF } else { no::BAD_CHUNK_SIZE });
            }
        }
        self.extension_bytes += 1;
        self.extensions_bytes += 1;
        match (self.at, b) {
            (_, b'\n') => Err(no::BARE_LF),
            (At::Size | At::Extension, b'\r') => Ok(At::SizeLf),
            _ if self.extension_bytes > EXTENSION_BYTES_MAX || self.extensions_bytes > EXTENSIONS_BYTES_MAX => {
                Err(no::CHUNK_EXTENSION_TOO_LONG)
            }
            (At::Size | At::SizeSpace, b';') => Ok(At::Extension),
            (At::Size | At::SizeSpace, b' ' | b'\t') => Ok(At::SizeSpace),
            (At::Size | At::SizeSpace, _) => Err(no::BAD_CHUNK_SIZE),
            (_, b'\t') => Ok(At::Extension),
            _ if b.is_ascii_control() => Err(no::BAD_CHUNK_EXTENSION),
            _ => Ok(At::Extension),
        }
    }

    fn trailer(&mut self, b: u8, limits: &Limits) -> Result<At, Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX.min(limits.head_bytes_max) {
            return Err(no::TRAILERS_TOO_LARGE);
        }
        match (self.at, b) {
            (At::TrailerLf, b'\n') => Ok(At::TrailerLine),
            (At::TrailerLf, _) => Err(no::BARE_CR),
            (_, b'\n') => Err(no::BARE_LF),
            (At::TrailerLine, b'\r') => Ok(At::FinalLf),
            (At::TrailerLine, b' ' | b'\t') => Err(no::OBS_FOLD),
            (At::TrailerLine, _) => {
                self.trailers += 1;
                self.name_bytes = 0;
                if self.trailers > limits.headers_max {
                    return Err(no::TRAILERS_TOO_LARGE);
                }
                self.trailer_name(b)
            }
            (At::TrailerName, b':') if self.is_forbidden() => Err(no::FORBIDDEN_TRAILER),
            (At::TrailerName, b':') => Ok(At::TrailerValue),
            (At::TrailerName, b' ' | b'\t') => Err(no::SPACE_BEFORE_COLON),
            (At::TrailerName, _) => self.trailer_name(b),
            (_, b'\r') => Ok(At::TrailerLf),
            (_, b'\t') => Ok(At::TrailerValue),
            _ if b.is_ascii_control() => Err(no::BAD_TRAILER),
            _ => Ok(At::TrailerValue),
        }
    }

    fn trailer_name(&mut self, b: u8) -> Result<At, Refusal> {
        if !alphabet::is(b, TOKEN) {
            return Err(no::BAD_TRAILER);
        }
        if let Some(place) = self.name.get_mut(self.name_bytes) {
            *place = b;
        }
        self.name_bytes += 1;
        Ok(At::TrailerName)
    }

    /// RFC 9110, 6.5.1: a receiver that merges trailers into the head must not be handed a new length or host.
    fn is_forbidden(&self) -> bool {
        let names: [&[u8]; 3] = [b"host", b"content-length", b"transfer-encoding"];
        let name = self.name.get(..self.name_bytes).unwrap_or_default();
        names.iter().any(|known| known.len() == name.len() && Spelling::of(name, known) != Spelling::Other)
    }
}
