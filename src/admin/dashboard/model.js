// The model: whether it decides, how well it predicts, what it learned, and what it is worth.

import { button, resetModel, snapshot, switchPolicy } from "./actions.js";
import { json } from "./api.js";
import { chart } from "./chart.js";
import { el, mark, nodeLink, say, tile } from "./dom.js";
import { sentences } from "./node.js";
import { count, number, offBy, percent, rate, routing, seconds, span } from "./words.js";

const LOOK_MS = 3_000;
/** Rows of the history: what a screen holds. */
const TURNS_MAX = 30;
/** Nodes in the table; of a large fleet the others are a click away. */
const NODES_MAX = 200;

/** The hour as a list of turns: from when to when who decided, by which versions, how well. */
function turns(moments) {
  const found = [];
  for (const moment of moments) {
    const last = found.at(-1);
    // Versions start anew after a reset.
    if (last && last.state === moment.state && last.router === moment.router && moment.version >= last.to) {
      last.to = moment.version;
      last.end = moment.now_s;
      last.error = moment.model_error ?? last.error;
    } else {
      found.push({ state: moment.state, router: moment.router, from: moment.version, to: moment.version, start: moment.now_s, end: moment.now_s, error: moment.model_error });
    }
  }
  return found.reverse().slice(0, TURNS_MAX);
}

const STATES = { routes: "the model decided", "other-policy": "another policy decided", shadow: "shadow: the fallback decided", missing: "fallback: nothing learned yet", stale: "fallback: model out of date", too_few_samples: "fallback: too few samples", worse_than_baseline: "fallback: worse than a moving average", wanted: "fallback: as the operator wished" };

export function modelView() {
  const headline = el("p", { class: "headline" });
  const tiles = { version: tile("Version"), error: tile("Prediction"), worth: tile("Against least connections"), evidence: tile("Evidence"), explored: tile("Explored"), trainer: tile("Trainer") };
  const errors = chart("Error over the last hour: |ln(predicted / observed)|", { model_error: ["predicted", "the model"], baseline_error: ["observed", "a moving average"] }, number);
  const history = el("tbody");
  const fleet = el("div", { class: "columns" });
  const nodes = el("tbody");
  const kinds = el("tbody");
  const typical = el("p", { class: "note" });
  const compared = el("p", { class: "note" });
  const table = (caption, heads, body) => el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), body);
  const root = el("section", { "aria-label": "Model" },
    headline,
    el("div", { class: "actions" }, button("Switch policy", switchPolicy), button("Save a snapshot", snapshot), button("Forget everything", resetModel, "danger")),
    el("dl", { class: "tiles" }, Object.values(tiles).map((one) => one.node)),
    el("div", { class: "charts one" }, errors.node),
    el("h2", {}, "What was learned of the fleet"), typical, fleet,
    el("h2", {}, "Node by node"),
    table("Speed, and what one more request costs there", ["Node", "Speed", "Evidence", "Typical request now", "Capacity", "One more costs"], nodes),
    el("h2", {}, "Who decided in the last hour"),
    table("Versions and how well they predicted", ["When", "Who", "Versions", "Prediction"], history),
    compared,
    el("h2", {}, "Kinds of requests"),
    table("Expected by route and model", ["Route and model", "Prompt tokens", "Events of a stream", "Output tokens"], kinds));

  const cell = (label, ...parts) => el("td", { "data-label": label }, ...parts);

  function row(node) {
    const target = node.targets.reduce((most, one) => (one.evidence > (most?.evidence ?? -1) ? one : most), null);
    const marginal = node.targets.flatMap((one) => one.coefficients).find((one) => one.name === "in flight" && one.value > 0);
    const capacity = node.capacity ? `${node.capacity.is_lower_bound ? "≥ " : ""}${rate(node.capacity.rps)}` : "–";
    return el("tr", {}, el("th", { scope: "row" }, nodeLink(node.name)),
      cell("Speed", target ? number(target.speed_factor) : "–"),
      cell("Evidence", target ? `${number(target.evidence)} samples` : "–"),
      cell("Typical request now", seconds(node.predicted_s)),
      cell("Capacity", capacity),
      cell("One more costs", marginal?.words ?? "nothing yet"));
  }

  async function look() {
    const model = await json("GET", "api/v1/model");
    fleet.replaceChildren(...(model.fleet.length ? sentences(model.fleet) : [el("p", { class: "note" }, "Nothing yet.")]));
    nodes.replaceChildren(...model.nodes.slice(0, NODES_MAX).map(row));
    kinds.replaceChildren(...model.kinds.map((kind) => el("tr", {}, el("th", { scope: "row" }, el("span", { class: "long" }, kind.kind)), cell("Prompt tokens", number(kind.prompt_tokens)), cell("Events of a stream", number(kind.events)), cell("Output tokens", number(kind.tokens)))));
    const ask = model.typical;
    say(typical, ask ? `The typical request has ${number(ask.prompt_tokens)} prompt tokens and an answer of ${number(ask.output)} ${ask.how === "streamed" ? "events" : "tokens"}; it is predicted as ${ask.how}.` : "");
    const { agreed, differed, chosen_mean_s: chosen, own_mean_s: own } = model.compared;
    say(compared, agreed + differed > 0 ? `While another policy decided, ${count(agreed + differed)} decisions were compared: the model would have decided alike in ${percent(agreed / (agreed + differed))} of them. Expected response time where they went ${seconds(chosen)}, where the model would have sent them ${seconds(own)}.` : "");
    say(tiles.evidence.note, `${count(model.samples.dropped)} dropped, ${count(Object.values(model.samples.unfit).reduce((a, b) => a + b, 0))} said nothing of times`);
    const fits = Object.values(model.trainer.fits).reduce((sum, of) => sum + (of.published ?? 0), 0);
    say(tiles.trainer.note, `${count(fits)} fits published, learned anew ${count(model.trainer.relearned)}×`);
  }

  function update(store) {
    const { model, policy, now_s: nowS } = store.live;
    const { standing } = policy;
    const who = routing(policy);
    say(headline, standing.state === "routes" ? `${policy.name}: the learned model decides.` : `${policy.name}: ${standing.detail}.`);
    mark(headline, "data-kind", who.kind);
    say(tiles.version.value, model.version === 0 ? "none" : count(model.version));
    say(tiles.version.note, model.age_s === null ? "nothing published yet" : `${span(model.age_s)} old`);
    say(tiles.error.value, offBy(standing.model_error));
    say(tiles.error.note, standing.baseline_error === null ? "\u00a0" : `a moving average: ${offBy(standing.baseline_error)}`);
    const { saved } = store.now();
    say(tiles.worth.value, saved === null ? "–" : `${seconds(Math.abs(saved))} ${saved >= 0 ? "saved" : "lost"}`);
    const all = model.compared > 0 ? (model.compared_plain_cost_s - model.compared_cost_s) / model.compared : null;
    say(tiles.worth.note, all === null ? "per request, once the model decides" : `per request, expected; since the start ${seconds(Math.abs(all))} ${all >= 0 ? "saved" : "lost"}`);
    mark(tiles.worth.node, "data-kind", saved !== null && saved < 0 ? "warn" : null);
    say(tiles.evidence.value, `${count(model.labels)} samples`);
    say(tiles.explored.value, count(model.explorations));
    say(tiles.explored.note, "decisions to learn of a node");
    say(tiles.trainer.value, model.trainer_up ? "at work" : "not at work");
    mark(tiles.trainer.node, "data-kind", model.trainer_up ? null : "bad");
    errors.update(store.moments.map((moment) => ({ ...moment, t: moment.now_s })), 0.1);
    const found = turns(store.moments);
    const said = found.map((turn) => [`${span(nowS - turn.start)} to ${span(nowS - turn.end)} ago`, `${turn.router}: ${STATES[turn.state] ?? turn.state}`, turn.to === 0 ? "none" : `${count(turn.from)} to ${count(turn.to)}`, offBy(turn.error)]);
    while (history.children.length < said.length) history.append(el("tr", {}, cell("When", ""), cell("Who", ""), cell("Versions", ""), cell("Prediction", "")));
    while (history.children.length > said.length) history.lastChild.remove();
    said.forEach((cells, at) => cells.forEach((text, i) => say(history.children[at].children[i], text)));
  }
  return { root, update, look, every: LOOK_MS, title: "Model" };
}
