//! One pass over the beginning of a request body for the few facts that routing needs.
//!
//! The facts: model, streaming, prompt size, output limit. They stand at the top level of the body, or one level below
//! it, under names that the APIs of OpenAI, Anthropic, KServe, Triton, TGI, SGLang, Ollama and llama.cpp share. So all
//! names are understood wherever they occur, and the path matters only where the body is silent ([`Api`]).
//!
//! The body is borrowed, never changed and never judged: of a body that is cut off or is not JSON at all, the look has
//! what was found before that point. If a key occurs twice at the top level, the last one counts, as in Python's and
//! most other parsers. A request with two `model` keys could still be routed by one and served by the other if a
//! node's parser differs; so the model here must never decide about permission.

use std::borrow::Cow;

use super::api::Api;
use super::json::{Cursor, Read, Stop, Text};
use super::prompt::{Size, measure, measure_inputs, measure_json};
use crate::node::name_hash;

/// Longest model name kept, in bytes; longer ones are cut. Names come from clients and end up in tables.
pub const MODEL_BYTES_MAX: usize = 256;

/// What one look at a request body found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look<'a> {
    /// `model`, unescaped, at most [`MODEL_BYTES_MAX`] bytes. `None` also if it is not UTF-8 or empty.
    pub model: Option<Cow<'a, str>>,
    /// Whether the answer will stream, by the body and the API's default.
    pub streaming: bool,
    /// `stream_options.include_usage`: the stream will end with token counts.
    pub include_usage: bool,
    /// The client's limit on output tokens. `None` for none, and for the `-1` that some servers take for it.
    pub output_tokens_max: Option<u32>,
    /// Bytes of prompt text seen, unescaped: prompts, contents of messages, system text, tool definitions.
    pub prompt_bytes: u64,
    /// Prompt tokens that were given as ids, known exactly. They add to what the text comes to.
    pub prompt_token_ids: u32,
    /// Elements of numeric input tensors (KServe v2), or of other arrays of numbers that are not token ids.
    pub tensor_elements: u64,
    /// Whether the prompt has images, sound or files; their tokens are in no count here.
    pub has_media: bool,
    /// The body ended (or the look did, at its bound) before the object did: sizes are lower bounds.
    pub truncated: bool,
    /// Not a JSON object, or broken.
    pub malformed: bool,
    /// Bytes of the body looked at.
    pub looked_bytes: usize,
    /// Where the parts of the prompt start in the body (after a byte order mark); 0 for none.
    pub(super) starts: [u32; PLACES],
    /// A hash of what, besides the model, keeps the caches of prompts apart: adapter and salt. 0 for none.
    pub(super) apart: u64,
}

impl Look<'_> {
    /// Bytes of prompt text in the whole body of `body_bytes`: what was seen, scaled up if the look was cut off.
    ///
    /// In a long body nearly all is prompt, so that the part not seen is taken to be like the part seen.
    pub fn prompt_bytes_of(&self, body_bytes: Option<u64>) -> u64 {
        scaled(self.prompt_bytes, self.unseen(body_bytes))
    }

    /// Token ids in the whole body of `body_bytes`, scaled up in the same way.
    pub fn prompt_token_ids_of(&self, body_bytes: Option<u64>) -> u32 {
        let ids = scaled(u64::from(self.prompt_token_ids), self.unseen(body_bytes));
        u32::try_from(ids).unwrap_or(u32::MAX)
    }

    /// Whether `usage.prompt_tokens` of the answer can be set against [`Look::prompt_bytes`].
    pub fn is_all_text(&self) -> bool {
        !self.truncated && !self.malformed && !self.has_media && self.prompt_token_ids == 0 && self.prompt_bytes > 0
    }

    /// The whole body in relation to the part seen, if that is larger.
    fn unseen(&self, body_bytes: Option<u64>) -> f64 {
        match body_bytes {
            Some(bytes) if self.truncated && self.looked_bytes > 0 => {
                (bytes as f64 / self.looked_bytes as f64).max(1.0)
            }
            _ => 1.0,
        }
    }
}

fn scaled(seen: u64, factor: f64) -> u64 {
    if factor > 1.0 { (seen as f64 * factor) as u64 } else { seen }
}

/// Looks at `body`, the first bytes of a request body for `api`. `complete` says that there are no more.
///
/// Linear time; allocates only for a model name that has escapes.
pub fn look(body: &[u8], complete: bool, api: Api) -> Look<'_> {
    let mut seen = Seen::default();
    let mut cursor = Cursor::new(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body));
    let mut read = seen.read(&mut cursor);
    if read.is_ok() && cursor.peek().is_ok() {
        read = Err(Stop::Malformed);
    }
    let mut look = seen.into_look(api);
    look.looked_bytes = body.len();
    match read {
        Ok(()) => {}
        Err(Stop::End) if !complete => look.truncated = true,
        Err(_) => look.malformed = true,
    }
    look
}

/// Where prompts stand. The values are places in [`Seen::prompts`]: a repeated key replaces its own only.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Prompt,
    Messages,
    Input,
    Inputs,
    TextInput,
    InputIds,
    System,
    Suffix,
    Tools,
    Images,
}

pub(super) const PLACES: usize = Place::Images as usize + 1;

/// Output limits by precedence: servers that know two names prefer the newer one, and the top level.
#[derive(Clone, Copy)]
enum Limit {
    Completion,
    Output,
    Tokens,
    Predict,
    Nested,
}

const LIMITS: usize = Limit::Nested as usize + 1;

#[derive(Default)]
struct Seen<'a> {
    model: Option<Text<'a>>,
    stream: Option<bool>,
    stream_nested: Option<bool>,
    include_usage: bool,
    limits: [Option<u32>; LIMITS],
    prompts: [Size; PLACES],
    starts: [u32; PLACES],
    apart: [u64; APART],
}

/// Keys that keep caches apart: the adapter of SGLang, the salt of vLLM, the adapter of TGI.
#[derive(Clone, Copy)]
enum Apart {
    Adapter,
    Salt,
    NestedAdapter,
}

const APART: usize = Apart::NestedAdapter as usize + 1;

/// Measures a value.
type Measure = fn(&mut Cursor<'_>, &mut Size) -> Read<()>;

impl<'a> Seen<'a> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Read<()> {
        cursor.object(|cursor, key| match key {
            b"model" => self.model(cursor),
            b"stream" => {
                self.stream = cursor.boolean()?;
                Ok(())
            }
            b"messages" => self.prompt(Place::Messages, cursor, measure),
            b"prompt" => self.prompt(Place::Prompt, cursor, measure),
            b"max_tokens" | b"max_new_tokens" => self.limit(Limit::Tokens, cursor),
            b"max_completion_tokens" => self.limit(Limit::Completion, cursor),
            b"max_output_tokens" => self.limit(Limit::Output, cursor),
            b"n_predict" => self.limit(Limit::Predict, cursor),
            b"stream_options" => self.stream_options(cursor),
            b"input" => self.prompt(Place::Input, cursor, measure),
            b"inputs" => self.prompt(Place::Inputs, cursor, measure_inputs),
            b"text_input" | b"text" => self.prompt(Place::TextInput, cursor, measure),
            b"input_ids" => self.prompt(Place::InputIds, cursor, measure),
            b"system" | b"instructions" => self.prompt(Place::System, cursor, measure),
            b"suffix" => self.prompt(Place::Suffix, cursor, measure),
            b"tools" | b"functions" => self.prompt(Place::Tools, cursor, measure_json),
            b"parameters" | b"options" | b"sampling_params" => self.nested(cursor),
            b"images" | b"image_data" | b"audio_data" => self.prompt(Place::Images, cursor, |cursor, size| {
                size.media = !matches!(cursor.peek()?, b'n');
                cursor.skip()
            }),
            b"lora_path" => self.apart(Apart::Adapter, cursor),
            b"cache_salt" => self.apart(Apart::Salt, cursor),
            _ => cursor.skip(),
        })
    }

    fn model(&mut self, cursor: &mut Cursor<'a>) -> Read<()> {
        self.model = None;
        if cursor.peek()? == b'"' {
            self.model = Some(cursor.text()?.whole()?);
            return Ok(());
        }
        cursor.skip()
    }

    /// Measures that place anew, and notes where it is.
    fn prompt(&mut self, place: Place, cursor: &mut Cursor<'a>, measure: Measure) -> Read<()> {
        let size = &mut self.prompts[place as usize];
        *size = Size::default();
        self.starts[place as usize] = u32::try_from(cursor.position()).unwrap_or(0);
        measure(cursor, size)
    }

    fn apart(&mut self, which: Apart, cursor: &mut Cursor<'a>) -> Read<()> {
        let start = cursor.clone();
        cursor.skip()?;
        let value = start.passed(cursor).trim_ascii();
        // Names of another kind, or in another place, are others.
        self.apart[which as usize] = match value {
            b"null" => 0,
            value => name_hash(&String::from_utf8_lossy(value)).rotate_left(which as u32 + 1),
        };
        Ok(())
    }

    fn limit(&mut self, limit: Limit, cursor: &mut Cursor<'a>) -> Read<()> {
        self.limits[limit as usize] = cursor.number()?;
        Ok(())
    }

    fn stream_options(&mut self, cursor: &mut Cursor<'a>) -> Read<()> {
        self.include_usage = false;
        if cursor.peek()? != b'{' {
            return cursor.skip();
        }
        cursor.object(|cursor, key| match key {
            b"include_usage" => {
                self.include_usage = cursor.boolean()?.unwrap_or(false);
                Ok(())
            }
            _ => cursor.skip(),
        })
    }

    /// `parameters` (KServe, Triton, TGI), `options` (Ollama), `sampling_params` (SGLang).
    fn nested(&mut self, cursor: &mut Cursor<'a>) -> Read<()> {
        if cursor.peek()? != b'{' {
            return cursor.skip();
        }
        cursor.object(|cursor, key| match key {
            b"max_tokens" | b"max_new_tokens" | b"max_output_tokens" | b"num_predict" => {
                self.limit(Limit::Nested, cursor)
            }
            b"adapter_id" => self.apart(Apart::NestedAdapter, cursor),
            b"stream" => {
                self.stream_nested = cursor.boolean()?;
                Ok(())
            }
            _ => cursor.skip(),
        })
    }

    fn into_look(self, api: Api) -> Look<'a> {
        let mut total = Size::default();
        for size in self.prompts {
            total.add(size);
        }
        Look {
            model: self.model.and_then(model_name),
            streaming: api.streams(self.stream.or(self.stream_nested)),
            include_usage: self.include_usage,
            output_tokens_max: self.limits.into_iter().flatten().next(),
            prompt_bytes: total.bytes,
            prompt_token_ids: u32::try_from(total.token_ids).unwrap_or(u32::MAX),
            tensor_elements: total.elements,
            has_media: total.media,
            starts: self.starts,
            apart: self.apart.into_iter().fold(0, |all, one| all ^ one),
            ..Look::default()
        }
    }
}

/// The name as text, within its bound. Cut rather than dropped: a name that nobody serves must not become "no name".
/// What is allocated on the way is bounded by the bytes looked at.
fn model_name(text: Text<'_>) -> Option<Cow<'_, str>> {
    let mut name: Cow<'_, str> = if text.escaped {
        let quoted = [b"\"", text.raw, b"\""].concat();
        Cow::Owned(serde_json::from_slice(&quoted).ok()?)
    } else {
        Cow::Borrowed(std::str::from_utf8(text.raw).ok()?)
    };
    if name.len() > MODEL_BYTES_MAX {
        let mut end = MODEL_BYTES_MAX;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        match &mut name {
            Cow::Borrowed(name) => *name = &name[..end],
            Cow::Owned(name) => name.truncate(end),
        }
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests;
