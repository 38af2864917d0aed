// What changes the proxy: each says what will happen, asks once, and tells what came of it.

import { json, nodePath } from "./api.js";
import { el, say, show } from "./dom.js";

const by = (id) => document.getElementById(id);

/** A short message that goes away by itself. */
export function toast(text, kind = "good") {
  const node = by("toast");
  node.dataset.kind = kind;
  node.textContent = text;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (node.textContent = ""), 6_000);
}

let pending = null;

/** Asks, and runs `act` on yes. What goes wrong is said in the dialog, which stays open. */
export function confirm({ title, text, verb, danger = false, act, done }) {
  const dialog = by("confirm");
  const yes = by("confirm-yes");
  say(by("confirm-title"), title);
  by("confirm-text").replaceChildren(...[text].flat().map((part) => (typeof part === "string" ? el("p", {}, part) : part)));
  yes.textContent = verb;
  yes.classList.toggle("danger", danger);
  yes.disabled = false;
  show(by("confirm-wrong"), false);
  pending = { act, done };
  if (!dialog.open) dialog.showModal();
  (by("confirm-text").querySelector("input, select") ?? by("confirm-no")).focus();
}

function close() {
  pending = null;
  by("confirm").close();
}

/** Wires the dialog; once. */
export function prepare() {
  by("confirm-no").addEventListener("click", close);
  by("confirm-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!pending) return;
    const { act, done } = pending;
    by("confirm-yes").disabled = true;
    try {
      const answer = await act();
      close();
      toast(typeof done === "function" ? done(answer) : done);
    } catch (error) {
      say(by("confirm-wrong"), error.message);
      show(by("confirm-wrong"), true);
      by("confirm-yes").disabled = false;
    }
  });
}

/** A button that runs something, whose failure is told. */
export function button(label, run, kind = "") {
  const click = () => Promise.resolve(run()).catch((error) => toast(error.message, "bad"));
  return el("button", { type: "button", class: kind, onclick: click }, label);
}

export async function switchPolicy() {
  const { policy, available } = await json("GET", "api/v1/policy");
  const about = el("p", { class: "fine" });
  const choice = el("select", { id: "policy-choice" }, available.map(({ name }) => el("option", { value: name, selected: name === policy }, name)));
  const tell = () => say(about, available.find(({ name }) => name === choice.value)?.about ?? "");
  choice.addEventListener("change", tell);
  tell();
  confirm({
    title: "Switch the policy",
    text: [`${policy} is in force. Another one decides from the next request on; what is in flight goes on. A restart brings back what is configured; a reload only if another policy is configured then.`, el("label", {}, "Policy ", choice), about],
    verb: "Switch",
    act: () => json("PUT", "api/v1/policy", { policy: choice.value }),
    done: (answer) => `${answer.policy} decides now.`,
  });
}

export function drain(name) {
  const field = el("input", { type: "number", id: "within", min: "0", max: "86400", step: "1" });
  confirm({
    title: `Drain ${name}`,
    text: [
      "It gets no new work, and what runs there goes on. The other nodes take its share until it is resumed.",
      "With a number of seconds it leaves the fleet when its last request has ended, and after that time at the latest.",
      el("label", {}, "Leave within (seconds) ", field),
    ],
    verb: "Drain",
    act: () => json("POST", nodePath(name, "/drain"), field.value === "" ? undefined : { remove_within_s: field.valueAsNumber }),
    done: `${name} is draining.`,
  });
}

export function resume(name) {
  confirm({
    title: `Resume ${name}`,
    text: "It gets work again from the next decision on, if it is up.",
    verb: "Resume",
    act: () => json("POST", nodePath(name, "/resume")),
    done: `${name} is in service again.`,
  });
}

export function changeWeight(node) {
  const field = el("input", { type: "number", id: "weight", min: "0.001", max: "1000", step: "any", value: node.weight, required: true });
  confirm({
    title: `Weight of ${node.name}`,
    text: ["Relative capacity for the policies that go by weights; adaptive learns its own. Above 0, at most 1000.", el("label", {}, "Weight ", field)],
    verb: "Change",
    act: () => json("PATCH", nodePath(node.name), { weight: field.valueAsNumber }),
    done: (answer) => `${answer.name} has weight ${answer.weight}.`,
  });
}

export function changeLimit(node) {
  const field = el("input", { type: "text", id: "limit", pattern: "auto|[0-9]+", value: node.auto_limit ? "auto" : (node.limit ?? "") });
  confirm({
    title: `Limit of ${node.name}`,
    text: ["The most requests that it may have in flight, from 1 to 60,000, or auto: found out from its response times. Leave it empty for no limit.", el("label", {}, "Limit ", field)],
    verb: "Change",
    act: () => json("PATCH", nodePath(node.name), { max_in_flight: field.value === "" ? null : field.value === "auto" ? "auto" : Number(field.value) }),
    done: (answer) => (answer.auto_limit ? `${answer.name} finds its limit out.` : answer.max_in_flight === null ? `${answer.name} has no limit.` : `${answer.name} has a limit of ${answer.max_in_flight}.`),
  });
}

export function resetModel() {
  confirm({
    title: "Forget everything that was learned",
    text: "The fallback routes until enough was learned anew, which takes some seconds to minutes of traffic. Saved states stay on disk until the next save overwrites them: take a snapshot first if you may want it back.",
    verb: "Forget it",
    danger: true,
    act: () => json("POST", "api/v1/model/reset"),
    done: "The model starts from nothing.",
  });
}

export function snapshot() {
  confirm({
    title: "Save what was learned",
    text: "Writes the learned state now instead of within the next minute. Without adaptive.state_dir it is kept in memory only.",
    verb: "Save",
    act: () => json("POST", "api/v1/model/snapshot"),
    done: (answer) => (answer.path ? `Saved to ${answer.path}.` : "Kept in memory: no adaptive.state_dir is configured."),
  });
}
