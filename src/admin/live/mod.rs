//! The fleet as it is now, once a second, as server-sent events.
//!
//! Polling would do for one reader; ten open dashboards that each poll five resources would be the busiest clients of
//! the admin API. Here one look at the fleet is shared by all streams of the same second, a stream that reads slowly
//! skips events instead of piling them up, and the number of streams is bounded. Each ends after some minutes and is
//! opened anew by its reader, so that a token that was taken away stops working here too. It keeps nothing of nodes:
//! who draws curves gathers them.

mod columns;
mod history;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};

use self::columns::Told;
use self::history::{EVERY_S, History, Moment};
use self::view::LiveView;
use super::events::{Ending, Places, event, respond};
use super::problem::{Problem, Query};
use crate::app::App;
use crate::clock::Time;

/// Between two events of a stream.
const EVERY: Duration = Duration::from_secs(1);

/// A look at the fleet that is younger than this is shared: streams do not tick in step.
const SHARED_FOR: Duration = Duration::from_millis(500);

/// Events of a stream at most: five minutes, well below the age that a connection may reach.
const EVENTS_MAX: u32 = 300;

/// What all streams share.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Shared with the streams of decisions.
    pub(super) places: Places,
    last: Mutex<Option<Look>>,
    history: Mutex<History>,
}

/// The fleet at one moment, in whichever form streams have asked for.
#[derive(Debug)]
struct Look {
    at: Time,
    json: Arc<Value>,
    /// The whole event; a dashboard alone has no use for it.
    text: Option<Bytes>,
}

impl Look {
    fn event(&mut self) -> Bytes {
        self.text.get_or_insert_with(|| event("live", &*self.json)).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// Gathers history for as long as it is polled.
    pub(super) async fn remember(&self, app: &App) {
        let mut ticks = interval(Duration::from_secs(EVERY_S));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            lock(&self.history).note(app, app.clock.now());
        }
    }

    /// What `take` takes of the fleet as it is now, or was a moment ago.
    fn look<T>(&self, app: &App, take: impl FnOnce(&mut Look) -> T) -> T {
        let now = app.clock.now();
        let mut last = lock(&self.last);
        if last.as_ref().is_some_and(|last| now.since(last.at) >= SHARED_FOR) {
            *last = None;
        }
        take(last.get_or_insert_with(|| Look {
            at: now,
            json: Arc::new(serde_json::to_value(view::live(app, now)).unwrap_or_default()),
            text: None,
        }))
    }

    fn past(&self) -> Bytes {
        event("history", &HistoryView { moments: lock(&self.history).moments() })
    }
}

/// The first event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryView {
    /// The last hour, the oldest first, one every five seconds.
    moments: Vec<Moment>,
}

/// How much of a stream is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// End the stream after so many `live` events, 1 to 300; 300 unless given.
    events: Option<u32>,
    /// Whether nodes come as `columns` of `count` values each, instead of `nodes`; a column that is absent is as in the
    /// event before. Of a large fleet this is a fraction of the bytes.
    #[serde(default)]
    compact: bool,
}

/// The fleet as server-sent events: one `history`, then a `live` every second. Read it again when it ends.
#[utoipa::path(get, path = "/api/v1/live", tag = "live", params(Wanted), responses(
    (status = 200, description = "Events of the types `history` (the data is `HistoryView`) and `live` (`LiveView`)", body = inline(LiveView), content_type = "text/event-stream"),
    (status = 422, description = "Not a number of events", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many streams are open", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Extension(live): Extension<Arc<Live>>,
    ending: Option<Extension<Ending>>,
    Query(Wanted { events, compact }): Query<Wanted>,
) -> Result<Response, Problem> {
    let events = events.unwrap_or(EVENTS_MAX);
    if !(1..=EVENTS_MAX).contains(&events) {
        let detail = format!("events: {events} is out of range; allowed: 1 to {EVENTS_MAX}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let place = live.places.take()?;
    let ending = ending.map(|Extension(ending)| ending);
    Ok(respond(place, ending, 1, |sender| feed(app, live, sender, events, compact)))
}

/// Fills one stream until it was enough or the reader is gone.
async fn feed(app: Arc<App>, live: Arc<Live>, sender: mpsc::Sender<Bytes>, events: u32, compact: bool) {
    if sender.send(live.past()).await.is_err() {
        return;
    }
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    for _ in 0..events {
        ticks.tick().await;
        // Made when there is room for it: a slow reader gets fewer events, none of them old.
        let Ok(room) = sender.reserve().await else { return };
        room.send(match compact {
            true => event("live", &told.compact(Value::clone(&live.look(&app, |look| Arc::clone(&look.json))))),
            false => live.look(&app, Look::event),
        });
    }
}
