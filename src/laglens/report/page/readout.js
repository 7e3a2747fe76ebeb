// What is looked at, in words.
import { figure, lengthOf, percent, stretch } from "./format.js";
import { partName, placeOfLag } from "./lag_axis.js";
import { verdictSentence } from "./numbers.js";
import { lookedAtPair, pairText } from "./products.js";
import { comparable, pooled } from "./stage.js";
import { profileOf, strongestLag } from "./study.js";

/** Lags of the profile of a head in a part. */
export function lagsOf(subject, part) {
  return profileOf(subject.stack, part, subject.layer, subject.head)?.lag ?? new Float32Array(0);
}

/** A sentence on a head, for those who do not see the maps. */
export function summary(subject, part) {
  const found = strongestLag(profileOf(subject.stack, part, subject.layer, subject.head));
  const lag = found
    ? `looks ${figure(found.ratio, 3)} times as much as uniform attention at lag ${lengthOf(subject.run, found.lag)}, limit ${figure(found.limit, 3)}`
    : "no lag above its limit";
  const where = part ? ` (${partName(part)})` : "";
  return `${subject.run.model} on ${subject.run.signal}, ${subject.label}${where}: ${lag}; verdicts: ${verdictSentence(subject)}.`;
}

/** Query, key, lag and weight that are looked at; of a range of queries what is shown of it. */
export function readout(subjects, { query, key, lag }, { part, range }) {
  const [a] = subjects;
  if (query === null && lag === null)
    return range ? rangeText(a, range) : "Point at the series, the map or a curve; a click holds it.";
  const said = query === null ? [] : [`query ${stretch(a.run, a.stack.query, query)}`];
  if (key !== null) said.push(`key ${stretch(a.run, a.stack.key, key)}`);
  if (lag !== null) said.push(`lag ${lengthOf(a.run, lag)}`);
  if (key !== null) said.push(weights(subjects, query, key));
  else if (lag !== null) said.push(...subjects.map((subject) => ratioText(subject, part, lag)));
  else said.push(a.label);
  const pair = lookedAtPair(a, { query, key, lag });
  if (pair) said.push(pairText(pair));
  return said.join(" · ");
}

function rangeText(subject, [from, to]) {
  const note = pooled(subject) ? "pooled map: no profile of a range" : "green: this window alone, without a null";
  return `mean of queries ${from} to ${to} · ${note}`;
}

function weights([a, b], query, key) {
  const own = a.map[query * a.stack.columns + key];
  if (!b) return `weight ${percent(own)}`;
  if (!comparable(a, b)) return `weight ${percent(own)} in the first`;
  const other = b.map[query * b.stack.columns + key];
  return `weights ${percent(own)} and ${percent(other)}, difference ${own >= other ? "+" : ""}${percent(own - other)}`;
}

function ratioText(subject, part, lag) {
  const profile = profileOf(subject.stack, part, subject.layer, subject.head);
  const i = profile ? placeOfLag(profile.lag, lag) : -1;
  if (i < 0) return "no profile here";
  const [ratio, control, limit] = ["ratio", "control_mean", "limit"].map((name) => figure(profile[name][i], 3));
  return `ratio ${ratio} (null ${control}, limit ${limit})`;
}
