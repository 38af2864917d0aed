// One node: what it does, what was learned of it in plain words, and what can be done about it.

import { button, changeLimit, changeWeight, drain, resume } from "./actions.js";
import { json, nodePath } from "./api.js";
import { chart } from "./chart.js";
import { el, mark, say, show, tile } from "./dom.js";
import { UNKNOWN, count, limitOf, number, percent, rate, seconds, speed, stateOf } from "./words.js";

/** Between two looks at what was learned. */
const LOOK_MS = 3_000;

const TARGETS = { total: "Whole answers", total_tokens: "Whole answers, by tokens", first_byte: "First byte of streams", gap: "Gaps between events" };

/** By which target most of an answer's time is told. */
const GOVERNS = { streamed: "gap", tokens: "total_tokens", plain: "total" };

/** What the API tells of a node that live events leave out, as an event would tell it. */
function asked(node, learned, how) {
  const governing = learned?.targets.find((target) => target.target === GOVERNS[how]);
  const free = node.max_in_flight === null && !node.auto_limit && !node.returning;
  return {
    ...node, ...node.attempts, limit: node.max_in_flight, limit_now: free ? null : node.limit, share: null, fair_share: null, speed: governing?.speed_factor ?? null,
    p50_s: node.total?.p50_s ?? null, p99_s: node.total?.p99_s ?? null, expected_s: learned?.predicted_s ?? null,
    capacity_rps: learned?.capacity?.rps ?? null, capacity_is_lower_bound: learned?.capacity?.is_lower_bound ?? true,
    slots: learned?.slot_limit ?? null, penalty: learned?.penalty ?? 0, ramp: learned?.ramp_limit ?? null,
    silent: learned ? learned.silent !== "no" : false,
  };
}

/** What was learned of each target, as sentences. */
export function sentences(targets) {
  return targets.map((target) => el("section", { class: "learned" },
    el("h3", {}, TARGETS[target.target] ?? target.target),
    el("ul", {}, target.coefficients.map((one) => el("li", { title: `${one.name}: ${one.value} ${one.unit}` }, one.words))),
    el("p", { class: "fine" }, `Speed factor ${number(target.speed_factor)}, drift of the last seconds ${number(target.drift_factor)}, evidence of ${number(target.evidence)} samples.`)));
}

export function nodeView(name) {
  const state = el("span", { class: "state" });
  const meaning = el("p", { class: "headline" });
  const tiles = {
    flight: tile("In flight"), share: tile("Share / fair share"), time: tile("Predicted / observed"), tail: tile("p50 / p99, last minute"),
    speed: tile("Speed"), capacity: tile("Capacity"), failed: tile("Failed"), weight: tile("Weight / limit"),
  };
  const times = chart("Predicted against observed response time", { observed: ["observed", "observed"], predicted: ["predicted", "predicted"] }, seconds);
  const flight = chart("In flight", { inFlight: ["plain", "in flight"] }, number);
  const learned = el("div", { class: "columns" });
  let last = null;
  // Live events tell of the first thousand nodes of a fleet; of the others this page asks.
  let [isLeftOut, told] = [false, null];
  const [out, back] = [button("Drain", () => drain(name)), button("Resume", () => resume(name))];
  const root = el("section", { "aria-label": `Node ${name}` },
    el("p", { class: "crumbs" }, el("a", { href: "#fleet" }, "Fleet"), " / "),
    el("h1", {}, el("span", { class: "long" }, name), " ", state),
    meaning,
    el("div", { class: "actions" }, out, back, button("Change weight", () => last && changeWeight(last)), button("Change limit", () => last && changeLimit(last)),
      el("a", { class: "button", href: `#decisions?node=${encodeURIComponent(name)}` }, "Decisions for it")),
    el("dl", { class: "tiles four" }, Object.values(tiles).map((one) => one.node)),
    el("div", { class: "charts" }, times.node, flight.node),
    el("h2", {}, "What was learned of it"),
    learned);

  async function look() {
    const model = await json("GET", "api/v1/model");
    const one = model.nodes.find((node) => node.name === name);
    if (isLeftOut) {
      told = null;
      told = asked(await json("GET", nodePath(name)), one, model.typical?.how);
      draw({ last: told, points: [] });
    }
    if (!one || one.targets.length === 0) {
      learned.replaceChildren(el("p", { class: "note" }, "Nothing yet: it has to answer some requests first."));
      return;
    }
    const whose = one.known ? [] : [el("p", { class: "note" }, "Nothing was learned of this node itself: these are the fleet's figures.")];
    learned.replaceChildren(...whose, ...sentences(one.targets));
  }

  function update(store) {
    const seen = store.nodes.get(name);
    isLeftOut = !seen && store.live.nodes.length < store.live.fleet.nodes;
    if (seen) return draw(seen);
    if (isLeftOut && told) return;
    say(meaning, isLeftOut ? "Live events leave it out, or there is no such node." : "There is no node of this name any more, or not yet.");
    mark(meaning, "data-kind", "warn");
  }

  function draw(seen) {
    const one = seen.last;
    last = one;
    const how = stateOf(one);
    say(state, how.word);
    mark(state, "data-kind", how.kind);
    say(meaning, `It ${how.meaning}.`);
    mark(meaning, "data-kind", how.kind);
    show(out, one.state !== "draining");
    show(back, one.state === "draining");
    const point = seen.points.at(-1);
    say(tiles.flight.value, count(one.in_flight));
    say(tiles.flight.note, `${count(one.waiting)} without a first byte`);
    say(tiles.share.value, `${percent(one.share)} / ${percent(one.fair_share)}`);
    say(tiles.share.note, "of the attempts of late / of the fleet's capacity");
    say(tiles.time.value, `${seconds(point?.predicted)} / ${seconds(point?.observed)}`);
    say(tiles.time.note, `typical request now: ${seconds(one.expected_s)}`);
    say(tiles.tail.value, `${seconds(one.p50_s)} / ${seconds(one.p99_s)}`);
    say(tiles.tail.note, `${count(one.completed)} completed`);
    say(tiles.speed.value, speed(one.speed));
    say(tiles.speed.note, one.speed === null ? "not known yet" : `factor ${number(one.speed)}, load aside`);
    say(tiles.capacity.value, one.capacity_rps === null ? UNKNOWN : `${one.capacity_is_lower_bound ? "≥ " : ""}${rate(one.capacity_rps)}`);
    say(tiles.capacity.note, one.slots === null ? "no slot limit learned" : `works on ${number(one.slots)} at once`);
    say(tiles.failed.value, count(one.failed));
    say(tiles.failed.note, one.ejections ? `ejected ${count(one.ejections)} times` : `${count(one.full)} times full, penalty ×${number(1 + one.penalty)}`);
    say(tiles.weight.value, `${number(one.weight)} / ${limitOf(one)}`);
    times.update(seen.points, 0.001);
    flight.update(seen.points, 4);
  }
  return { root, update, look, every: LOOK_MS, title: name };
}
