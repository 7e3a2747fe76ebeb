// Panels with the lag to the right: the profile of a head, all heads, and what the forecast loses.
import { lit, paint } from "./colour.js";
import { figure, lagTicks, lengthOf, roundTicks } from "./format.js";
import { inside } from "./series.js";
import { profileOf, rows } from "./study.js";
import { add, area, axis, fit, line, linear, logarithmic, widthOf, wrap, write, LABEL, TICK } from "./svg.js";

const LEFT = 46;
const LOWEST = 1 / 32;
const DASHES = "3 2";

/** "horizon->history" as people write it. */
export function partName(part) {
  return part.replace("->", " → ");
}

/** Ends of the lag axis of the given stacks, in samples. */
export function lagSpan(stacks, part) {
  const ends = stacks.filter((stack) => stack.profiles[part]?.lag.length).map((stack) => {
    const { lag } = stack.profiles[part];
    const [low, high] = [lag[0], lag[lag.length - 1]];
    return [low >= 0 ? 0 : low - stack.token / 2, high <= 0 ? 0 : high + stack.token / 2];
  });
  return ends.length ? [Math.min(...ends.map(([low]) => low)), Math.max(...ends.map(([, high]) => high))] : [0, 1];
}

function frame(rect, { top = 46, bottom = 36 } = {}) {
  return { left: rect.x + LEFT, right: rect.x + rect.width - 8, top: rect.y + top, bottom: rect.y + rect.height - bottom };
}

function heading(parent, rect, title, note, colours) {
  write(parent, rect.x, rect.y + 12, title, { fill: colours.ink, weight: "bold" });
  const room = rect.width - widthOf(title, LABEL, "bold") - 16;
  if (room > 60) write(parent, rect.x + rect.width - 8, rect.y + 12, fit(note, room, TICK), { fill: colours.muted, size: TICK, anchor: "end" });
}

/** Dotted lines at the lags that the truth predicts, named above the plot: P1, 2P1, ...; in brackets what tokens cannot show. */
function marks(parent, run, plot, x, colours, named = true) {
  const [low, high] = x.domain;
  const perSample = (plot.right - plot.left) / (high - low);
  run.known.slice(0, 3).forEach((rhythm, row) => {
    const hidden = rhythm.testable === "no";
    const most = rhythm.repeats && !hidden && rhythm.samples * perSample > 8 ? Math.floor(Math.max(high, -low) / rhythm.samples) : 1;
    for (const sign of [1, -1]) {
      let free = -Infinity;
      for (let k = 1; k <= most; k += 1) {
        const lag = sign * k * rhythm.samples;
        if (lag < low || lag > high) continue;
        add(parent, "line", { x1: x(lag), x2: x(lag), y1: plot.top, y2: plot.bottom, stroke: hidden ? colours.faint : colours.muted, "stroke-dasharray": "1 3", class: "period" });
        const name = `${k === 1 ? "" : k}${rhythm.name}`;
        const text = hidden ? `(${name})` : name;
        const half = widthOf(text, TICK) / 2;
        if (!named || sign * x(lag) - half < free) continue;
        free = sign * x(lag) + half + 4;
        write(parent, x(lag), plot.top - 4 - 11 * row, text, { fill: hidden ? colours.faint : colours.muted, size: TICK - 0.5, anchor: "middle" });
      }
    }
  });
}

function lagAxis(parent, run, plot, x, colours) {
  axis(parent, lagTicks(run, ...x.domain, plot.right - plot.left > 380 ? 8 : 5), x, "bottom", plot.bottom, colours);
  const note = x.domain[0] < 0 ? "; negative = key later than query" : ", key before query";
  const full = `lag (${run.time.name}${note})`;
  const text = widthOf(full) <= plot.right - plot.left ? full : `lag (${run.time.name})`;
  write(parent, (plot.left + plot.right) / 2, plot.bottom + 31, text, { fill: colours.muted, anchor: "middle" });
}

/** Common ends of the ratio axis of profiles, lag 0 left out. */
function ratioEnds(profiles) {
  let [low, high] = [0.9, 1.2];
  for (const profile of profiles)
    profile.lag.forEach((lag, i) => {
      if (lag === 0) return;
      for (const value of [profile.ratio[i], profile.limit?.[i] ?? NaN]) {
        if (value > 0 && value < low) low = value;
        if (value > high) high = value;
      }
    });
  return [Math.max(low / 1.15, LOWEST), high * 1.15];
}

function ratioTicks(low, high) {
  const powers = high / low < 100 ? [0.03125, 0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64] : [0.01, 0.1, 1, 10, 100, 1000, 10000];
  return powers.filter((value) => value >= low && value <= high).map((value) => ({ at: value, text: figure(value, 4) }));
}

/** Past and future lags apart, without lag 0. */
function sides(profile) {
  return [-1, 1].map((sign) => {
    const at = [...profile.lag.keys()].filter((i) => Math.sign(profile.lag[i]) === sign);
    const pick = (values) => values && Float32Array.from(at, (i) => values[i]);
    return Object.fromEntries(Object.entries(profile).map(([name, values]) => [name, pick(values)]));
  }).filter((side) => side.lag.length);
}

/** Profile of the head (and of the pinned one, and of a range of queries) against what it was measured with. */
export function drawProfile(parent, rect, subjects, { part, range }, colours) {
  const { run, stack } = subjects[0];
  const found = subjects.map((subject) => profileOf(subject.stack, part, subject.layer, subject.head));
  const plot = frame(rect, { top: 58 });
  const share = `${figure(100 * (stack.confidence ?? 0.95), 3)} %`;
  heading(parent, rect, part ? `Attention by lag: ${partName(part)}` : "Attention by lag", `band: ${share} of the null; dashed: limit over all lags; dots: above it`, colours);
  if (!found[0]) {
    write(parent, plot.left, plot.top + 20, "No profile: this stack has too few queries at any lag.", { fill: colours.muted });
    return { at: () => null, show: () => {} };
  }
  const x = linear(...lagSpan(subjects.map((subject) => subject.stack), part), plot.left, plot.right);
  const drawn = found.filter(Boolean);
  const ends = ratioEnds(range ? [...drawn, { lag: found[0].lag, ratio: range }] : drawn);
  const y = logarithmic(...ends, plot.bottom, plot.top);
  for (const tick of ratioTicks(...ends)) add(parent, "line", { x1: plot.left, x2: plot.right, y1: y(tick.at), y2: y(tick.at), stroke: tick.at === 1 ? colours.faint : colours.line });
  marks(parent, run, plot, x, colours);
  sides(found[0]).forEach((side) => add(parent, "path", { d: area(side.lag, side.lower, side.upper, x, y), fill: colours.band, class: "band" }));
  found.forEach((profile, i) => profile && drawLines(parent, profile, { x, y, colour: i ? colours.b : colours.a, colours }));
  if (range) sides({ lag: found[0].lag, ratio: range }).forEach((side) => add(parent, "path", { d: line(side.lag, side.ratio, x, y), fill: "none", stroke: colours.range, "stroke-width": 1.6, class: "range" }));
  axis(parent, ratioTicks(...ends), y, "left", plot.left, colours);
  write(parent, rect.x + 12, (plot.top + plot.bottom) / 2, "ratio to uniform", { fill: colours.muted, anchor: "middle", turn: -90 });
  lagAxis(parent, run, plot, x, colours);
  const overlay = add(parent, "g", { "pointer-events": "none" });
  return { at: atLag(plot, x, found[0].lag), show: (focus) => showLag(overlay, focus.lag, { plot, x, y, profile: found[0], colours }) };
}

function drawLines(parent, profile, { x, y, colour, colours }) {
  for (const side of sides(profile)) {
    add(parent, "path", { d: line(side.lag, side.limit, x, y), fill: "none", stroke: colour === colours.a ? colours.muted : colour, "stroke-width": 1, "stroke-dasharray": DASHES, class: "limit" });
    add(parent, "path", { d: line(side.lag, side.ratio, x, y), fill: "none", stroke: colour, "stroke-width": 1.6, class: "ratio" });
    side.lag.forEach((lag, i) => {
      if (side.ratio[i] > side.limit[i]) add(parent, "circle", { cx: x(lag), cy: y(side.ratio[i]), r: 3, fill: colour, class: "above" });
    });
  }
}

/** The measured lag nearest to a place. */
function atLag(plot, x, lags) {
  return (px, py) => {
    if (!inside({ ...plot, top: plot.top - 12, bottom: plot.bottom + 18 }, px, py)) return null;
    const wanted = x.inverse(px);
    let best = lags[0];
    for (const lag of lags) if (Math.abs(lag - wanted) < Math.abs(best - wanted)) best = lag;
    return { lag: best, panel: "profile" };
  };
}

function showLag(overlay, lag, { plot, x, y, profile, colours }) {
  overlay.replaceChildren();
  if (lag === null || lag === undefined || lag < x.domain[0] || lag > x.domain[1]) return;
  add(overlay, "line", { x1: x(lag), x2: x(lag), y1: plot.top, y2: plot.bottom, stroke: colours.ink, "stroke-width": 1, class: "lag" });
  const i = profile ? [...profile.lag].findIndex((value) => Math.abs(value - lag) < 1e-3) : -1;
  if (i >= 0 && Number.isFinite(profile.ratio[i])) add(overlay, "circle", { cx: x(lag), cy: y(profile.ratio[i]), r: 4.5, fill: "none", stroke: colours.ink, "stroke-width": 1.5 });
}

/** All heads of a run by lag: dark up to the limit, lit above it. */
export function drawStrip(parent, rect, subjects, { part, tables }, colours) {
  const { run } = subjects[0];
  const stacks = run.stacks.filter((stack) => stack.profiles[part]);
  const plot = frame(rect, { top: 24 });
  const total = stacks.reduce((sum, stack) => sum + stack.layers.length * stack.heads.length, 0);
  heading(parent, rect, `All ${total} heads by lag`, "lit: ratio above the limit; click opens the head", colours);
  if (!total) return { at: () => null, show: () => {} };
  const x = linear(...lagSpan(stacks, part), plot.left, plot.right);
  add(parent, "rect", { x: plot.left, y: plot.top, width: plot.right - plot.left, height: plot.bottom - plot.top, fill: colours.band });
  const height = (plot.bottom - plot.top) / total;
  const found = [];
  let top = plot.top;
  for (const stack of stacks) {
    stripOf(parent, stack, { part, tables, plot, x, top, height });
    for (let layer = 0; layer < stack.layers.length; layer += 1) {
      const label = `${stack.name.slice(0, 3)} L${stack.layers[layer]}`;
      if (height * stack.heads.length >= 9) write(parent, plot.left - 5, top + height * stack.heads.length * 0.5 + 3.5, label, { fill: colours.muted, size: 9, anchor: "end" });
      for (let head = 0; head < stack.heads.length; head += 1) found.push({ run: run.place, stack: run.stacks.indexOf(stack), layer, head, top: top + height * head });
      top += height * stack.heads.length;
      add(parent, "line", { x1: plot.left, x2: plot.right, y1: top, y2: top, stroke: colours.panel, "stroke-width": 1 });
    }
  }
  marks(parent, run, plot, x, { ...colours, muted: "#ffffff", faint: "#ffffff" }, false);
  lagAxis(parent, run, plot, x, colours);
  subjects.forEach((subject, i) => {
    const row = found.find((head) => head.run === subject.run.place && run.stacks[head.stack] === subject.stack && head.layer === subject.layer && head.head === subject.head);
    if (row) add(parent, "rect", { x: plot.left - 1, y: row.top - 0.5, width: plot.right - plot.left + 2, height: height + 1, fill: "none", stroke: i ? colours.b : colours.a, "stroke-width": 2 });
  });
  const overlay = add(parent, "g", { "pointer-events": "none" });
  const nearest = atLag(plot, x, stacks[0].profiles[part].lag);
  return {
    at: (px, py) => {
      if (!inside(plot, px, py)) return null;
      const { top: ignored, ...head } = found[Math.min(found.length - 1, Math.floor((py - plot.top) / height))];
      return { ...nearest(px, py), head, panel: "strip" };
    },
    show: (focus) => showLag(overlay, focus.lag, { plot, x, y: null, profile: null, colours: { ...colours, ink: "#6fe3ff" } }),
  };
}

function stripOf(parent, stack, { part, tables, plot, x, top, height }) {
  const all = stack.profiles[part];
  const count = all.lag.length;
  const heads = stack.layers.length * stack.heads.length;
  const values = new Float32Array(heads * count);
  for (let i = 0; i < values.length; i += 1) {
    const row = heads - 1 - Math.floor(i / count);
    const at = row * count + (i % count);
    values[i] = all.lag[i % count] === 0 ? -1 : Math.log2(all.ratio[at] / all.limit[at]);
  }
  const columns = Float32Array.from({ length: count + 1 }, (_, i) => (i < count ? all.lag[i] - stack.token / 2 : all.lag[count - 1] + stack.token / 2));
  const strongest = values.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, value) : most), 0);
  const canvas = document.createElement("canvas");
  paint(canvas, values, Float32Array.from({ length: heads + 1 }, (_, i) => i), columns, lit(tables.sequential, Math.min(Math.max(strongest, 1), 3)));
  const [left, right] = [Math.max(x(columns[0]), plot.left), Math.min(x(columns[count]), plot.right)];
  add(parent, "image", { x: left, y: top, width: right - left, height: height * heads, href: canvas.toDataURL(), preserveAspectRatio: "none", style: "image-rendering:pixelated", class: "strip" });
}

/** What the forecast loses when the attention at one lag is cut in all heads; and at the multiples of each period. */
export function drawCurve(parent, rect, subjects, { part }, colours) {
  const { run } = subjects[0];
  const others = subjects.slice(1).filter((subject) => subject.run !== run && subject.run.curve);
  const { lag, mean, low, high } = run.curve;
  heading(parent, rect, "Knock-out: forecast change when a lag is cut", "all heads; band: 10–90 % of windows", colours);
  const lines = cutSentences(run).flatMap((text) => wrap(text, rect.width - 8));
  lines.slice(0, 3).forEach((text, i) => write(parent, rect.x, rect.y + 27 + 13 * i, text, { fill: colours.muted, size: TICK }));
  const plot = frame(rect, { top: 24 + 13 * Math.min(lines.length, 3) });
  if (plot.bottom - plot.top < 24) plot.top = plot.bottom - 24;
  const x = linear(...lagSpan(run.stacks, part in (run.stacks[0].profiles ?? {}) ? part : run.headline), plot.left, plot.right);
  const top = Math.max(...high, ...others.flatMap((subject) => [...subject.run.curve.mean]), 1e-6) * 1.08;
  const y = linear(0, top, plot.bottom, plot.top);
  const ticks = roundTicks(0, top, plot.bottom - plot.top > 70 ? 3 : 2).map((value) => ({ at: value, text: figure(value, 3) }));
  for (const tick of ticks) add(parent, "line", { x1: plot.left, x2: plot.right, y1: y(tick.at), y2: y(tick.at), stroke: colours.line });
  marks(parent, run, plot, x, colours, false);
  add(parent, "path", { d: area(lag, low, high, x, y), fill: colours.band });
  add(parent, "path", { d: line(lag, mean, x, y), fill: "none", stroke: colours.a, "stroke-width": 1.6, class: "curve" });
  for (const subject of others) add(parent, "path", { d: line(subject.run.curve.lag, subject.run.curve.mean, x, y), fill: "none", stroke: colours.b, "stroke-width": 1.6 });
  axis(parent, ticks, y, "left", plot.left, colours);
  write(parent, rect.x + 12, (plot.top + plot.bottom) / 2, "change (sd)", { fill: colours.muted, size: TICK, anchor: "middle", turn: -90 });
  lagAxis(parent, run, plot, x, colours);
  const overlay = add(parent, "g", { "pointer-events": "none" });
  return { at: atLag(plot, x, lag), show: (focus) => showLag(overlay, focus.lag, { plot, x, y, profile: { lag, ratio: mean }, colours }) };
}

/** What the cut of each period showed, a sentence each. */
export function cutSentences(run) {
  if (!run.cuts) return [];
  const measures = rows(run.cuts).filter((row) => row.cut === "comb");
  const wanted = measures.some((row) => row.measure === "error_change" && row.effect !== null) ? "error_change" : "forecast_change";
  return measures.filter((row) => row.measure === wanted && row.matters !== "not testable").map((row) => {
    const what = wanted === "error_change" ? "error" : "forecast change";
    const word = row.matters === "yes" ? "matters" : "does not matter";
    return `All multiples of ${lengthOf(run, row.period)} cut: ${what} ${row.effect < 0 ? "" : "+"}${figure(row.effect, 2)} sd, controls ${figure(row.control, 2)} (difference ${figure(row.lower, 2)} to ${figure(row.upper, 2)}): ${word}.`;
  });
}
