//! Log lines: text for people or JSON for machines, to standard error, with a level that can change while running.
//!
//! Standard error, because standard output belongs to what a verb prints (`--output json` must stay parseable), and
//! because service managers collect both. Lines go through a bounded queue, so that a slow reader never stops a
//! request. Only the binary calls [`init`]: the library never installs anything global.

use std::io;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::sink::Sink;
use crate::config::{Log, LogFormat};

/// The levels, from silence to noise.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why logging cannot be as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be understood.
    #[error("log level {value:?}: {why}")]
    Filter {
        /// The filter as given.
        value: String,
        /// What is wrong with it and what is allowed.
        why: String,
    },
    /// A subscriber is installed already.
    #[error("logging is set up already")]
    Twice,
    /// The log's thread cannot be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// Changes the level later, and flushes when dropped: keep it until the process ends.
#[derive(Debug)]
#[must_use = "dropping it flushes the log; keep it until the process ends"]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    sink: Sink,
}

impl LogControl {
    /// Puts another filter in force, such as `debug` or `info,bellwether::access=off`.
    ///
    /// # Errors
    /// The filter cannot be understood; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse(level)?;
        // It fails only if the subscriber is gone, and then nobody logs.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

impl Drop for LogControl {
    fn drop(&mut self) {
        self.sink.flush();
    }
}

/// Sets up logging for the whole process.
///
/// # Errors
/// The level cannot be understood, or something has set up logging before.
pub fn init(log: &Log) -> Result<LogControl, LogError> {
    let sink = Sink::to(io::stderr())?;
    let ansi = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let (subscriber, filter) = subscriber(log, sink.clone(), ansi)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    Ok(LogControl { filter, sink })
}

/// What is wrong with a filter, and what is allowed; `None` if nothing is.
pub fn check_level(level: &str) -> Option<String> {
    match parse(level) {
        Err(LogError::Filter { why, .. }) => Some(why),
        _ => None,
    }
}

fn subscriber(
    log: &Log,
    sink: Sink,
    ansi: bool,
) -> Result<(impl tracing::Subscriber + Send + Sync + use<>, reload::Handle<EnvFilter, Registry>), LogError> {
    let (filter, handle) = reload::Layer::new(parse(&log.level)?);
    let lines = match log.format {
        LogFormat::Text => tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(sink).boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(sink)
            .boxed(),
    };
    Ok((tracing_subscriber::registry().with(filter).with(lines), handle))
}

/// A filter from `level` or `target=level` parts with commas between them.
///
/// The parser of `tracing-subscriber` takes any single word for a target, so that `inof` would silence everything
/// without a word; here a part without `=` must be a level.
fn parse(level: &str) -> Result<EnvFilter, LogError> {
    let fail = |why: String| LogError::Filter { value: level.to_owned(), why };
    let allowed = || format!("allowed are {} and target=level, with commas between them", LEVELS.join(", "));
    for part in level.split(',').map(str::trim) {
        let word = part.rsplit_once('=').map_or(part, |(_, word)| word).to_ascii_lowercase();
        if !LEVELS.contains(&word.as_str()) {
            let near = LEVELS.iter().find(|known| strsim::damerau_levenshtein(known, &word) <= 2);
            let hint = near.map(|known| format!(", did you mean {known:?}?")).unwrap_or_default();
            return Err(fail(format!("{word:?} is no level{hint}; {}", allowed())));
        }
    }
    EnvFilter::builder().parse(level).map_err(|error| fail(format!("{error}; {}", allowed())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::telemetry::AccessRecord;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, log: impl FnOnce(&LogControl)) -> String {
        let page = Page::default();
        let sink = Sink::to(page.clone()).unwrap();
        let settings = Log { level: level.to_owned(), format, access: true };
        let (subscriber, filter) = subscriber(&settings, sink.clone(), false).unwrap();
        let control = LogControl { filter, sink };
        tracing::subscriber::with_default(subscriber, || log(&control));
        assert!(control.sink.flush());
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn record<'a>() -> AccessRecord<'a> {
        AccessRecord {
            client: [192, 0, 2, 7].into(),
            method: "POST",
            path: "/v1/x\" forged=\"1\n2026-01-01 INFO fake \u{1b}[31m\u{9b}\r\u{7f}",
            status: 200,
            node: Some("a"),
            policy: None,
            model: Some("m\u{1b}]0;title\u{7}"),
            outcome: "completed",
            ttfb: Some(Duration::from_millis(250)),
            total: Duration::from_secs(2),
            bytes: 10,
            waited: std::time::Duration::ZERO,
            attempts: 1,
            hedged: false,
            request_id: "id\nnext",
        }
    }

    #[test]
    fn no_client_can_forge_a_line_or_move_the_cursor() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, "info", |_| record().log());
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.ends_with('\n'));
            assert!(!text.trim_end_matches('\n').chars().any(char::is_control), "{text:?}");
            assert!(text.contains(r#"\" forged=\""#), "{text}");
        }
    }

    #[test]
    fn json_lines_have_typed_fields_and_leave_out_what_is_absent() {
        let text = logged(LogFormat::Json, "info", |_| record().log());
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["target"], "bellwether::access");
        assert_eq!(line["status"], 200);
        assert_eq!(line["ttfb_s"], 0.25);
        assert_eq!(line["total_s"], 2.0);
        assert_eq!(line["path"], record().path);
        assert_eq!(line["client"], "192.0.2.7");
        assert!(line.get("policy").is_none(), "{line}");
    }

    #[test]
    fn a_silenced_access_log_is_not_enabled_and_the_level_changes_while_running() {
        let text = logged(LogFormat::Text, "info,bellwether::access=off", |control| {
            assert!(!AccessRecord::enabled());
            record().log();
            control.set_level("info").unwrap();
            assert!(AccessRecord::enabled());
            record().log();
            assert!(control.set_level("loud").is_err());
            assert!(AccessRecord::enabled());
        });
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_misspelt_level_is_an_error_that_says_what_is_allowed() {
        let why = check_level("inof").unwrap();
        assert!(why.contains("did you mean \"info\"") && why.contains("trace"), "{why}");
        assert!(check_level("bellwether=loud").is_some());
        assert!(check_level("").is_some());
        assert_eq!(check_level("warn,bellwether::access=info"), None);
        assert_eq!(check_level("WARN"), None);
    }
}
