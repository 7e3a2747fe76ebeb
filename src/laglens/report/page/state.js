// What is looked at, and how it is written into the address: short keys, and every value checked on reading.
import { profileOf, strongestLag } from "./study.js";

export const MODES = ["maps", "profiles", "lags"];
export const SCALES = ["same", "own", "difference"];
export const ORDERS = ["dimension", "size"]; // of the bars of the query-key view
const THEMES = ["light", "dark"];
export const GAMMA = { low: 0.2, high: 1.2, usual: 0.5 };
const KEYS = ["m", "s", "k", "l", "h", "p", "c", "q", "lag", "b", "g", "t", "v", "o", "d"];

/** Texts of the address by key; unknown keys and texts too long to be meant are dropped. */
export function readAddress(hash) {
  const found = {};
  for (const pair of hash.replace(/^#/, "").slice(0, 2000).split("&")) {
    const [key, ...rest] = pair.split("=");
    if (KEYS.includes(key)) found[key] = unescaped(rest.join("="));
  }
  return found;
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** Whole number from `low` to `high`, else null. */
export function integer(text, low, high) {
  const value = /^\d{1,9}$/.test(text ?? "") ? Number(text) : NaN;
  return value >= low && value <= high ? value : null;
}

/** Plain decimal number from `low` to `high`, else null. */
export function decimal(text, low, high) {
  const value = /^-?\d{1,9}(\.\d{1,6})?$/.test(text ?? "") ? Number(text) : NaN;
  return value >= low && value <= high ? value : null;
}

/** Place of a run in the index; where there is none of that name, the nearest thing to it. */
export function placeOf(runs, model, signal) {
  const exact = runs.findIndex((run) => run.model === model && run.signal === signal);
  if (exact >= 0) return exact;
  const alike = runs.findIndex((run) => run.model === model);
  return Math.max(alike >= 0 ? alike : runs.findIndex((run) => run.signal === signal), 0);
}

/** Place of the pinned run, or null. */
export function pinnedPlace(runs, text) {
  const [model, signal] = (text ?? "").split(".");
  const place = runs.findIndex((run) => run.model === model && run.signal === signal);
  return place >= 0 ? place : null;
}

/** A head of a run by the names and numbers of the address; null where one is wrong. */
export function headNamed(run, stack, layer, head) {
  const s = run.stacks.findIndex((one) => one.name === stack);
  if (s < 0) return null;
  const l = run.stacks[s].layers.indexOf(integer(layer, 0, 1e9));
  const h = run.stacks[s].heads.indexOf(integer(head, 0, 1e9));
  return l < 0 || h < 0 ? null : { run: run.place, stack: s, layer: l, head: h };
}

/** The head to begin with: the first that is supported, else the one furthest beyond its limit. */
export function firstHead(run) {
  const { verdicts } = run;
  if (verdicts?.verdict?.[0] === "supported") {
    const named = headNamed(run, verdicts.stack[0], String(verdicts.layer[0]), String(verdicts.head[0]));
    if (named) return named;
  }
  let best = { run: run.place, stack: 0, layer: 0, head: 0, beyond: 0 };
  run.stacks.forEach((stack, s) => {
    for (let l = 0; l < stack.layers.length; l += 1)
      for (let h = 0; h < stack.heads.length; h += 1) {
        const found = strongestLag(profileOf(stack, partOf(run, stack, null), l, h));
        if (found && found.beyond > best.beyond)
          best = { run: run.place, stack: s, layer: l, head: h, beyond: found.beyond };
      }
  });
  return { run: best.run, stack: best.stack, layer: best.layer, head: best.head };
}

/** The part asked for where a stack has it, else the headline, else its first; null where it has no profile. */
export function partOf(run, stack, wanted) {
  return [wanted, run.headline].find((part) => stack.parts.includes(part)) ?? stack.parts[0] ?? null;
}

/** The whole state from an address, for a loaded run and the loaded pinned run. */
export function settle(address, run, pinnedRun) {
  const head = headNamed(run, address.k, address.l, address.h) ?? firstHead(run);
  const stack = run.stacks[head.stack];
  const [, , pinStack, pinLayer, pinHead] = (address.c ?? "").split(".");
  const [from, to] = (address.b ?? "").split(".").map((text) => integer(text, 0, stack.rows - 1));
  const longest = run.series.length;
  return {
    ...head,
    part: partOf(run, stack, address.p),
    pin: pinnedRun ? headNamed(pinnedRun, pinStack, pinLayer, pinHead) : null,
    query: integer(address.q, 0, stack.rows - 1),
    lag: decimal(address.lag, -longest, longest),
    range: from !== null && to !== null && from !== undefined && to !== undefined && from <= to ? [from, to] : null,
    gamma: decimal(address.g, GAMMA.low, GAMMA.high) ?? GAMMA.usual,
    mode: MODES.includes(address.t) ? address.t : MODES[0],
    scale: SCALES.includes(address.v) ? address.v : SCALES[0],
    order: ORDERS.includes(address.o) ? address.o : ORDERS[0],
    theme: THEMES.includes(address.d) ? address.d : null,
  };
}

/** The address of a state; `runs` are the loaded runs by place. */
export function writeAddress(state, runs) {
  const run = runs.get(state.run);
  const stack = run.stacks[state.stack];
  const parts = {
    m: run.model,
    s: run.signal,
    k: stack.name,
    l: stack.layers[state.layer],
    h: stack.heads[state.head],
  };
  if (state.part && state.part !== run.headline) parts.p = state.part;
  if (state.pin) {
    const other = runs.get(state.pin.run);
    const pinned = other.stacks[state.pin.stack];
    parts.c = [
      other.model,
      other.signal,
      pinned.name,
      pinned.layers[state.pin.layer],
      pinned.heads[state.pin.head],
    ].join(".");
    if (state.scale !== SCALES[0]) parts.v = state.scale;
  }
  if (state.query !== null) parts.q = state.query;
  if (state.lag !== null) parts.lag = Number(state.lag.toFixed(6));
  if (state.range) parts.b = state.range.join(".");
  if (state.gamma !== GAMMA.usual) parts.g = state.gamma;
  if (state.mode !== MODES[0]) parts.t = state.mode;
  if (state.order !== ORDERS[0]) parts.o = state.order;
  if (state.theme) parts.d = state.theme;
  return `#${Object.entries(parts)
    .map(([key, value]) => `${key}=${encodeURIComponent(value)}`)
    .join("&")}`;
}
