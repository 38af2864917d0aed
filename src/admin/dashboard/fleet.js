// The first screen: is it well, and where does the work go. All nodes are a strip of squares; the table below shows a
// page of them, so that two hundred nodes cost as much as fifty.

import { button, switchPolicy } from "./actions.js";
import { chart, sparkline } from "./chart.js";
import { el, mark, nodeLink, say, show, tile } from "./dom.js";
import { UNKNOWN, count, number, percent, rate, routing, seconds, speed, stateOf } from "./words.js";

const PAGE = 50;
/** So few nodes are seen at a glance without a strip. */
const STRIP_FROM = 13;
/** So many nodes are named where something is wrong. */
const NAMED_MAX = 5;

const COLUMNS = [
  ["Node", (node) => node.name, "text"],
  ["Share / fair", (node) => node.share],
  ["In flight", (node) => node.in_flight],
  ["Predicted / observed", (node) => node.p50_s ?? -1],
  ["Speed", (node) => node.speed ?? Infinity],
  ["Capacity", (node) => node.capacity_rps ?? -1],
  ["Failed", (node) => node.failed],
];

/** One row of the table, made once and changed in place. */
function makeRow() {
  const link = nodeLink("");
  const state = el("span", { class: "state" });
  const fill = el("span", { class: "fill" });
  const fair = el("span", { class: "fair" });
  const share = el("span", { class: "num" });
  const flight = el("span", { class: "num" });
  const limit = el("span", { class: "under" });
  const curve = sparkline({ observed: "observed", predicted: "predicted" });
  const times = el("span", { class: "num times" });
  const [speedOf, capacity, failed] = [0, 0, 0].map(() => el("span", { class: "num" }));
  const slots = el("span", { class: "under" });
  const ejected = el("span", { class: "under" });
  const cell = (label, ...parts) => el("td", { "data-label": label }, ...parts);
  const node = el("tr", {},
    el("th", { scope: "row" }, link, state),
    cell("Share / fair", el("span", { class: "bar", "aria-hidden": "true" }, fill, fair), share),
    cell("In flight", flight, limit),
    cell("Predicted / observed", curve.node, times),
    cell("Speed", speedOf),
    cell("Capacity", capacity, slots),
    cell("Failed", failed, ejected));
  return {
    node,
    update(seen, scale) {
      const one = seen.last;
      const how = stateOf(one);
      say(link, one.name);
      mark(link, "href", `#nodes/${encodeURIComponent(one.name)}`);
      mark(link, "title", one.name);
      say(state, how.word);
      mark(state, "title", how.meaning);
      mark(state, "data-kind", how.kind);
      fill.style.width = `${Math.min(100, (one.share / scale) * 100)}%`;
      show(fair, one.fair_share !== null);
      fair.style.left = `${Math.min(100, ((one.fair_share ?? 0) / scale) * 100)}%`;
      say(share, `${percent(one.share)} / ${percent(one.fair_share)}`);
      say(flight, one.limit_now === null ? count(one.in_flight) : `${count(one.in_flight)} of ${count(one.limit_now)}`);
      say(limit, one.waiting > 0 ? `${count(one.waiting)} waiting` : "");
      curve.update(seen.points);
      const point = seen.points.at(-1);
      say(times, `${seconds(point.predicted ?? one.expected_s)} / ${seconds(point.observed ?? one.p50_s)}`);
      say(speedOf, speed(one.speed));
      say(capacity, one.capacity_rps === null ? UNKNOWN : `${one.capacity_is_lower_bound ? "≥ " : ""}${rate(one.capacity_rps)}`);
      say(slots, one.slots === null ? "" : `${number(one.slots)} at once`);
      say(failed, count(one.failed));
      say(ejected, one.ejections ? `ejected ${count(one.ejections)}×` : one.penalty >= 0.1 ? `penalty ×${number(1 + one.penalty)}` : "");
      mark(node, "data-kind", how.kind);
    },
  };
}

/** Nodes that somebody should look at. */
function troubled(nodes) {
  return nodes.filter((node) => ["bad", "warn"].includes(stateOf(node).kind));
}

function headline(live, wrong) {
  const { fleet, policy } = live;
  if (fleet.nodes === 0) return ["bad", "There are no nodes: every request is refused."];
  if (fleet.serving === 0) return ["bad", "No node gets work: every request is refused."];
  const said = wrong.slice(0, NAMED_MAX).map((node) => `${node.name} is ${stateOf(node).word}`);
  if (wrong.length > NAMED_MAX) said.push(`${wrong.length - NAMED_MAX} more`);
  const some = fleet.serving === fleet.nodes ? `All ${fleet.nodes} nodes serve` : `${fleet.serving} of ${fleet.nodes} nodes serve`;
  const who = routing(policy);
  const decides = policy.standing.state === "routes" ? `${who.head} routes by the learned model` : policy.standing.detail;
  const kind = fleet.serving < fleet.nodes || wrong.length > 0 || who.kind === "warn" ? "warn" : "good";
  return [kind, `${[some, ...said].join(", ")}; ${decides}.`];
}

export function fleetView() {
  const summary = el("p", { class: "headline", role: "status" });
  const curves = { rps: sparkline({ rps: "plain" }, 160, 30), times: sparkline({ p50: "observed", p99: "tail" }, 160, 30) };
  const tiles = {
    rps: tile("Requests", curves.rps.node),
    p50: tile("p50 / p99", curves.times.node),
    errors: tile("Errors"),
    load: tile("Utilization (rate / capacity)"),
    policy: tile("Who decides", button("Switch policy", switchPolicy, "small")),
  };
  tiles.policy.node.classList.add("wide");
  const strip = el("div", { class: "strip", role: "list", "aria-label": "All nodes" });
  const filter = el("input", { type: "search", id: "filter", placeholder: "Filter by name or state", "aria-label": "Filter nodes" });
  const pages = el("span", { class: "pages" });
  const before = el("button", { type: "button", class: "small", "aria-label": "Previous page" }, "‹");
  const after = el("button", { type: "button", class: "small", "aria-label": "Next page" }, "›");
  const body = el("tbody");
  const heads = COLUMNS.map(([name]) => el("button", { type: "button" }, name));
  const table = el("table", { class: "nodes" }, el("caption", { class: "sr" }, "Nodes"), el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), body);
  const hour = {
    rate: chart("Requests per second", { rps: ["plain", "requests/s"] }, number),
    times: chart("Response times", { p50_s: ["observed", "p50"], p99_s: ["tail", "p99"] }, seconds),
  };
  const root = el("section", { "aria-label": "Fleet" },
    summary,
    el("dl", { class: "tiles" }, Object.values(tiles).map((one) => one.node)),
    strip,
    el("div", { class: "tools" }, filter, el("span", { class: "key predicted" }, "predicted"), el("span", { class: "key observed" }, "observed"), el("span", { class: "grow" }), before, pages, after),
    table,
    el("div", { class: "charts" }, hour.rate.node, hour.times.node));

  const sort = { column: -1, down: true };
  let [page, order, ordered] = [0, [], ""];
  const [rows, cells] = [[], []];
  let latest = null;

  const again = () => {
    ordered = "";
    if (latest) update(latest);
  };
  filter.addEventListener("input", () => {
    page = 0;
    again();
  });
  before.addEventListener("click", () => {
    page -= 1;
    again();
  });
  after.addEventListener("click", () => {
    page += 1;
    again();
  });
  heads.forEach((head, at) => head.addEventListener("click", () => {
    sort.down = sort.column === at ? !sort.down : COLUMNS[at][2] !== "text";
    sort.column = at;
    heads.forEach((other, i) => mark(other.parentNode, "aria-sort", i === at ? (sort.down ? "descending" : "ascending") : null));
    again();
  }));

  /** The order stays until the fleet or a wish changes: rows that jump cannot be read. */
  function arrange(nodes) {
    const wanted = filter.value.trim().toLowerCase();
    const matches = (node) => node.name.toLowerCase().includes(wanted) || stateOf(node).word.includes(wanted);
    const found = wanted ? nodes.filter(matches) : [...nodes];
    if (sort.column >= 0) {
      const key = COLUMNS[sort.column][1];
      const compare = (a, b) => (typeof key(a) === "string" ? key(a).localeCompare(key(b), "en", { numeric: true }) : key(a) - key(b));
      found.sort((a, b) => (sort.down ? -1 : 1) * compare(a, b));
    }
    order = found.map((node) => node.name);
  }

  function updateStrip(nodes) {
    show(strip, nodes.length >= STRIP_FROM);
    if (strip.hidden) return;
    while (cells.length < nodes.length) {
      const cell = el("a", { class: "cell", role: "listitem" });
      cells.push(cell);
      strip.append(cell);
    }
    while (cells.length > nodes.length) cells.pop().remove();
    nodes.forEach((node, at) => {
      const how = stateOf(node);
      mark(cells[at], "href", `#nodes/${encodeURIComponent(node.name)}`);
      mark(cells[at], "data-kind", how.kind);
      mark(cells[at], "title", `${node.name}: ${how.word}`);
      mark(cells[at], "aria-label", `${node.name}: ${how.word}`);
      const ratio = node.fair_share ? node.share / node.fair_share : 1;
      mark(cells[at], "data-load", ratio > 1.5 ? "high" : ratio < 0.5 ? "low" : "fair");
    });
  }

  function updateTable(store, nodes) {
    const identity = `${nodes.map((node) => node.name).join("\n")}\n${filter.value}`;
    if (ordered !== identity) {
      arrange(nodes);
      ordered = identity;
    }
    const last = Math.max(0, Math.ceil(order.length / PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    const shown = order.slice(page * PAGE, (page + 1) * PAGE).map((name) => store.nodes.get(name)).filter(Boolean);
    while (rows.length < shown.length) {
      const row = makeRow();
      rows.push(row);
      body.append(row.node);
    }
    while (rows.length > shown.length) rows.pop().node.remove();
    const scale = Math.max(1e-6, ...nodes.map((node) => Math.max(node.share, node.fair_share ?? 0)));
    shown.forEach((seen, at) => rows[at].update(seen, scale));
    const many = order.length > PAGE;
    [before, after].forEach((one) => show(one, many));
    before.disabled = page === 0;
    after.disabled = page === last;
    const rest = store.live.fleet.nodes > nodes.length ? ` (the fleet has ${count(store.live.fleet.nodes)}; the others have pages of their own)` : "";
    say(pages, (many ? `${page * PAGE + 1} to ${Math.min(order.length, (page + 1) * PAGE)} of ${order.length}` : `${order.length} of ${nodes.length} nodes`) + rest);
  }

  function update(store) {
    latest = store;
    const { live, moments } = store;
    const { fleet, policy, nodes } = live;
    const now = store.now();
    const [kind, text] = headline(live, troubled(nodes));
    say(summary, text);
    mark(summary, "data-kind", kind);
    say(tiles.rps.value, rate(now.rps));
    say(tiles.rps.note, `${count(fleet.in_flight)} in flight, ${count(fleet.queued)} queued`);
    say(tiles.p50.value, `${seconds(fleet.p50_s)} / ${seconds(fleet.p99_s)}`);
    say(tiles.p50.note, `first byte ${seconds(fleet.ttfb_p50_s)} / ${seconds(fleet.ttfb_p99_s)}`);
    say(tiles.errors.value, percent(now.errors ?? 0));
    say(tiles.errors.note, `${count(fleet.errors)} of ${count(fleet.answers)} in all`);
    mark(tiles.errors.node, "data-kind", (now.errors ?? 0) > 0.01 ? "bad" : null);
    const bound = fleet.utilization_is_upper_bound && fleet.utilization !== null;
    say(tiles.load.value, `${bound ? "≤ " : ""}${percent(fleet.utilization)}`);
    say(tiles.load.note, fleet.capacity_rps === null ? (fleet.serving === 0 ? "no node gets work" : "capacity is not known yet") : `${rate(fleet.rps)} of ${bound ? "at least " : ""}${rate(fleet.capacity_rps)}`);
    const who = routing(policy);
    say(tiles.policy.value, who.head);
    say(tiles.policy.note, who.note);
    mark(tiles.policy.node, "data-kind", who.kind);
    const points = moments.map((moment) => ({ ...moment, t: moment.now_s, p50: moment.p50_s, p99: moment.p99_s }));
    const recent = points.slice(-60);
    curves.rps.update(recent, 300);
    curves.times.update(recent, 300);
    updateStrip(nodes);
    updateTable(store, nodes);
    hour.rate.update(points, 1);
    hour.times.update(points, 0.01);
  }
  return { root, update, title: "Fleet" };
}
