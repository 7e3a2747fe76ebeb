// The runs of the page, and the heads of a run.
import { inflate, unpack } from "./decode.js";

const PROFILE = ["ratio", "lower", "upper", "limit", "control_mean"];
const PARTS = ["history", "horizon", "special"];

/** JSON of a script element. */
export function embedded(name) {
  return JSON.parse(document.getElementById(name).textContent);
}

/** A run with its arrays; `place` counts as in the index of the page. */
export async function loadRun(place) {
  const about = embedded(`run-${place}`);
  const bytes = await inflate(document.getElementById(`data-${place}`).textContent);
  const get = (name) => unpack(bytes, about.arrays[name]);
  const run = { ...about, place, series: get("series").data, forecast: get("forecast").data, steps: get("step").data };
  run.stacks = about.stacks.map((stack) => withArrays(stack, get, about));
  run.curve = about.arrays["curve/lag"]
    ? Object.fromEntries(["lag", "mean", "low", "high"].map((name) => [name, get(`curve/${name}`).data]))
    : null;
  return run;
}

function withArrays(stack, get, about) {
  const vectors = vectorsOf(about.vectors?.stacks[stack.name], get, stack.name);
  const { data, shape } = get(`${stack.name}/attention`);
  const axis = (name) =>
    Object.fromEntries(
      ["edges", "start", "end", "part"].map((what) => [what, get(`${stack.name}/${name}_${what}`).data]),
    );
  const profiles = {};
  for (const part of stack.parts) {
    profiles[part] = { lag: get(`${stack.name}/${part}/lag`).data };
    for (const what of PROFILE) profiles[part][what] = get(`${stack.name}/${part}/${what}`).data;
  }
  const axes = { query: axis("query"), key: axis("key") };
  return { ...stack, maps: data, rows: shape[2], columns: shape[3], ...axes, profiles, vectors };
}

/** Query and key vectors of some heads of a stack, null where none are stored. */
function vectorsOf(about, get, name) {
  if (!about) return null;
  const array = (what) => get(`${name}/vectors/${what}`).data;
  return {
    heads: about.heads,
    dimensions: get(`${name}/vectors/query`).shape[2],
    query: array("query"),
    key: array("key"),
    scale: array("scale"),
    bias: about.biased ? array("bias") : null,
    queries: { column: array("query_column"), row: array("query_row") },
    keys: { column: array("key_column"), row: array("key_row") },
  };
}

/** Map of a head, (query, key) row by row. */
export function mapOf(stack, layer, head) {
  const size = stack.rows * stack.columns;
  const at = (layer * stack.heads.length + head) * size;
  return stack.maps.subarray(at, at + size);
}

/** Profile of a head in one part, {lag, ratio, lower, upper, limit, control_mean}; null where the stack has no such part. */
export function profileOf(stack, part, layer, head) {
  const all = stack.profiles[part];
  if (!all) return null;
  const size = all.lag.length;
  const at = (layer * stack.heads.length + head) * size;
  return { lag: all.lag, ...Object.fromEntries(PROFILE.map((what) => [what, all[what].subarray(at, at + size)])) };
}

/** The lag furthest beyond its limit, {lag, ratio, limit, control_mean}; null where none is. Lag 0 says nothing. */
export function strongestLag(profile) {
  let best = null;
  if (!profile) return best;
  for (let i = 0; i < profile.lag.length; i += 1) {
    const beyond = profile.ratio[i] - profile.limit[i];
    if (profile.lag[i] === 0 || !(beyond > 0) || (best && beyond <= best.beyond)) continue;
    best = {
      lag: profile.lag[i],
      ratio: profile.ratio[i],
      limit: profile.limit[i],
      control_mean: profile.control_mean[i],
      beyond,
    };
  }
  return best;
}

/** Lags at which a profile passes its limit on a peak, the furthest beyond first. */
export function peaks(profile, most) {
  const found = [];
  for (let i = 0; profile && i < profile.lag.length; i += 1) {
    const beyond = profile.ratio[i] - profile.limit[i];
    const before = i > 0 ? profile.ratio[i - 1] : -Infinity;
    const after = i + 1 < profile.lag.length ? profile.ratio[i + 1] : -Infinity;
    if (profile.lag[i] !== 0 && beyond > 0 && profile.ratio[i] >= before && profile.ratio[i] > after)
      found.push({ i, beyond });
  }
  return found
    .sort((a, b) => b.beyond - a.beyond)
    .slice(0, most)
    .map(({ i }) => i);
}

/** Rows of a table of columns that belong to a head, as objects. */
export function rowsOf(table, stack, layer, head) {
  return table ? rows(table).filter((row) => row.stack === stack && row.layer === layer && row.head === head) : [];
}

/** All rows of a table of columns. */
export function rows(table) {
  const names = Object.keys(table);
  return table[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, table[name][i]])));
}

/** Centre of a token in samples. */
export function centre(axis, token) {
  return (axis.start[token] + axis.end[token] - 1) / 2;
}

/** Token of an axis that holds a time; the nearest at the ends. */
export function tokenAt(axis, time) {
  let low = 0;
  let high = axis.edges.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (axis.edges[middle] <= time) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Mean of the rows `from` to `to` of a map: where these queries look on average. */
export function meanRow(map, columns, from, to) {
  const mean = new Float32Array(columns);
  for (let query = from; query <= to; query += 1)
    for (let key = 0; key < columns; key += 1) mean[key] += map[query * columns + key] / (to - from + 1);
  return mean;
}

/**
 * Ratio to uniform attention at each lag of a part, over the queries `from` to `to` of this one window.
 * The same as the profile's ratio, but every query counts at the lags that it has; NaN where none has it.
 */
export function rangeRatio(stack, map, part, lags, from, to) {
  const [queries, keys] = part.split("->").map((name) => PARTS.indexOf(name === "readout" ? "horizon" : name));
  const sums = new Float64Array(lags.length);
  const counts = new Uint32Array(lags.length);
  for (let query = from; query <= to; query += 1) {
    if (stack.query.part[query] !== queries && !part.startsWith("readout")) continue;
    const uniform = uniformWeight(stack, map, query);
    for (let key = 0; key < stack.columns; key += 1) {
      if (stack.key.part[key] !== keys) continue;
      const bin = Math.round((centre(stack.query, query) - centre(stack.key, key) - lags[0]) / stack.token);
      if (bin < 0 || bin >= lags.length) continue;
      sums[bin] += map[query * stack.columns + key] / uniform;
      counts[bin] += 1;
    }
  }
  return Float32Array.from(sums, (sum, i) => (counts[i] ? sum / counts[i] : NaN));
}

/** Mean weight of the keys that a query can see. */
function uniformWeight(stack, map, query) {
  let sum = 0;
  let visible = 0;
  for (let key = 0; key < stack.columns; key += 1) {
    if (stack.causal && centre(stack.key, key) > centre(stack.query, query)) continue;
    sum += map[query * stack.columns + key];
    visible += 1;
  }
  return sum / visible;
}
