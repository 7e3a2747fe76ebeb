// The numbers of the chosen heads: verdicts, lags above the limit, measures.
import { figure, lengthOf } from "./format.js";
import { partName } from "./lag_axis.js";
import { titleOf } from "./stage.js";
import { peaks, profileOf, rowsOf } from "./study.js";

const MOST_PERIODS = 6;

/** Show the numbers of each subject under one another. */
export function showNumbers(parent, subjects, part, colours) {
  parent.replaceChildren();
  subjects.forEach((subject, i) => {
    const heading = append(parent, "h3", "");
    append(heading, "i", "").style.background = i ? colours.b : colours.a;
    heading.append(titleOf(subjects, subject));
    verdicts(parent, subject);
    lags(parent, subject, part);
    measures(parent, subject, part);
  });
}

/** What a head's verdicts say, in words: for the summary that is read aloud. */
export function verdictSentence(subject) {
  const found = verdictRows(subject);
  if (!found.length) return "no verdict";
  return found.map((row) => `${lengthOf(subject.run, row.period)} ${row.verdict}`).join(", ");
}

function verdictRows({ run, stack, layer, head }) {
  return rowsOf(run.verdicts, stack.name, stack.layers[layer], stack.heads[head]);
}

function append(parent, name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  parent.append(element);
  return element;
}

function table(parent, names, caption) {
  const element = append(parent, "table", "");
  element.setAttribute("aria-label", caption);
  const row = append(append(element, "thead", ""), "tr", "");
  for (const name of names) append(row, "th", name).scope = "col";
  return append(element, "tbody", "");
}

function verdicts(parent, subject) {
  const found = verdictRows(subject);
  if (!found.length) return;
  const body = table(parent, ["period", "verdict", "contrast", "p"], `Verdicts of ${subject.label}`);
  for (const row of found.slice(0, MOST_PERIODS)) {
    const line = append(body, "tr", "");
    line.className = row.verdict === "supported" ? "strong" : "";
    append(line, "td", lengthOf(subject.run, row.period));
    append(line, "td", row.verdict);
    append(line, "td", figure(row.contrast, 3));
    append(line, "td", figure(row.p_family, 2));
    if (!row.reason) continue;
    const reason = append(append(body, "tr", ""), "td", row.reason);
    reason.colSpan = 4;
    reason.className = "reason";
  }
  if (found.length > MOST_PERIODS)
    append(parent, "p", `and ${found.length - MOST_PERIODS} more periods`).className = "note";
}

function lags(parent, subject, part) {
  const { stack, layer, head, run } = subject;
  const profile = profileOf(stack, part, layer, head);
  if (!profile) return;
  const found = peaks(profile, 4);
  if (!found.length) {
    append(parent, "p", `No lag above its limit (${partName(part)}).`).className = "note";
    return;
  }
  const body = table(parent, ["lag", "ratio", "null", "limit"], `Lags above the limit of ${subject.label}`);
  for (const i of found) {
    const line = append(body, "tr", "");
    append(line, "td", lengthOf(run, profile.lag[i]));
    for (const name of ["ratio", "control_mean", "limit"]) append(line, "td", figure(profile[name][i], 3));
  }
}

function measures(parent, { run, stack, layer, head }, part) {
  const found = rowsOf(run.measures, stack.name, stack.layers[layer], stack.heads[head]);
  const row = found.find((one) => one.part === part) ?? found[0];
  if (!row) return;
  const said = [
    ["entropy", figure(row.relative_entropy, 2)],
    ["Gini", figure(row.gini, 2)],
    ["keys in use", figure(row.effective_keys, 3)],
    ["mean distance", lengthOf(run, row.distance)],
  ];
  append(parent, "p", said.map(([name, value]) => `${name} ${value}`).join(" · ")).className = "note";
}
