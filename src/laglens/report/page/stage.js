// The stage: every panel of the view in one SVG, and what the pointer is on.
import { THEME } from "./colour.js";
import { figure, lengthOf } from "./format.js";
import { drawCurve } from "./knock_out.js";
import { layout } from "./layout.js";
import { aspectOf, drawMap, upperDifference, upperEnd } from "./map.js";
import { drawProfile } from "./profile.js";
import { drawSeries } from "./series.js";
import { drawStrip } from "./strip.js";
import { centre, mapOf, meanRow, rangeRatio, tokenAt } from "./study.js";
import { FONT, TICK, wrap, write } from "./svg.js";

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
  const difference = subjects.length === 2 && state.scale === "difference" && comparable(...subjects);
  const shown = difference ? subjects.slice(0, 1) : subjects;
  const width = Math.max(stage.clientWidth, 320);
  const aspect = Math.max(...shown.map((subject) => aspectOf(subject.stack)));
  const rects = layout(width, { maps: shown.length, hasCurve: subjects[0].run.curve !== null, aspect });
  stage.replaceChildren();
  stage.setAttribute("font-family", FONT);
  const panels = { series: drawSeries(stage, rects.series, subjects[0], colours), maps: [] };
  const highs = subjects.map((subject) => upperEnd(subject.map));
  const common = Math.max(...highs);
  const name = (subject) =>
    subjects.length > 1 && subjects[0].run !== subjects[1].run
      ? `${subject.label}, ${otherName(subjects, subject)}`
      : subject.label;
  shown.forEach((subject, i) => {
    const own = {
      values: subject.map,
      high: state.scale === "own" ? highs[i] : common,
      signed: false,
      title: name(subject),
      others: [],
    };
    const values = difference ? subject.map.map((weight, at) => weight - subjects[1].map[at]) : null;
    const signed = difference
      ? {
          values,
          high: upperDifference(values),
          signed: true,
          title: `${name(subjects[0])} − ${name(subjects[1])}`,
          others: subjects[1].run === subject.run ? [] : [subjects[1].run],
        }
      : own;
    const tint = difference || i === 0 ? colours.a : colours.b;
    panels.maps.push(drawMap(stage, rects.maps[i], subject, { ...signed, tables, gamma: state.gamma, tint }, colours));
  });
  const range =
    state.range && state.part && subjects[0].stack.profiles[state.part] && !pooled(subjects[0])
      ? rangeRatio(
          subjects[0].stack,
          subjects[0].map,
          state.part,
          subjects[0].stack.profiles[state.part].lag,
          ...state.range,
        )
      : null;
  panels.profile = drawProfile(stage, rects.profile, subjects, { part: state.part, range }, colours);
  panels.strip = drawStrip(stage, rects.strip, subjects, { part: state.part, tables }, colours);
  if (rects.curve) panels.curve = drawCurve(stage, rects.curve, subjects, { part: state.part }, colours);
  const height = caption(stage, subjects, width, rects.height + 16, colours);
  stage.setAttribute("viewBox", `0 0 ${Math.round(width)} ${Math.round(height)}`);
  stage.style.aspectRatio = `${Math.round(width)} / ${Math.round(height)}`;
  return { ...panels, subjects, difference, colours };
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
  const lines = subjects.flatMap((subject) => wrap(sentences(subject), width - 8));
  const unique = [...new Set(lines)];
  for (const [i, text] of unique.entries())
    write(stage, 0, top + 14 * i + 8, text, { fill: colours.muted, size: TICK });
  return top + 14 * unique.length + 6;
}

function sentences({ run, stack }) {
  const known = run.known.map((rhythm) => {
    const notes = rhythm.notes.length ? ` (${rhythm.notes.join(", ")})` : "";
    return `${rhythm.name} = ${lengthOf(run, rhythm.samples)}${notes}`;
  });
  const truth = known.length
    ? `True periods of ${run.signal}, with their multiples: ${known.join(", ")}.`
    : `No period of ${run.signal} is known.`;
  const token = stack.token === 1 ? "" : ` One token is ${lengthOf(run, stack.token)}.`;
  return `${measured(run, stack)} ${truth}${token} ${shown(run, stack)}`;
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
function shown(run, stack) {
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
}
