// The page: which view is shown, what it hears, and whether that is still true.

import { prepare } from "./actions.js";
import { listen } from "./api.js";
import { decisionsView } from "./decisions.js";
import { el, mark, say, show } from "./dom.js";
import { fleetView } from "./fleet.js";
import { modelView } from "./model.js";
import { nodeView } from "./node.js";
import { Store } from "./store.js";
import { span } from "./words.js";

/** Figures older than this are said to be old: three events were missed. */
const STALE_MS = 3_500;

const store = new Store();
const main = document.getElementById("main");
const link = document.getElementById("link");
const stale = document.getElementById("stale");

let view = null;
let timer = null;
let trouble = null;
let due = false;

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    // Somebody typed it.
    return text;
  }
}

/** What the address asks for: #fleet, #nodes/NAME, #model, #decisions, #decisions/NUMBER, #decisions?node=NAME. */
function wanted() {
  const hash = location.hash.slice(1);
  const [path, query = ""] = hash.split("?", 2);
  const [head, ...rest] = path.split("/");
  const tail = decode(rest.join("/"));
  if (head === "nodes" && tail) return ["fleet", () => nodeView(tail)];
  if (head === "model") return ["model", modelView];
  if (head === "decisions") {
    const number = /^\d+$/.test(tail) ? Number(tail) : null;
    const node = new URLSearchParams(query).get("node");
    return ["decisions", () => decisionsView({ number, node })];
  }
  return ["fleet", fleetView];
}

function watch(shown) {
  if (shown !== view || !shown.look) return;
  Promise.resolve(shown.look())
    .catch((error) => (trouble = error.message))
    .finally(() => {
      if (shown === view && shown.every) timer = setTimeout(watch, shown.every, shown);
    });
}

function open() {
  clearTimeout(timer);
  const [name, make] = wanted();
  view = make();
  for (const tab of document.querySelectorAll("nav a")) mark(tab, "aria-current", tab.dataset.view === name ? "page" : null);
  document.title = view.title === "Fleet" ? "Bellwether" : `${view.title} · Bellwether`;
  main.replaceChildren(view.root);
  window.scrollTo(0, 0);
  if (store.live) view.update(store);
  else view.root.classList.add("waiting");
  watch(view);
}

function draw() {
  due = false;
  if (!store.live) return;
  view.root.classList.remove("waiting");
  view.update(store);
}

function age() {
  const old = performance.now() - store.heardMs;
  const isStale = store.live !== null && old > STALE_MS;
  document.body.classList.toggle("is-stale", isStale);
  show(stale, isStale || (store.live === null && trouble !== null));
  if (isStale) say(stale, `These figures are ${span(old / 1000)} old: ${trouble ?? "nothing came since"}.`);
  else if (store.live === null && trouble !== null) say(stale, `Nothing to show yet: ${trouble}.`);
  const [state, text] = isStale ? ["stale", `stale, ${span(old / 1000)}`] : store.live ? ["live", "live"] : ["waiting", "connecting"];
  mark(link, "data-state", state);
  say(link, text);
}

function hear(name, data) {
  trouble = null;
  if (name === "history") store.past(data);
  if (name !== "live") return;
  store.add(data);
  age();
  if (due) return;
  due = true;
  requestAnimationFrame(draw);
}

document.getElementById("skip").addEventListener("click", (event) => {
  // The address tells the view, so the browser's own jump would change it.
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
});
main.replaceChildren(el("p", { class: "note" }, "Connecting."));
prepare();
open();
setInterval(age, 1_000);
listen(hear, (why) => {
  trouble = why;
  age();
});
