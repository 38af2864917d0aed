//! `max_in_flight` for all nodes: who has it, who has a limit of its own, and what is printed of both.

use serde_json::json;

use super::*;

const FILE: &str = "max_in_flight = 8\n[[node]]\nurl = \"http://a\"\n[[node]]\nurl = \"http://b\"\nmax_in_flight = 3\n\
    [[node]]\nurl = \"http://c\"\nmax_in_flight = \"off\"\n[[node]]\nurl = \"http://d\"\nmax_in_flight = \"auto\"\n";

fn limits(settings: &Settings) -> Vec<MaxInFlight> {
    settings.nodes.iter().map(NodeSpec::max_in_flight).collect()
}

#[test]
fn the_default_limits_every_node_that_says_nothing_itself() {
    use MaxInFlight::{Auto, Fixed, Off};
    assert_eq!(limits(&load(FILE)), [Fixed(8), Fixed(3), Off, Auto]);
    let place = Place::with(FILE);
    let env = [("BELLWETHER_MAX_IN_FLIGHT", "12")];
    let by_env = place.sources(&env, &[]).load().unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(limits(&by_env.settings), [Fixed(12), Fixed(3), Off, Auto]);
    let flag = ("--max-in-flight", "max_in_flight", "auto");
    let by_flag = place.sources(&env, &[flag]).load().unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(limits(&by_flag.settings), [Auto, Fixed(3), Off, Auto]);
    assert_eq!(by_flag.origins.get("max_in_flight").to_string(), "flag --max-in-flight");
    let printed = by_flag.to_toml();
    let line = printed.lines().find(|line| line.starts_with("max_in_flight = \"auto\"")).unwrap_or_default();
    assert!(line.ends_with("# flag --max-in-flight"), "{printed}");
    assert_eq!(limits(&load("[[node]]\nurl = \"http://a\"\n")), [Off], "no limit unless one is set");
}

#[test]
fn what_is_printed_leaves_the_default_to_the_default() {
    let loaded = Place::with(FILE).sources(&[], &[]).load().unwrap_or_else(|errors| panic!("{errors}"));
    let shown = loaded.settings.to_json();
    assert_eq!(shown["max_in_flight"], 8);
    let of_nodes: Vec<&serde_json::Value> =
        shown["node"].as_array().into_iter().flatten().map(|node| &node["max_in_flight"]).collect();
    assert_eq!(of_nodes, [&json!(null), &json!(3), &json!("off"), &json!("auto")]);
    assert_eq!(load(&loaded.to_toml()).nodes, loaded.settings.nodes);
    let other = load(&FILE.replacen('8', "9", 1));
    let keys: Vec<String> = changes(&loaded.settings, &other).into_iter().map(|changed| changed.key).collect();
    assert_eq!(keys, ["max_in_flight"], "one change, not one for each node");
}

#[test]
fn a_default_that_is_no_limit_is_refused_where_it_stands() {
    for (toml, at) in [
        ("max_in_flight = 0", "b.toml:1:17: max_in_flight: 0 is out of range"),
        ("max_in_flight = \"aut\"", "b.toml:1:17: max_in_flight: \"aut\""),
        ("[[node]]\nurl = \"http://a\"\nmax_in_flight = \"of\"", "b.toml:3:17: node[0].max_in_flight: \"of\""),
    ] {
        let said = mistake(toml);
        assert!(said.starts_with(at) && said.contains("\"off\""), "{said}");
    }
}

#[test]
fn a_node_of_the_admin_api_has_the_default_unless_it_says_otherwise() {
    let node = |json| check_node(json, MaxInFlight::Auto).expect("as written above").max_in_flight();
    assert_eq!(node(json!({"url": "http://h"})), MaxInFlight::Auto);
    assert_eq!(node(json!({"url": "http://h", "max_in_flight": "off"})), MaxInFlight::Off);
    assert_eq!(node(json!({"url": "http://h", "max_in_flight": 4})), MaxInFlight::Fixed(4));
}
