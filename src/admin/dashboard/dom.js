// Elements, made from tags and text only. Nothing here takes markup: names of nodes and models come from outside, and
// what is set as text stays text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props` are attributes; `on...` are listeners, `class` and `text` what they say. Children may be text. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  dress(node, props);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** The same of SVG. */
export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  dress(node, props);
  node.append(...children);
  return node;
}

function dress(node, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
}

/** Sets text only where it differs: a browser lays out anew what is written, changed or not. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute only where it differs; null takes it away. */
export function mark(node, name, value) {
  if (value === null) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value);
  }
}

/** Shows or hides. */
export function show(node, wanted) {
  if (node.hidden === wanted) node.hidden = !wanted;
}

/** A place for one figure: a name, a value, and a line below it. */
export function tile(name, extra = null) {
  const value = el("dd", { class: "value" }, "–");
  const note = el("dd", { class: "under" }, "\u00a0");
  const node = el("div", { class: "tile" }, el("dt", {}, name), value, note, extra);
  return { node, value, note };
}

/** A link to a node's page; long names are cut by the style sheet and told in full by the title. */
export function nodeLink(name) {
  return el("a", { class: "node-link", href: `#nodes/${encodeURIComponent(name)}`, title: name, text: name });
}
