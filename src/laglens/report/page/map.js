// The time-time map of a head, or the difference of two, with the series on both margins.
import { diverging, ON_MAP, paint, quantile, sequential } from "./colour.js";
import { percent, timeTicks } from "./format.js";
import { MAP } from "./layout.js";
import { drawCurves, extent, inside } from "./series.js";
import { centre, mapOf, tokenAt } from "./study.js";
import { add, axis, fit, LABEL, linear, TICK, widthOf, write } from "./svg.js";

const MARGIN = 34;
const BAR = 70; // pixels of the colour scale
const TOP_SHARE = 0.995;
const MOST_IMAGES = 400;

const ends = new WeakMap(); // of the stacks seen so far, by head: sorting a large map takes longer than drawing it

/** Upper end of the colour scale of the map of a head: a robust share of its weights. */
export function upperEnd(stack, layer, head) {
  if (!ends.has(stack)) ends.set(stack, new Map());
  const [known, place] = [ends.get(stack), layer * stack.heads.length + head];
  if (!known.has(place)) {
    const values = mapOf(stack, layer, head);
    known.set(place, quantile(values, TOP_SHARE) || quantile(values, 1) || 1);
  }
  return known.get(place);
}

const images = new WeakMap(); // of the maps of a stack at one power, by head and end of scale: they take longer than the rest

/** The map of a head as the address of an image. */
function imageOf({ stack, layer, head, map }, { high, tables, gamma }) {
  if (images.get(stack)?.gamma !== gamma) images.set(stack, { gamma, known: new Map() });
  const { known } = images.get(stack);
  const name = `${layer} ${head} ${high}`;
  if (known.size > MOST_IMAGES) known.clear(); // each pair of heads on a common scale has images of its own
  if (!known.has(name)) known.set(name, painted(stack, map, sequential(tables.sequential, high, gamma)));
  return known.get(name);
}

function painted(stack, values, colourOf) {
  return paint(document.createElement("canvas"), values, stack.query.edges, stack.key.edges, colourOf).toDataURL();
}

const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
let preparing = 0;

/** Paint the maps of all heads of a run while nothing else is to be done, each on its own scale. */
export function prepare(run, tables, gamma) {
  preparing += 1;
  const turn = preparing;
  const heads = run.stacks.flatMap((stack) =>
    stack.layers.flatMap((_, layer) => stack.heads.map((__, head) => ({ stack, layer, head }))),
  );
  const next = () => {
    if (turn !== preparing || !heads.length) return;
    const { stack, layer, head } = heads.shift();
    const subject = { stack, layer, head, map: mapOf(stack, layer, head) };
    imageOf(subject, { high: upperEnd(stack, layer, head), tables, gamma });
    idle(next);
  };
  idle(next);
}

/** Largest absolute value shown of a difference. */
export function upperDifference(values) {
  return quantile(values.map(Math.abs), TOP_SHARE) || 1;
}

/** Height over width of the plot of a map: that of its times, within reason. */
export function aspectOf(stack) {
  const length = ({ edges }) => edges[edges.length - 1] - edges[0];
  return Math.min(Math.max(length(stack.query) / length(stack.key), 0.3), 1);
}

/**
 * Draw one map. `values (query, key)`, `high` the end of its scale, `signed` for a difference.
 * Returns what is at a place, and how the map shows what is looked at.
 */
export function drawMap(parent, rect, subject, { values, high, signed, tables, gamma, title, tint, others }, colours) {
  const { stack, run } = subject;
  const plot = {
    left: rect.x + MAP.left,
    right: rect.x + rect.width - MAP.right,
    top: rect.y + MAP.top,
    bottom: rect.y + rect.height - MAP.bottom,
  };
  const x = linear(stack.key.edges[0], stack.key.edges[stack.columns], plot.left, plot.right);
  const y = linear(stack.query.edges[0], stack.query.edges[stack.rows], plot.bottom, plot.top);
  header(parent, rect, plot, { title, tint, high, signed, tables, gamma, values }, colours);
  const href = signed
    ? painted(stack, values, diverging(tables.diverging, high, gamma))
    : imageOf(subject, { high, tables, gamma });
  add(parent, "image", {
    x: plot.left,
    y: plot.top,
    width: plot.right - plot.left,
    height: plot.bottom - plot.top,
    href,
    preserveAspectRatio: "none",
    style: "image-rendering:pixelated",
    class: "map",
  });
  margins(parent, [run, ...others], { plot, x, y }, colours);
  borders(parent, run, { plot, x, y }, signed ? colours.ink : "#ffffff");
  const bottom = timeTicks(run, ...x.domain, 5);
  axis(parent, bottom, x, "bottom", plot.bottom, colours);
  axis(
    parent,
    timeTicks(run, ...y.domain, Math.max(2, Math.round((plot.bottom - plot.top) / 80))),
    y,
    "right",
    plot.right,
    colours,
  );
  const unit = run.dates ? "" : ` (${run.time.name})`;
  write(parent, (plot.left + plot.right) / 2, plot.bottom + 33, `key time${unit}: looked at`, {
    fill: colours.muted,
    anchor: "middle",
  });
  write(parent, rect.x + 12, (plot.top + plot.bottom) / 2, `query time${unit}`, {
    fill: colours.muted,
    anchor: "middle",
    turn: -90,
  });
  const overlay = add(parent, "g", { "pointer-events": "none" });
  return {
    plot,
    at: (px, py) => at(px, py, { plot, x, y, stack }),
    show: (focus) => show(overlay, focus, { plot, x, y, subject, colours, signed }),
  };
}

function at(px, py, { plot, x, y, stack }) {
  if (inside(plot, px, py)) {
    const [query, key] = [tokenAt(stack.query, y.inverse(py)), tokenAt(stack.key, x.inverse(px))];
    return { query, key, lag: centre(stack.query, query) - centre(stack.key, key), panel: "map" };
  }
  const margin = { left: plot.left - MARGIN - 8, right: plot.left, top: plot.top, bottom: plot.bottom };
  return inside(margin, px, py) ? { query: tokenAt(stack.query, y.inverse(py)), panel: "margin" } : null;
}

/** Title of the map, and under it the colour scale with its ends. */
function header(parent, rect, plot, { title, tint, high, signed, tables, gamma, values }, colours) {
  add(parent, "rect", { x: plot.left, y: rect.y + 3, width: 10, height: 10, rx: 2, fill: tint });
  const shown = fit(title, rect.x + rect.width - plot.left - 16, LABEL, "bold");
  write(parent, plot.left + 16, rect.y + 12.5, shown, { fill: colours.ink, weight: "bold" });
  const cut = values.some((value) => value > high) ? "≥ " : "";
  const ends = signed ? [`−${percent(high)}`, percent(high)] : ["0", `${cut}${percent(high)}`];
  const y = rect.y + 33;
  const left = plot.right - widthOf(ends[1], TICK) - 5 - BAR;
  add(parent, "image", {
    x: left,
    y: y - 9,
    width: BAR,
    height: 10,
    href: scaleImage({ signed, tables, gamma }),
    preserveAspectRatio: "none",
  });
  write(parent, left - 5, y, ends[0], { fill: colours.muted, size: TICK, anchor: "end" });
  write(parent, plot.right, y, ends[1], { fill: colours.muted, size: TICK, anchor: "end" });
}

/** The colour scale from its lower to its upper end: evenly along the weights, so that the power shows. */
function scaleImage({ signed, tables, gamma }) {
  const canvas = document.createElement("canvas");
  const shares = Float32Array.from({ length: BAR }, (_, i) => (i + 0.5) / BAR);
  const values = signed ? shares.map((share) => 2 * share - 1) : shares;
  const edges = Float32Array.from({ length: BAR + 1 }, (_, i) => i);
  const colourOf = signed ? diverging(tables.diverging, 1, gamma) : sequential(tables.sequential, 1, gamma);
  paint(canvas, values, Float32Array.of(0, 1), edges, colourOf);
  return canvas.toDataURL();
}

/** The series above the map along its keys, and to the left along its queries. */
function margins(parent, runs, { plot, x, y }, colours) {
  const clip = `clip-${Math.round(plot.left)}`;
  const defs = add(parent, "clipPath", { id: clip });
  add(defs, "rect", { x: plot.left, y: plot.top - MARGIN - 6, width: plot.right - plot.left, height: MARGIN + 6 });
  add(defs, "rect", { x: plot.left - MARGIN - 6, y: plot.top, width: MARGIN + 6, height: plot.bottom - plot.top });
  const group = add(parent, "g", { "clip-path": `url(#${clip})` });
  runs.forEach((run, i) => {
    const [low, high] = extent(run.series, run.forecast);
    const tone = i ? { ink: colours.b, faint: colours.b, a: colours.b } : colours;
    drawCurves(group, run, x, linear(low, high, plot.top - 5, plot.top - MARGIN), tone);
    drawCurves(group, run, y, linear(low, high, plot.left - 5, plot.left - MARGIN), tone, true);
  });
}

function borders(parent, run, { plot, x, y }, stroke) {
  const at = run.history - 0.5;
  const dashed = { stroke, "stroke-dasharray": "4 3", "stroke-opacity": 0.8, "stroke-width": 0.9 };
  if (at > x.domain[0] + 1 && at < x.domain[1] - 1)
    add(parent, "line", { x1: x(at), x2: x(at), y1: plot.top, y2: plot.bottom, ...dashed });
  if (at > y.domain[0] + 1 && at < y.domain[1] - 1)
    add(parent, "line", { x1: plot.left, x2: plot.right, y1: y(at), y2: y(at), ...dashed });
}

/** Row of the query, column of the key, diagonal of the lag, and the range of queries. */
function show(overlay, focus, { plot, x, y, subject, colours, signed }) {
  overlay.replaceChildren();
  const stroke = signed ? colours.ink : ON_MAP;
  const { query, key } = subject.stack;
  const frame = (attributes) => add(overlay, "rect", { fill: "none", stroke, "stroke-width": 1.4, ...attributes });
  if (focus.range) {
    const [top, bottom] = [y(query.edges[focus.range[1] + 1]), y(query.edges[focus.range[0]])];
    frame({
      x: plot.left - MARGIN - 4,
      y: top,
      width: plot.right - plot.left + MARGIN + 4,
      height: bottom - top,
      stroke: colours.range,
      "stroke-width": 2,
      class: "range",
    });
  }
  if (focus.query !== null && focus.query !== undefined) {
    const [top, bottom] = [y(query.edges[focus.query + 1]), y(query.edges[focus.query])];
    frame({
      x: plot.left - 3,
      y: top - 0.7,
      width: plot.right - plot.left + 6,
      height: bottom - top + 1.4,
      class: "query",
    });
  }
  if (focus.key !== null && focus.key !== undefined) {
    const [left, right] = [x(key.edges[focus.key]), x(key.edges[focus.key + 1])];
    frame({
      x: left - 0.7,
      y: plot.top - 3,
      width: right - left + 1.4,
      height: plot.bottom - plot.top + 6,
      class: "key",
    });
  }
  if (focus.lag !== null && focus.lag !== undefined) diagonal(overlay, focus.lag, { plot, x, y, stroke });
}

/** The pairs of one lag: query time = key time + lag, cut at the edges of the map. */
function diagonal(overlay, lag, { x, y, stroke }) {
  const from = Math.max(x.domain[0], y.domain[0] - lag);
  const to = Math.min(x.domain[1], y.domain[1] - lag);
  if (from >= to) return;
  add(overlay, "line", {
    x1: x(from),
    y1: y(from + lag),
    x2: x(to),
    y2: y(to + lag),
    stroke,
    "stroke-width": 1.2,
    "stroke-dasharray": "5 4",
    class: "lag",
  });
}
