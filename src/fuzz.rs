//! What must hold for any bytes whatever, at each place where bytes from elsewhere come in.
//!
//! One function per place: it takes bytes, feeds them to the real reader, and panics if what the module of that reader
//! promises does not hold. The fuzz targets in `tests/fuzz` call them with what a fuzzer makes up, and the tests below
//! with random bytes and with damaged seeds of the same corpora, so that every ordinary test run repeats what the
//! fuzzer found. Only built for these two.

use std::sync::Arc;

use crate::clock::Time;
use crate::config::{Settings, changes};
use crate::fleet::Fleet;
use crate::learn::{Learned, Learner, Snapshot};
use crate::node::{NodeId, NodeSpec};
use crate::probe::engine::EngineLoad;
use crate::probe::exposition::series;
use crate::proxy::framing::{Answer, Limits, Next, Refusal, RequestGuard};
use crate::proxy::inspect::{Api, MODEL_BYTES_MAX, ResponseScan, look};
use crate::recording::Row;
use crate::request::KindId;

/// What takes bytes at one place, and panics where a promise is broken.
pub type Target = fn(&[u8]);

/// The places, by the names of their fuzz targets and corpora.
pub const TARGETS: [(&str, Target); 8] = [
    ("body", body),
    ("usage", usage),
    ("config", config),
    ("snapshot", snapshot),
    ("recording", recording),
    ("trace", trace),
    ("head", head),
    ("metrics", metrics),
];

const PATHS: [&str; 8] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v2/models/m/infer",
    "/generate",
    "/api/chat",
];

/// The body inspector: whatever a client sends, cut anywhere, gives a bounded look; valid JSON objects are never called
/// malformed, and of them the model is what any other parser would say.
pub fn body(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else { return };
    let api = Api::of_path(PATHS[usize::from(*choice) % PATHS.len()]);
    let whole = look(body, true, api);
    assert_eq!(whole.looked_bytes, body.len());
    assert!(whole.model.as_ref().is_none_or(|model| !model.is_empty() && model.len() <= MODEL_BYTES_MAX));
    assert!(whole.prompt_bytes <= body.len() as u64, "more prompt than there is body");
    for cut in [body.len() / 3, body.len() / 2, body.len().saturating_sub(1)] {
        let part = look(&body[..cut], false, api);
        assert!(part.prompt_bytes <= cut as u64);
    }
    if let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(body) {
        assert!(!whole.malformed && !whole.truncated, "valid JSON is called broken");
        if let Some(serde_json::Value::String(model)) = fields.get("model")
            && model.len() <= MODEL_BYTES_MAX
        {
            assert_eq!(whole.model.as_deref(), Some(model.as_str()).filter(|model| !model.is_empty()));
        }
    }
}

/// The usage scanner: what it finds does not depend on how a response was cut into chunks.
pub fn usage(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else { return };
    let kinds: [&[u8]; 4] = [b"text/event-stream", b"application/json", b"application/x-ndjson", b"text/plain"];
    let kind = kinds[usize::from(choice & 3)];
    let size = usize::from(choice >> 2) + 1;
    let mut whole = ResponseScan::new(Some(kind), None);
    let mut parts = whole.clone();
    let events = whole.feed(body);
    let counted: u32 = body.chunks(size).map(|chunk| parts.feed(chunk)).sum();
    assert_eq!(counted, events);
    assert_eq!((parts.events(), parts.saw_done(), parts.finish()), (whole.events(), whole.saw_done(), whole.finish()));
}

/// The configuration: any file gives settings or mistakes, and settings print as a file of the same settings.
pub fn config(bytes: &[u8]) {
    let Ok(settings) = Settings::of_bytes(bytes) else { return };
    if settings.admin.tokens.is_empty() {
        let printed = toml::to_string(&settings.to_raw()).expect("settings are plain data");
        let again = Settings::of_bytes(printed.as_bytes()).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
        assert_eq!(changes(&settings, &again), [], "{printed}");
    }
}

/// The snapshot loader: a document is refused, or loads, is written as it was read, and can be learned on from. Also with
/// a checksum that fits, which a fuzzer does not hit by chance.
pub fn snapshot(bytes: &[u8]) {
    let loaded = Snapshot::from_bytes(bytes).ok();
    let forged = serde_json::from_slice::<Snapshot>(bytes).ok().and_then(|state| state.to_bytes().ok());
    let forged = forged.map(|document| Snapshot::from_bytes(&document).expect("what was written can be read"));
    for state in loaded.iter().chain(&forged) {
        let written = state.to_bytes().expect("what was loaded is sound");
        assert_eq!(Snapshot::from_bytes(&written).as_ref(), Ok(state));
        let mut fleet = Fleet::default();
        for node in &state.nodes {
            // A name that is there already is a snapshot that lists a node twice.
            fleet = fleet.with(NodeSpec::new(node.url.clone()).named(node.name.clone())).unwrap_or(fleet);
        }
        let mut learner = Learner::new(Arc::new(Learned::default()));
        learner.restore(state, &fleet, |_| Some(KindId::default()));
        learner.refit(Time::from_secs_f64(1.0));
        let kept = learner.snapshot(&fleet, |_| "k".to_owned()).to_bytes();
        assert!(kept.is_ok(), "{:?}", kept.err());
    }
}

/// The reader of recordings: each line is a row or a reason, and whatever a row says can be learned from or is refused.
pub fn recording(bytes: &[u8]) {
    let mut learner = Learner::new(Arc::new(Learned::default()));
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(row) = serde_json::from_slice::<Row>(line) else { continue };
        let Ok(sample) = row.sample(NodeId(1), 0, KindId::default()) else { continue };
        // Unfit samples are refused with a reason; what counts is that none does harm.
        let _ = learner.observe(sample.started.after(sample.total), &sample);
        let again = Row::of(&sample, &row.node, row.kind.clone());
        assert!(again.sample(NodeId(1), 0, KindId::default()).is_ok());
    }
    learner.refit(Time::from_secs_f64(1e6));
    learner.refit(Time::from_secs_f64(2e6));
}

/// The reader of traces: times are finite and never go back, and no more rows come out than lines went in.
pub fn trace(bytes: &[u8]) {
    let rows = crate::sim::trace::rows_of(bytes);
    assert!(rows.len() <= bytes.split(|byte| *byte == b'\n').count());
    assert!(rows.iter().all(|row| row.at_s.is_finite()), "a time that is not finite");
    assert!(rows.is_sorted_by(|a, b| a.at_s <= b.at_s), "time goes back");
}

/// What the framing guard makes of a stream: how many bytes and heads pass, and why it stops.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) passed: usize,
    pub(crate) heads: u64,
    /// Whether it was a head.
    pub(crate) refused: Option<(Refusal, bool)>,
}

/// The verdict on a stream that comes in pieces.
pub(crate) fn judge<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    let mut guard = RequestGuard::new(limits);
    let (mut pending, mut passed) = (Vec::new(), 0);
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            let scan = guard.scan(&pending);
            passed += scan.passed;
            pending.drain(..scan.passed);
            let refused = match scan.next {
                Next::More => break,
                Next::Undecided => {
                    guard.decide(Answer::Other);
                    continue;
                }
                Next::RefusedHead(refusal) => (refusal, true),
                Next::RefusedBody(refusal) => (refusal, false),
            };
            return Verdict { passed, heads: guard.heads(), refused: Some(refused) };
        }
        assert!(pending.len() <= limits.head_bytes_max, "more is held back than a head may have");
    }
    Verdict { passed, heads: guard.heads(), refused: None }
}

/// The guard of HTTP heads and chunks: its verdict does not depend on how the bytes came, and the head of a request that it
/// lets through is one that hyper's parser reads, with one way to find its end.
pub fn head(bytes: &[u8]) {
    const LIMITS: Limits = Limits { head_bytes_max: 1024, headers_max: 16, uri_bytes_max: 200 };
    let whole = judge(LIMITS, [bytes]);
    assert_eq!(judge(LIMITS, bytes.chunks(1)), whole);
    assert_eq!(judge(LIMITS, bytes.chunks(7)), whole);
    let (a, b) = bytes.split_at(bytes.len() / 2);
    assert_eq!(judge(LIMITS, [a, b]), whole);
    if whole.heads == 0 {
        return;
    }
    let passed = &bytes[..whole.passed];
    let end = passed.windows(4).position(|four| four == b"\r\n\r\n").expect("a head that passed has an end");
    let head = String::from_utf8_lossy(&passed[..end]).to_ascii_lowercase();
    assert!(!head.contains('\0') && !head.replace("\r\n", "").contains(['\r', '\n']), "{head:?}");
    let fields = head.split("\r\n").filter(|line| !line.is_empty()).skip(1);
    let names: Vec<&str> = fields.filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    let count = |wanted: &str| names.iter().filter(|name| **name == wanted).count();
    assert!(count("content-length") + count("transfer-encoding") <= 1 && count("host") <= 1, "{head:?}");
    assert!(names.iter().all(|name| !name.ends_with([' ', '\t'])), "{head:?}");
}

/// The reader of nodes' metrics: a line is one series or none and says the same when it is written again, figures are
/// within bounds, and their order does not matter.
pub fn metrics(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(series(&text).count() <= text.lines().count());
    for one in series(&text) {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> =
            one.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(&value))).collect();
        let line = format!("{}{{{}}} {}", one.name, labels.join(","), one.value);
        let again = series(&line).next().unwrap_or_else(|| panic!("{line}"));
        assert_eq!((again.name, again.value.to_bits()), (one.name, one.value.to_bits()), "{line}");
        assert!(again.labels.iter().eq(one.labels.iter()), "{line}");
    }
    let load = EngineLoad::of(&text);
    if let Some(EngineLoad { running, waiting, kv_used, .. }) = load {
        assert!([running, waiting].into_iter().flatten().all(|count| count <= 1_000_000_000));
        assert!(kv_used.is_none_or(|used| (0.0..=1.0).contains(&used)));
    }
    let reversed: Vec<&str> = text.lines().rev().collect();
    assert_eq!(EngineLoad::of(&reversed.join("\n")), load, "{text}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
        let mut paths: Vec<_> =
            fs::read_dir(&dir).expect("a corpus").map(|entry| entry.expect("read").path()).collect();
        paths.sort();
        assert!(paths.len() >= 3, "{target} has no seeds to speak of");
        paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
    }

    #[test]
    fn every_seed_of_every_corpus_holds() {
        for (name, target) in TARGETS {
            seeds(name).iter().for_each(|seed| target(seed));
        }
    }

    /// What a fuzzer does to a seed: bytes changed, cut out, doubled, and a piece of another seed.
    #[derive(Clone, Debug)]
    enum Damage {
        Set(Index, u8),
        Cut(Index, Index),
        Double(Index, Index),
        Graft(Index, Index),
    }

    fn damage() -> impl Strategy<Value = Damage> {
        let at = || any::<Index>();
        prop_oneof![
            (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
            (at(), at()).prop_map(|(from, to)| Damage::Cut(from, to)),
            (at(), at()).prop_map(|(from, to)| Damage::Double(from, to)),
            (at(), at()).prop_map(|(from, to)| Damage::Graft(from, to)),
        ]
    }

    fn damaged(mut bytes: Vec<u8>, other: &[u8], damages: &[Damage]) -> Vec<u8> {
        for damage in damages {
            let place = |index: &Index, bytes: &[u8]| index.index(bytes.len() + 1);
            match damage {
                Damage::Set(at, byte) if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                Damage::Cut(from, to) | Damage::Double(from, to) => {
                    let (a, b) = (place(from, &bytes), place(to, &bytes));
                    let piece = bytes[a.min(b)..a.max(b)].to_vec();
                    match damage {
                        Damage::Cut(..) => drop(bytes.drain(a.min(b)..a.max(b))),
                        _ => drop(bytes.splice(a.min(b)..a.min(b), piece)),
                    }
                }
                Damage::Graft(from, to) => {
                    let at = place(from, &bytes);
                    bytes.splice(at..at, other[..place(to, other)].iter().copied());
                }
                Damage::Set(..) => {}
            }
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_hold(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }

        #[test]
        fn any_damage_to_a_seed_holds(
            one in any::<Index>(), other in any::<Index>(), damages in prop::collection::vec(damage(), 1..6),
        ) {
            for (name, target) in TARGETS {
                let seeds = seeds(name);
                let (one, other) = (one.index(seeds.len()), other.index(seeds.len()));
                target(&damaged(seeds[one].clone(), &seeds[other], &damages));
            }
        }
    }
}
