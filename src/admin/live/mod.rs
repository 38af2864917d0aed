//! The fleet as it is now, once a second, as server-sent events.
//!
//! Polling would do for one reader; ten open dashboards that each poll five resources would be the busiest clients of
//! the admin API. Here one look at the fleet is shared by all streams of the same second, a stream that reads slowly
//! skips events instead of piling them up, and the number of streams is bounded. Each ends after some minutes and is
//! opened anew by its reader, so that a token that was taken away stops working here too. It keeps nothing of nodes:
//! who draws curves gathers them.

mod history;
mod view;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};

use self::history::{EVERY_S, History, Moment};
use self::view::LiveView;
use super::problem::{Problem, Query};
use crate::app::App;
use crate::clock::Time;

/// Streams at once; a person has one or two, a team a handful.
pub(super) const STREAMS_MAX: usize = 16;

/// Between two events of a stream.
const EVERY: Duration = Duration::from_secs(1);

/// A look at the fleet that is younger than this is shared: streams do not tick in step.
const SHARED_FOR: Duration = Duration::from_millis(500);

/// Events of a stream at most: five minutes, well below the age that a connection may reach.
const EVENTS_MAX: u32 = 300;

/// The listener stops: the accept loop puts it into each request, so that a stream does not hold up the stop.
#[derive(Clone, Debug)]
pub(super) struct Ending(pub(super) watch::Receiver<bool>);

/// What all streams share.
#[derive(Debug)]
pub(super) struct Live {
    places: Arc<Semaphore>,
    last: Mutex<Option<(Time, Bytes)>>,
    history: Mutex<History>,
}

impl Default for Live {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        Live { places, last: Mutex::default(), history: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event in the text format.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    // Figures are numbers and strings, which JSON can hold, on one line.
    let data = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
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

    /// The fleet as it is now, or was a moment ago.
    fn event(&self, app: &App) -> Bytes {
        let now = app.clock.now();
        let mut last = lock(&self.last);
        match &*last {
            Some((at, event)) if now.since(*at) < SHARED_FOR => event.clone(),
            _ => {
                let made = event("live", &view::live(app, now));
                *last = Some((now, made.clone()));
                made
            }
        }
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
    Query(Wanted { events }): Query<Wanted>,
) -> Result<Response, Problem> {
    let events = events.unwrap_or(EVENTS_MAX);
    if !(1..=EVENTS_MAX).contains(&events) {
        let detail = format!("events: {events} is out of range; allowed: 1 to {EVENTS_MAX}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let Ok(place) = Arc::clone(&live.places).try_acquire_owned() else {
        let detail = format!("{STREAMS_MAX} streams are open, which is the most: close another dashboard");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let (sender, receiver) = mpsc::channel(1);
    let ending = ending.map(|Extension(ending)| ending);
    tokio::spawn(feed(app, live, sender, place, ending, events));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::new(Events(receiver))).into_response())
}

/// Fills one stream until it was enough, the reader is gone, or the listener stops.
async fn feed(
    app: Arc<App>,
    live: Arc<Live>,
    sender: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
    ending: Option<Ending>,
    events: u32,
) {
    let stopping = async {
        match ending {
            // An error means that nobody can stop it any more, which is a stop too.
            Some(Ending(mut stopping)) => drop(stopping.wait_for(|stopping| *stopping).await),
            None => std::future::pending().await,
        }
    };
    let feeding = async {
        if sender.send(live.past()).await.is_err() {
            return;
        }
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..events {
            ticks.tick().await;
            // Made when there is room for it: a slow reader gets fewer events, none of them old.
            let Ok(room) = sender.reserve().await else { return };
            room.send(live.event(&app));
        }
    };
    tokio::select! {
        () = feeding => {}
        () = stopping => {}
        () = sender.closed() => {}
    }
}

/// The body of a stream.
struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
