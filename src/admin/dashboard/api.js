// The way to the API: the token, requests, and the stream. EventSource cannot send a header, so the stream is read by
// fetch; the token stays in this tab's session storage and goes nowhere but into that header.

const KEY = "bellwether.token";
/** Without an event for so long, the stream is opened anew. */
const SILENCE_MS = 8_000;
/** A page that nobody looks at stops listening after this. */
const HIDDEN_MS = 60_000;
const RETRY_MS = [500, 1_000, 2_000, 4_000, 8_000];

let token = sessionStorage.getItem(KEY) ?? "";
let asking = null;

/** An answer that says no; the message is for people. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function ask(wasWrong) {
  const dialog = document.getElementById("token");
  const field = document.getElementById("token-value");
  const why = document.getElementById("token-why");
  if (wasWrong) why.textContent = "That token is not known here, or not any more. Another one:";
  field.value = "";
  if (!dialog.open) dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    const form = document.getElementById("token-form");
    const take = (event) => {
      event.preventDefault();
      const given = field.value.trim();
      field.value = "";
      // What a header cannot carry cannot be a token.
      if (!/^[\x21-\x7e]+$/.test(given)) {
        why.textContent = "A token has visible ASCII characters only.";
        return;
      }
      form.removeEventListener("submit", take);
      token = given;
      sessionStorage.setItem(KEY, given);
      dialog.close();
      resolve();
    };
    form.addEventListener("submit", take);
    dialog.oncancel = (event) => event.preventDefault();
  });
}

/** A response; asks for a token where one is needed. */
async function call(method, path, body, signal) {
  for (;;) {
    const sent = token;
    const headers = new Headers();
    if (sent) headers.set("authorization", `Bearer ${sent}`);
    if (body !== undefined) headers.set("content-type", "application/json");
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const answer = await fetch(path, { method, headers, body: payload, signal, cache: "no-store", credentials: "omit", redirect: "error" });
    if (answer.status !== 401) return answer;
    // Several requests may be refused at once, and one question is enough.
    if (sent === token) {
      asking ??= ask(sent !== "").finally(() => (asking = null));
      await asking;
    }
  }
}

async function refusal(answer) {
  let message = `${answer.status} ${answer.statusText}`;
  try {
    const problem = await answer.json();
    message = problem.errors?.length ? problem.errors.join("; ") : (problem.detail ?? message);
  } catch {
    // Not a problem document: somebody between us and the proxy answered.
  }
  // Not every 403 is about the token: a request may come from another site, or seem to.
  if (answer.headers.get("www-authenticate")?.includes("insufficient_scope")) message += ". This token may look and not change.";
  return new Refused(answer.status, message);
}

/** JSON from or to the API. */
export async function json(method, path, body) {
  const answer = await call(method, path, body);
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

/** The path of a node, whatever its name. */
export function nodePath(name, rest = "") {
  return `api/v1/nodes/${encodeURIComponent(name)}${rest}`;
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });
}

/** Reads one stream to its end. */
async function read(onEvent) {
  const control = new AbortController();
  let watchdog = null;
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => control.abort(), SILENCE_MS);
  };
  let hidden = null;
  const look = () => {
    clearTimeout(hidden);
    if (document.hidden) hidden = setTimeout(() => control.abort(), HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  try {
    const answer = await call("GET", "api/v1/live?compact=true", undefined, control.signal);
    if (!answer.ok) throw await refusal(answer);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    const columns = {};
    alive();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      alive();
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) deliver(part, columns, onEvent);
    }
  } finally {
    clearTimeout(watchdog);
    clearTimeout(hidden);
    document.removeEventListener("visibilitychange", look);
  }
}

/** Nodes out of columns; one that did not come is as it was. */
function rows(count, came, columns) {
  Object.assign(columns, came);
  const names = Object.keys(columns);
  return Array.from({ length: count }, (_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
}

function deliver(part, columns, onEvent) {
  let name = "message";
  let data = "";
  for (const line of part.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (!data) return;
  const event = JSON.parse(data);
  if (name === "live") event.nodes = rows(event.count, event.columns, columns);
  onEvent(name, event);
}

/** Listens for ever: `onEvent(name, data)` for each event, `onTrouble(why)` when there is none to be had. */
export async function listen(onEvent, onTrouble) {
  let failures = 0;
  for (;;) {
    await visible();
    try {
      await read((name, data) => {
        failures = 0;
        onEvent(name, data);
      });
    } catch (error) {
      onTrouble(error instanceof Refused ? error.message : "the proxy does not answer");
      await wait(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
      failures += 1;
    }
  }
}
