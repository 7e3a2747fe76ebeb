// The stage: every panel of the view in one SVG, and what the pointer is on.
import { THEME } from "./colour.js";
import { figure, lengthOf } from "./format.js";
import { drawCurve } from "./knock_out.js";
import { layout } from "./layout.js";
import { aspectOf, drawMap, upperDifference, upperEnd } from "./map.js";
import { drawProducts } from "./products.js";
import { drawProfile } from "./profile.js";
import { drawSeries } from "./series.js";
import { drawStrip } from "./strip.js";
import { centre, mapOf, meanRow, rangeRatio, tokenAt } from "./study.js";
import { add, FONT, TICK, wrap, write } from "./svg.js";
import { hasVectors } from "./vectors.js";

/** A head with everything that is drawn of it. */
export function subjectOf(run, { stack, layer, head }) {
  const one = run.stacks[stack];
  const label = `${one.name} layer ${one.layers[layer]} head ${one.heads[head]}`;
  return { run, stack: one, layer, head, map: mapOf(one, layer, head), label };
}

/** Whether two heads can be subtracted: maps of the same tokens. */
export function comparable(a, b) {
  const alike = (one, two) => one.length === two.length && one.every((value, i) => Math.abs(value - two[i]) < 1e-3);
  return alike(a.stack.query.edges, b.stack.query.edges) && alike(a.stack.key.edges, b.stack.key.edges);
}

/** Draw the stage; returns its panels, for the pointer and for what is looked at. */
export function drawStage(stage, subjects, state, tables) {
  const colours = THEME[state.theme];
  const { part } = state;
  const [first] = subjects;
  const difference = subjects.length === 2 && state.scale === "difference" && comparable(...subjects);
  const shown = difference ? [first] : subjects;
  const width = Math.max(stage.clientWidth, 320);
  const aspect = Math.max(...shown.map((subject) => aspectOf(subject.stack)));
  const products = subjects.map(hasVectors);
  const rects = layout(width, { maps: shown.length, hasCurve: first.run.curve !== null, aspect, products });
  const scales = difference ? [differenceOf(subjects)] : scalesOf(subjects, state.scale);
  const fixed = unchanged(stage, { colours, runs: subjects.map(({ run }) => run) });
  stage.replaceChildren();
  stage.setAttribute("font-family", FONT);
  const panels = {
    series: fixed("series", rects.series, first.stack, (parent, rect) => drawSeries(parent, rect, first, colours)),
  };
  panels.maps = shown.map((subject, i) => {
    const tint = i ? colours.b : colours.a;
    return drawMap(stage, rects.maps[i], subject, { ...scales[i], tables, gamma: state.gamma, tint }, colours);
  });
  panels.profile = drawProfile(stage, rects.profile, subjects, { part, range: rangeOf(first, state) }, colours);
  panels.strip = drawStrip(stage, rects.strip, subjects, { part, tables }, colours);
  if (rects.curve)
    panels.curve = fixed("curve", rects.curve, null, (parent, rect) => drawCurve(parent, rect, subjects, colours));
  panels.products = subjects.map((subject, i) => {
    const options = { name: titleOf(subjects, subject), order: state.order };
    return drawProducts(stage, rects.products[i], subject, options, colours);
  });
  const height = caption(stage, subjects, width, rects.height + 16, colours);
  stage.setAttribute("viewBox", `0 0 ${Math.round(width)} ${Math.round(height)}`);
  stage.style.aspectRatio = `${Math.round(width)} / ${Math.round(height)}`;
  return { ...panels, subjects, difference, colours };
}

const drawn = new WeakMap(); // by stage: its panels that are the same for all heads

/** A function that draws a panel, or takes the one that is there if nothing that it shows has changed. */
function unchanged(stage, { colours, runs }) {
  if (!drawn.has(stage)) drawn.set(stage, new Map());
  const known = drawn.get(stage);
  return (name, rect, stack, draw) => {
    const shows = [colours, stack, ...runs, ...Object.values(rect)];
    const before = known.get(name);
    const same = before && before.shows.length === shows.length && before.shows.every((one, i) => one === shows[i]);
    if (!same) {
      const group = add(stage, "g");
      known.set(name, { shows, group, panel: draw(group, rect) });
    } else stage.append(before.group);
    return known.get(name).panel;
  };
}

/** Values and scale of each map: one scale for both, or each its own. */
function scalesOf(subjects, scale) {
  const highs = subjects.map((subject) => upperEnd(subject.stack, subject.layer, subject.head));
  const common = Math.max(...highs);
  return subjects.map((subject, i) => ({
    values: subject.map,
    high: scale === "own" ? highs[i] : common,
    signed: false,
    title: titleOf(subjects, subject),
    others: [],
  }));
}

function differenceOf([a, b]) {
  const values = a.map.map((weight, at) => weight - b.map[at]);
  const title = `${titleOf([a, b], a)} − ${titleOf([a, b], b)}`;
  return { values, high: upperDifference(values), signed: true, title, others: a.run === b.run ? [] : [b.run] };
}

/** Profile of the range of queries, null where there is none. */
function rangeOf(subject, { range, part }) {
  const profile = subject.stack.profiles[part];
  if (!range || !profile || pooled(subject)) return null;
  return rangeRatio(subject.stack, subject.map, part, profile.lag, ...range);
}

/** Name of a head, with that of its run where the other is from another run. */
export function titleOf(subjects, subject) {
  const same = subjects.every(({ run }) => run === subject.run);
  return same ? subject.label : `${subject.label}, ${otherName(subjects, subject)}`;
}

function otherName(subjects, subject) {
  const [a, b] = subjects.map(({ run }) => run);
  if (a.model === b.model) return subject.run.signal;
  return a.signal === b.signal ? subject.run.model : `${subject.run.model} on ${subject.run.signal}`;
}

export function pooled({ run, stack }) {
  return run.pooled[stack.name].some((block) => block > 1);
}

/** The small print: null, periods, scales. Returns the height of the stage. */
function caption(stage, subjects, width, top, colours) {
  const said = [...new Set(subjects.flatMap(sentences))].filter(Boolean);
  const lines = wrap(said.join(" "), width - 8);
  for (const [i, text] of lines.entries()) write(stage, 0, top + 14 * i + 8, text, { fill: colours.muted, size: TICK });
  return top + 14 * lines.length + 6;
}

function sentences({ run, stack }) {
  const known = run.known.map((rhythm) => {
    const notes = rhythm.notes.length ? ` (${rhythm.notes.join(", ")})` : "";
    return `${rhythm.name} = ${lengthOf(run, rhythm.samples)}${notes}`;
  });
  const truth = known.length
    ? `True periods of ${run.signal}, with their multiples: ${known.join(", ")}.`
    : `No period of ${run.signal} is known.`;
  const token = stack.token === 1 ? "" : `One token of ${run.model} is ${lengthOf(run, stack.token)}.`;
  return [measured(run, stack), truth, token, mapsOf(run, stack)];
}

/** What the profiles were measured against. */
function measured(run, stack) {
  if (!stack.null) return "";
  const share = `${figure(100 * stack.confidence, 3)} %`;
  const cuts = run.curve ? " Knock-out: one lag cut in all heads; band: 80 % of windows." : "";
  return (
    `Attention by lag: mean of ${run.windows} windows; null: ${stack.null}; grey band: ${share} of it at each lag, ` +
    `dashed: ${share} over all lags, dots: above that.${cuts}`
  );
}

/** What the maps show. */
function mapsOf(run, stack) {
  const scale = stack.normalisation === "mass" ? "share of the query's attention" : "mean weight per token pair";
  const blocks = run.pooled[stack.name];
  const coarse = blocks.some((block) => block > 1)
    ? ` Maps are pooled by the maximum of ${blocks.join(" × ")} tokens; profiles are exact.`
    : "";
  return `Maps: window ${run.window + 1}, ${scale}.${coarse}`;
}

/** What the pointer is on, in terms of the first head; null on nothing. */
export function lookedAt(panels, x, y) {
  const { subjects } = panels;
  for (const [i, map] of panels.maps.entries()) {
    const found = map.at(x, y);
    if (found && i > 0) return { ...translate(found, subjects[1], subjects[0]), side: i };
    if (found) return { ...found, side: 0 };
  }
  for (const panel of [panels.series, panels.profile, panels.strip, panels.curve]) {
    const found = panel?.at(x, y);
    if (found) return found;
  }
  return null;
}

/** Query and key of one head as those of another at the same time. */
function translate(found, from, to) {
  const move = (token, axis) =>
    token === undefined || token === null ? token : tokenAt(to.stack[axis], centre(from.stack[axis], token));
  return { ...found, query: move(found.query, "query"), key: move(found.key, "key") };
}

/** Show query, key, lag and range on all panels. */
export function showFocus(panels, focus, state) {
  const [subject] = panels.subjects;
  const { query, key, lag } = focus;
  const range = state.range;
  const [from, to] = query !== null ? [query, query] : (range ?? [0, 0]);
  const weights = query !== null || range ? meanRow(subject.map, subject.stack.columns, from, to) : null;
  const tint = query === null && range ? panels.colours.range : panels.colours.a;
  panels.series.show({ weights, from, to, tint, gamma: state.gamma });
  panels.maps.forEach((map, i) => {
    const here = i ? translate({ query, key }, subject, panels.subjects[1]) : { query, key };
    map.show({ ...here, lag, range: i ? null : range });
  });
  for (const panel of [panels.profile, panels.strip, panels.curve]) panel?.show({ lag });
  panels.products.forEach((panel, i) => {
    panel.show(i ? { ...translate({ query, key }, subject, panels.subjects[1]), lag } : focus);
  });
}
