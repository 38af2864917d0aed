//! What differs between two settings: what a reload applies, reports, and cannot apply.
//!
//! Both are turned into plain data and compared value by value, nodes and routes under their names: a moved node is not
//! a changed one. Tokens are compared by their secrets and reported without them, certificates by what their files
//! contained, as a renewed one has the name of the old.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value as Json;

use super::checked::Settings;
use super::view::same_tokens;

/// Keys that only a new process can apply: sockets, threads, the log and what learning starts from.
const RESTART: [&str; 8] = [
    "listen",
    "admin.listen",
    "workers",
    "handover",
    "log.format",
    "adaptive.state_dir",
    "adaptive.prior",
    "prefix.key_file",
];

/// A setting that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// Its key; entries of arrays are called by name: `node[gpu-1].weight`.
    pub key: String,
    /// The old value; `None` where there was none, or where it is secret.
    pub from: Option<Json>,
    /// The new value; `None` where there is none, or where it is secret.
    pub to: Option<Json>,
    /// Whether it takes a restart to apply it.
    pub restart: bool,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{}: {from} -> {to}", self.key)?,
            (None, Some(to)) => write!(f, "{}: now {to}", self.key)?,
            (Some(from), None) => write!(f, "{}: was {from}, now gone", self.key)?,
            (None, None) => write!(f, "{}: changed", self.key)?,
        }
        f.write_str(if self.restart { " (needs a restart)" } else { "" })
    }
}

/// Every setting that differs, by key; empty for equal settings.
pub fn changes(old: &Settings, new: &Settings) -> Vec<Changed> {
    let mut found = changes_shown(old.to_json(), new.to_json());
    if !same_tokens(&old.admin.tokens, &new.admin.tokens) {
        found.push(Changed { key: "admin.token".to_owned(), from: None, to: None, restart: false });
    }
    let server = |settings: &Settings| settings.admin.tls.as_ref().map(|tls| tls.server.clone());
    if server(old) != server(new) && !found.iter().any(|changed| changed.key.starts_with("admin.tls.")) {
        found.push(Changed { key: "admin.tls".to_owned(), from: None, to: None, restart: false });
    }
    let order = |settings: &Settings| settings.routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
    let same_routes = !found.iter().any(|changed| changed.key.starts_with("route"));
    if same_routes && order(old) != order(new) {
        let names = |settings| Some(Json::from(order(settings)));
        found.push(Changed { key: "route".to_owned(), from: names(old), to: names(new), restart: false });
    }
    found
}

/// The same of settings as [`Settings::to_json`] shows them, which may be another process's. Tokens are left out: they
/// are not shown.
pub fn changes_shown(old: Json, new: Json) -> Vec<Changed> {
    let (before, after) = (flat(old), flat(new));
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let differing = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differing
        .map(|key| Changed {
            key: key.clone(),
            from: before.get(key).cloned(),
            to: after.get(key).cloned(),
            restart: RESTART.contains(&key.as_str()),
        })
        .collect()
}

/// Path to value, without tokens.
fn flat(mut shown: Json) -> BTreeMap<String, Json> {
    fn collect(path: &str, json: Json, out: &mut BTreeMap<String, Json>) {
        match json {
            Json::Object(map) => {
                map.into_iter().for_each(|(key, value)| collect(&super::schema::join(path, &key), value, out));
            }
            Json::Array(items) if items.iter().any(Json::is_object) => {
                let mut seen: BTreeMap<String, usize> = BTreeMap::new();
                for item in items {
                    let name = item.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
                    // Routes may share a name: then their order tells them apart.
                    let nth = seen.entry(name.clone()).and_modify(|nth| *nth += 1).or_insert(1);
                    let nth = if *nth > 1 { format!("#{nth}") } else { String::new() };
                    collect(&format!("{path}[{name}{nth}]"), item, out);
                }
            }
            leaf => drop(out.insert(path.to_owned(), leaf)),
        }
    }
    if let Some(admin) = shown.get_mut("admin").and_then(Json::as_object_mut) {
        admin.remove("token");
    }
    let mut out = BTreeMap::new();
    collect("", shown, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::SecretString;

    use super::*;
    use crate::config::{Role, Token};
    use crate::node::NodeSpec;

    fn with_nodes(nodes: Vec<NodeSpec>) -> Settings {
        Settings { nodes, ..Settings::default() }
    }

    fn keys(old: &Settings, new: &Settings) -> Vec<(String, bool)> {
        changes(old, new).into_iter().map(|changed| (changed.key, changed.restart)).collect()
    }

    #[test]
    fn equal_settings_have_no_changes_and_a_moved_node_is_none() {
        let old = with_nodes(vec![NodeSpec::new("http://a:1"), NodeSpec::new("http://b:1")]);
        let mut new = old.clone();
        assert_eq!(changes(&old, &new), []);
        new.nodes.reverse();
        assert_eq!(changes(&old, &new), []);
    }

    #[test]
    fn only_sockets_threads_and_the_look_of_the_log_need_a_restart() {
        let old = Settings::default();
        let mut new = old.clone();
        new.listen.set_port(1);
        new.admin.listen.set_port(2);
        new.workers += 1;
        new.timeouts.connect = Duration::from_secs(9);
        let expected = [("admin.listen", true), ("listen", true), ("timeouts.connect", false), ("workers", true)];
        assert_eq!(keys(&old, &new), expected.map(|(key, restart)| (key.to_owned(), restart)));
    }

    #[test]
    fn nodes_are_compared_under_their_names() {
        let old = with_nodes(vec![NodeSpec::new("http://a:1").named("a"), NodeSpec::new("http://b:1").named("b")]);
        let mut new = old.clone();
        new.nodes.remove(0);
        new.nodes[0].weight = 2.0;
        let found = changes(&old, &new);
        assert!(found.iter().any(|changed| changed.key == "node[a].url" && changed.to.is_none()), "{found:?}");
        let weight = found.iter().find(|changed| changed.key == "node[b].weight").expect("changed");
        assert_eq!(weight.to_string(), "node[b].weight: 1.0 -> 2.0");
    }

    #[test]
    fn a_new_token_is_noticed_and_not_shown() {
        let old = Settings::default();
        let mut new = old.clone();
        new.admin.tokens = vec![Token { secret: SecretString::from("hunter2hunter2hunter2"), role: Role::Read }];
        assert_eq!(keys(&old, &new), [("admin.token".to_owned(), false)]);
        assert!(!format!("{:?}", changes(&old, &new)).contains("hunter2"));
        let mut other = new.clone();
        other.admin.tokens[0].secret = SecretString::from("swordfish-swordfish");
        assert_eq!(keys(&new, &other), [("admin.token".to_owned(), false)]);
    }
}
