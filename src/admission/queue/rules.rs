//! What a request that waits says of itself, and what the operator says of the queue.

use std::time::Duration;

use crate::clock::Time;

/// Class of a request in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for it.
    Interactive,
    /// The usual.
    #[default]
    Default,
    /// Nobody waits for it.
    Batch,
}

impl Priority {
    /// Every class, the first served first.
    pub const ALL: [Priority; 3] = [Priority::Interactive, Priority::Default, Priority::Batch];

    /// The word for configuration, headers and labels.
    pub fn word(self) -> &'static str {
        match self {
            Priority::Interactive => "interactive",
            Priority::Default => "default",
            Priority::Batch => "batch",
        }
    }

    /// The class of that name.
    pub fn named(word: &str) -> Option<Priority> {
        Priority::ALL.into_iter().find(|class| class.word().eq_ignore_ascii_case(word))
    }
}

/// The bounds of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRules {
    /// Requests that may wait; 0 lets nobody wait.
    pub length_max: usize,
    /// Bytes of the bodies of those.
    pub bytes_max: u64,
    /// How long a request waits that does not say how long it would.
    pub timeout: Duration,
    /// The longest that one may wait by its own wish.
    pub timeout_max: Duration,
    /// When a class has had somebody waiting for so long, the newest goes first; `None` is never.
    pub lifo_after: Option<Duration>,
}

impl Default for QueueRules {
    /// 1,024 requests and 64 MiB are a burst and no more; half a minute is what people wait; a line that has not been
    /// empty for ten seconds is overload, not a burst.
    fn default() -> Self {
        QueueRules {
            length_max: 1024,
            bytes_max: 64 * 1024 * 1024,
            timeout: Duration::from_secs(30),
            timeout_max: Duration::from_secs(600),
            lifo_after: Some(Duration::from_secs(10)),
        }
    }
}

impl QueueRules {
    /// Nobody waits.
    pub const OFF: QueueRules = QueueRules {
        length_max: 0,
        bytes_max: 0,
        timeout: Duration::from_secs(30),
        timeout_max: Duration::from_secs(600),
        lifo_after: None,
    };
}

/// What one asks for who wants to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Class.
    pub priority: Priority,
    /// Bytes that are kept while it waits.
    pub bytes: u64,
    /// Until when.
    pub deadline: Time,
}
