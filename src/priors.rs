//! Snapshots that ship with the program: what a fleet of which nothing is known yet may start from.
//!
//! They lie in `models/` with a page that says what each was fitted on and how good it is, and are compiled in, so that
//! `prior = "builtin:NAME"` needs no path. A prior is worth twenty samples: real evidence soon outweighs it.

use std::path::Path;

use crate::learn::Snapshot;
use crate::state::{self, StateError};

/// What the name of a shipped snapshot begins with in the configuration.
pub const PREFIX: &str = "builtin:";

/// Name and document of each.
const SHIPPED: &[(&str, &[u8])] = &[
    ("llm-streaming", include_bytes!("../models/llm-streaming.json")),
    ("llm-whole", include_bytes!("../models/llm-whole.json")),
];

/// The document of the snapshot that the configuration calls `name`, such as `builtin:llm-streaming`.
pub fn builtin(name: &str) -> Option<&'static [u8]> {
    let name = name.strip_prefix(PREFIX)?;
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, document)| *document)
}

/// Reads the snapshot that ships under `name`, or is at the path `name`.
///
/// # Errors
/// There is none, or it cannot be read or is no sound snapshot; with the name and the reason.
pub fn load(name: &str) -> Result<Snapshot, StateError> {
    let path = Path::new(name);
    match builtin(name) {
        Some(document) => {
            Snapshot::from_bytes(document).map_err(|error| StateError::Refused { path: path.to_path_buf(), error })
        }
        None => state::read(path)?
            .ok_or_else(|| StateError::Io { path: path.to_path_buf(), error: std::io::ErrorKind::NotFound.into() }),
    }
}

/// All names, as the configuration calls them.
pub fn names() -> Vec<String> {
    SHIPPED.iter().map(|(name, _)| format!("{PREFIX}{name}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Time;
    use crate::fleet::Fleet;
    use crate::learn::{Fallback, Learner, NodeLoad};

    #[test]
    fn every_shipped_snapshot_is_sound_general_and_predicts_at_once() {
        assert_eq!(names().len(), SHIPPED.len());
        for name in names() {
            let snapshot = Snapshot::from_bytes(builtin(&name).expect("listed")).expect("sound");
            assert_eq!(snapshot, snapshot.general(), "{name}: nodes and kinds of a fleet that nobody has");
            let mut learner = Learner::new(Arc::default());
            learner.restore(&snapshot, &Fleet::default(), |_| None);
            learner.refit(Time::ZERO);
            // It predicts, but does not route before there is evidence of the fleet itself.
            assert_eq!(learner.learned().fallback(Time::ZERO), Some(Fallback::TooFew), "{name}");
            let predictor = learner.learned().predictor().expect("published");
            let total_s =
                |n: u32| predictor.fleet.predict(&[1.0; 4], &NodeLoad::new(n, 0, 0), &predictor.typical()).total_s;
            assert!(total_s(0) > 0.01 && total_s(30) > 1.1 * total_s(0), "{name}: {} {}", total_s(0), total_s(30));
        }
        assert_eq!(builtin("builtin:no-such"), None);
        assert_eq!(builtin("llm-whole"), None, "only with the prefix");
    }
}
