//! Which API a request path belongs to.
//!
//! The path decides a few things that the body leaves open: whether an answer streams by default (Ollama), whether it
//! streams always or never, and which model is meant where the body names none (KServe, Triton). It also gives a
//! route name for metrics where no route is configured. The set is closed: a label never comes from a client.
//!
//! Paths are compared by their end, because gateways put these APIs under prefixes of their own. Nothing is refused
//! here: an unknown path is [`Api::Other`], whose body is still looked at with the same eyes.

use std::borrow::Cow;

/// An API of model servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI `/v1/chat/completions`.
    Chat,
    /// OpenAI `/v1/completions`, llama.cpp `/completion`.
    Completions,
    /// OpenAI `/v1/embeddings`, Ollama `/api/embed`, llama.cpp `/embedding`.
    Embeddings,
    /// OpenAI `/v1/responses`.
    Responses,
    /// Anthropic `/v1/messages`.
    Messages,
    /// KServe v2 `/v2/models/{name}/infer`.
    Infer,
    /// Triton `/v2/models/{name}/generate`, TGI and SGLang `/generate`.
    Generate,
    /// Triton `/v2/models/{name}/generate_stream`, TGI `/generate_stream`.
    GenerateStream,
    /// Ollama `/api/chat`.
    OllamaChat,
    /// Ollama `/api/generate`.
    OllamaGenerate,
    /// Anything else.
    #[default]
    Other,
}

/// Paths by their end; where two fit, the first counts.
const ENDS: [(&str, Api); 14] = [
    ("/chat/completions", Api::Chat),
    ("/completions", Api::Completions),
    ("/completion", Api::Completions),
    ("/embeddings", Api::Embeddings),
    ("/api/embed", Api::Embeddings),
    ("/embedding", Api::Embeddings),
    ("/responses", Api::Responses),
    ("/v1/messages", Api::Messages),
    ("/infer", Api::Infer),
    ("/api/generate", Api::OllamaGenerate),
    ("/generate", Api::Generate),
    ("/generate_stream", Api::GenerateStream),
    ("/api/chat", Api::OllamaChat),
    ("/infill", Api::Completions),
];

impl Api {
    /// The API that `path` (without its query) belongs to. One slash at the end is ignored.
    pub fn of_path(path: &str) -> Api {
        let path = path.strip_suffix('/').unwrap_or(path);
        ENDS.iter().find(|(end, _)| path.ends_with(end)).map_or(Api::Other, |(_, api)| *api)
    }

    /// A short name for metrics and for kinds where no route is configured.
    pub fn route_name(self) -> &'static str {
        match self {
            Api::Chat => "chat",
            Api::Completions => "completions",
            Api::Embeddings => "embeddings",
            Api::Responses => "responses",
            Api::Messages => "messages",
            Api::Infer => "infer",
            Api::Generate => "generate",
            Api::GenerateStream => "generate-stream",
            Api::OllamaChat => "ollama-chat",
            Api::OllamaGenerate => "ollama-generate",
            Api::Other => "other",
        }
    }

    /// Whether the answer comes as a stream, given what the body says about it.
    pub fn streams(self, said: Option<bool>) -> bool {
        match self {
            Api::Embeddings | Api::Infer => false,
            Api::GenerateStream => true,
            Api::OllamaChat | Api::OllamaGenerate => said.unwrap_or(true),
            _ => said.unwrap_or(false),
        }
    }
}

/// The model that a path names: `/v2/models/{name}/infer`, `/v2/models/{name}/versions/{version}/generate` (KServe,
/// Triton), percent-decoded. `None` where the path names none or is not UTF-8 once decoded.
pub fn model_in_path(path: &str) -> Option<Cow<'_, str>> {
    let (_, rest) = path.split_once("/v2/models/")?;
    let (name, verb) = rest.split_once('/')?;
    if name.is_empty() || verb.is_empty() {
        return None;
    }
    percent_decoded(name)
}

fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let (byte, after) = match (first, more) {
            (b'%', [high, low, after @ ..]) => {
                let nibble = |digit: &u8| char::from(*digit).to_digit(16);
                (u8::try_from(nibble(high)? << 4 | nibble(low)?).ok()?, after)
            }
            (b'%', _) => return None,
            _ => (*first, more),
        };
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_paths_have_their_api() {
        for (path, api) in [
            ("/v1/chat/completions", Api::Chat),
            ("/openai/deployments/x/chat/completions", Api::Chat),
            ("/v1/chat/completions/", Api::Chat),
            ("/v1/completions", Api::Completions),
            ("/completion", Api::Completions),
            ("/v1/embeddings", Api::Embeddings),
            ("/api/embed", Api::Embeddings),
            ("/v1/responses", Api::Responses),
            ("/v1/messages", Api::Messages),
            ("/v2/models/bert/infer", Api::Infer),
            ("/v2/models/llama/versions/3/infer", Api::Infer),
            ("/v2/models/llama/generate", Api::Generate),
            ("/generate", Api::Generate),
            ("/v2/models/llama/generate_stream", Api::GenerateStream),
            ("/api/chat", Api::OllamaChat),
            ("/api/generate", Api::OllamaGenerate),
            ("/", Api::Other),
            ("", Api::Other),
            ("/v1/models", Api::Other),
            ("/v1/messages/count_tokens", Api::Other),
            ("/predict", Api::Other),
        ] {
            assert_eq!(Api::of_path(path), api, "{path}");
        }
    }

    #[test]
    fn a_stream_is_the_default_only_where_the_server_has_it_so() {
        assert!(Api::OllamaChat.streams(None));
        assert!(!Api::OllamaGenerate.streams(Some(false)));
        assert!(!Api::Chat.streams(None));
        assert!(Api::Chat.streams(Some(true)));
        assert!(Api::GenerateStream.streams(Some(false)));
        assert!(!Api::Embeddings.streams(Some(true)));
        assert!(Api::Other.streams(Some(true)));
    }

    #[test]
    fn the_model_in_a_path_is_found_and_decoded() {
        assert_eq!(model_in_path("/v2/models/bert/infer").as_deref(), Some("bert"));
        assert_eq!(model_in_path("/x/v2/models/a%2Fb/versions/1/generate").as_deref(), Some("a/b"));
        for path in
            ["/v2/models/bert", "/v2/models//infer", "/v2/models/%ff/infer", "/v2/models/%2/infer", "/v1/models/a/b"]
        {
            assert_eq!(model_in_path(path), None, "{path}");
        }
    }
}
