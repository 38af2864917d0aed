//! `bellwether explain`: what a running proxy would do with a described request, and why.

use std::io;
use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

use super::model::{number, table, time};
use super::remote::{RemoteArgs, shown};
use super::{Exit, Output, Screen};
use crate::config::Env;

/// Ask a running proxy where a request would go, and why; sends nothing to any node
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellwether explain --model llama-3.1-8b --streaming --prompt-tokens 1200
  bellwether explain --policy ip-hash --client 10.0.0.7
  bellwether explain --admin 10.0.0.5:8081 --token-env BELLWETHER_ADMIN_TOKEN --output json

Exit codes: 0 fine, 1 the proxy does not answer or refuses, 2 wrong usage.")]
pub(super) struct Explain {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The model that the request names
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The request asks for a stream
    #[arg(long)]
    streaming: bool,
    /// Tokens of its prompt
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    prompt_tokens: u32,
    /// Its limit on output tokens
    #[arg(long, value_name = "COUNT")]
    max_tokens: Option<u32>,
    /// A file with its body, in place of the above: then it is also known what nodes were sent of its prompt
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "streaming", "prompt_tokens", "max_tokens"])]
    body: Option<PathBuf>,
    /// The path that it is a POST to [default: /v1/chat/completions]
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The client's address, for policies that look at it
    #[arg(long, value_name = "IP")]
    client: Option<String>,
    /// Who would decide [default: the policy in force]
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Explain {
    pub(super) fn execute(&self, env: &Env, screen: &mut Screen<'_>) -> io::Result<Exit> {
        let body = match self.body.as_ref().map(std::fs::read_to_string).transpose() {
            Ok(body) => body,
            Err(error) => {
                writeln!(screen.err, "error: --body: {error}")?;
                return Ok(Exit::Refused);
            }
        };
        let request = self.request(body.as_deref());
        let asked =
            self.remote.remote(env).and_then(|remote| remote.ask(Method::POST, "/api/v1/explain", Some(&request)));
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => return Ok(error.show(screen)),
        };
        match self.output {
            Output::Json => writeln!(screen.out, "{answer:#}")?,
            Output::Text => write_explanation(&answer, screen)?,
        }
        Ok(Exit::Fine)
    }

    fn request(&self, body: Option<&str>) -> Value {
        let Explain { model, streaming, prompt_tokens, max_tokens, path, client, policy, .. } = self;
        let given = [
            ("model", json!(model)),
            ("streaming", json!(streaming)),
            ("prompt_tokens", json!(prompt_tokens)),
            ("max_tokens", json!(max_tokens)),
            ("body", json!(body)),
            ("path", json!(path)),
            ("client", json!(client)),
            ("policy", json!(policy)),
        ];
        let given = given.into_iter().filter(|(_, value)| !value.is_null());
        given.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
    }
}

fn write_explanation(answer: &Value, screen: &mut Screen<'_>) -> io::Result<()> {
    let out = &mut *screen.out;
    match answer["probability"].as_f64() {
        Some(probability) => {
            let (node, because) = (shown(&answer["node"]), shown(&answer["because"]));
            writeln!(out, "{node} with {:.1} %: {because}", probability * 100.0)?;
        }
        None => writeln!(out, "nowhere: {}", shown(&answer["refused"]["reason"]))?,
    }
    let in_force = if answer["in_force"] == true { "" } else { " (not in force)" };
    let model = match answer["model_version"].as_u64() {
        Some(0) | None => "no model".to_owned(),
        Some(version) => format!("model version {version}"),
    };
    let prefers = answer["model_prefers"].as_str().map(|_| format!(" prefers {}", shown(&answer["model_prefers"])));
    let prefers = prefers.unwrap_or_default();
    writeln!(out, "policy {}{in_force}, kind {}, {model}{prefers}", shown(&answer["policy"]), shown(&answer["kind"]))?;
    let candidates = answer["candidates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !candidates.is_empty() {
        let columns = [
            "node",
            "why",
            "probability",
            "in flight",
            "matched",
            "uncached",
            "predicted",
            "first byte",
            "adds to others",
            "penalty",
            "score",
        ];
        let mut table = table(&columns, 2);
        for one in candidates {
            let probability = one["probability"].as_f64().unwrap_or_default() * 100.0;
            let score = one["held"].as_str().map_or_else(|| number(&one["score"], 3), str::to_owned);
            table.add_row([
                shown(&one["node"]),
                shown(&one["why"]),
                format!("{probability:.2} %"),
                shown(&one["in_flight"]),
                number(&one["matched_tokens"], 0),
                number(&one["uncached_tokens"], 0),
                time(&one["predicted_s"]),
                time(&one["first_byte_s"]),
                time(&one["adds_s"]),
                number(&one["penalty"], 2),
                score,
            ]);
        }
        writeln!(out, "\n{}", table.trim_fmt())?;
    }
    let left_out = answer["left_out"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !left_out.is_empty() {
        let why = |one: &Value| match one["why"].as_str() {
            Some("silent") => "silent: it has work and is not heard of".to_owned(),
            _ => shown(&one["why"]),
        };
        let each = left_out.iter().map(|one| format!("{} ({})", shown(&one["node"]), why(one)));
        writeln!(out, "\nleft out: {}", each.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}
