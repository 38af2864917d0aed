//! Decisions as they end, as server-sent events, for whoever watches a few of them.
//!
//! A look ten times a second at what is remembered anyway, not a subscription that every request would pay for. What a
//! stream leaves out is counted and told: decisions that were not remembered never show here, and of the remembered
//! ones a reader that is slow, or a stream that follows too many at once, misses some. Each stream ends after some
//! minutes, so that a token that was taken away stops working here too.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};

use super::filter::Filter;
use super::{DecisionView, decision_view};
use crate::admin::events::{Ending, event, respond};
use crate::admin::live::Live;
use crate::admin::problem::{Problem, Query};
use crate::app::App;
use crate::decisions::{DECISIONS_MAX, Remembered};
use crate::fleet::Node;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks between two tallies.
const TALLY_EVERY: u32 = 10;

/// Looks of a stream at most: five minutes, well below the age that a connection may reach.
const LOOKS_MAX: u32 = 3_000;

/// Decisions whose end one stream waits for; of more, the oldest are let go and counted as missed.
const FOLLOWED_MAX: usize = 2_000;

/// Events that wait for their reader.
const ROOM: usize = 128;

/// How much is wanted of which decisions; all that is given must hold.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Wanted {
    /// Only where this node was chosen.
    pub(super) node: Option<String>,
    /// Only requests that name this model.
    pub(super) model: Option<String>,
    /// Only this status (`503`), these (`5xx`), or this end: `completed`, `full`, `failed`, `censored`.
    pub(super) status: Option<String>,
    /// Only attempts that took at least so many seconds.
    pub(super) slow_s: Option<f64>,
    /// Whether they explored.
    pub(super) explored: Option<bool>,
    /// Whether the fallback of the learned policy chose.
    pub(super) fallback: Option<bool>,
    /// End the stream after so many `decision` events; after five minutes unless given.
    events: Option<u64>,
}

/// What one stream saw and left out so far.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(in crate::admin) struct StreamTally {
    /// Attempts that were decided since the stream began, at all.
    decided: u64,
    /// Of those, the remembered ones: a sample.
    remembered: u64,
    /// Decisions that were told.
    told: u64,
    /// Remembered decisions that this stream missed: its reader was slow, or it follows too many that have not ended.
    missed: u64,
    /// Decisions whose end it waits for.
    running: u64,
}

/// Decisions, each when its attempt has ended, as server-sent events; a `tally` every second. Read it again when it ends.
#[utoipa::path(get, path = "/api/v1/decisions/stream", tag = "model", params(Wanted), responses(
    (status = 200, description = "Events of the types `decision` (the data is `DecisionView`) and `tally` (`StreamTally`)", body = inline(DecisionView), content_type = "text/event-stream"),
    (status = 422, description = "Not a filter", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many streams are open", body = Problem, content_type = "application/problem+json")))]
pub(in crate::admin) async fn stream(
    State(app): State<Arc<App>>,
    Extension(live): Extension<Arc<Live>>,
    ending: Option<Extension<Ending>>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let most = wanted.events.unwrap_or(u64::MAX);
    let filter = Filter::of(wanted).map_err(|why| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why))?;
    let place = live.places.take()?;
    let ending = ending.map(|Extension(ending)| ending);
    Ok(respond(place, ending, ROOM, |sender| feed(app, filter, sender, most)))
}

/// Fills one stream until it was enough or the reader is gone.
async fn feed(app: Arc<App>, filter: Filter, sender: mpsc::Sender<Bytes>, most: u64) {
    let mut watch = Watch::new(&app, filter);
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for look in 0..LOOKS_MAX {
        ticks.tick().await;
        if watch.look(&app, &sender, most).is_break() {
            return;
        }
        if look % TALLY_EVERY == 0 {
            // A reader that has no room for it has the next one.
            let _ = sender.try_send(event("tally", &watch.tally(&app)));
        }
    }
}

/// What one stream follows.
struct Watch {
    filter: Filter,
    /// The number of the next decision to follow.
    next: u64,
    /// Decisions that have not ended.
    running: Vec<Arc<Remembered>>,
    seen: StreamTally,
    /// Attempts decided before the stream began.
    decided_before: u64,
}

impl Watch {
    fn new(app: &App, filter: Filter) -> Watch {
        let (next, seen) = (app.decisions.newest() + 1, StreamTally::default());
        Watch { filter, next, running: Vec::new(), seen, decided_before: decided(app) }
    }

    /// Tells what has ended since the last look.
    fn look(&mut self, app: &App, sender: &mpsc::Sender<Bytes>, most: u64) -> ControlFlow<()> {
        self.follow(app);
        let (now, wall) = (app.clock.now(), SystemTime::now());
        let (ended, running) = std::mem::take(&mut self.running).into_iter().partition(|one| one.ended.get().is_some());
        self.running = running;
        let ended: Vec<Arc<Remembered>> = ended;
        for one in ended.iter().filter(|one| self.filter.admits(app, one)) {
            match sender.try_send(event("decision", &decision_view(app, now, wall, one))) {
                Ok(()) => self.seen.told += 1,
                Err(TrySendError::Full(_)) => self.seen.missed += 1,
                Err(TrySendError::Closed(_)) => return ControlFlow::Break(()),
            }
            if self.seen.told >= most {
                break;
            }
        }
        if self.seen.told >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Takes up what has been remembered since the last look.
    fn follow(&mut self, app: &App) {
        let newest = app.decisions.newest();
        while self.next <= newest {
            match app.decisions.find(self.next) {
                Some(one) => self.running.push(one),
                // Its place is being written: it is there at the next look.
                None if self.next + DECISIONS_MAX as u64 / 2 > newest => break,
                None => self.seen.missed += 1,
            }
            self.seen.remembered += 1;
            self.next += 1;
        }
        let excess = self.running.len().saturating_sub(FOLLOWED_MAX);
        self.running.drain(..excess);
        self.seen.missed += excess as u64;
    }

    fn tally(&self, app: &App) -> StreamTally {
        let decided = decided(app).saturating_sub(self.decided_before);
        StreamTally { decided, running: self.running.len() as u64, ..self.seen }
    }
}

/// Attempts that were decided so far. A node that went took its count along.
fn decided(app: &App) -> u64 {
    let of = |node: &Arc<Node>| {
        let counts = app.telemetry.report(node, app.clock.now()).counts;
        let ended = counts.completed + counts.full + counts.failed + counts.censored;
        ended + u64::from(node.live.ledger.in_flight())
    };
    app.balancer.fleet().nodes().iter().map(of).sum()
}
