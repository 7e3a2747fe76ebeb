// All heads of a run by lag: dark up to the limit, lit above it.
import { lit, ON_MAP, paint } from "./colour.js";
import { atLag, frame, heading, lagAxis, lagSpan, marks, showLag } from "./lag_axis.js";
import { inside } from "./series.js";
import { add, linear, write } from "./svg.js";

const DOUBLINGS = [1, 3]; // the colour scale reaches at least 2 x and at most 8 x the limit
const LEGIBLE = 9; // pixels of a layer, to name it

/** Draw the panel; a place on it is a head and a lag. */
export function drawStrip(parent, rect, subjects, { part, tables }, colours) {
  const { run } = subjects[0];
  const stacks = run.stacks.filter((stack) => stack.profiles[part]);
  const plot = frame(rect, { top: 24 });
  const total = stacks.reduce((sum, stack) => sum + stack.layers.length * stack.heads.length, 0);
  heading(parent, rect, `All ${total} heads by lag`, "lit: above the limit; click opens", colours);
  if (!total) return { at: () => null, show: () => {} };
  const x = linear(...lagSpan(stacks, part), plot.left, plot.right);
  const [width, height] = [plot.right - plot.left, (plot.bottom - plot.top) / total];
  add(parent, "rect", { x: plot.left, y: plot.top, width, height: height * total, fill: colours.band });
  const heads = [];
  for (const stack of stacks) {
    stripOf(parent, stack, part, { tables, plot, x, top: plot.top + height * heads.length, height });
    listHeads(parent, run, stack, { heads, plot, height }, colours);
  }
  marks(parent, run, { plot, x }, { muted: "#ffffff", faint: "#ffffff" }, false);
  lagAxis(parent, run, { plot, x }, colours);
  for (const [i, subject] of subjects.entries()) {
    const row = heads.findIndex((head) => isHead(head, subject));
    if (row < 0) continue;
    const place = { x: plot.left - 1, y: plot.top + height * row - 0.5, width: width + 2, height: height + 1 };
    add(parent, "rect", { ...place, fill: "none", stroke: i ? colours.b : colours.a, "stroke-width": 2 });
  }
  const overlay = add(parent, "g", { "pointer-events": "none" });
  const nearest = atLag(plot, x, stacks[0].profiles[part].lag);
  return {
    at: (px, py) => {
      if (!inside(plot, px, py)) return null;
      const head = heads[Math.min(total - 1, Math.floor((py - plot.top) / height))];
      return { ...nearest(px, py), head };
    },
    show: ({ lag }) => showLag(overlay, lag, { plot, x, stroke: ON_MAP }),
  };
}

function isHead(head, { run, stack, layer, head: number }) {
  return head.run === run.place && run.stacks[head.stack] === stack && head.layer === layer && head.head === number;
}

/** Add the heads of a stack to the list, with the names of its layers and a line under each. */
function listHeads(parent, run, stack, { heads, plot, height }, colours) {
  const tall = height * stack.heads.length;
  stack.layers.forEach((number, layer) => {
    const top = plot.top + height * heads.length;
    const text = `${stack.name.slice(0, 3)} L${number}`;
    if (tall >= LEGIBLE)
      write(parent, plot.left - 5, top + tall / 2 + 3.5, text, { fill: colours.muted, size: 9, anchor: "end" });
    const y = top + tall;
    add(parent, "line", { x1: plot.left, x2: plot.right, y1: y, y2: y, stroke: colours.panel });
    for (let head = 0; head < stack.heads.length; head += 1)
      heads.push({ run: run.place, stack: run.stacks.indexOf(stack), layer, head });
  });
}

const images = new WeakMap(); // of the profiles seen so far

/** Image of one stack, its first head on top. */
function stripOf(parent, stack, part, { tables, plot, x, top, height }) {
  const profile = stack.profiles[part];
  if (!images.has(profile)) images.set(profile, imageOf(stack, profile, tables));
  const { href, from, to } = images.get(profile);
  const [left, right] = [Math.max(x(from), plot.left), Math.min(x(to), plot.right)];
  add(parent, "image", {
    x: left,
    y: top,
    width: right - left,
    height: height * stack.layers.length * stack.heads.length,
    href,
    preserveAspectRatio: "none",
    style: "image-rendering:pixelated",
    class: "strip",
  });
}

/** Address of the image of a stack, and the lags at its ends. */
function imageOf(stack, { lag, ratio, limit }, tables) {
  const rows = stack.layers.length * stack.heads.length;
  const values = new Float32Array(rows * lag.length);
  for (let row = 0; row < rows; row += 1)
    for (let i = 0; i < lag.length; i += 1) {
      const at = row * lag.length + i;
      values[(rows - 1 - row) * lag.length + i] = lag[i] === 0 ? -1 : Math.log2(ratio[at] / limit[at]);
    }
  const half = stack.token / 2;
  const columns = Float32Array.from([...lag, lag.at(-1) + 2 * half], (value) => value - half);
  const strongest = values.reduce((most, value) => (value > most && value < Infinity ? value : most), 0);
  const doublings = Math.min(Math.max(strongest, DOUBLINGS[0]), DOUBLINGS[1]);
  const canvas = document.createElement("canvas");
  paint(
    canvas,
    values,
    Float32Array.from({ length: rows + 1 }, (_, i) => i),
    columns,
    lit(tables.sequential, doublings),
  );
  return { href: canvas.toDataURL(), from: columns[0], to: columns.at(-1) };
}
