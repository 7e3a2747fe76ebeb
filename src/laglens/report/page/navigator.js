// The grid of heads: layers downwards, heads across, as maps, profiles or strongest lags.
import { css, lit, paint, sequential } from "./colour.js";
import { duration, lengthOf } from "./format.js";
import { upperEnd } from "./map.js";
import { mapOf, profileOf, rowsOf, strongestLag } from "./study.js";

const AT_ONCE = 24; // thumbnails between two frames
let drawing = 0;

/** Build the grid of a run. `choose(head, pin)` is called on a click. */
export function buildGrid(grid, run, choose) {
  grid.replaceChildren();
  const most = Math.max(...run.stacks.map((stack) => stack.heads.length));
  grid.style.gridTemplateColumns = `auto repeat(${most}, minmax(0, 1fr))`;
  run.stacks.forEach((stack, s) => {
    label(grid, "across stack", stack.name);
    label(grid, "down", "");
    for (let h = 0; h < most; h += 1) label(grid, "across", h < stack.heads.length ? `H${stack.heads[h]}` : "");
    stack.layers.forEach((layer, l) => {
      label(grid, "down", `L${layer}`);
      for (let h = 0; h < most; h += 1) {
        if (h >= stack.heads.length) label(grid, "across", "");
        else grid.append(cell(run, { run: run.place, stack: s, layer: l, head: h }, choose));
      }
    });
  });
}

function label(grid, className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  element.setAttribute("aria-hidden", "true");
  grid.append(element);
}

function cell(run, head, choose) {
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = -1;
  button.head = head;
  const stack = run.stacks[head.stack];
  const found = rowsOf(run.verdicts, stack.name, stack.layers[head.layer], stack.heads[head.head]);
  button.classList.toggle(
    "supported",
    found.some((row) => row.verdict === "supported"),
  );
  button.addEventListener("click", (event) => choose(head, event.shiftKey));
  return button;
}

/** Show the chosen and the pinned head, and draw the cells in a mode; what is drawn already stays. */
export function showGrid(grid, run, state, { tables, colours, part }) {
  const cells = [...grid.querySelectorAll("button")];
  for (const button of cells) {
    const { head } = button;
    const chosen = same(head, state);
    button.setAttribute("aria-current", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    button.classList.toggle("pinned", state.pin !== null && same(head, state.pin));
  }
  const key = [run.place, state.mode, part, state.gamma, colours.panel].join(" ");
  if (grid.dataset.drawn === key) return;
  grid.dataset.drawn = key;
  drawing += 1;
  drawSome(cells, drawing, { run, state, tables, colours, part });
}

export function same(a, b) {
  return a.run === b.run && a.stack === b.stack && a.layer === b.layer && a.head === b.head;
}

function drawSome(cells, turn, view) {
  if (turn !== drawing) return;
  for (const button of cells.slice(0, AT_ONCE)) draw(button, view);
  if (cells.length > AT_ONCE) requestAnimationFrame(() => drawSome(cells.slice(AT_ONCE), turn, view));
}

function draw(button, { run, state, tables, colours, part }) {
  const { head } = button;
  const stack = run.stacks[head.stack];
  const profile = profileOf(stack, part, head.layer, head.head);
  const strongest = strongestLag(profile);
  button.setAttribute("aria-label", describe(run, stack, head, strongest));
  button.title = button.getAttribute("aria-label");
  button.replaceChildren();
  button.style.background = "";
  if (state.mode === "lags") {
    const ratio = strongest ? Math.log2(strongest.ratio / strongest.limit) : 0;
    const word = lit(tables.sequential, 3)(ratio);
    const step = tables.sequential.indexOf(word);
    button.style.background = css(tables.sequential, step);
    button.style.color = step > 165 ? "#000" : "#fff";
    button.textContent = strongest ? duration(run, strongest.lag) : "–";
    return;
  }
  const canvas = document.createElement("canvas");
  if (state.mode === "maps") {
    const map = mapOf(stack, head.layer, head.head);
    paint(
      canvas,
      map,
      stack.query.edges,
      stack.key.edges,
      sequential(tables.sequential, upperEnd(stack, head.layer, head.head), state.gamma),
    );
  } else drawProfile(canvas, profile, colours);
  button.append(canvas);
}

function describe(run, stack, head, strongest) {
  const found = rowsOf(run.verdicts, stack.name, stack.layers[head.layer], stack.heads[head.head]).filter(
    (row) => row.verdict === "supported",
  );
  const lag = strongest ? `furthest above its limit at lag ${lengthOf(run, strongest.lag)}` : "no lag above its limit";
  const verdict = found.length ? `; supported: ${found.map((row) => lengthOf(run, row.period)).join(", ")}` : "";
  return `${stack.name} layer ${stack.layers[head.layer]} head ${stack.heads[head.head]}: ${lag}${verdict}`;
}

function drawProfile(canvas, profile, colours) {
  const [width, height] = [96, 96];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = colours.panel;
  context.fillRect(0, 0, width, height);
  if (!profile || !profile.lag.length) return;
  const { lag, ratio, limit } = profile;
  const logs = (values) =>
    Float32Array.from(values, (value, i) => (lag[i] === 0 ? NaN : Math.log2(Math.max(value, 1 / 32))));
  const [curve, bound] = [logs(ratio), logs(limit)];
  const finite = [...curve, ...bound].filter(Number.isFinite);
  const [low, high] = [Math.min(...finite, -1), Math.max(...finite, 1)];
  const x = (i) => ((lag[i] - lag[0]) / (lag[lag.length - 1] - lag[0] || 1)) * (width - 4) + 2;
  const y = (value) => height - 3 - ((value - low) / (high - low)) * (height - 6);
  for (const [values, style, thick] of [
    [bound, colours.faint, 1.5],
    [curve, colours.a, 3],
  ]) {
    context.strokeStyle = style;
    context.lineWidth = thick;
    context.beginPath();
    let pen = false;
    values.forEach((value, i) => {
      if (Number.isFinite(value)) context[pen ? "lineTo" : "moveTo"](x(i), y(value));
      pen = Number.isFinite(value);
    });
    context.stroke();
  }
}

/** The head an arrow key leads to, or null; rows run on over the stacks of the run. */
export function neighbour(run, state, key) {
  const rows = run.stacks.flatMap((stack, s) =>
    stack.layers.map((_, l) => ({ stack: s, layer: l, heads: stack.heads.length })),
  );
  const row = rows.findIndex((one) => one.stack === state.stack && one.layer === state.layer);
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (!(key in moves)) return null;
  const [down, across] = moves[key];
  const target = rows[Math.min(Math.max(row + down, 0), rows.length - 1)];
  const head = Math.min(Math.max(state.head + across, 0), target.heads - 1);
  return { run: state.run, stack: target.stack, layer: target.layer, head };
}

/** What the cells show, in a sentence. */
export function hint(run, state) {
  const what = {
    maps: "Each map has its own colour scale.",
    profiles: "Ratio to uniform attention by lag; grey: the limit.",
    lags: `Lag in ${run.time.name} that goes furthest above its limit; – where none does.`,
  }[state.mode];
  const count = run.verdicts ? `Green dot: a period is supported. ` : "";
  return `${what} ${count}Click or arrows open a head; Shift-click or Enter pins it for comparison.`;
}
