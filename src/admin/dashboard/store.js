// What was heard so far: the last event, the hour before, and two minutes of each node. The API tells counters; rates
// and means are differences taken here, over a time that is long enough to be steady and short enough to be now.

/** Rates and means are over so many seconds. */
const OVER_S = 10;
/** Points of a node's curves that are kept. */
const POINTS_MAX = 120;
/** Moments of the fleet: the hour that the proxy sends, and what comes after. */
const MOMENTS_MAX = 1_500;
/** Moments that are added live are as far apart as the proxy's own. */
const MOMENT_S = 5;

/** Counters at moments, of which differences are taken. */
class Counters {
  constructor() {
    this.seen = [];
  }

  add(nowS, values) {
    this.seen.push([nowS, values]);
    while (this.seen.length > 2 && this.seen[1][0] <= nowS - OVER_S) this.seen.shift();
  }

  /** What was added lately, by name, with `s` for the seconds; null before there were two looks. */
  lately() {
    if (this.seen.length < 2) return null;
    const [t0, before] = this.seen[0];
    const [t1, after] = this.seen[this.seen.length - 1];
    const added = { s: Math.max(t1 - t0, 1e-3) };
    // A counter that fell was of a node that went, or of another run of the proxy.
    for (const name of Object.keys(after)) added[name] = Math.max(0, after[name] - before[name]);
    return added;
  }
}

export class Store {
  constructor() {
    this.reset();
  }

  reset() {
    /** The last event. */
    this.live = null;
    /** When it came, by this page's clock. */
    this.heardMs = 0;
    this.moments = [];
    this.nodes = new Map();
    this.fleet = new Counters();
  }

  /** The hour before; comes first on every stream. */
  past({ moments }) {
    const last = moments.at(-1)?.now_s ?? 0;
    // A clock that went back is another run.
    if (this.live && last + OVER_S < this.live.now_s && moments.length < this.moments.length) this.moments = [];
    const later = this.moments.filter((moment) => moment.now_s > last);
    this.moments = [...moments, ...later];
  }

  add(live) {
    if (this.live && live.now_s < this.live.now_s) {
      const moments = this.moments.filter((moment) => moment.now_s <= live.now_s);
      this.reset();
      this.moments = moments;
    }
    this.live = live;
    this.heardMs = performance.now();
    const { fleet, model } = live;
    const { compared, compared_cost_s: cost, compared_plain_cost_s: plain } = model;
    this.fleet.add(live.now_s, { answers: fleet.answers, errors: fleet.errors, compared, cost, plain });
    const gone = new Set(this.nodes.keys());
    for (const node of live.nodes) {
      gone.delete(node.name);
      this.addNode(live.now_s, node);
    }
    gone.forEach((name) => this.nodes.delete(name));
    this.addMoment(live);
  }

  addNode(nowS, node) {
    let known = this.nodes.get(node.name);
    if (!known) {
      known = { counters: new Counters(), points: [] };
      this.nodes.set(node.name, known);
    }
    const { scored, scored_predicted_s: predicted, scored_observed_s: observed, failed, completed } = node;
    known.counters.add(nowS, { scored, predicted, observed, failed, completed });
    const lately = known.counters.lately();
    const mean = (sum) => (lately && lately.scored > 0 ? lately[sum] / lately.scored : null);
    known.last = node;
    known.lately = lately;
    known.points.push({ t: nowS, predicted: mean("predicted"), observed: mean("observed"), inFlight: node.in_flight });
    if (known.points.length > POINTS_MAX) known.points.shift();
  }

  addMoment(live) {
    const last = this.moments.at(-1);
    if (last && live.now_s < last.now_s + MOMENT_S) return;
    const { fleet, model, policy } = live;
    const { rps, errors } = this.now();
    this.moments.push({
      now_s: live.now_s, rps, errors, in_flight: fleet.in_flight, utilization: fleet.utilization,
      p50_s: fleet.p50_s, p99_s: fleet.p99_s, version: model.version, model_error: policy.standing.model_error,
      baseline_error: policy.standing.baseline_error, state: policy.standing.state, router: policy.standing.router,
    });
    if (this.moments.length > MOMENTS_MAX) this.moments.shift();
  }

  /** The fleet's rates of late. */
  now() {
    const lately = this.fleet.lately();
    if (!lately) return { rps: this.live?.fleet.rps ?? null, errors: null, saved: null };
    const { s, answers, errors, compared, cost, plain } = lately;
    return {
      rps: answers / s,
      errors: answers > 0 ? Math.min(1, errors / answers) : null,
      saved: compared > 0 ? (plain - cost) / compared : null,
    };
  }
}
