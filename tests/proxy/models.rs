//! The look at a request: its model decides where it goes, and its bytes are not touched.

use bellwether::node::NodeSpec;
use serde_json::{Value, json};

use crate::rig::{Dead, Rig, Stage, emulator, spec_of};
use crate::wire::{get, ok, post};

fn serving(spec: NodeSpec, models: &[&str]) -> NodeSpec {
    NodeSpec { models: models.iter().map(|model| (*model).to_owned()).collect(), ..spec }
}

/// Two nodes that serve a model each.
async fn pair() -> (Stage, Stage, Rig) {
    let (llama, qwen) = (Stage::open("llama").await, Stage::open("qwen").await);
    let rig = Rig::of([serving(llama.spec(), &["llama"]), serving(qwen.spec(), &["qwen", "qwen-2"])]);
    (llama, qwen, rig)
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut text =
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for chunk in body.chunks(size) {
        text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

#[tokio::test]
async fn a_request_goes_to_a_node_that_serves_its_model_with_every_byte_as_it_came() {
    let (llama, qwen, rig) = pair().await;
    let large = format!("{{\"model\": \"qwen\", \"prompt\": \"{}\"}}", "x\\u00e9 ".repeat(40_000));
    let odd = "{\r\n\t\"model\" : \"llama\",\"a\":1e400, \"a\":  [ ] ,\"b\":\"\\u0041\\/\\ud83d\\ude00\"}  \n";
    let twice =
        "{\"model\":\"\\u0071wen-2\",\"stream\":false,\"messages\":[{\"content\":\"\\\"model\\\":\\\"llama\\\"\"}]}";
    assert!(large.len() > 300_000);
    for (body, node) in [(odd, &llama), (twice, &qwen), (large.as_str(), &qwen)] {
        for request in [post("/v1/chat/completions", body).into_bytes(), chunked(body.as_bytes(), 1_000)] {
            let mut client = rig.client().await;
            let (_, (mut call, head)) = tokio::join!(client.send(&request), node.request());
            let request = call.rest_of(head).await;
            assert!(request.body == body.as_bytes(), "{}", String::from_utf8_lossy(&request.body[..100]));
            call.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
            assert_eq!(client.message().await.text(), "ok");
        }
    }
}

#[tokio::test]
async fn a_body_of_another_type_is_not_looked_at() {
    let (llama, qwen, rig) = pair().await;
    let body = "{\"model\":\"nobody\"}";
    let request = post("/upload", body).replace("application/json", "text/plain");
    let mut client = rig.client().await;
    client.send(request).await;
    let (mut call, head) = tokio::select! { got = llama.request() => got, got = qwen.request() => got };
    assert_eq!(call.rest_of(head).await.text(), body);
    call.send(ok("fine")).await;
    assert_eq!(client.message().await.text(), "fine");
}

#[tokio::test]
async fn an_unknown_model_is_a_404_that_lists_the_known_ones() {
    let (_llama, _qwen, rig) = pair().await;
    let body = "{\"model\":\"gpt\\\"5\"}";
    let message = rig.client().await.ask(post("/v1/chat/completions", body)).await;
    assert_eq!((message.status(), message.head.get("content-type")), (404, Some("application/json")));
    let error = &message.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!("model_not_found"), &json!("invalid_request_error")));
    assert_eq!(error["param"], Value::Null);
    let text = error["message"].as_str().expect("a text");
    assert!(text.contains("\"gpt\\\"5\"") && text.ends_with("known models: llama, qwen, qwen-2"), "{text}");
    assert_eq!(message.head.get("proxy-status"), Some("bellwether; error=destination_not_found"));
    assert_eq!(rig.metric("bellwether_rejected_total{reason=\"unknown_model\"}"), 1.0);
    assert_eq!(rig.metric("bellwether_requests_total{node=\"none\",code=\"404\"}"), 1.0);
}

#[tokio::test]
async fn a_node_without_a_list_serves_every_model() {
    let (llama, any) = (Stage::open("llama").await, Stage::open("any").await);
    let rig = Rig::of([serving(llama.spec(), &["llama"]), any.spec()]);
    let mut client = rig.client().await;
    client.send(post("/v1/chat/completions", "{\"model\":\"unheard-of\"}")).await;
    let (mut call, head) = any.request().await;
    call.rest_of(head).await;
    call.send(ok("served")).await;
    assert_eq!(client.message().await.text(), "served");
}

#[tokio::test]
async fn the_list_of_models_is_that_of_the_whole_fleet() {
    let emulated = emulator("emulated").await;
    let (listed, dead, stage) = (Dead::node("listed"), Dead::node("dead"), Stage::open("strange").await);
    let rig = Rig::of([
        serving(listed.spec(), &["zeta", "alpha"]),
        spec_of(&emulated),
        dead.spec(),
        NodeSpec { url: format!("{}/base", stage.spec().url), ..stage.spec() },
    ]);
    let mut client = rig.client().await;
    client
        .send("GET /v1/models?x=1 HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\naccept-encoding: gzip\r\n\r\n")
        .await;
    let (mut call, head) = stage.request().await;
    assert_eq!(head.line, "GET /base/v1/models HTTP/1.1");
    assert_eq!((head.get("authorization"), head.get("accept-encoding")), (Some("Bearer k"), None));
    call.send(ok("{\"data\":[{\"id\":\"mid\",\"owned_by\":\"x\"},{\"no\":\"id\"},{\"id\":\"emulated\"},7]}")).await;
    let message = client.message().await;
    assert_eq!((message.status(), message.head.get("content-type")), (200, Some("application/json")));
    let list = message.json();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().expect("a list");
    let ids: Vec<&Value> = models.iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["alpha", "emulated", "mid", "zeta"]);
    assert_eq!(models[2]["owned_by"], "x");
    // Nothing was decided for it.
    assert_eq!((rig.in_flight("emulated"), rig.attempts("emulated", "completed")), (0, 0.0));
}

#[tokio::test]
async fn a_list_with_a_body_of_its_own_is_asked_for_without_it() {
    let emulated = emulator("emulated").await;
    let rig = Rig::of([spec_of(&emulated)]);
    let message = rig.client().await.ask("GET /v1/models HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}").await;
    assert_eq!(message.status(), 200, "{message:?}");
    assert_eq!(message.json()["data"][0]["id"], "emulated");
}

#[tokio::test]
async fn without_any_list_the_proxy_says_so() {
    let dead = Dead::node("dead");
    let rig = Rig::of([dead.spec()]);
    let message = rig.client().await.ask(get("/v1/models")).await;
    assert_eq!(message.status(), 502);
    assert!(message.json()["error"]["message"].is_string());
}
