// Curves in SVG: their colours are classes of the style sheet, so both themes are right without drawing anew.

import { mark, say, svg, el } from "./dom.js";
import { span } from "./words.js";

const finite = (value) => typeof value === "number" && Number.isFinite(value);

/** The points of a line in a box of that size, as pieces where values are missing. */
function path(points, key, box) {
  const { width, height, from, to, max } = box;
  let text = "";
  let pen = "M";
  for (const point of points) {
    const value = point[key];
    if (!finite(value)) {
      pen = "M";
      continue;
    }
    const x = to > from ? ((point.t - from) / (to - from)) * width : width;
    const y = height - (Math.min(value, max) / max) * (height - 2) - 1;
    text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return text;
}

function largest(points, keys) {
  let max = 0;
  for (const point of points) for (const key of keys) if (finite(point[key]) && point[key] > max) max = point[key];
  return max;
}

/** A small curve without axes. `series` maps keys of the points to classes. */
export function sparkline(series, width = 120, height = 28) {
  const lines = Object.entries(series).map(([key, name]) => [key, svg("path", { class: `line ${name}` })]);
  const node = svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...lines.map(([, line]) => line));
  return {
    node,
    update(points, longestS = 120) {
      const to = points.at(-1)?.t ?? 0;
      // A short past is not squeezed into a corner, nor a very short one stretched.
      const overS = Math.min(longestS, Math.max(longestS / 4, to - (points[0]?.t ?? to)));
      const box = { width, height, from: to - overS, to, max: largest(points, Object.keys(series)) * 1.1 || 1 };
      for (const [key, line] of lines) mark(line, "d", path(points, key, box));
    },
  };
}

/** A round number at or above `value`: 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999);
}

/** A chart with a scale and a legend. `series` maps keys to `[class, name]`; `format` writes values. */
export function chart(title, series, format) {
  const [width, height] = [600, 130];
  const keys = Object.keys(series);
  const lines = keys.map((key) => svg("path", { class: `line ${series[key][0]}` }));
  const grid = [0.5].map((at) => svg("line", { class: "grid", x1: 0, x2: width, y1: height * at, y2: height * at }));
  const cursor = svg("line", { class: "cursor", y1: 0, y2: height, x1: -1, x2: -1 });
  const plot = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" }, ...grid, ...lines, cursor);
  const top = el("span", { class: "axis-top" });
  const left = el("span", { class: "axis-left" });
  const values = keys.map((key) => el("b", {}, ""));
  const legend = el("p", { class: "legend" }, keys.map((key, at) => el("span", { class: `key ${series[key][0]}` }, `${series[key][1]} `, values[at])));
  const node = el("figure", { class: "chart" }, el("figcaption", {}, title), legend, el("div", { class: "frame" }, plot, top, left, el("span", { class: "axis-right" }, "now")));
  let shown = null;
  let pointed = null;

  function tell() {
    if (!shown) return;
    const { points, from, to } = shown;
    let at = points.at(-1);
    if (pointed !== null && points.length > 0) {
      const t = from + pointed * (to - from);
      at = points.reduce((best, point) => (Math.abs(point.t - t) < Math.abs(best.t - t) ? point : best));
      const x = ((at.t - from) / (to - from || 1)) * width;
      mark(cursor, "x1", x);
      mark(cursor, "x2", x);
    } else {
      mark(cursor, "x1", -1);
      mark(cursor, "x2", -1);
    }
    keys.forEach((key, i) => say(values[i], at ? format(at[key]) : ""));
    mark(plot, "aria-label", `${title}: ${keys.map((key) => `${series[key][1]} ${at ? format(at[key]) : "unknown"}`).join(", ")}`);
  }
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    pointed = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    tell();
  });
  plot.addEventListener("pointerleave", () => {
    pointed = null;
    tell();
  });
  return {
    node,
    /** `floor` is the least that the scale reaches to: noise near nothing is not drawn as mountains. */
    update(points, floor = 0) {
      const to = points.at(-1)?.t ?? 0;
      const from = points[0]?.t ?? 0;
      const max = roundUp(Math.max(largest(points, keys), floor));
      const box = { width, height, from, to, max };
      keys.forEach((key, at) => mark(lines[at], "d", path(points, key, box)));
      say(top, format(max));
      say(left, to > from ? `${span(to - from)} ago` : "");
      shown = { points, from, to };
      tell();
    },
  };
}
