//! One line of a trace, in any of the three forms that are read.
//!
//! The form is told from the first line and not from the file's name: a name says nothing once a file was copied. What
//! a form has beyond time, lengths and cache blocks (latencies of another fleet) is left alone, except for the
//! recorded kind of a request, which is what a policy that tells kinds apart may look at.

use std::collections::HashMap;

use serde::Deserialize;

use crate::recording::{Restarts, Row as Recorded};
use crate::request::Prefix;
use crate::sim::server::Text;
use crate::sim::workload::mix;

/// Tokens that one prompt or answer may have: ten times the longest context that is offered.
const TOKENS_MAX: u64 = 10_000_000;

/// Kinds that are told apart; all further ones are one.
const KINDS_MAX: u16 = 255;

/// Tokens of a block of the Mooncake form.
const MOONCAKE_BLOCK_TOKENS: f32 = 512.0;

/// The header of the Azure form.
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// One request of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceRow {
    /// When, in seconds; since when depends on the trace until it is replayed.
    pub at_s: f64,
    /// Which kind of request, from 1; 0 for what is not told apart.
    pub kind: u16,
    /// Whether it asked for a stream, where the trace says so.
    pub streaming: Option<bool>,
    /// Tokens in.
    pub prompt_tokens: u32,
    /// Tokens out, at least 1; 0 for a request that has none.
    pub output_tokens: u32,
    /// Seconds of a plain worker at speed 1; 0 where tokens say it all.
    pub plain_s: f64,
    /// Index of the node that it was sent to, where that is to be repeated.
    pub node: Option<u32>,
    /// What it says, as far as a prefix cache can tell.
    pub text: Text,
    /// Which conversation it belongs to, where that is known.
    pub session: Option<u64>,
}

/// How the lines of a trace are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `TIMESTAMP,ContextTokens,GeneratedTokens`, as the Azure LLM inference traces of 2023 and 2024 (Patel et al.,
    /// Splitwise, ISCA 2024).
    Azure,
    /// Lines of JSON with `timestamp` in milliseconds, `input_length`, `output_length` and perhaps `hash_ids`, one for
    /// each 512 tokens of the prompt from its start, as the traces of Mooncake (Qin et al., FAST 2025). Equal ids are
    /// equal beginnings.
    Mooncake,
    /// What `--record` writes. Only completed attempts count, in the order of their start: an attempt that failed
    /// was made again elsewhere or has no length.
    Recording,
}

impl Format {
    /// Tells the form from the first line that is not empty.
    pub(super) fn of(line: &str) -> Format {
        match line.trim_start_matches('\u{feff}').trim_start().strip_prefix('{') {
            Some(object) if object.contains("\"started_s\"") => Format::Recording,
            Some(_) => Format::Mooncake,
            None => Format::Azure,
        }
    }

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Format::Azure => "Azure CSV",
            Format::Mooncake => "Mooncake JSON lines",
            Format::Recording => "recording",
        }
    }
}

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    /// A request.
    Row(TraceRow),
    /// An attempt that says nothing about a request's size.
    LeftOut,
    /// A header or nothing.
    Nothing,
}

/// Reads lines of one form; remembers the kinds that it saw.
#[derive(Debug)]
pub(super) struct Parser {
    format: Format,
    kinds: HashMap<String, u16>,
    restarts: Restarts,
}

#[derive(Deserialize)]
struct Mooncake {
    timestamp: f64,
    input_length: u64,
    output_length: u64,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

impl Parser {
    pub(super) fn new(format: Format) -> Parser {
        Parser { format, kinds: HashMap::new(), restarts: Restarts::default() }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// How often the recorder of a recording was started anew.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts.count()
    }

    /// Reads a line.
    pub(super) fn parse(&mut self, line: &str) -> Result<Line, String> {
        let line = line.trim().trim_start_matches('\u{feff}');
        if line.is_empty() || (self.format == Format::Azure && line == HEADER) {
            return Ok(Line::Nothing);
        }
        match self.format {
            Format::Azure => azure(line),
            Format::Mooncake => mooncake(line),
            Format::Recording => self.recorded(line),
        }
    }

    fn recorded(&mut self, line: &str) -> Result<Line, String> {
        let row: Recorded = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if [row.started_s, row.total_s].into_iter().all(|seconds| (0.0..1e9).contains(&seconds)) {
            self.restarts.is_first(row.started_s + row.total_s);
        }
        let streamed = Some(row.events).filter(|events| row.streaming && *events > 0);
        let (Some(output), "completed") = (row.output_tokens.or(streamed), row.outcome.as_str()) else {
            return Ok(Line::LeftOut);
        };
        let next = (self.kinds.len() as u16 + 1).min(KINDS_MAX);
        let kind = match self.kinds.get(&row.kind) {
            Some(kind) => *kind,
            None if self.kinds.len() < usize::from(KINDS_MAX) => *self.kinds.entry(row.kind).or_insert(next),
            None => 0,
        };
        let sized = sized(self.restarts.shift_s() + row.started_s, u64::from(row.prompt_tokens), u64::from(output))?;
        Ok(Line::Row(TraceRow { kind, streaming: Some(row.streaming), ..sized }))
    }
}

fn azure(line: &str) -> Result<Line, String> {
    let mut fields = line.split(',').map(str::trim);
    let (Some(time), Some(prompt), Some(output), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(format!("expected {HEADER}"));
    };
    let at_s = seconds_of(time).ok_or("the timestamp is not YYYY-MM-DD HH:MM:SS")?;
    let count = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number of tokens"));
    Ok(Line::Row(sized(at_s, count(prompt)?, count(output)?)?))
}

fn mooncake(line: &str) -> Result<Line, String> {
    let row: Mooncake = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let sized = sized(row.timestamp / 1e3, row.input_length, row.output_length)?;
    // Ids are small numbers; caches and memories expect hashes. The last block may not be full: an equal id says that
    // all of it is equal all the same.
    let blocks: Vec<u64> = row.hash_ids.iter().map(|id| mix(*id)).collect();
    let text = Text { prompt: Prefix::new(blocks, MOONCAKE_BLOCK_TOKENS), answer: None };
    Ok(Line::Row(TraceRow { text, ..sized }))
}

fn sized(at_s: f64, prompt: u64, output: u64) -> Result<TraceRow, String> {
    if !(at_s.is_finite() && at_s >= 0.0) {
        return Err(format!("{at_s} is no time"));
    }
    let count = |tokens: u64| {
        u32::try_from(tokens).ok().filter(|_| tokens <= TOKENS_MAX).ok_or(format!("{tokens} tokens are too many"))
    };
    let (prompt_tokens, output_tokens) = (count(prompt)?, count(output)?.max(1));
    Ok(TraceRow { at_s, kind: 1, prompt_tokens, output_tokens, ..TraceRow::default() })
}

/// Seconds since 1970 of `YYYY-MM-DD HH:MM:SS.fff`, in whatever zone the trace is.
fn seconds_of(text: &str) -> Option<f64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    // Newer traces carry a zone, "+00:00".
    let time = time.split_once('+').map_or(time, |(time, _)| time).trim_end_matches('Z');
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<i64>().ok()?, time.next()?.parse::<i64>().ok()?);
    let second: f64 = time.next()?.parse().ok()?;
    let sound = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second);
    // Days since 1970 in the proleptic Gregorian calendar, the year counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 719_469;
    sound.then(|| (days * 86_400 + hour * 3_600 + minute * 60) as f64 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::test_sample;
    use crate::outcome::{Failure, Outcome, Sample};

    fn parse(format: Format, line: &str) -> Result<Line, String> {
        Parser::new(format).parse(line)
    }

    #[test]
    fn each_form_is_known_by_its_first_line() {
        let recorded = serde_json::to_string(&Recorded::of(&test_sample(0, 1, 0.1), "a", "k".to_owned()));
        assert_eq!(Format::of(&recorded.expect("plain data")), Format::Recording);
        assert_eq!(Format::of("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}"), Format::Mooncake);
        assert_eq!(Format::of("\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens"), Format::Azure);
    }

    #[test]
    fn times_and_lengths_are_read_in_every_form() {
        let row = |line| match line {
            Ok(Line::Row(row)) => (row.at_s, row.prompt_tokens, row.output_tokens),
            other => panic!("{other:?}"),
        };
        assert_eq!(row(parse(Format::Azure, "1970-01-01 00:00:01.5,374,0\r")), (1.5, 374, 1));
        let line = "{\"timestamp\": 1500, \"input_length\": 40160, \"output_length\": 6, \"hash_ids\": [1, 2]}";
        assert_eq!(row(parse(Format::Mooncake, line)), (1.5, 40_160, 6));
        assert_eq!(parse(Format::Azure, HEADER), Ok(Line::Nothing));
        assert_eq!(seconds_of("2024-05-10 00:00:00.009930+00:00"), Some(1_715_299_200.009_93));
    }

    #[test]
    fn prompts_with_equal_ids_begin_alike() {
        let blocks = |ids: &str| {
            let line =
                format!("{{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 1, \"hash_ids\": [{ids}]}}");
            match parse(Format::Mooncake, &line) {
                Ok(Line::Row(row)) => (row.text.prompt.blocks().to_vec(), row.text.prompt.tokens_per_block()),
                other => panic!("{other:?}"),
            }
        };
        let ((first, tokens), (second, _)) = (blocks("0, 1, 2"), blocks("0, 1, 7"));
        assert_eq!((first.len(), tokens, &first[..2]), (3, 512.0, &second[..2]));
        assert_ne!(first[2], second[2]);
        assert_eq!(blocks(""), (Vec::new(), 0.0));
    }

    #[test]
    fn of_a_recording_only_completed_attempts_with_a_length_count() {
        let sample = Sample { output_tokens: Some(7), prompt_tokens: 30, ..test_sample(0, 1, 0.1) };
        let mut parser = Parser::new(Format::Recording);
        let mut line = |sample: &Sample, kind: &str| {
            let row = Recorded::of(sample, "a", kind.to_owned());
            parser.parse(&serde_json::to_string(&row).expect("plain data"))
        };
        let kinds = ["chat", "embed", "chat"].map(|kind| match line(&sample, kind) {
            Ok(Line::Row(row)) => (row.kind, row.prompt_tokens, row.output_tokens),
            other => panic!("{other:?}"),
        });
        assert_eq!(kinds, [(1, 30, 7), (2, 30, 7), (1, 30, 7)]);
        let failed = Sample { outcome: Outcome::Failed(Failure::Connect), ..sample };
        assert_eq!(line(&failed, "chat"), Ok(Line::LeftOut));
        let unsized_ = Sample { output_tokens: None, streaming: false, ..sample };
        assert_eq!(line(&unsized_, "chat"), Ok(Line::LeftOut));
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        let refused = |format, line: &str| parse(format, line).expect_err("refused");
        assert!(refused(Format::Azure, "2023-11-16 18:15:46,1").contains("TIMESTAMP"));
        assert!(refused(Format::Azure, "2023-11-16 18:15:46,1,x").contains("\"x\""));
        assert!(refused(Format::Azure, "2023-11-16 18:15:46,1,-4").contains("\"-4\""));
        assert!(refused(Format::Azure, "2023-11-16 18:15:46,99999999999,1").contains("too many"));
        assert!(refused(Format::Azure, "yesterday,1,1").contains("timestamp"));
        assert!(
            refused(Format::Mooncake, "{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}")
                .contains("-0.001")
        );
        assert!(refused(Format::Mooncake, "{\"timestamp\": 1, \"input_length\": 1}").contains("output_length"));
        assert!(refused(Format::Recording, "{\"node\": 1}").contains("expected a string"));
    }
}
