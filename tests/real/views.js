// Views of the dashboard by themselves, on answers and at times that a running proxy does not give on demand. Run in a
// page of the admin listener; says what it checked, or throws.
(async () => {
  const load = (name) => import(`/dashboard/${name}.js`);
  const [words, api, actions, decisions, node] = await Promise.all(["words", "api", "actions", "decisions", "node"].map(load));
  const equal = (what, seen, wanted) => {
    if (seen !== wanted) throw new Error(`${what}: ${JSON.stringify(seen)}, not ${JSON.stringify(wanted)}`);
  };
  const has = (what, text, part) => {
    if (!text.includes(part)) throw new Error(`${what}: ${JSON.stringify(text)} has no ${JSON.stringify(part)}`);
  };
  let nowMs = 1_000;
  performance.now = () => nowMs;
  let asked = 0;
  /** From now on requests are answered by `make(path)`: a document, or a response. */
  const answer = (make) => {
    window.fetch = async (path) => {
      asked += 1;
      const made = make(path);
      return made instanceof Response ? made : Response.json(made);
    };
  };
  for (const [tag, id] of [["dialog", "confirm"], ["p", "confirm-title"], ["div", "confirm-text"], ["p", "confirm-wrong"], ["button", "confirm-yes"], ["button", "confirm-no"]]) {
    const made = document.createElement(tag);
    made.id = id;
    document.body.append(made);
  }

  equal("times that keep their units", `${words.seconds(0.39)} / ${words.seconds(5.5)}, ${words.span(7_200)}, ${words.percent(0.5)}`, "390\u00a0ms / 5.50\u00a0s, 2.0\u00a0h, 50\u00a0%");
  const limit = (auto_limit, limit, limit_now) => words.limitOf({ auto_limit, limit, limit_now });
  equal("an automatic limit", limit(true, null, 37), "auto (37)");
  equal("a limit", limit(false, 7, 7), "7");
  equal("a limit of a node that returns", limit(false, 7, 4), "7, now 4");
  equal("no limit", limit(false, null, null), "none");
  const offered = (of) => {
    actions.changeLimit({ name: "a", ...of });
    return document.getElementById("limit").value;
  };
  equal("an automatic limit is offered as such", offered({ auto_limit: true, limit: null, limit_now: 37 }), "auto");
  equal("a limit is offered", offered({ auto_limit: false, limit: 7, limit_now: 4 }), "7");
  answer(() => ({ policy: "random", available: [{ name: "random", about: "draws" }] }));
  await actions.switchPolicy();
  has("what a reload does", document.getElementById("confirm-text").textContent, "a reload only if another policy is configured then");

  const refused = async (headers) => {
    answer(() => new Response(JSON.stringify({ detail: "why" }), { status: 403, headers }));
    return api.json("PUT", "/x").then(() => "no refusal", (error) => error.message);
  };
  equal("of another site", await refused({}), "why");
  equal("of a reader", await refused({ "www-authenticate": 'Bearer realm="bellwether", error="insufficient_scope"' }), "why. This token may look and not change.");

  const candidate = { node: "a", probability: 1, why: "only-one", in_flight: 0, predicted_s: null, first_byte_s: null, gap_s: null, adds_s: null, score: null, held: null };
  const made = { number: 5, node: "a", why: "only-one", because: "it was", propensity: 1, policy: "random", kind: "chat", prompt_tokens: 1, age_s: 2, time: "then", model_version: 0, model_prefers: null, cost_s: null, candidates: [candidate], candidates_total: 1, end: null };
  const ended = { ...made, end: { outcome: "completed", status: 200, total_s: 1.5, mean_in_flight: 1, output_tokens: null } };
  const text = (view, selector) => view.root.querySelector(selector)?.textContent;
  let listed = [made];
  answer(() => ({ decisions: listed }));
  const list = decisions.decisionsView({ number: null, node: null });
  await list.look();
  equal("its age", text(list, ".age"), "2\u00a0s ago");
  nowMs += 60_000;
  listed = [{ ...made, age_s: 62 }];
  await list.look();
  equal("its age where nothing is new", text(list, ".age"), "62\u00a0s ago");
  list.root.querySelector("details").open = true;
  nowMs += 10_000;
  await list.look();
  equal("its age while somebody reads", text(list, ".age"), "72\u00a0s ago");

  const single = decisions.decisionsView({ number: 5, node: null });
  await single.look();
  equal("a decision that runs", text(single, ".state"), "running");
  equal("it is looked at again", single.every > 0, true);
  listed = [{ ...ended, number: 6 }, ended];
  await single.look();
  equal("its end", text(single, ".state"), "200 in 1.50\u00a0s");
  const before = asked;
  await single.look();
  equal("what has ended is not asked for again", asked, before);
  listed = [made];
  const forgotten = decisions.decisionsView({ number: 5, node: null });
  await forgotten.look();
  listed = [{ ...ended, number: 1_006 }];
  await forgotten.look();
  equal("what was forgotten while it ran", text(forgotten, ".state"), "not known");
  has("and why", text(forgotten, ".note"), "not remembered any more");

  const told = {
    name: "n1500", state: "up", in_flight: 3, waiting: 1, weight: 2, max_in_flight: null, auto_limit: true, limit: 16, returning: false, ejections: 0,
    ejected_for_s: null, leaves_in_s: null, attempts: { completed: 9, full: 0, failed: 4, censored: 0 }, ttfb: null, total: null,
  };
  answer((path) => (path.endsWith("/model") ? { nodes: [], typical: null } : told));
  const store = { nodes: new Map(), live: { nodes: [{}], fleet: { nodes: 2_000 } } };
  const page = node.nodeView("n1500");
  page.update(store);
  await page.look();
  page.update(store);
  equal("a node that events leave out", text(page, ".state"), "up");
  equal("what it is", text(page, ".headline"), "It gets work.");
  has("its limit", page.root.textContent, "auto (16)");
  const nobody = node.nodeView("n1500");
  nobody.update({ nodes: new Map(), live: { nodes: [{}], fleet: { nodes: 1 } } });
  has("a node that is not there", text(nobody, ".headline"), "no node of this name");
  return "all right";
})()
