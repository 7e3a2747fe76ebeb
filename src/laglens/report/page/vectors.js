// Query and key vectors of chosen heads: the score of a pair, and what each dimension adds to it.
import { centre, tokenAt } from "./study.js";

const SHARE = 0.8; // of what lifts a score above the mean key, that the named dimensions make
let last = { subject: null }; // what was asked for last: the pointer asks for the same pair several times

/** Place of a head among those with vectors, or -1. */
function placeOf({ stack, layer, head }) {
  const [l, h] = [stack.layers[layer], stack.heads[head]];
  return stack.vectors ? stack.vectors.heads.findIndex((one) => one.layer === l && one.head === h) : -1;
}

/** Whether the vectors of a head are stored. */
export function hasVectors(subject) {
  return placeOf(subject) >= 0;
}

/** Why there are no vectors of a head, in words. */
export function whyNone({ run, stack, layer, head }) {
  if (run.too_large) return "Queries and keys are left out: with them the page would be larger than report.megabytes.";
  if (!run.vectors) return "No query and key vectors are stored of this run.";
  const pad = (number) => String(number).padStart(2, "0");
  const reason = run.vectors.left_out[`${stack.name} L${pad(stack.layers[layer])} H${pad(stack.heads[head])}`];
  if (reason) return `No query and key vectors of this head: ${reason}.`;
  const named = run.stacks.flatMap((one) =>
    (one.vectors?.heads ?? []).map((chosen) => `${one.name} layer ${chosen.layer} head ${chosen.head}`),
  );
  return named.length
    ? `Query and key vectors are stored of ${named.join(", ")}; heads.vectors names others.`
    : "No head of this run has query and key vectors.";
}

/** The key that lies a lag before a query; null where none does. */
export function keyAt(stack, query, lag) {
  if (query === null || lag === null) return null;
  const wanted = centre(stack.query, query) - lag;
  const key = tokenAt(stack.key, wanted);
  return Math.abs(centre(stack.key, key) - wanted) < 0.51 * stack.token ? key : null;
}

/** Tokens of a cell of the map along one axis: those of its time column, or of the columns that were pooled. */
function tokensOf(axis, block, cell) {
  const tokens = [];
  axis.column.forEach((column, token) => {
    if (column >= 0 && Math.floor(column / block) === cell) tokens.push(token);
  });
  return tokens;
}

/** Scores of a query token with all keys, -Infinity where a key is hidden. */
export function scoresOf(vectors, place, token) {
  const { dimensions: width, bias } = vectors;
  const [n, m] = [vectors.queries.column.length, vectors.keys.column.length];
  const scores = new Float64Array(m);
  const at = (place * n + token) * width;
  for (let key = 0; key < m; key += 1) {
    const start = (place * m + key) * width;
    let sum = 0;
    for (let d = 0; d < width; d += 1) sum += vectors.query[at + d] * vectors.key[start + d];
    scores[key] = vectors.scale[place] * sum + (bias ? bias[(place * n + token) * m + key] : 0);
  }
  return scores;
}

/** Softmax of scores; hidden keys get 0. */
export function softmax(scores) {
  const high = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  const shares = scores.map((score) => (high === -Infinity ? 0 : Math.exp(score - high)));
  const total = shares.reduce((sum, share) => sum + share, 0);
  return shares.map((share) => (total ? share / total : 0));
}

/**
 * The strongest pair of tokens of a cell (query, key) of the map of a head; null where there are no vectors.
 * `products` are scale q_d k_d by dimension, `means` their mean over the keys that the query sees.
 */
export function pairOf(subject, query, key) {
  const place = placeOf(subject);
  if (place < 0 || query === null || key === null) return null;
  if (last.subject === subject && last.query === query && last.key === key) return last.pair;
  const { stack, run } = subject;
  const { vectors } = stack;
  const [rows, columns] = run.pooled[stack.name];
  const queries = tokensOf(vectors.queries, rows, query);
  const keys = tokensOf(vectors.keys, columns, key);
  let best = null;
  let mass = 0;
  for (const token of queries) {
    const scores = scoresOf(vectors, place, token);
    const weights = softmax(scores);
    for (const one of keys) {
      mass += weights[one];
      if (!best || weights[one] > best.weight) best = { token, key: one, weight: weights[one], scores };
    }
  }
  const pair = best ? { ...described(vectors, place, best), tokens: queries.length * keys.length, mass } : null;
  last = { subject, query, key, pair };
  return pair;
}

function described(vectors, place, { token, key, weight, scores }) {
  const seen = [...scores.keys()].filter((one) => scores[one] > -Infinity);
  const means = new Float64Array(vectors.dimensions);
  for (const one of seen)
    productsOf(vectors, place, token, one).forEach((product, d) => {
      means[d] += product / seen.length;
    });
  const products = productsOf(vectors, place, token, key);
  const sum = products.reduce((total, product) => total + product, 0);
  return {
    products,
    means,
    sum,
    score: scores[key],
    bias: scores[key] - sum,
    weight,
    rank: 1 + seen.filter((one) => scores[one] > scores[key]).length,
    seen: seen.length,
    rows: [vectors.queries.row[token], vectors.keys.row[key]],
    ...carriers(products, means),
  };
}

function productsOf(vectors, place, token, key) {
  const { dimensions: width } = vectors;
  const from = (place * vectors.queries.column.length + token) * width;
  const to = (place * vectors.keys.column.length + key) * width;
  return Float64Array.from(
    { length: width },
    (_, d) => vectors.scale[place] * vectors.query[from + d] * vectors.key[to + d],
  );
}

/**
 * What lifts a score above the mean key, and the fewest dimensions that make 80 % of it, the strongest first.
 * What all keys of a query have in common changes no weight, so it counts for none.
 */
export function carriers(products, means) {
  const lifts = products.map((product, d) => product - means[d]);
  const lift = lifts.reduce((sum, one) => sum + one, 0);
  const order = [...lifts.keys()].sort((a, b) => lifts[b] - lifts[a]);
  const carrying = [];
  let made = 0;
  for (const d of order) {
    if (lift <= 0 || made >= SHARE * lift) break;
    carrying.push(d);
    made += lifts[d];
  }
  return { lift, carrying, order };
}
