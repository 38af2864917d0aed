//! Token counts out of a piece of a response body that may begin and end anywhere.
//!
//! Servers put the counts into an object named `usage` (`meta_info` in SGLang's own API) near the end, or at the top
//! level of the last object (Ollama, llama.cpp, TGI). A piece cut out of the middle cannot be parsed from its
//! beginning, so the names are searched for. That is safe: inside a JSON string the quote of a name is escaped, so
//! text that a model writes cannot pass for one. The last object wins, member by member: Anthropic's streams tell the
//! prompt tokens in their first event and the output tokens in a later one.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::json::{Cursor, Read};

/// Token counts as the node told them; `None` for what it did not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: Option<u32>,
    /// Tokens of the answer, reasoning included.
    pub output_tokens: Option<u32>,
    /// Prompt tokens that the node had in its prefix cache.
    pub cached_tokens: Option<u32>,
}

/// Searches for keys. Made once: to prepare one costs as much as to search a short answer.
type Keys<const N: usize> = LazyLock<[Finder<'static>; N]>;

/// Objects that hold counts.
static OBJECTS: Keys<2> = LazyLock::new(|| ["\"usage\"", "\"meta_info\""].map(Finder::new));

/// Counts that stand by themselves: Ollama, llama.cpp, TGI.
static PROMPT: Keys<2> = LazyLock::new(|| ["\"prompt_eval_count\"", "\"tokens_evaluated\""].map(Finder::new));
static OUTPUT: Keys<3> =
    LazyLock::new(|| ["\"eval_count\"", "\"tokens_predicted\"", "\"generated_tokens\""].map(Finder::new));

impl Usage {
    /// Reads the counts in `piece`.
    pub(super) fn read(piece: &[u8]) -> Usage {
        let mut usage = Usage::default();
        for name in &*OBJECTS {
            if usage.prompt_tokens.is_none() || usage.output_tokens.is_none() {
                each_value(piece, name, |value| usage = counts(value).or(usage));
            }
        }
        if usage.prompt_tokens.is_none() {
            usage.prompt_tokens = last_number(piece, &*PROMPT);
        }
        if usage.output_tokens.is_none() {
            usage.output_tokens = last_number(piece, &*OUTPUT);
        }
        usage
    }

    /// These counts, and `other`'s where these are silent.
    pub(super) fn or(self, other: Usage) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens.or(other.prompt_tokens),
            output_tokens: self.output_tokens.or(other.output_tokens),
            cached_tokens: self.cached_tokens.or(other.cached_tokens),
        }
    }
}

/// Calls `found` with what follows each key `name` (given with its quotes) and its colon, up to the next such key, so
/// that together no byte is read twice.
fn each_value<'a>(piece: &'a [u8], name: &Finder<'_>, mut found: impl FnMut(&'a [u8])) {
    let mut matches = name.find_iter(piece).peekable();
    while let Some(at) = matches.next() {
        let end = matches.peek().copied().unwrap_or(piece.len());
        let escaped = at > 0 && piece[at - 1] == b'\\';
        let after = piece[at + name.needle().len()..end].trim_ascii_start();
        if let (false, Some(value)) = (escaped, after.strip_prefix(b":")) {
            found(value);
        }
    }
}

fn last_number(piece: &[u8], names: &[Finder<'_>]) -> Option<u32> {
    let mut last = None;
    for name in names {
        each_value(piece, name, |value| {
            if let Ok(Some(number)) = Cursor::new(value).number() {
                last = Some(number);
            }
        });
    }
    last
}

/// The counts in an object, as far as it goes; none if it is something else, such as `null`.
fn counts(value: &[u8]) -> Usage {
    let mut usage = Usage::default();
    let (mut read_from_cache, mut written_to_cache) = (None, None);
    // Whatever ends the reading, what was found before it stands.
    let _end = Cursor::new(value).object(|cursor, key| {
        match key {
            b"prompt_tokens" | b"input_tokens" => usage.prompt_tokens = cursor.number()?.or(usage.prompt_tokens),
            b"completion_tokens" | b"output_tokens" => usage.output_tokens = cursor.number()?.or(usage.output_tokens),
            b"cached_tokens" => usage.cached_tokens = cursor.number()?.or(usage.cached_tokens),
            b"cache_read_input_tokens" => read_from_cache = cursor.number()?,
            b"cache_creation_input_tokens" => written_to_cache = cursor.number()?,
            b"prompt_tokens_details" | b"input_tokens_details" => {
                usage.cached_tokens = cached(cursor)?.or(usage.cached_tokens);
            }
            _ => cursor.skip()?,
        }
        Ok(())
    });
    usage.cached_tokens = usage.cached_tokens.or(read_from_cache);
    // Anthropic counts these apart from `input_tokens`; the names occur nowhere else.
    let apart = read_from_cache.unwrap_or(0).saturating_add(written_to_cache.unwrap_or(0));
    usage.prompt_tokens = usage.prompt_tokens.map(|tokens| tokens.saturating_add(apart));
    usage
}

fn cached(cursor: &mut Cursor<'_>) -> Read<Option<u32>> {
    if cursor.peek()? != b'{' {
        return cursor.skip().map(|()| None);
    }
    let mut cached = None;
    cursor.object(|cursor, key| match key {
        b"cached_tokens" => {
            cached = cursor.number()?;
            Ok(())
        }
        _ => cursor.skip(),
    })?;
    Ok(cached)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u32, output: u32, cached: Option<u32>) -> Usage {
        Usage { prompt_tokens: Some(prompt), output_tokens: Some(output), cached_tokens: cached }
    }

    #[test]
    fn every_servers_counts_are_understood() {
        for (piece, counts) in [
            (r#""usage":{"prompt_tokens":9,"total_tokens":21,"completion_tokens":12}}"#, usage(9, 12, None)),
            (
                r#""usage" : { "prompt_tokens" : 9, "completion_tokens" : 12, "prompt_tokens_details" : {"cached_tokens" : 8, "audio_tokens": 0}}"#,
                usage(9, 12, Some(8)),
            ),
            (r#""usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_tokens_details":null}"#, usage(9, 12, None)),
            (
                r#""usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":4},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":123},"user":null"#,
                usage(36, 87, Some(4)),
            ),
            (
                r#""usage":{"input_tokens":5,"cache_creation_input_tokens":20,"cache_read_input_tokens":300,"output_tokens":7}"#,
                usage(325, 7, Some(300)),
            ),
            (
                r#""done":true,"prompt_eval_count":26,"prompt_eval_duration":1,"eval_count":290,"eval_duration":4}"#,
                usage(26, 290, None),
            ),
            (r#""tokens_predicted":64,"tokens_evaluated":12,"generation_settings":{}"#, usage(12, 64, None)),
            (
                r#""meta_info":{"id":"x","finish_reason":{"type":"length"},"prompt_tokens":4,"completion_tokens":16,"cached_tokens":1}"#,
                usage(4, 16, Some(1)),
            ),
        ] {
            assert_eq!(Usage::read(piece.as_bytes()), counts, "{piece}");
        }
        let embeddings = Usage::read(br#""usage":{"prompt_tokens":9,"total_tokens":9}"#);
        assert_eq!((embeddings.prompt_tokens, embeddings.output_tokens), (Some(9), None));
    }

    #[test]
    fn the_last_object_wins_member_by_member() {
        let claude = concat!(
            r#"data: {"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}"#,
            "\n\n",
            r#"data: {"type":"message_delta","delta":{},"usage":{"output_tokens":15}}"#,
            "\n\n",
        );
        assert_eq!(Usage::read(claude.as_bytes()), usage(25, 15, None));
        let each = r#"{"usage":null}{"usage":{"prompt_tokens":3,"completion_tokens":1}}{"usage":{"prompt_tokens":3,"completion_tokens":2}}{"usage":null}"#;
        assert_eq!(Usage::read(each.as_bytes()), usage(3, 2, None));
    }

    #[test]
    fn what_a_model_writes_is_not_taken_for_counts() {
        let content = serde_json::json!({"choices": [{"message": {"content": r#"{"usage":{"prompt_tokens":1,"completion_tokens":1},"eval_count":7}"#}}]});
        assert_eq!(Usage::read(content.to_string().as_bytes()), Usage::default());
        let called_usage = r#"{"role":"usage","content":"x"}, "properties":{"usage":{"type":"object"}}"#;
        assert_eq!(Usage::read(called_usage.as_bytes()), Usage::default());
    }

    #[test]
    fn a_count_that_is_cut_off_is_not_believed() {
        let cut = Usage::read(br#""usage":{"prompt_tokens":9,"completion_tokens":12"#);
        assert_eq!((cut.prompt_tokens, cut.output_tokens), (Some(9), None));
    }
}
