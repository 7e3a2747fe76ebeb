// What the forecast loses when the attention at one lag is cut in all heads, and at all multiples of a period.
import { figure, lengthOf, roundTicks } from "./format.js";
import { atLag, frame, heading, lagAxis, marks, showLag } from "./lag_axis.js";
import { rows } from "./study.js";
import { add, area, axis, fit, line, linear, TICK, write } from "./svg.js";

const SENTENCES = 3;

/** Draw the causal lag curve of a run, and of the pinned run where it is another. */
export function drawCurve(parent, rect, subjects, colours) {
  const { run } = subjects[0];
  const curves = [...new Set(subjects.map((subject) => subject.run))].map((one) => one.curve).filter(Boolean);
  const { lag, mean, low, high } = run.curve;
  heading(parent, rect, "Knock-out: how far the forecast moves", "one lag cut in all heads", colours);
  const said = cutSentences(run).slice(0, SENTENCES);
  said.forEach((text, i) => {
    const shown = fit(text, rect.width - 8, TICK);
    write(parent, rect.x, rect.y + 27 + 13 * i, shown, { fill: colours.muted, size: TICK });
  });
  const plot = frame(rect, { top: 24 + 13 * said.length });
  const x = linear(0, Math.max(...curves.map((curve) => curve.lag.at(-1))) * 1.02, plot.left, plot.right);
  const top = Math.max(...high, ...curves.flatMap((curve) => [...curve.mean]), 1e-6) * 1.08;
  const y = linear(0, top, plot.bottom, plot.top);
  const ticks = roundTicks(0, top, plot.bottom - plot.top > 70 ? 3 : 2).map((at) => ({ at, text: figure(at, 3) }));
  for (const { at } of ticks)
    add(parent, "line", { x1: plot.left, x2: plot.right, y1: y(at), y2: y(at), stroke: colours.line });
  marks(parent, run, { plot, x }, colours, false);
  add(parent, "path", { d: area(lag, low, high, x, y), fill: colours.band });
  curves.forEach((curve, i) => {
    const d = line(curve.lag, curve.mean, x, y);
    add(parent, "path", { d, fill: "none", stroke: i ? colours.b : colours.a, "stroke-width": 1.6, class: "curve" });
  });
  axis(parent, ticks, y, "left", plot.left, colours);
  const label = { fill: colours.muted, size: TICK, anchor: "middle", turn: -90 };
  write(parent, rect.x + 12, (plot.top + plot.bottom) / 2, "change (sd)", label);
  lagAxis(parent, run, { plot, x }, colours);
  const overlay = add(parent, "g", { "pointer-events": "none" });
  const curve = { lag, values: mean, y };
  return {
    at: atLag(plot, x, lag),
    show: (focus) => showLag(overlay, focus.lag, { plot, x, stroke: colours.ink, curve }),
  };
}

/** What the cut of all multiples of each period showed, a line each. */
export function cutSentences(run) {
  if (!run.cuts) return [];
  const combs = rows(run.cuts).filter((row) => row.cut === "comb" && row.effect !== null);
  const wanted = combs.some((row) => row.measure === "error_change") ? "error_change" : "forecast_change";
  const what = wanted === "error_change" ? "error" : "forecast";
  return combs
    .filter((row) => row.measure === wanted)
    .map((row) => {
      const matters = row.matters === "yes" ? "matters" : "does not matter";
      const cost = `${row.effect < 0 ? "" : "+"}${figure(row.effect, 2)} sd (controls ${figure(row.control, 2)})`;
      return `${lengthOf(run, row.period)} comb cut: ${what} ${cost}, ${matters}`;
    });
}
