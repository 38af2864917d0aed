// Numbers and states in words: one place, so that the same thing is called the same everywhere.

/** What is not known. */
export const UNKNOWN = "–";

// Between a number and its unit: a line does not break there.
const NBSP = "\u00a0";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Three digits. */
function three(value) {
  if (value >= 99.95 || value === 0) return value.toFixed(0);
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** A time with its unit: 143 us, 52.7 ms, 6.41 s. */
export function seconds(value) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return `0${NBSP}ms`;
  if (value < 0.0009995) return `${three(value * 1e6)}${NBSP}µs`;
  if (value < 0.9995) return `${three(value * 1e3)}${NBSP}ms`;
  return value < 599.5 ? `${three(value)}${NBSP}s` : `${(value / 60).toFixed(0)}${NBSP}min`;
}

/** How long ago or for how long, coarsely. */
export function span(value) {
  if (!known(value)) return UNKNOWN;
  if (value < 90) return `${value.toFixed(0)}${NBSP}s`;
  return value < 5400 ? `${(value / 60).toFixed(0)}${NBSP}min` : `${(value / 3600).toFixed(1)}${NBSP}h`;
}

/** A ratio as a percentage. */
export function percent(value) {
  if (!known(value)) return UNKNOWN;
  const hundredths = value * 100;
  return `${hundredths >= 9.95 || hundredths === 0 ? hundredths.toFixed(0) : hundredths.toFixed(hundredths < 0.095 ? 2 : 1)}${NBSP}%`;
}

/** A number of three digits. */
export function number(value) {
  return known(value) ? three(value) : UNKNOWN;
}

/** A whole number with separators. */
export function count(value) {
  return known(value) ? Math.round(value).toLocaleString("en") : UNKNOWN;
}

/** Something per second. */
export function rate(value) {
  return known(value) ? `${three(value)}/s` : UNKNOWN;
}

const STATES = {
  up: ["good", "gets work"],
  down: ["bad", "failed its checks and gets no work"],
  draining: ["idle", "was drained: finishes what it has"],
  full: ["warn", "said that it has no room and is left alone for a while"],
  ejected: ["bad", "failed too many requests and is left alone for a while"],
  trial: ["warn", "was ejected and gets one request at a time until it succeeds"],
};

/** How a state looks and what it means. Versions of the proxy may add states: those are shown as they are called. */
export function stateOf(node) {
  const [kind, meaning] = STATES[node.state] ?? ["warn", "is in a state that this page does not know"];
  if (node.state === "up" && node.silent) return { word: "silent", kind: "warn", meaning: "has work and gives no sign of life" };
  if (node.state === "up" && node.ramp !== null) return { word: "ramping", kind: "idle", meaning: `proves itself: at most ${node.ramp} in flight` };
  if (node.ejected_for_s) return { word: node.state, kind, meaning: `failed too many requests and is left alone for another ${span(node.ejected_for_s)}` };
  if (node.state === "draining") {
    const left = node.in_flight ? `finishes ${count(node.in_flight)} requests` : "has nothing left to do";
    const then = known(node.leaves_in_s) ? `, and leaves the fleet in ${span(node.leaves_in_s)} at the latest` : "";
    return { word: node.in_flight ? "draining" : "drained", kind, meaning: `was drained: ${left}${then}` };
  }
  return { word: node.state, kind, meaning };
}

/** The limit of a node in words, with where it comes from. */
export function limitOf(node) {
  const now = known(node.limit_now) ? count(node.limit_now) : "none";
  if (node.auto_limit) return `auto (${now})`;
  return known(node.limit) && node.limit !== node.limit_now ? `${count(node.limit)}, now ${now}` : now;
}

/** Speed against the fleet, which counts time: below 1 is faster. */
export function speed(value) {
  if (!known(value) || value <= 0) return UNKNOWN;
  if (Math.abs(value - 1) < 0.03) return "as the fleet";
  return value < 1 ? `${number(1 / value)}× faster` : `${number(value)}× slower`;
}

/** |ln(predicted / observed)| as people understand it. */
export function offBy(error) {
  return known(error) ? `off by ${percent(Math.exp(error) - 1)}` : "not compared yet";
}

const WHY = {
  "only-one": "the only candidate",
  "least-score": "least score",
  tie: "least score, shared",
  explored: "explored: little is known of it",
  fallback: "the fallback chose it",
  "policy-sure": "the policy was sure",
  "policy-tie": "as good as others",
  "policy-draw": "drawn",
  passed: "not considered",
};

/** Why a candidate has its probability. */
export function why(word) {
  return WHY[word] ?? word;
}

/** Who decides, in one line. */
export function routing(policy) {
  const { name, standing } = policy;
  if (standing.state === "routes") return { kind: "good", head: name, note: "the learned model decides" };
  if (standing.state === "other-policy") return { kind: "idle", head: name, note: "the model only learns" };
  return { kind: standing.state === "shadow" ? "idle" : "warn", head: `${name}: ${standing.router} decides`, note: standing.detail };
}
