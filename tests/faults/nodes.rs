//! Nodes that fail, in every way that a socket allows, while clients keep coming.

use std::time::{Duration, Instant};

use bellwether::emulator::Fault;

use crate::client::Crowd;
use crate::rogue::Manner;
use crate::stage::{Row, Scale, Stage, until};

/// A fault of the second node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// The server's own.
    Server(Fault),
    /// On the way to it.
    Way(Manner),
    /// It is a dead process and a living one in turn.
    Flapping,
}

/// A case, and how many of a hundred requests that come meanwhile may fail for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    trouble: Trouble,
    /// Besides those that had already begun: an answer that was begun cannot be begun again elsewhere.
    failing_percent: u64,
}

const fn case(name: &'static str, trouble: Trouble, failing_percent: u64) -> Case {
    Case { name, trouble, failing_percent }
}

/// Where the node's own error is the client's answer, or an answer has begun, some are lost until the node is known.
pub(crate) const CASES: [Case; 12] = [
    case("refuses connections", Trouble::Server(Fault::Refuse), 5),
    case("accepts, never answers", Trouble::Server(Fault::NeverAnswer), 5),
    case("reads nothing any more", Trouble::Way(Manner::Deaf), 5),
    case("answers garbage", Trouble::Way(Manner::Garbage), 5),
    case("resets within the head", Trouble::Way(Manner::ResetInHead), 5),
    case("resets within the body", Trouble::Way(Manner::ResetInBody), 15),
    case("resets within a stream", Trouble::Server(Fault::Reset { after_events: 2 }), 15),
    case("500 at once", Trouble::Server(Fault::Status { status: 500, retry_after_s: None }), 15),
    case("503 with Retry-After", Trouble::Server(Fault::Status { status: 503, retry_after_s: Some(1) }), 5),
    case("twenty times slower", Trouble::Server(Fault::Slow { factor: 20.0 }), 5),
    case("stalls within streams", Trouble::Server(Fault::Hang), 15),
    case("flaps", Trouble::Flapping, 10),
];

async fn begin(stage: &Stage, trouble: Trouble) {
    match trouble {
        Trouble::Server(fault) => stage.bad().set_fault(fault).await.expect("listening"),
        Trouble::Way(manner) => stage.rogue.behave(manner),
        Trouble::Flapping => stage.bad().set_fault(Fault::Refuse).await.expect("listening"),
    }
}

async fn end(stage: &Stage) {
    stage.rogue.behave(Manner::Honest);
    stage.bad().set_fault(Fault::None).await.expect("listening");
}

/// Clients come before, during and after the fault, and until the node serves again.
pub(crate) async fn through(case: Case, policy: &'static str, scale: Scale) -> Row {
    let stage = Stage::open(policy).await;
    let crowd = stage.crowd(&scale);
    let [before, during, after] = scale.requests;
    crowd.come(before).await;
    let running = stage.busy();
    let began = Instant::now();
    begin(&stage, case.trouble).await;
    match case.trouble {
        Trouble::Flapping => {
            // Down and up in turn, one second each at the full rate.
            for half in 0..10 {
                crowd.come(during / 10).await;
                let fault = if half % 2 == 0 { Fault::None } else { Fault::Refuse };
                stage.bad().set_fault(fault).await.expect("listening");
            }
        }
        _ => crowd.come(during).await,
    }
    let ended = Instant::now();
    end(&stage).await;
    let recovered = served_again(&stage, &crowd, ended).await;
    crowd.come(after).await;
    let tally = crowd.gone().await;
    stage.quiet().await;

    let mut wrong = Vec::new();
    let allowed = running + during * case.failing_percent / 100;
    if tally.failed() > allowed {
        wrong.push(format!("{} failed, at most {allowed} may", tally.failed()));
    }
    let reacted = tally.last_failure.filter(|last| *last > began).map(|last| last.min(ended).duration_since(began));
    Row { case: case.name, policy, tally, reacted, recovered, wrong }
}

/// Clients keep coming until the node has served one more; how long after `ended` that was.
async fn served_again(stage: &Stage, crowd: &Crowd, ended: Instant) -> Option<Duration> {
    let finished = || stage.bad().counters().finished;
    let before = finished();
    while finished() == before {
        if ended.elapsed() > crate::stage::PATIENCE {
            return None;
        }
        crowd.come(1).await;
    }
    Some(ended.elapsed())
}

/// The node dies while so many requests run on the fleet: those on it are lost or answered elsewhere, none is forgotten.
pub(crate) async fn dies_under_load(policy: &'static str, scale: Scale) -> Row {
    let stage = Stage::open(policy).await;
    for node in &stage.nodes {
        node.set_fault(Fault::Hang).await.expect("listening");
    }
    let crowd = stage.crowd(&Scale { rate: 1_000.0, ..scale });
    crowd.come(100).await;
    until("they are on their nodes", || stage.busy() == 100).await;
    let on_it = u64::from(stage.app.balancer.fleet().nodes()[1].live.ledger.in_flight());
    let began = Instant::now();
    stage.bad().set_fault(Fault::Refuse).await.expect("listening");
    for at in [0, 2] {
        stage.nodes[at].set_fault(Fault::None).await.expect("listening");
    }
    let ended = Instant::now();
    end(&stage).await;
    let recovered = served_again(&stage, &crowd, ended).await;
    let tally = crowd.gone().await;
    stage.quiet().await;
    let mut wrong = Vec::new();
    if tally.failed() > on_it {
        wrong.push(format!("{} failed, and only {on_it} were on the node", tally.failed()));
    }
    let reacted = tally.last_failure.map(|last| last.saturating_duration_since(began));
    Row { case: "dies under 100 requests", policy, tally, reacted, recovered, wrong }
}

/// Every node is gone for a while: clear errors, and service again as soon as one is back.
pub(crate) async fn all_down_and_back(policy: &'static str, scale: Scale) -> Row {
    let stage = Stage::open(policy).await;
    let crowd = stage.crowd(&scale);
    let [before, during, after] = scale.requests;
    crowd.come(before).await;
    stage.quiet().await;
    for node in &stage.nodes {
        node.set_fault(Fault::Refuse).await.expect("listening");
    }
    crowd.come(during).await;
    let ended = Instant::now();
    for node in &stage.nodes {
        node.set_fault(Fault::None).await.expect("listening");
    }
    let recovered = served_again(&stage, &crowd, ended).await;
    until("all serve", || {
        let (fleet, now) = (stage.app.balancer.fleet(), stage.app.clock.now());
        fleet.nodes().iter().all(|node| node.live.health.state(now).is_serving())
    })
    .await;
    let failed = |tally: &crate::client::Tally| tally.failed();
    crowd.come(after).await;
    let tally = crowd.gone().await;
    stage.quiet().await;
    let mut wrong = Vec::new();
    if tally.cut > 0 {
        wrong.push(format!("{} answers were cut, and none had begun", tally.cut));
    }
    if failed(&tally) < during / 2 {
        wrong.push(format!("only {} failed: were all nodes down?", tally.failed()));
    }
    Row { case: "all down and back", policy, tally, reacted: None, recovered, wrong }
}
