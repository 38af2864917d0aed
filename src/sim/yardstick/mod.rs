//! Policies to measure by that live in the simulator only.
//!
//! They are here and not in the registry because nobody should route with them: two need what a proxy cannot know (the
//! size of a request, the true capacity of a node), C3 and Prequal are described for cooperating servers, so that
//! what a lone proxy can run is an adaptation, and the two that go by caches are what the learned policy replaces. Each file says what was left out. Unlike registered policies they
//! may keep state behind a lock: a simulation has one thread.

mod c3;
mod cache_aware;
mod greedy;
mod lmetric;
mod prequal;
mod recorded;
mod remembered;

pub use c3::C3;
pub use cache_aware::CacheAware;
pub use greedy::{Foresight, GreedyOracle};
pub use lmetric::LMetric;
pub use prequal::Prequal;
pub use recorded::AsRecorded;
