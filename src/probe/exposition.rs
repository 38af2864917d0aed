//! Reads the text in which servers publish their metrics: Prometheus's exposition format, and OpenMetrics as far as it is
//! the same.
//!
//! A line is a series or it is skipped: metrics come from another program, and a line that is none must not hide the
//! others. Reading borrows from the text, allocates nothing before a label with an escape is asked for, and looks at each
//! byte a bounded number of times; how much text there may be is for the caller to say. Types, help, time stamps and
//! exemplars are passed over, as are names in quotes, which no model server uses. A parser crate would
//! build a tree of all the histograms that nobody here asks for.

use std::borrow::Cow;

/// One line: a name, labels, and a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Series<'a> {
    /// What is measured.
    pub name: &'a str,
    /// Which of several.
    pub labels: Labels<'a>,
    /// How much; may be infinite or not a number, as the format allows.
    pub value: f64,
}

/// The series in `text`, in its order.
pub fn series(text: &str) -> impl Iterator<Item = Series<'_>> {
    text.lines().filter_map(Series::parse)
}

impl<'a> Series<'a> {
    fn parse(line: &'a str) -> Option<Series<'a>> {
        let line = line.trim_start();
        let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (labels, rest) = match rest.trim_start().strip_prefix('{') {
            Some(inside) => {
                let length = Labels(inside).length()?;
                (Labels(&inside[..length]), &inside[length + 1..])
            }
            // Without labels there must be a space.
            None => (Labels(""), rest.strip_prefix([' ', '\t'])?),
        };
        let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Series { name, labels, value })
    }
}

/// The labels of a series, unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a>(&'a str);

impl<'a> Labels<'a> {
    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(label, _)| *label == name).map(|(_, value)| value)
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (name, value, after) = label(rest)?;
            rest = after;
            Some((name, unescaped(value)))
        })
    }

    /// Bytes up to the brace that closes what begins here; `None` if there is none or something else in between.
    fn length(&self) -> Option<usize> {
        let mut rest = self.0;
        while let Some((_, _, after)) = label(rest) {
            rest = after;
        }
        let rest = rest.trim_start();
        rest.starts_with('}').then(|| self.0.len() - rest.len())
    }
}

/// The first label, what is between its quotes, and what follows it and its comma.
fn label(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim();
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(sound) {
        return None;
    }
    let rest = rest.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = rest.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    let after = rest[end + 1..].trim_start();
    match after.strip_prefix(',') {
        Some(after) => Some((name, &rest[..end], after)),
        None if after.is_empty() || after.starts_with('}') => Some((name, &rest[..end], after)),
        None => None,
    }
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (c, false) => text.push(c),
            (_, true) => match chars.next() {
                Some('n') => text.push('\n'),
                Some(c @ ('"' | '\\')) => text.push(c),
                // Not an escape of the format: it stays as it is.
                Some(c) => text.extend(['\\', c]),
                None => text.push('\\'),
            },
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, labels, and value.
    type Read = (String, Vec<(String, String)>, f64);

    fn read(text: &str) -> Vec<Read> {
        let owned = |one: Series<'_>| {
            let labels = one.labels.iter().map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
            (one.name.to_owned(), labels, one.value)
        };
        series(text).map(owned).collect()
    }

    #[test]
    fn a_line_has_a_name_labels_and_a_value() {
        let text = "# HELP a:b Something.\n# TYPE a:b gauge\na:b 1\n  b_2 \t2.5e1 1700000000000\r\n\nc{} 3\n\
                    d{x=\"1\", y = \"2\",} 4 # {trace=\"t\"} 0.5\ne {x=\"}, {\"}5\nf -Inf\n# EOF\n";
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let expected: Vec<Read> = vec![
            ("a:b".into(), of(&[]), 1.0),
            ("b_2".into(), of(&[]), 25.0),
            ("c".into(), of(&[]), 3.0),
            ("d".into(), of(&[("x", "1"), ("y", "2")]), 4.0),
            ("e".into(), of(&[("x", "}, {")]), 5.0),
            ("f".into(), of(&[]), f64::NEG_INFINITY),
        ];
        assert_eq!(read(text), expected);
        assert!(read("g NaN").first().is_some_and(|(_, _, value)| value.is_nan()));
    }

    #[test]
    fn escapes_in_labels_are_read() {
        let text = "a{path=\"C:\\\\x\\n\\\"q\\\"\\d\"} 1";
        let one = series(text).next().expect("a series");
        assert_eq!(one.labels.get("path").as_deref(), Some("C:\\x\n\"q\"\\d"));
        assert_eq!(one.labels.get("other"), None);
    }

    #[test]
    fn a_line_that_is_none_hides_no_other() {
        for broken in [
            "1a 1",
            "a",
            "a ",
            "a x",
            "a{ 1",
            "a{x} 1",
            "a{x=1} 1",
            "a{x=\"1} 1",
            "a{x=\"1\"y=\"2\"} 1",
            "a{=\"1\"} 1",
            "a{x=\"1\"} ",
            "{\"a\"} 1",
            "a\"b 1",
            "a{x=\"1\\\"} 1",
            "<html>",
            "é 1",
            "a{é=\"1\"} 1",
            "a}1",
        ] {
            assert_eq!(read(&format!("{broken}\nwell 1\n")).len(), 1, "{broken}");
        }
    }
}
