//! Nodes from the admin API: only where they may be, when they are added and whenever they are connected to.

use bellwether::config::Settings;
use bellwether::node::NodeSpec;
use serde_json::{Value, json};

use crate::rig::{Rig, Stage, settings};
use crate::wire::{Message, Wire, get, ok, post};

/// Asks the admin API to add a node.
pub(crate) async fn add(rig: &Rig, node: &Value) -> Message {
    let body = node.to_string();
    let head = "POST /api/v1/nodes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length:";
    Wire::connect(rig.admin).await.ask(format!("{head} {}\r\n\r\n{body}", body.len())).await
}

#[tokio::test]
async fn where_clouds_keep_credentials_and_where_we_listen_no_node_is_added() {
    let rig = Rig::of([]);
    let admin = format!("http://{}", rig.admin);
    for (url, why) in [
        ("http://169.254.169.254", "link-local"),
        ("http://169.254.169.254:80/latest/meta-data", "link-local"),
        ("http://[fd00:ec2::254]", "link-local"),
        ("http://[::ffff:169.254.169.254]", "link-local"),
        ("http://metadata.google.internal", "credentials"),
        ("http://METADATA.google.internal.:80", "credentials"),
        // A spelling that resolvers take for an address.
        ("http://0xa9fea9fe", "link-local"),
        ("http://0.0.0.0:1", "link-local"),
        ("http://203.0.113.9:8000", "outside of admin.node_allow"),
        ("http://[2001:db8::1]", "outside of admin.node_allow"),
    ] {
        let refused = add(&rig, &json!({ "url": url })).await;
        assert_eq!(refused.status(), 403, "{url}: {refused:?}");
        assert_eq!(refused.head.get("content-type"), Some("application/problem+json"));
        let detail = refused.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(why) && detail.contains("admin.node_allow"), "{url}: {detail}");
    }
    assert!(rig.app.balancer.fleet().nodes().is_empty());

    // The settings name the port that was asked for, as in production; the tests' 0 meets nothing.
    let mut next = Settings::clone(&rig.app.settings.load());
    next.admin.listen = rig.admin.into();
    rig.app.settings.store(next.into());
    for url in
        [admin.as_str(), &admin.replace("127.0.0.1", "localhost"), &admin.replace("127.0.0.1", "[::ffff:127.0.0.1]")]
    {
        let refused = add(&rig, &json!({ "url": url })).await;
        assert_eq!(refused.status(), 403, "{url}: {refused:?}");
        assert!(refused.text().contains("this proxy itself"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_list_of_ones_own_says_where_nodes_may_be() {
    let mut settings = settings([]);
    settings.admin.node_allow.0 =
        ["203.0.113.0/24", "*.gpu.example", "169.254.7.0/24"].map(|entry| entry.parse().expect(entry)).into();
    settings.nodes = vec![NodeSpec::new("http://10.9.9.9:1").named("configured")];
    let rig = Rig::start(settings);
    for (url, status) in [
        ("http://203.0.113.9:8000", 201),
        ("http://a.gpu.example:8000", 201),
        ("http://10.9.9.9:2", 201),
        ("http://169.254.7.7", 201),
        ("http://169.254.169.254", 403),
        ("http://127.0.0.1:1", 403),
        ("http://10.9.9.8:2", 403),
    ] {
        assert_eq!(add(&rig, &json!({ "url": url })).await.status(), status, "{url}");
    }
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_later_is_not_followed() {
    let node = Stage::open("a").await;
    let rig = Rig::of([]);
    let url = format!("http://localhost:{}", node.address().port());
    assert_eq!(add(&rig, &json!({ "url": url, "name": "a" })).await.status(), 201);
    let mut client = rig.client().await;
    client.send(get("/first")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("reached").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
    assert_eq!(client.message().await.text(), "reached");

    // To the check it is the same whether the name moves out of the list or the list away from the name.
    let mut next = Settings::clone(&rig.app.settings.load());
    next.admin.node_allow.0 = vec!["10.0.0.0/8".parse().expect("a network")];
    rig.app.settings.store(next.into());
    let refused = rig.client().await.ask(post("/v1/chat/completions", "{}")).await;
    assert_eq!(refused.status(), 502, "{refused:?}");
    assert!(refused.text().contains("admin.node_allow"), "{refused:?}");

    // A node of the configuration is the operator's own choice.
    let mut next = Settings::clone(&rig.app.settings.load());
    next.nodes = vec![NodeSpec::new(url).named("configured")];
    rig.app.settings.store(next.into());
    client.send(get("/third")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("again")).await;
    assert_eq!(client.message().await.text(), "again");
}
