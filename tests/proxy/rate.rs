//! What one client may ask for, and what it is told of that.

use std::time::Duration;

use bellwether::admission::Quota;
use bellwether::config::RateKey;

use crate::rig::{Rig, Stage, settings, until};
use crate::wire::{Message, Wire, ok, post};

const HOUR: Duration = Duration::from_secs(3_600);

async fn rig(requests: u64, tokens: u64, key: RateKey) -> (Rig, Stage) {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    let quota = |amount| (amount > 0).then_some(Quota { amount, window: HOUR });
    settings.rate_limit.key = key;
    settings.rate_limit.rules.requests = quota(requests);
    settings.rate_limit.rules.tokens = quota(tokens);
    (Rig::start(settings), node)
}

fn chat(fields: &str, body: &str) -> String {
    post("/v1/chat/completions", body).replacen("\r\n", &format!("\r\n{fields}"), 1)
}

/// Asks, and answers on the node's connection, which is kept.
async fn served(rig: &Rig, node: &Stage, call: &mut Option<Wire>, request: String) -> Message {
    let mut client = rig.client().await;
    client.send(request).await;
    let (mut wire, head) = match call.take() {
        Some(mut wire) => {
            let head = wire.head().await;
            (wire, head)
        }
        None => node.request().await,
    };
    wire.rest_of(head).await;
    wire.send(ok("served")).await;
    *call = Some(wire);
    client.message().await
}

#[tokio::test]
async fn a_client_that_has_used_up_its_requests_is_told_so_and_others_are_not_concerned() {
    let (rig, node) = rig(2, 0, RateKey::ApiKey).await;
    let mut call = None;
    let (one, two) = (chat("authorization: Bearer one\r\n", "{}"), chat("authorization: Bearer two\r\n", "{}"));
    let first = served(&rig, &node, &mut call, one.clone()).await;
    assert_eq!((first.status(), first.head.get("ratelimit-policy")), (200, Some("\"requests\";q=2;w=3600")));
    assert_eq!(first.head.get("ratelimit"), Some("\"requests\";r=1;t=1800"));
    served(&rig, &node, &mut call, one.clone()).await;
    let refused = rig.client().await.ask(one).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    let wait: u64 = refused.head.get("retry-after").expect("told").parse().expect("seconds");
    assert!((1..=1_800).contains(&wait), "{wait}");
    assert!(refused.head.get("ratelimit").is_some_and(|told| told.starts_with("\"requests\";r=0;t=")));
    assert_eq!(served(&rig, &node, &mut call, two).await.status(), 200);
    assert_eq!(rig.metric("bellwether_refused_total{reason=\"rate_limited\"}"), 1.0);
    assert_eq!(rig.metric("bellwether_decisions_total{node=\"a\",policy=\"adaptive\"}"), 3.0);
}

/// Tokens that are left, as an answer tells it.
fn left(message: &Message) -> u64 {
    let told = message.head.get("ratelimit").and_then(|told| told.strip_prefix("\"tokens\";r="));
    told.and_then(|told| told.split(';').next()).expect("told").parse().expect("a number")
}

#[tokio::test]
async fn tokens_are_prompt_and_expected_output() {
    let (rig, node) = rig(0, 1_000, RateKey::Address).await;
    let mut call = None;
    let body = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":5}";
    let few = served(&rig, &node, &mut call, chat("", body)).await;
    assert!((900..=995).contains(&left(&few)), "{few:?}");
    // More than is left, whatever a token is.
    let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}", "word ".repeat(4_000));
    assert_eq!(rig.client().await.ask(chat("", &body)).await.status(), 429);
}

#[tokio::test]
async fn without_limits_nothing_is_told() {
    let (rig, node) = rig(0, 0, RateKey::Address).await;
    let message = served(&rig, &node, &mut None, chat("", "{}")).await;
    assert_eq!((message.status(), message.head.get("ratelimit")), (200, None));
    assert!(rig.app.rates.is_empty());
}

#[tokio::test]
async fn the_list_of_models_counts_like_any_other_request() {
    let (rig, node) = rig(1, 0, RateKey::ApiKey).await;
    let mut client = rig.client().await;
    let asking = "GET /v1/models HTTP/1.1\r\nhost: h\r\nif-none-match: \"x\"\r\nrange: bytes=0-1\r\n\r\n";
    client.send(asking).await;
    let (mut call, head) = node.request().await;
    assert_eq!((head.get("if-none-match"), head.get("range")), (None, None), "the list is asked for whole");
    call.send(ok("{\"data\": [{\"id\": \"m\"}]}")).await;
    let list = client.message().await;
    assert_eq!((list.status(), &list.json()["data"][0]["id"]), (200, &"m".into()));
    assert_eq!(rig.client().await.ask(asking).await.status(), 429);
}

#[tokio::test]
async fn in_the_end_a_client_pays_what_its_answer_took() {
    let (rig, node) = rig(0, 1_000, RateKey::Address).await;
    // Several times the quota by its length, which a full quota lets pass; paid so, the next one would wait for hours.
    let body = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}", "word ".repeat(4_000));
    let mut client = rig.client().await;
    client.send(chat("", &body)).await;
    let (mut call, head) = node.request().await;
    call.rest_of(head).await;
    let told = "{\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":60}}";
    call.send(ok(told).replacen("text/plain", "application/json", 1)).await;
    assert_eq!(client.message().await.text(), told);
    until("it is settled", || rig.attempts("a", "completed") == 1.0).await;
    let next = served(&rig, &node, &mut Some(call), chat("", "{\"max_tokens\":10}")).await;
    assert_eq!(next.status(), 200);
    assert!((880..=990).contains(&left(&next)), "{next:?}");
}
