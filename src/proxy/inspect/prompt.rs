//! Measures the prompt in a value of a request body: bytes of text, token ids, and what else is in it.
//!
//! The APIs differ in how they wrap the text (a string, an array of strings, messages with parts, items of several
//! types), but not in the names of what holds it. So one rule serves all: strings in a row count, and in an object
//! those under the keys that hold text. That also measures mixtures and shapes of tomorrow sensibly. Tool calls and
//! tool definitions count as they stand, since chat templates print them as JSON.
//!
//! Images and sound are only noted: their tokens depend on pixels and seconds, not on bytes of base64.

use memchr::{memchr_iter, memchr3};

use super::json::{Cursor, Read, Stop, whole_number};

/// Wrappings followed; `input[].content[].content[].text` is the deepest that the known APIs have. What is wrapped
/// deeper is passed over.
const WRAPPED_MAX: u32 = 16;

/// What a prompt was measured to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes of text, unescaped.
    pub(super) bytes: u64,
    /// Token ids given in place of text.
    pub(super) token_ids: u64,
    /// Elements of numeric tensors.
    pub(super) elements: u64,
    /// Whether there are parts that are not text.
    pub(super) media: bool,
}

impl Size {
    pub(super) fn add(&mut self, other: Size) {
        self.bytes += other.bytes;
        self.token_ids += other.token_ids;
        self.elements += other.elements;
        self.media |= other.media;
    }
}

/// Measures the value at the cursor. What was seen before the bytes end is in `size`.
pub(super) fn measure(cursor: &mut Cursor<'_>, size: &mut Size) -> Read<()> {
    measure_wrapped(cursor, WRAPPED_MAX, size)
}

fn measure_wrapped(cursor: &mut Cursor<'_>, wrapped: u32, size: &mut Size) -> Read<()> {
    match cursor.peek()? {
        b'"' => {
            let text = cursor.text()?;
            size.bytes += text.len as u64;
            text.whole().map(drop)
        }
        b'[' | b'{' if wrapped == 0 => cursor.skip(),
        b'[' => measure_array(cursor, wrapped - 1, size),
        b'{' => measure_object(cursor, wrapped - 1, size),
        _ => cursor.skip(),
    }
}

fn measure_array(cursor: &mut Cursor<'_>, wrapped: u32, size: &mut Size) -> Read<()> {
    if let Some(flat) = cursor.flat_array() {
        count_numbers(flat.inner, size);
        return if flat.closed { Ok(()) } else { Err(Stop::End) };
    }
    cursor.array(|cursor| match cursor.peek()? {
        b'-' | b'0'..=b'9' => {
            count_numbers(cursor.scalar()?, size);
            Ok(())
        }
        _ => measure_wrapped(cursor, wrapped, size),
    })
}

/// Numbers between commas: token ids if they are whole, elements of a tensor otherwise.
fn count_numbers(inner: &[u8], size: &mut Size) {
    if inner.iter().all(u8::is_ascii_whitespace) {
        return;
    }
    let count = memchr_iter(b',', inner).count() as u64 + 1;
    // The letters also find true, false and null.
    match memchr3(b'.', b'e', b'l', inner) {
        None => size.token_ids += count,
        Some(_) => size.elements += count,
    }
}

/// A message, a part of one, or an item of the responses API.
fn measure_object(cursor: &mut Cursor<'_>, wrapped: u32, size: &mut Size) -> Read<()> {
    cursor.object(|cursor, key| match key {
        b"content" | b"text" | b"output" | b"thinking" | b"reasoning_content" | b"tool_calls" | b"function" => {
            measure_wrapped(cursor, wrapped, size)
        }
        b"arguments" | b"input" => measure_json(cursor, size),
        b"image_url" | b"images" | b"image" | b"input_audio" | b"audio" | b"audio_url" | b"video_url" | b"video"
        | b"file" | b"file_id" | b"file_data" | b"source" => {
            size.media |= !matches!(cursor.peek()?, b'n');
            cursor.skip()
        }
        _ => cursor.skip(),
    })
}

/// Measures a value that the prompt repeats as JSON: a string by its text, anything else by its bytes as they stand.
pub(super) fn measure_json(cursor: &mut Cursor<'_>, size: &mut Size) -> Read<()> {
    match cursor.peek()? {
        b'"' => measure(cursor, size),
        b'{' | b'[' => {
            let start = cursor.position();
            let read = cursor.skip();
            size.bytes += (cursor.position() - start) as u64;
            read
        }
        _ => cursor.skip(),
    }
}

/// Measures `inputs`: text or texts (TGI, TEI), or the tensors of KServe v2.
pub(super) fn measure_inputs(cursor: &mut Cursor<'_>, size: &mut Size) -> Read<()> {
    if cursor.peek()? != b'[' {
        return measure(cursor, size);
    }
    if let Some(flat) = cursor.flat_array() {
        count_numbers(flat.inner, size);
        return if flat.closed { Ok(()) } else { Err(Stop::End) };
    }
    cursor.array(|cursor| match cursor.peek()? {
        b'{' => measure_tensor(cursor, size),
        _ => measure(cursor, size),
    })
}

/// One tensor. Its keys come in any order, so that what its data are is known only at its end.
fn measure_tensor(cursor: &mut Cursor<'_>, size: &mut Size) -> Read<()> {
    let mut data = Size::default();
    let (mut token_ids, mut bytes_type, mut shape) = (false, false, None);
    let read = cursor.object(|cursor, key| match key {
        b"data" => measure(cursor, &mut data),
        b"name" if cursor.peek()? == b'"' => {
            token_ids = cursor.text()?.whole()?.raw == b"input_ids";
            Ok(())
        }
        b"datatype" if cursor.peek()? == b'"' => {
            bytes_type = cursor.text()?.whole()?.raw == b"BYTES";
            Ok(())
        }
        b"shape" => {
            shape = product(cursor)?;
            Ok(())
        }
        _ => cursor.skip(),
    });
    if !token_ids {
        data.elements += std::mem::take(&mut data.token_ids);
    }
    if data == Size::default() && !bytes_type {
        // The binary extension: the data follow elsewhere, the shape says how much.
        data.elements = shape.unwrap_or(0);
    }
    size.add(data);
    read
}

/// The product of an array of whole numbers, saturating; anything else is passed over.
fn product(cursor: &mut Cursor<'_>) -> Read<Option<u64>> {
    match cursor.flat_array() {
        None => cursor.skip().map(|()| None),
        Some(flat) if !flat.closed => Err(Stop::End),
        Some(flat) => Ok(flat
            .inner
            .split(|byte| *byte == b',')
            .map(|side| whole_number(side.trim_ascii()).map(u64::from))
            .try_fold(1u64, |product, side| Some(product.saturating_mul(side?)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(json: &str) -> Size {
        let mut size = Size::default();
        // A number or a word ends only where something follows it.
        let json = format!("{json} ");
        assert_eq!(measure(&mut Cursor::new(json.as_bytes()), &mut size), Ok(()), "{json}");
        size
    }

    fn text(bytes: u64) -> Size {
        Size { bytes, ..Size::default() }
    }

    #[test]
    fn strings_arrays_messages_and_parts_count_alike() {
        assert_eq!(measured(r#""four""#), text(4));
        assert_eq!(measured(r#"["four","five5"]"#), text(9));
        assert_eq!(measured(r#"[{"role":"user","content":"four"}]"#), text(4));
        assert_eq!(
            measured(r#"[{"role":"user","content":[{"type":"text","text":"four"},{"type":"text","text":"x"}]}]"#),
            text(5)
        );
        assert_eq!(measured("[]"), text(0));
        assert_eq!(measured("[ ]"), text(0));
        assert_eq!(measured("null"), text(0));
    }

    #[test]
    fn token_ids_are_counted_and_floats_are_not_taken_for_them() {
        assert_eq!(measured("[1, 2,3]"), Size { token_ids: 3, ..Size::default() });
        assert_eq!(measured("[[1,2],[3]]"), Size { token_ids: 3, ..Size::default() });
        assert_eq!(measured(r#"[1,"ab",2]"#), Size { token_ids: 2, bytes: 2, ..Size::default() });
        assert_eq!(measured("[0.5,1e3]"), Size { elements: 2, ..Size::default() });
    }

    #[test]
    fn tool_calls_count_as_the_template_prints_them() {
        let call = r#"[{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}]"#;
        assert_eq!(measured(call), text(7));
        assert_eq!(measured(r#"[{"type":"tool_use","id":"t","name":"f","input":{"a":1}}]"#), text(7));
        assert_eq!(measured(r#"[{"type":"function_call_output","call_id":"c","output":"done"}]"#), text(4));
    }

    #[test]
    fn media_are_noted_not_counted() {
        let size = measured(
            r#"[{"role":"user","content":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]"#,
        );
        assert_eq!(size, Size { bytes: 3, media: true, ..Size::default() });
        assert!(!measured(r#"[{"role":"user","content":"x","audio":null}]"#).media);
    }

    #[test]
    fn wrapping_is_followed_to_its_bound() {
        let wrapped = |depth: usize| format!("{}\"x\"{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(measured(&wrapped(WRAPPED_MAX as usize)), text(1));
        assert_eq!(measured(&wrapped(WRAPPED_MAX as usize + 1)), text(0));
    }

    #[test]
    fn tensors_are_measured_by_what_they_hold() {
        let inputs = |json: &str| {
            let mut size = Size::default();
            assert_eq!(measure_inputs(&mut Cursor::new(json.as_bytes()), &mut size), Ok(()), "{json}");
            size
        };
        assert_eq!(inputs(r#"[{"name":"x","shape":[1,3],"datatype":"FP32","data":[0.1,2,3]}]"#).elements, 3);
        assert_eq!(inputs(r#"[{"data":[[1,2],[3,4]],"name":"x","shape":[2,2],"datatype":"INT64"}]"#).elements, 4);
        assert_eq!(inputs(r#"[{"data":[[5,6,7]],"name":"input_ids","shape":[1,3],"datatype":"INT64"}]"#).token_ids, 3);
        assert_eq!(inputs(r#"[{"name":"text_input","shape":[1],"datatype":"BYTES","data":["four"]}]"#), text(4));
        let binary =
            r#"[{"name":"image","shape":[3,224,224],"datatype":"UINT8","parameters":{"binary_data_size":150528}}]"#;
        assert_eq!(inputs(binary).elements, 150_528);
        assert_eq!(inputs(r#"["ab","c"]"#), text(3));
        assert_eq!(inputs(r#""abc""#), text(3));
    }

    #[test]
    fn what_was_seen_of_a_cut_prompt_is_kept() {
        for (cut, size) in [
            (r#"[{"role":"user","content":"four and mo"#, text(11)),
            ("[1,2,3", Size { token_ids: 3, ..Size::default() }),
            (r#"["four","#, text(4)),
        ] {
            let mut seen = Size::default();
            assert_eq!(measure(&mut Cursor::new(cut.as_bytes()), &mut seen), Err(Stop::End));
            assert_eq!(seen, size, "{cut}");
        }
    }
}
