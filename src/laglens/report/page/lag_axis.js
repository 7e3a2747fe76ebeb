// What the panels with the lag to the right have in common: frame, axis, true periods, the lag that is looked at.
import { lagTicks } from "./format.js";
import { inside } from "./series.js";
import { add, axis, fit, LABEL, TICK, widthOf, write } from "./svg.js";

const LEFT = 46;
const ROWS = 3;
const CLOSEST = 8; // pixels between multiples; nearer ones would be a raster, and the period alone is marked

/** "horizon->history" as people write it. */
export function partName(part) {
  return part.replace("->", " → ");
}

/** Ends of the lag axis of the given stacks, in samples. */
export function lagSpan(stacks, part) {
  const lags = stacks.filter((stack) => stack.profiles[part]?.lag.length);
  if (!lags.length) return [0, 1];
  const low = Math.min(...lags.map((stack) => stack.profiles[part].lag[0] - stack.token / 2));
  const high = Math.max(...lags.map((stack) => stack.profiles[part].lag.at(-1) + stack.token / 2));
  return [low >= 0 ? 0 : low, high <= 0 ? 0 : high];
}

/** Edges of the plot inside a panel. */
export function frame(rect, { top = 46, bottom = 36 } = {}) {
  return {
    left: rect.x + LEFT,
    right: rect.x + rect.width - 8,
    top: rect.y + top,
    bottom: rect.y + rect.height - bottom,
  };
}

/** Title of a panel, and a note at its right where there is room. */
export function heading(parent, rect, title, note, colours) {
  const shown = fit(title, rect.width - 10, LABEL, "bold");
  write(parent, rect.x, rect.y + 12, shown, { fill: colours.ink, weight: "bold" });
  if (widthOf(title, LABEL, "bold") + widthOf(note, TICK) + 24 > rect.width) return;
  const at = rect.x + rect.width - 8;
  write(parent, at, rect.y + 12, note, { fill: colours.muted, size: TICK, anchor: "end" });
}

/** Dotted lines at the lags the truth predicts, named above: P1, 2P1, ...; in brackets what tokens cannot show. */
export function marks(parent, run, { plot, x }, colours, named = true) {
  run.known.slice(0, ROWS).forEach((rhythm, row) => {
    const style = rhythm.testable === "no" ? { stroke: colours.faint } : { stroke: colours.muted };
    for (const sign of [1, -1]) {
      const lags = predicted(rhythm, sign, { plot, x });
      for (const { lag } of lags)
        add(parent, "line", {
          x1: x(lag),
          x2: x(lag),
          y1: plot.top,
          y2: plot.bottom,
          "stroke-dasharray": "1 3",
          class: "period",
          ...style,
        });
      if (named) names(parent, lags, sign, x, plot.top - 4 - 11 * row, style.stroke);
    }
  });
}

/** Multiples of a rhythm on one side of lag 0 that lie on the axis, [{lag, text}]. */
function predicted(rhythm, sign, { plot, x }) {
  const [low, high] = x.domain;
  const hidden = rhythm.testable === "no";
  const spaced = (rhythm.samples * (plot.right - plot.left)) / (high - low) > CLOSEST;
  const most = rhythm.repeats && !hidden && spaced ? Math.floor(Math.max(high, -low) / rhythm.samples) : 1;
  const lags = [];
  for (let k = 1; k <= most; k += 1) {
    const name = `${k === 1 ? "" : k}${rhythm.name}`;
    lags.push({ lag: sign * k * rhythm.samples, text: hidden ? `(${name})` : name });
  }
  return lags.filter(({ lag }) => lag >= low && lag <= high);
}

function names(parent, lags, sign, x, y, fill) {
  let free = -Infinity;
  for (const { lag, text } of lags) {
    const half = widthOf(text, TICK) / 2;
    if (sign * x(lag) - half < free) continue;
    free = sign * x(lag) + half + 4;
    write(parent, x(lag), y, text, { fill, size: TICK - 0.5, anchor: "middle" });
  }
}

/** Ticks and label under a plot. */
export function lagAxis(parent, run, { plot, x }, colours) {
  const width = plot.right - plot.left;
  axis(parent, lagTicks(run, ...x.domain, width > 380 ? 8 : 5), x, "bottom", plot.bottom, colours);
  const note = x.domain[0] < 0 ? "; negative = key later than query" : ", key before query";
  const full = `lag (${run.time.name}${note})`;
  const text = widthOf(full) <= width ? full : `lag (${run.time.name})`;
  write(parent, (plot.left + plot.right) / 2, plot.bottom + 31, text, { fill: colours.muted, anchor: "middle" });
}

/** The measured lag nearest to a place of the stage, as a function of the place. */
export function atLag(plot, x, lags) {
  const target = { ...plot, top: plot.top - 12, bottom: plot.bottom + 18 };
  return (px, py) => {
    if (!inside(target, px, py)) return null;
    const wanted = x.inverse(px);
    const lag = lags.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
    return { lag, panel: "lags" };
  };
}

/** Place of a lag among measured lags, or -1. */
export function placeOfLag(lags, lag) {
  return lags.findIndex((one) => Math.abs(one - lag) < 1e-3);
}

/** Line at the lag that is looked at, and a ring where `curve`, {lag, values, y}, passes it. */
export function showLag(overlay, lag, { plot, x, stroke, curve = null }) {
  overlay.replaceChildren();
  if (lag === null || lag < x.domain[0] || lag > x.domain[1]) return;
  add(overlay, "line", { x1: x(lag), x2: x(lag), y1: plot.top, y2: plot.bottom, stroke, class: "lag" });
  const i = curve ? placeOfLag(curve.lag, lag) : -1;
  if (i < 0 || !Number.isFinite(curve.values[i])) return;
  add(overlay, "circle", {
    cx: x(lag),
    cy: curve.y(curve.values[i]),
    r: 4.5,
    fill: "none",
    stroke,
    "stroke-width": 1.5,
  });
}
