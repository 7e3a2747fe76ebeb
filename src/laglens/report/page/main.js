// The page: controls, keyboard, pointer, address.
import { colourTable, THEME } from "./colour.js";
import { figure, lengthOf, stretch } from "./format.js";
import { partName, placeOfLag } from "./lag_axis.js";
import { prepare } from "./map.js";
import { buildGrid, hint, neighbour, same, showGrid } from "./navigator.js";
import { showNumbers } from "./numbers.js";
import { lagsOf, readout, summary } from "./readout.js";
import { download, pngBlob, svgText } from "./save.js";
import { comparable, drawStage, lookedAt, showFocus, subjectOf } from "./stage.js";
import {
  firstHead,
  GAMMA,
  headNamed,
  ORDERS,
  partOf,
  pinnedPlace,
  placeOf,
  readAddress,
  settle,
  writeAddress,
} from "./state.js";
import { embedded, loadRun } from "./study.js";
import { hasVectors } from "./vectors.js";

const byId = (name) => document.getElementById(name);
const index = embedded("index");
const tables = { sequential: colourTable(index.colours.sequential), diverging: colourTable(index.colours.diverging) };
const runs = new Map();
const stage = byId("stage");
const preferred = window.matchMedia("(prefers-color-scheme: dark)");
let state = null;
let panels = null;
let hovered = null;
let dragging = null; // the query where a drag began
let dragged = false;
let turn = 0;

async function loaded(place) {
  if (!runs.has(place)) runs.set(place, await loadRun(place));
  return runs.get(place);
}

function themeOf() {
  return state.theme ?? (preferred.matches ? "dark" : "light");
}

/** Take over a state that the address describes. */
async function open(hash) {
  turn += 1;
  const mine = turn;
  const address = readAddress(hash);
  const run = await loaded(address.m || address.s ? placeOf(index.runs, address.m, address.s) : index.first);
  const pinned = pinnedPlace(index.runs, address.c);
  const other = pinned === null ? null : await loaded(pinned);
  if (mine !== turn) return; // another run was asked for meanwhile
  state = settle(address, run, other);
  rebuild();
}

/** Show another run, at the same head where it has one. */
async function openRun(place) {
  turn += 1;
  const mine = turn;
  const before = subjectOf(runs.get(state.run), state);
  const run = await loaded(place);
  if (mine !== turn) return;
  const { stack, layer, head } = before;
  const kept = headNamed(run, stack.name, String(stack.layers[layer]), String(stack.heads[head])) ?? firstHead(run);
  change({ ...kept, query: null, lag: null, range: null }, true);
}

/** Change the state and show it. */
function change(patch, other = false) {
  state = { ...state, ...patch };
  const run = runs.get(state.run);
  state.part = partOf(run, run.stacks[state.stack], state.part);
  hovered = null;
  if (other) rebuild();
  else render();
}

function chooseHead(head, pin) {
  if (pin) change({ pin: state.pin && same(state.pin, head) ? null : head });
  else change({ ...head, query: sameTokens(head) ? state.query : null, range: sameTokens(head) ? state.range : null });
}

function sameTokens(head) {
  const run = runs.get(state.run);
  return head.stack === state.stack || run.stacks[head.stack].rows === run.stacks[state.stack].rows;
}

function rebuild() {
  const run = runs.get(state.run);
  fill(byId("model"), [...new Set(index.runs.map(({ model }) => model))], run.model);
  fill(
    byId("signal"),
    index.runs.filter(({ model }) => model === run.model).map(({ signal }) => signal),
    run.signal,
  );
  buildGrid(byId("grid"), run, chooseHead);
  byId("grid").dataset.drawn = "";
  render();
}

function fill(select, names, chosen, text = (name) => name) {
  select.replaceChildren(...names.map((name) => new Option(text(name), name, false, name === chosen)));
}

function render() {
  const run = runs.get(state.run);
  const theme = themeOf();
  const colours = THEME[theme];
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
  const subjects = [subjectOf(run, state)];
  if (state.pin) subjects.push(subjectOf(runs.get(state.pin.run), state.pin));
  panels = drawStage(stage, subjects, { ...state, theme }, tables);
  showGrid(byId("grid"), run, state, { tables, colours, part: state.part });
  showNumbers(byId("head"), subjects, state.part, colours);
  controls(subjects);
  byId("hint").textContent = hint(run, state);
  byId("stage-summary").textContent = subjects.map((subject) => summary(subject, state.part)).join(" ");
  show();
  remember();
  ready(run);
}

let prepared = null;

/** Have the maps of the other heads painted before they are asked for. */
function ready(run) {
  const key = `${run.place} ${state.gamma}`;
  if (key !== prepared) prepare(run, tables, state.gamma);
  prepared = key;
}

function controls(subjects) {
  const [{ stack }] = subjects;
  fill(byId("part"), stack.parts, state.part, partName);
  byId("part").disabled = stack.parts.length < 2;
  byId("gamma").value = state.gamma;
  byId("gamma-value").textContent = figure(state.gamma, 2);
  for (const button of document.querySelectorAll("[data-mode]"))
    button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
  byId("comparing").hidden = subjects.length < 2;
  const subtractable = subjects.length === 2 && comparable(...subjects);
  for (const button of document.querySelectorAll("[data-scale]")) {
    const difference = button.dataset.scale === "difference";
    button.disabled = difference && !subtractable;
    button.title = button.disabled ? "These two maps have different tokens" : "";
    const shown = state.scale === "difference" && !subtractable ? "same" : state.scale;
    button.setAttribute("aria-pressed", String(button.dataset.scale === shown));
  }
  byId("order").disabled = !subjects.some(hasVectors);
  byId("order").setAttribute("aria-pressed", String(state.order === ORDERS[1]));
  byId("query").max = stack.rows - 1;
  byId("lag").max = lagsOf(subjects[0], state.part).length - 1;
  for (const name of ["from", "to"]) {
    byId(name).max = stack.rows - 1;
    byId(name).value = state.range ? state.range[name === "from" ? 0 : 1] : "";
  }
}

/** What is looked at now: what the pointer is on, else what is locked. */
function focus() {
  // Beside the map the pointer chooses a range; once there is one, that is what is looked at.
  const on = state.range && ["margin", "series"].includes(hovered?.panel) ? null : hovered;
  const lag = on?.lag ?? (on?.query === undefined ? state.lag : null);
  return { query: on?.query ?? state.query, key: on?.key ?? null, lag: lag ?? null };
}

function show() {
  const now = focus();
  showFocus(panels, now, state);
  const [subject] = panels.subjects;
  byId("query").value = now.query ?? -1;
  byId("query-value").textContent = now.query === null ? "–" : stretch(subject.run, subject.stack.query, now.query);
  byId("lag").value = now.lag === null ? -1 : placeOfLag(lagsOf(subject, state.part), now.lag);
  byId("lag-value").textContent = now.lag === null ? "–" : lengthOf(subject.run, now.lag);
  byId("readout").textContent = readout(panels.subjects, now, state);
}

let writing = null;

/** Write the state into the address, at most every 200 ms. */
function remember() {
  clearTimeout(writing);
  writing = setTimeout(() => history.replaceState(null, "", writeAddress(state, runs)), 200);
}

function say(text) {
  byId("status").textContent = text;
  byId("readout").textContent = text;
}

function place(event) {
  const box = stage.getBoundingClientRect();
  const [, , width] = stage.getAttribute("viewBox").split(" ").map(Number);
  const scale = width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function onPointerMove(event) {
  const found = lookedAt(panels, ...place(event));
  stage.style.cursor = found ? (found.panel === "margin" ? "ns-resize" : "crosshair") : "";
  if (dragging !== null && found?.query !== undefined && found.query !== dragging) {
    dragged = true;
    change({ range: [Math.min(dragging, found.query), Math.max(dragging, found.query)], query: null });
    return;
  }
  hovered = dragging === null ? found : null;
  show();
}

function onPointerDown(event) {
  const found = lookedAt(panels, ...place(event));
  dragged = false;
  if (found && (found.panel === "margin" || found.panel === "series") && !found.side) dragging = found.query;
}

function onClick(event) {
  const found = lookedAt(panels, ...place(event));
  dragging = null;
  if (!found || dragged) return;
  if (found.head) chooseHead(found.head, event.shiftKey);
  else change({ query: found.query ?? state.query, lag: found.lag ?? state.lag });
}

function onKey(event) {
  if (event.key === "Escape") {
    if (state.query !== null || state.lag !== null || state.range) change({ query: null, lag: null, range: null });
    else if (state.pin) change({ pin: null });
    return;
  }
  if (!byId("grid").contains(document.activeElement)) return;
  if (event.key === "Enter") {
    event.preventDefault();
    const { run, stack, layer, head } = state;
    chooseHead({ run, stack, layer, head }, true);
    say(state.pin ? `pinned: ${panels.subjects[1].label}` : "comparison ended");
    return;
  }
  const next = neighbour(runs.get(state.run), state, event.key);
  if (!next) return;
  event.preventDefault();
  chooseHead(next, false);
  byId("grid").querySelector('[aria-current="true"]').focus();
  byId("status").textContent = summary(panels.subjects[0], state.part);
}

function onRange() {
  const [from, to] = ["from", "to"].map((name) => byId(name).valueAsNumber);
  const last = panels.subjects[0].stack.rows - 1;
  const valid = [from, to].every((value) => Number.isInteger(value) && value >= 0 && value <= last) && from <= to;
  if (valid) change({ range: [from, to], query: null });
}

function fileName(suffix) {
  const [{ run, stack, layer, head }] = panels.subjects;
  return `${run.model}-${run.signal}-${stack.name}-L${stack.layers[layer]}-H${stack.heads[head]}.${suffix}`;
}

async function copyLink() {
  clearTimeout(writing);
  history.replaceState(null, "", writeAddress(state, runs));
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied");
  } catch {
    say(`Copy the address: ${location.href}`);
  }
}

function listen() {
  const on = (name, kind, action) => byId(name).addEventListener(kind, action);
  const chosen = () => placeOf(index.runs, byId("model").value, byId("signal").value);
  on("model", "change", () => openRun(placeOf(index.runs, byId("model").value, runs.get(state.run).signal)));
  on("signal", "change", () => openRun(chosen()));
  on("part", "change", () => change({ part: byId("part").value, lag: null }));
  on("gamma", "input", () => change({ gamma: Math.min(Math.max(byId("gamma").valueAsNumber, GAMMA.low), GAMMA.high) }));
  on("theme", "click", () => change({ theme: themeOf() === "dark" ? "light" : "dark" }));
  on("link", "click", copyLink);
  on("save-svg", "click", () =>
    download(new Blob([svgText(stage, panels.colours.panel)], { type: "image/svg+xml" }), fileName("svg")),
  );
  on("save-png", "click", async () => download(await pngBlob(stage, panels.colours.panel), fileName("png")));
  on("end", "click", () => change({ pin: null }));
  on("release", "click", () => change({ query: null, lag: null, range: null }));
  on("query", "input", () => change({ query: byId("query").valueAsNumber < 0 ? null : byId("query").valueAsNumber }));
  on("lag", "input", () => change({ lag: lagsOf(panels.subjects[0], state.part)[byId("lag").valueAsNumber] ?? null }));
  on("order", "click", () => change({ order: ORDERS[1 - ORDERS.indexOf(state.order)] }));
  on("from", "change", onRange);
  on("to", "change", onRange);
  for (const button of document.querySelectorAll("[data-mode]"))
    button.addEventListener("click", () => change({ mode: button.dataset.mode }));
  for (const button of document.querySelectorAll("[data-scale]"))
    button.addEventListener("click", () => change({ scale: button.dataset.scale }));
  stage.addEventListener("pointermove", onPointerMove);
  stage.addEventListener("pointerdown", onPointerDown);
  stage.addEventListener("click", onClick);
  stage.addEventListener("pointerleave", () => {
    hovered = null;
    dragging = null;
    show();
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", (event) => {
    clearTimeout(writing); // what was to be written is not what is asked for now
    open(new URL(event.newURL).hash);
  });
  preferred.addEventListener("change", () => render());
  let width = stage.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(stage.clientWidth - width) < 1) return;
    width = stage.clientWidth;
    render();
  }).observe(byId("view"));
}

async function start() {
  await open(location.hash);
  listen();
  document.documentElement.dataset.ready = "yes";
}

start();
