// The lag profile of a head against what it was measured with.
import { figure } from "./format.js";
import { atLag, frame, heading, lagAxis, lagSpan, marks, partName, showLag } from "./lag_axis.js";
import { profileOf } from "./study.js";
import { add, area, axis, line, linear, logarithmic, write } from "./svg.js";

const LOWEST = 1 / 32; // of uniform attention: what lies below is next to nothing, and would flatten the rest
const DASHES = "3 2";

/** Common ends of the ratio axis of profiles, lag 0 left out. */
function ratioEnds(profiles) {
  let [low, high] = [0.9, 1.2];
  for (const { lag, ratio, limit } of profiles) {
    const values = [...ratio, ...(limit ?? [])].filter((value, i) => value > 0 && lag[i % lag.length] !== 0);
    low = Math.min(low, ...values);
    high = Math.max(high, ...values);
  }
  return [Math.max(low / 1.15, LOWEST), high * 1.15];
}

function ratioTicks(low, high) {
  const twos = [0.03125, 0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64];
  const tens = [0.01, 0.1, 1, 10, 100, 1000, 10000];
  const values = (high / low < 100 ? twos : tens).filter((value) => value >= low && value <= high);
  return values.map((value) => ({ at: value, text: figure(value, 4) }));
}

/** Past and future lags apart, without lag 0. */
function sides(profile) {
  const places = [...profile.lag.keys()];
  return [-1, 1]
    .map((sign) => places.filter((i) => Math.sign(profile.lag[i]) === sign))
    .filter((at) => at.length)
    .map((at) =>
      Object.fromEntries(
        Object.entries(profile).map(([name, values]) => [name, Float32Array.from(at, (i) => values[i])]),
      ),
    );
}

/** Profile of the head, of the pinned one, and of a range of queries, `range (lag)` or null. */
export function drawProfile(parent, rect, subjects, { part, range }, colours) {
  const { run, stack } = subjects[0];
  const found = subjects.map((subject) => profileOf(subject.stack, part, subject.layer, subject.head));
  const plot = frame(rect, { top: 58 });
  const share = `${figure(100 * (stack.confidence ?? 0.95), 3)} %`;
  const title = part ? `Attention by lag: ${partName(part)}` : "Attention by lag";
  heading(parent, rect, title, `grey, dashed: ${share} null`, colours);
  if (!found[0]) {
    write(parent, plot.left, plot.top + 20, "No profile: too few queries at any lag.", { fill: colours.muted });
    return { at: () => null, show: () => {} };
  }
  const stacks = subjects.map((subject) => subject.stack);
  const x = linear(...lagSpan(stacks, part), plot.left, plot.right);
  const drawn = found.filter(Boolean);
  const ends = ratioEnds(range ? [...drawn, { lag: found[0].lag, ratio: range }] : drawn);
  const y = logarithmic(...ends, plot.bottom, plot.top);
  grid(parent, ratioTicks(...ends), plot, y, colours);
  marks(parent, run, { plot, x }, colours);
  for (const side of sides(found[0]))
    add(parent, "path", { d: area(side.lag, side.lower, side.upper, x, y), fill: colours.band, class: "band" });
  for (const [i, profile] of found.entries())
    if (profile) drawLines(parent, profile, { x, y }, i ? [colours.b, colours.b] : [colours.a, colours.muted]);
  if (range) drawRange(parent, { lag: found[0].lag, ratio: range }, { x, y }, colours);
  axis(parent, ratioTicks(...ends), y, "left", plot.left, colours);
  const middle = (plot.top + plot.bottom) / 2;
  write(parent, rect.x + 12, middle, "ratio to uniform", { fill: colours.muted, anchor: "middle", turn: -90 });
  lagAxis(parent, run, { plot, x }, colours);
  const overlay = add(parent, "g", { "pointer-events": "none" });
  const curve = { lag: found[0].lag, values: found[0].ratio, y };
  return {
    at: atLag(plot, x, found[0].lag),
    show: ({ lag }) => showLag(overlay, lag, { plot, x, stroke: colours.ink, curve }),
  };
}

function grid(parent, ticks, plot, y, colours) {
  for (const { at } of ticks) {
    const stroke = at === 1 ? colours.faint : colours.line;
    add(parent, "line", { x1: plot.left, x2: plot.right, y1: y(at), y2: y(at), stroke });
  }
}

function drawLines(parent, profile, { x, y }, [colour, limitColour]) {
  for (const side of sides(profile)) {
    const limit = { d: line(side.lag, side.limit, x, y), stroke: limitColour, "stroke-dasharray": DASHES };
    add(parent, "path", { fill: "none", class: "limit", ...limit });
    const ratio = { d: line(side.lag, side.ratio, x, y), stroke: colour, "stroke-width": 1.6 };
    add(parent, "path", { fill: "none", class: "ratio", ...ratio });
    for (const [i, lag] of side.lag.entries())
      if (side.ratio[i] > side.limit[i])
        add(parent, "circle", { cx: x(lag), cy: y(side.ratio[i]), r: 3, fill: colour, class: "above" });
  }
}

function drawRange(parent, profile, { x, y }, colours) {
  for (const side of sides(profile)) {
    const d = line(side.lag, side.ratio, x, y);
    add(parent, "path", { d, fill: "none", stroke: colours.range, "stroke-width": 1.6, class: "range" });
  }
}
