// Why this node: recent decisions with their candidates. The list stands still while one is open or it is paused: what
// is being read must not move.

import { json } from "./api.js";
import { el, mark, nodeLink, say } from "./dom.js";
import { UNKNOWN, count, number, percent, seconds, span, why } from "./words.js";

const LOOK_MS = 3_000;
const SHOWN = 60;
const LIMIT = 500;

function outcome(decision) {
  const { end } = decision;
  if (!end) return ["idle", "running"];
  if (end.outcome === "completed") return ["good", `${end.status ?? ""} in ${seconds(end.total_s)}`.trim()];
  return [end.outcome === "failed" ? "bad" : "warn", `${end.outcome}${end.failure ? ` (${end.failure})` : ""} after ${seconds(end.total_s)}`];
}

function candidates(decision) {
  const heads = ["Node", "Probability", "Why", "In flight", "Predicted", "Adds to others", "Score"];
  const cell = (label, text) => el("td", { "data-label": label }, text);
  const rows = decision.candidates.map((one) => el("tr", { "data-chosen": one.node === decision.node },
    el("th", { scope: "row" }, nodeLink(one.node)),
    cell(heads[1], percent(one.probability)),
    cell(heads[2], one.held ? `left out: ${one.held}` : why(one.why)),
    cell(heads[3], count(one.in_flight)),
    cell(heads[4], one.first_byte_s !== null && one.gap_s ? `${seconds(one.predicted_s)} (first byte ${seconds(one.first_byte_s)})` : seconds(one.predicted_s)),
    cell(heads[5], seconds(one.adds_s)),
    cell(heads[6], number(one.score))));
  const left = decision.candidates_total - decision.candidates.length;
  return el("table", {}, el("caption", {}, left > 0 ? `The likeliest ${decision.candidates.length} of ${decision.candidates_total} candidates` : "Candidates"),
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, rows));
}

function story(decision) {
  const own = decision.candidates.find((one) => one.node === decision.node);
  const lines = [`${decision.policy} chose ${decision.node} with probability ${percent(decision.propensity)}: ${decision.because}.`];
  if (decision.model_prefers && decision.model_prefers !== decision.node) lines.push(`The model thinks ${decision.model_prefers} best.`);
  if (decision.cost_s !== null) {
    const saved = decision.plain_cost_s - decision.cost_s;
    lines.push(`It was expected to cost ${seconds(decision.cost_s)} (its own time and what it adds to others'); the choice of least connections ${seconds(decision.plain_cost_s)}: ${seconds(Math.abs(saved))} ${saved >= 0 ? "saved" : "lost"}.`);
  }
  if (decision.end && own?.predicted_s) lines.push(`Predicted ${seconds(own.predicted_s)}, observed ${seconds(decision.end.total_s)}${decision.end.output_tokens ? ` for ${count(decision.end.output_tokens)} output tokens` : ""}; ${number(decision.end.mean_in_flight)} were in flight there on average meanwhile.`);
  return lines.map((line) => el("p", {}, line));
}

export function decisionsView(wanted) {
  const held = wanted.number !== null;
  const field = el("select", { id: "only", "aria-label": "Which decisions" }, [["all", "all"], ["explored", "explored"], ["fallback", "by the fallback"], ["failed", "that failed"], ["against", "against the model's choice"]].map(([value, text]) => el("option", { value }, text)));
  const pause = el("button", { type: "button", class: "small", "aria-pressed": "false" }, "Pause");
  const note = el("p", { class: "note", role: "status" });
  const list = el("div", { class: "list" });
  const back = el("a", { class: "button", href: "#decisions" }, "All decisions");
  const root = el("section", { "aria-label": "Decisions" },
    el("h1", {}, held ? `Decision ${wanted.number}` : "Recent decisions", wanted.node ? el("span", { class: "long" }, ` for ${wanted.node}`) : null),
    held || wanted.node ? back : null,
    el("div", { class: "tools" }, held ? null : field, held ? null : pause), note, list);
  let paused = false;
  let newest = 0;
  // A single decision is looked at until its end is known, or it is forgotten.
  let settled = false;
  // Of what is shown: where its age is, and when it was made by this page's clock.
  let ages = [];
  pause.addEventListener("click", () => {
    paused = !paused;
    say(pause, paused ? "Go on" : "Pause");
    mark(pause, "aria-pressed", paused);
  });
  field.addEventListener("change", () => {
    newest = 0;
    look();
  });

  const filters = {
    all: () => true,
    explored: (one) => one.why === "explored",
    fallback: (one) => one.why === "fallback",
    failed: (one) => one.end?.outcome === "failed",
    against: (one) => one.model_prefers !== null && one.model_prefers !== one.node,
  };

  function item(decision) {
    const [kind, text] = outcome(decision);
    const own = decision.candidates.find((one) => one.node === decision.node);
    const body = el("div", { class: "body" });
    const age = el("span", { class: "age" });
    ages.push([age, performance.now() - decision.age_s * 1_000]);
    const details = el("details", { "data-number": decision.number, open: held },
      el("summary", {},
        el("span", { class: "long to" }, decision.node),
        el("span", { class: "state", "data-kind": kind }, text),
        el("span", { class: "because" }, `${why(decision.why)}${own?.predicted_s ? `, predicted ${seconds(own.predicted_s)}` : ""}`),
        el("span", { class: "long kind" }, `${decision.kind}${decision.streaming ? ", streamed" : ""}, ${count(decision.prompt_tokens)} prompt tokens`),
        age),
      body);
    // What nobody opens is not made.
    const fill = () => {
      if (body.firstChild || !details.open) return;
      body.append(...story(decision), candidates(decision), el("p", { class: "fine" }, `Made ${decision.time}, model version ${decision.model_version || UNKNOWN}. `, el("a", { href: `#decisions/${decision.number}` }, `Link to decision ${decision.number}`)));
    };
    details.addEventListener("toggle", fill);
    fill();
    return details;
  }

  /** What stands still grows older all the same. */
  const tellAges = () => ages.forEach(([age, madeMs]) => say(age, `${span((performance.now() - madeMs) / 1_000)} ago`));

  async function look() {
    tellAges();
    const busy = () => paused || document.hidden || (held ? settled : list.querySelector("details[open]") !== null);
    if (busy()) return;
    // What is not filtered is shown as it comes: no more of it is asked for, as each costs the proxy something.
    const limit = held ? 1000 : wanted.node || field.value !== "all" ? LIMIT : SHOWN;
    const { decisions } = await json("GET", `api/v1/decisions?limit=${limit}`);
    // Somebody may have begun to read meanwhile.
    if (busy()) return;
    let found = decisions;
    if (held) found = found.filter((one) => one.number === wanted.number);
    if (wanted.node) found = found.filter((one) => one.node === wanted.node);
    if (!held) found = found.filter(filters[field.value] ?? filters.all);
    if (held) {
      settled = found.length === 0 || found[0].end !== null;
      say(note, found.length ? "" : "This decision is not remembered any more: the last thousand are.");
      if (!found.length && list.firstChild) return say(list.querySelector(".state"), "not known");
    }
    if (!held) say(note, `${count(Math.min(found.length, SHOWN))} of ${count(found.length)} that match, of the last ${count(decisions.length)} that are remembered: at most fifty a second, and all that explored.`);
    // Nothing new: leave focus and scrolling alone.
    const top = found[0]?.number ?? 0;
    const ended = found.slice(0, SHOWN).filter((one) => one.end).length;
    const now = `${top} ${ended} ${found.length}`;
    if (now === newest) return;
    newest = now;
    ages = [];
    list.replaceChildren(...found.slice(0, SHOWN).map(item));
    tellAges();
  }
  return { root, update: () => {}, look, every: LOOK_MS, title: held ? `Decision ${wanted.number}` : "Decisions" };
}
