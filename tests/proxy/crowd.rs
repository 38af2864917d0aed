//! How many connections there are in all, and how many of one client.

use std::sync::atomic::Ordering;

use crate::rig::{Rig, Stage, settings, until};
use crate::wire::{get, ok};

#[tokio::test]
async fn a_client_has_only_so_many_connections_and_a_closed_one_makes_room() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.limits.client_connections_max = 2;
    let rig = Rig::start(settings);
    let (first, mut second) = (rig.client().await, rig.client().await);
    until("both are there", || rig.app.connections.load(Ordering::Relaxed) == 2).await;
    let mut third = rig.client().await;
    // Before it has asked for anything.
    let refused = third.message().await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (429, &"too_many_connections".into()));
    assert_eq!(refused.head.get("retry-after"), Some("1"));
    assert_eq!(refused.head.get("connection"), Some("close"));
    assert_eq!(third.until_closed().await, b"");
    assert_eq!(rig.metric("bellwether_refused_total{reason=\"client_connections\"}"), 1.0);

    second.send(get("/")).await;
    let (mut call, _) = node.request().await;
    call.send(ok("served")).await;
    assert_eq!(second.message().await.text(), "served");
    drop(first);
    until("one has left", || rig.app.connections.load(Ordering::Relaxed) == 1).await;
    let mut third = rig.client().await;
    third.send(get("/again")).await;
    assert_eq!(call.head().await.line, "GET /again HTTP/1.1");
    call.send(ok("served, too")).await;
    assert_eq!(third.message().await.text(), "served, too");
    drop((second, third));
    until("nobody holds anything", || rig.app.places.clients() == 0).await;
}

#[tokio::test]
async fn a_tunnel_is_a_connection_of_its_client() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.limits.client_connections_max = 1;
    let rig = Rig::start(settings);
    let mut client = rig.client().await;
    client.send("GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let (mut call, _) = node.request().await;
    call.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi").await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.take(2).await, b"hi");
    assert_eq!(rig.client().await.message().await.status(), 429);
    drop((client, call));
    until("the tunnel is gone", || rig.app.places.clients() == 0).await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_so_many_requests_under_way() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.limits.client_connections_max = 1;
    settings.forward.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let rig = Rig::start(settings);
    let from = |client: &str| format!("GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: {client}\r\n\r\n");
    // The proxy's own connections are not counted.
    let (mut one, mut two, mut three) = (rig.client().await, rig.client().await, rig.client().await);
    one.send(from("203.0.113.1")).await;
    let (mut call, _) = node.request().await;
    let refused = two.ask(from("203.0.113.1")).await;
    assert_eq!((refused.status(), refused.head.get("retry-after")), (429, Some("1")), "{refused:?}");
    assert_eq!(refused.json()["code"], "too_many_connections");
    three.send(from("203.0.113.2")).await;
    let (mut other, _) = node.request().await;
    other.send(ok("another's")).await;
    assert_eq!(three.message().await.text(), "another's");
    call.send(ok("first")).await;
    assert_eq!(one.message().await.text(), "first");
    until("nothing is under way", || rig.app.places.clients() == 0).await;
    // The connection that was refused goes on, as it belongs to the proxy.
    two.send(from("203.0.113.1")).await;
    let call = { node_of(&mut call, &mut other).await };
    call.send(ok("second")).await;
    assert_eq!(two.message().await.text(), "second");
}

/// Whichever of two kept connections the request came on.
async fn node_of<'a>(one: &'a mut crate::wire::Wire, other: &'a mut crate::wire::Wire) -> &'a mut crate::wire::Wire {
    tokio::select! {
        _ = one.head() => one,
        _ = other.head() => other,
    }
}

#[tokio::test]
async fn more_connections_than_allowed_in_all_wait_and_are_served_when_others_leave() {
    let node = Stage::open("a").await;
    let mut settings = settings([node.spec()]);
    settings.limits.connections_max = 1;
    let rig = Rig::start(settings);
    let first = rig.client().await;
    until("the first is there", || rig.app.connections.load(Ordering::Relaxed) == 1).await;
    let mut second = rig.client().await;
    second.send(get("/")).await;
    drop(first);
    let (mut call, _) = node.request().await;
    assert_eq!(rig.app.connections.load(Ordering::Relaxed), 1);
    call.send(ok("after a wait")).await;
    assert_eq!(second.message().await.text(), "after a wait");
}
