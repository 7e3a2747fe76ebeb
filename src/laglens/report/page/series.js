// The series of the window, with the keys of the query that is looked at.
import { figure, roundTicks, timeTicks } from "./format.js";
import { centre, tokenAt } from "./study.js";
import { add, axis, fit, line, linear, TICK, TITLE, write } from "./svg.js";

const LEFT = 62;
const ARCS = 4;

/** Smallest and largest number of several arrays. */
export function extent(...arrays) {
  let low = Infinity;
  let high = -Infinity;
  for (const array of arrays)
    for (const value of array)
      if (Number.isFinite(value)) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
  return low < high ? [low, high] : [low - 1, high + 1];
}

/** History in ink, truth of the horizon faint, forecast in colour; `x` and `y` are scales. `swap` draws it upright. */
export function drawCurves(parent, run, x, y, colours, swap = false) {
  const border = run.history;
  const times = Float32Array.from(run.series.keys());
  const last = run.series[border - 1];
  const curves = [
    [times.slice(0, border), run.series.slice(0, border), colours.ink],
    [times.slice(border - 1), run.series.slice(border - 1), colours.faint],
    [Float32Array.of(border - 1, ...run.steps), Float32Array.of(last, ...run.forecast), colours.a],
  ];
  for (const [at, values, stroke] of curves) {
    const d = swap ? line(values, at, y, x) : line(at, values, x, y);
    add(parent, "path", { d, fill: "none", stroke, "stroke-width": 1.1, "stroke-linejoin": "round" });
  }
}

/** Ends of the time axis of a run: its window, in samples. */
export function span(run) {
  return [-0.5, run.series.length - 0.5];
}

/** Draw the panel; returns what it is at a place of the stage, and how it shows what is looked at. */
export function drawSeries(parent, rect, subject, colours) {
  const { run } = subject;
  const plot = {
    left: rect.x + LEFT,
    right: rect.x + rect.width - 8,
    top: rect.y + 48,
    bottom: rect.y + rect.height - 24,
  };
  const x = linear(...span(run), plot.left, plot.right);
  const [low, high] = extent(run.series, run.forecast);
  const y = linear(low - 0.05 * (high - low), high + 0.05 * (high - low), plot.bottom, plot.top);
  const title = `${run.model} on ${run.signal}`;
  write(parent, rect.x, rect.y + 14, fit(title, rect.width * 0.6, TITLE, "bold"), {
    fill: colours.ink,
    size: TITLE,
    weight: "bold",
  });
  const unit = run.dates ? "" : `, time in ${run.time.name}`;
  const note = `window ${run.window + 1} of ${run.windows}${unit}`;
  write(parent, plot.right, rect.y + 14, note, { fill: colours.muted, size: TICK, anchor: "end" });
  for (const tick of roundTicks(...y.domain, 3)) {
    if (tick < y.domain[0] || tick > y.domain[1]) continue;
    add(parent, "line", { x1: plot.left, x2: plot.right, y1: y(tick), y2: y(tick), stroke: colours.line });
    write(parent, plot.left - 6, y(tick) + 3.7, figure(tick, 4), { fill: colours.muted, size: TICK, anchor: "end" });
  }
  if (run.unit)
    write(parent, rect.x + 10, (plot.top + plot.bottom) / 2, run.unit, {
      fill: colours.muted,
      size: TICK,
      anchor: "middle",
      turn: -90,
    });
  const under = add(parent, "g");
  drawCurves(parent, run, x, y, colours);
  if (run.history < run.series.length) {
    const border = x(run.history - 0.5);
    add(parent, "line", {
      x1: border,
      x2: border,
      y1: plot.top,
      y2: plot.bottom,
      stroke: colours.muted,
      "stroke-dasharray": "4 3",
    });
    write(parent, border + 5, plot.top + 9, "forecast", { fill: colours.a, size: TICK });
    write(parent, border - 5, plot.top + 9, "history", { fill: colours.muted, size: TICK, anchor: "end" });
  }
  axis(parent, timeTicks(run, ...span(run), 8), x, "bottom", plot.bottom, colours);
  return {
    at: (px, py) =>
      inside(plot, px, py) ? { query: tokenAt(subject.stack.query, x.inverse(px)), panel: "series" } : null,
    show: (focus) => showKeys(under, focus, { plot, x, subject, colours }),
  };
}

export function inside(plot, x, y) {
  return x >= plot.left && x <= plot.right && y >= plot.top && y <= plot.bottom;
}

/** Keys shaded by weight, the query framed, arcs to its strongest keys; of a range of queries their mean. */
function showKeys(group, focus, { plot, x, subject, colours }) {
  group.replaceChildren();
  const { query, key } = subject.stack;
  const { weights, from, to, tint } = focus;
  if (!weights) return;
  const strongest = Math.max(...weights);
  const block = (tokens, token, attributes) => {
    const [left, right] = [x(tokens.edges[token]), x(tokens.edges[token + 1])];
    add(group, "rect", {
      x: left,
      y: plot.top,
      width: Math.max(right - left, 1),
      height: plot.bottom - plot.top,
      ...attributes,
    });
  };
  weights.forEach((weight, token) => {
    const share = (weight / strongest) ** focus.gamma;
    if (weight > 0.02 * strongest) block(key, token, { fill: tint, "fill-opacity": 0.55 * share, "data-key": token });
  });
  const [left, right] = [x(query.edges[from]), x(query.edges[to + 1])];
  add(group, "rect", {
    x: left,
    y: plot.top - 3,
    width: right - left,
    height: plot.bottom - plot.top + 6,
    fill: "none",
    stroke: tint,
    "stroke-width": 2,
  });
  if (from !== to) return;
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, ARCS);
  for (const token of order) {
    const [start, end] = [(left + right) / 2, x(centre(key, token))];
    const rise = Math.min(24, 6 + Math.abs(end - start) / 6);
    const d = `M${start.toFixed(1)},${plot.top - 3}Q${((start + end) / 2).toFixed(1)},${(plot.top - 3 - 2 * rise).toFixed(1)} ${end.toFixed(1)},${plot.top - 3}`;
    add(group, "path", {
      d,
      fill: "none",
      stroke: colours.muted,
      "stroke-width": 0.6 + 2.4 * (weights[token] / strongest),
      "stroke-opacity": 0.8,
    });
  }
}
