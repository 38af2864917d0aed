//! The rules of the house, checked on the sources: layers, purity of the core, lengths, nothing left undone.
//!
//! Crates would enforce the layers too, but seven crates for one program cost every reader and every build more than
//! this does. The checker reads code, not types: comments, strings and tests are taken out, paths are taken as they are
//! written. A macro that makes paths would escape it.

#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::Source;

/// Lines of code, without comments and blank lines, before the tests.
const LINES_MAX: usize = 400;

/// Modules of the core from the bottom up; in the first group they may know each other, in the others not.
const CORE: [&[&str]; 6] = [
    &["clock", "node", "request", "outcome"],
    &["fleet"],
    &["prefix"],
    &["learn"],
    &["policy", "admission"],
    &["balancer"],
];
/// Above everything: they start the program, and nobody knows them.
const TOP: [&str; 3] = ["main", "lib", "cli"];
/// The shell's common state: it holds a piece of every part of the shell, and every part gets the whole. So rings
/// through it are no news; a ring that does without it is found.
const HUB: &str = "app";
/// Crates and modules that the core must do without.
const IMPURE: [&[&str]; 10] = [
    &["tokio"],
    &["hyper"],
    &["hyper_util"],
    &["axum"],
    &["socket2"],
    &["std", "net"],
    &["std", "fs"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
];

/// How high a module stands: the core's layers, the shell, and what starts the program.
fn layer(module: &str) -> usize {
    let core = CORE.iter().position(|modules| modules.contains(&module));
    core.unwrap_or(if TOP.contains(&module) { CORE.len() + 1 } else { CORE.len() })
}

fn is_core(module: &str) -> bool {
    layer(module) < CORE.len()
}

/// Everything that breaks a rule, one line each.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        found.extend(upward(source));
        found.extend(impure(source));
        found.extend(unfinished(source));
        if source.lines_of_code() > LINES_MAX {
            found.push(format!("{}: {} lines of code before tests", source.path, source.lines_of_code()));
        }
    }
    found.extend(cycles(sources));
    found
}

fn upward(source: &Source) -> Vec<String> {
    let own = layer(source.module());
    let wrong = |module: &&String| {
        let theirs = layer(module);
        theirs > own || (theirs == own && is_core(module) && own > 0 && *module != source.module())
    };
    let modules = source.imported_modules();
    modules.iter().filter(wrong).map(|module| format!("{}: must not know {module}", source.path)).collect()
}

fn impure(source: &Source) -> Vec<String> {
    if !is_core(source.module()) {
        return Vec::new();
    }
    let impure = |path: &&Vec<String>| {
        let has = |word: &str| path.iter().any(|segment| segment == word);
        let ends = |words: &[&str]| path.len() >= words.len() && path[path.len() - words.len()..] == *words;
        let starts = |words: &&[&str]| path.len() >= words.len() && path[..words.len()] == **words;
        IMPURE.iter().any(starts)
            || has("SystemTime")
            || (has("Instant") && source.path != "src/clock.rs")
            || (starts(&["fastrand"].as_slice()) && path.len() > 1 && path[1] != "Rng")
            || ends(&["Rng", "new"])
            || ends(&["Rng", "default"])
    };
    let paths = source.paths();
    paths.iter().filter(impure).map(|path| format!("{}: {} in the core", source.path, path.join("::"))).collect()
}

fn unfinished(source: &Source) -> Vec<String> {
    let macros = ["todo!", "unimplemented!"].into_iter().filter(|word| source.code.contains(word));
    let notes = ["TODO", "FIXME"].into_iter().filter(|word| source.text.contains(word));
    macros.chain(notes).map(|word| format!("{}: {word}", source.path)).collect()
}

/// Modules that know each other in a ring.
fn cycles(sources: &[Source]) -> Vec<String> {
    let mut known: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.module() != HUB) {
        let others = source.imported_modules().into_iter().filter(|module| module != source.module());
        known.entry(source.module()).or_default().extend(others);
    }
    // What is left when modules that know nobody who is left are taken away, again and again, is in or above a ring.
    loop {
        let free: Vec<&str> = known
            .iter()
            .filter(|(_, others)| others.iter().all(|other| !known.contains_key(other.as_str())))
            .map(|(module, _)| *module)
            .collect();
        if free.is_empty() {
            break;
        }
        free.into_iter().for_each(|module| _ = known.remove(module));
    }
    // And from above: whom nobody left knows is not in a ring.
    loop {
        let unknown: Vec<&str> =
            known.keys().copied().filter(|module| !known.values().any(|others| others.contains(*module))).collect();
        if unknown.is_empty() {
            break;
        }
        unknown.into_iter().for_each(|module| _ = known.remove(module));
    }
    if known.is_empty() {
        return Vec::new();
    }
    vec![format!("modules know each other in a ring: {:?}", known.keys().collect::<Vec<_>>())]
}

#[test]
fn the_house_keeps_its_rules() {
    let sources = source::read_all(Path::new(env!("CARGO_MANIFEST_DIR")));
    let read = |path: &str| sources.iter().any(|source| source.path == path);
    assert!(
        read("src/policy/mod.rs") && read("src/lib.rs") && read("src/clock.rs"),
        "the sources are not where they were"
    );
    let policy = sources.iter().find(|source| source.path == "src/balancer/mod.rs").expect("read");
    assert!(policy.imported_modules().contains("policy"), "imports are no longer recognized");
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn complaints(files: &[(&str, &str)]) -> Vec<String> {
    let sources =
        source::from_texts(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect());
    violations(&sources)
}

#[test]
fn an_import_upward_is_found_however_it_is_written() {
    for (path, text) in [
        ("src/fleet/mod.rs", "use crate::policy::Policy;"),
        ("src/fleet/ledger.rs", "use crate::{clock::Time, policy::{self, Policy}};"),
        ("src/fleet/ledger.rs", "fn f() { crate::balancer::decide() }"),
        ("src/fleet/ledger.rs", "use super::super::policy::Policy;"),
        ("src/clock.rs", "use super::fleet::Fleet;"),
        ("src/policy/random.rs", "use crate::admission::RetryBudget;"),
        ("src/admission/mod.rs", "use crate::policy::Policy;"),
        ("src/learn/fit.rs", "pub(super) use crate::balancer as b;"),
        ("src/balancer/mod.rs", "use crate::proxy;"),
        ("src/policy/mod.rs", "use crate::config::Settings;"),
        ("src/proxy/mod.rs", "use crate::cli::run;"),
        ("src/proxy/mod.rs", "const X: &str = \"\\\"\"; use crate::cli::X;"),
        ("src/fleet/mod.rs", "fn f<'a>(c: char) -> bool { c == '\"' } use crate::policy::Policy; // '\""),
        ("src/fleet/mod.rs", "#[cfg(test)] mod tests { fn f() {} } use crate::policy::Policy;"),
    ] {
        let found = complaints(&[(path, text)]);
        assert!(found.len() == 1 && found[0].contains("must not know"), "{path} {text}: {found:?}");
    }
}

#[test]
fn imports_downward_and_words_in_comments_strings_and_tests_are_fine() {
    for (path, text) in [
        ("src/policy/random.rs", "use crate::{clock::Time, fleet::{Fleet, Node}, learn::Predictor}; use super::draw;"),
        ("src/outcome.rs", "use crate::clock::Time; use crate::request::KindId;"),
        ("src/balancer/mod.rs", "use crate::policy::Policy; use crate::admission::Queue; use crate::balancer::X;"),
        ("src/proxy/mod.rs", "use tokio::net; use crate::balancer::Balancer; use crate::telemetry::X; use std::fs;"),
        ("src/fleet/mod.rs", "//! [`crate::policy`] and tokio::spawn\n/* use crate::proxy; /* nested */ */"),
        ("src/fleet/mod.rs", "const A: &str = \"crate::proxy::X\"; const B: &str = r#\"\"tokio::x\"#;"),
        ("src/fleet/mod.rs", "#[cfg(test)]\nmod tests { use crate::policy::X; use std::thread; fn f() { todo!() } }"),
        ("src/clock.rs", "use std::time::Instant; fn now() -> Instant { Instant::now() }"),
        ("src/policy/mod.rs", "fn f(rng: &mut fastrand::Rng) { fastrand::Rng::with_seed(1); rng.f64(); }"),
    ] {
        assert_eq!(complaints(&[(path, text)]), Vec::<String>::new(), "{path} {text}");
    }
    let tests_elsewhere =
        [("src/fleet/mod.rs", "#[cfg(test)] mod tests;"), ("src/fleet/tests.rs", "use crate::cli::X;")];
    assert_eq!(complaints(&tests_elsewhere), Vec::<String>::new());
    let not_tests = [("src/fleet/mod.rs", "mod tests;"), ("src/fleet/tests.rs", "use crate::cli::X;")];
    assert_eq!(complaints(&not_tests).len(), 1);
}

#[test]
fn every_impurity_in_the_core_is_found() {
    for text in [
        "use tokio::sync::Mutex;",
        "use hyper::Request;",
        "use axum::Router;",
        "use std::{net::SocketAddr, sync::Arc};",
        "fn f() { std::fs::read(\"x\"); }",
        "use std::time::Instant;",
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { fastrand::u32(..); }",
        "use fastrand::shuffle;",
        "fn f() { fastrand::Rng::new(); }",
        "use std::thread;",
    ] {
        let found = complaints(&[("src/policy/random.rs", text)]);
        assert!(found.len() == 1 && found[0].contains("in the core"), "{text}: {found:?}");
        assert_eq!(complaints(&[("src/proxy/mod.rs", text)]), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn rings_are_found_and_chains_are_not() {
    let ring = [
        ("src/proxy/mod.rs", "use crate::telemetry::X;"),
        ("src/telemetry/mod.rs", "use crate::probe::X;"),
        ("src/probe/mod.rs", "use crate::proxy::X;"),
        ("src/server.rs", "use crate::proxy::X; use crate::clock::Time; use crate::app::X;"),
        ("src/clock.rs", ""),
        ("src/app.rs", "use crate::server::X;"),
    ];
    let expected = "modules know each other in a ring: [\"probe\", \"proxy\", \"telemetry\"]";
    assert_eq!(complaints(&ring), [expected]);
    assert_eq!(complaints(&ring[..2]), Vec::<String>::new());
    let words = [("src/node.rs", "use crate::request::X;"), ("src/request.rs", "use crate::node::X;")];
    assert_eq!(complaints(&words).len(), 1);
}

#[test]
fn long_and_unfinished_files_are_found() {
    let long = "fn f() {}\n".repeat(LINES_MAX + 1);
    assert_eq!(complaints(&[("src/server.rs", &long)]), ["src/server.rs: 401 lines of code before tests"]);
    let mostly_words = format!("{}{}", "fn f() {}\n".repeat(LINES_MAX), "// why\n\n".repeat(50));
    let with_tests = format!("{mostly_words}#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(complaints(&[("src/server.rs", &with_tests)]), Vec::<String>::new());
    assert_eq!(complaints(&[("src/server.rs", "fn f() { todo!() }")]), ["src/server.rs: todo!"]);
    assert_eq!(complaints(&[("src/server.rs", "// FIXME: later")]), ["src/server.rs: FIXME"]);
}
