// The query-key view: which dimensions make the score of the pair that is looked at.
import { figure, percent, roundTicks, stretch } from "./format.js";
import { frame, heading } from "./lag_axis.js";
import { NARROW } from "./layout.js";
import { add, axis, linear, TICK, widthOf, wrap, write } from "./svg.js";
import { hasVectors, keyAt, pairOf, whyNone } from "./vectors.js";

const SIDE = 300; // pixels of the words beside the bars
const FAINT = 0.42; // of the bars that do not carry the score

/** The pair that is looked at: the key under the pointer, or the one that lies the lag before the query. */
export function lookedAtPair(subject, { query, key, lag }) {
  return pairOf(subject, query, key ?? keyAt(subject.stack, query, lag));
}

/** Score, rank and dimensions of a pair in one line. */
export function pairText(pair) {
  const rank = `score ${figure(pair.score, 3)}, rank ${pair.rank} of ${pair.seen} keys`;
  return pair.carrying.length ? `${rank}, dimensions ${named(pair.carrying, 4)}` : rank;
}

function named(dimensions, most) {
  const shown = dimensions.slice(0, most).join(", ");
  return dimensions.length > most ? `${shown} and ${dimensions.length - most} more` : shown;
}

/** Draw the view of the head `name`; `order` is that of the dimensions. Without vectors it says why. */
export function drawProducts(parent, rect, subject, { name, order }, colours) {
  const title = `Query–key products: ${name}`;
  heading(parent, rect, title, "stroke: mean over the keys that the query sees", colours);
  if (!hasVectors(subject)) {
    sentences(parent, { x: rect.x, y: rect.y + 30, width: rect.width - 8 }, [whyNone(subject)], colours);
    return { at: () => null, show: () => {} };
  }
  const overlay = add(parent, "g", { "pointer-events": "none", class: "products" });
  return { at: () => null, show: (focus) => show(overlay, focus, { rect, subject, order, colours }) };
}

function show(overlay, focus, view) {
  overlay.replaceChildren();
  const { rect, subject, colours } = view;
  const key = focus.key ?? keyAt(subject.stack, focus.query, focus.lag);
  const pair = pairOf(subject, focus.query, key);
  const wide = rect.width >= NARROW;
  const words = { x: rect.x, y: rect.y + 30, width: wide ? SIDE : rect.width - 8 };
  if (!pair) {
    const hint = "Point at a cell of the map, or hold a query and a lag: which dimensions make the score of this pair?";
    sentences(overlay, { ...words, width: rect.width - 8 }, [hint], colours);
    return;
  }
  const height = sentences(overlay, words, said(subject, focus.query, key, pair), colours);
  const box = wide ? { ...rect, x: rect.x + SIDE + 10, width: rect.width - SIDE - 10 } : rect;
  bars(overlay, frame(box, { top: wide ? 24 : 30 + height, bottom: 34 }), pair, view);
}

/** What the numbers say, a sentence each. */
function said({ run, stack }, query, key, pair) {
  const bias =
    Math.abs(pair.bias) > 1e-3 * Math.max(Math.abs(pair.score), 1) ? ` and bias ${figure(pair.bias, 3)}` : "";
  const lifted = pair.carrying.length
    ? `80 % of what lifts it above the mean key (+${figure(pair.lift, 3)}): dimensions ${named(pair.carrying, 8)}.`
    : "Its score does not lie above that of the mean key.";
  const lines = [
    `Query ${stretch(run, stack.query, query)}, key ${stretch(run, stack.key, key)}.`,
    `Score ${figure(pair.score, 3)}: sum of ${pair.products.length} products${bias}.`,
    `Softmax weight ${percent(pair.weight)}, rank ${pair.rank} of ${pair.seen} keys.`,
    lifted,
  ];
  if (pair.tokens > 1) {
    const share = percent(pair.mass ? pair.weight / pair.mass : 0);
    lines.splice(
      1,
      0,
      `Strongest of ${pair.tokens} token pairs here, row ${pair.rows.join(" to row ")}: ${share} of them.`,
    );
  }
  return lines;
}

function sentences(parent, { x, y, width }, lines, colours) {
  const broken = lines.flatMap((text) => wrap(text, width));
  for (const [i, text] of broken.entries()) write(parent, x, y + 14 * i, text, { fill: colours.muted, size: TICK });
  return 14 * broken.length;
}

/** A bar for each product, and a stroke at its mean over the keys. */
function bars(parent, plot, pair, { order, colours }) {
  const { products, means, carrying } = pair;
  const shown = order === "size" ? pair.order : [...products.keys()];
  const all = [...products, ...means];
  const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
  const room = (high - low || 1) * 0.04;
  const y = linear(low - room, high + room, plot.bottom, plot.top);
  const x = linear(0, shown.length, plot.left, plot.right);
  const ticks = roundTicks(low - room, high + room, 4).map((at) => ({ at, text: figure(at, 3) }));
  for (const { at } of ticks)
    add(parent, "line", {
      x1: plot.left,
      x2: plot.right,
      y1: y(at),
      y2: y(at),
      stroke: at ? colours.line : colours.muted,
    });
  const gap = Math.min((x(1) - x(0)) * 0.16, 4);
  shown.forEach((d, place) => {
    const value = products[d];
    const [left, right] = [x(place) + gap, x(place + 1) - gap];
    add(parent, "rect", {
      x: left,
      y: Math.min(y(value), y(0)),
      width: right - left,
      height: Math.abs(y(value) - y(0)),
      fill: value < 0 ? colours.b : colours.a,
      "fill-opacity": carrying.includes(d) ? 1 : FAINT,
      "data-dimension": d,
      class: "product",
    });
    add(parent, "line", {
      x1: left,
      x2: right,
      y1: y(means[d]),
      y2: y(means[d]),
      stroke: colours.ink,
      "stroke-width": 1.6,
    });
  });
  axis(parent, ticks, y, "left", plot.left, colours);
  dimensionNames(parent, plot, shown, x, carrying, colours);
}

/** Numbers of the dimensions under their bars; those that carry the score come first where there is little room. */
function dimensionNames(parent, plot, shown, x, carrying, colours) {
  const taken = [];
  const wanted = [...shown].sort((a, b) => rankIn(carrying, a) - rankIn(carrying, b));
  for (const d of wanted) {
    const at = (x(shown.indexOf(d)) + x(shown.indexOf(d) + 1)) / 2;
    const half = widthOf(String(d), TICK) / 2 + 2;
    if (taken.some(([from, to]) => at + half > from && at - half < to)) continue;
    taken.push([at - half, at + half]);
    const bold = carrying.includes(d);
    write(parent, at, plot.bottom + 14, String(d), {
      fill: bold ? colours.ink : colours.muted,
      size: TICK,
      anchor: "middle",
      weight: bold ? "bold" : "normal",
    });
  }
  write(parent, (plot.left + plot.right) / 2, plot.bottom + 29, "dimension of the head", {
    fill: colours.muted,
    anchor: "middle",
  });
}

function rankIn(carrying, d) {
  const place = carrying.indexOf(d);
  return place < 0 ? carrying.length : place;
}
