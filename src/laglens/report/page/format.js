// Numbers, times and ticks as a person reads them.

const CALENDAR = [
  [3600, "hour"],
  [10800, "hour"],
  [21600, "hour"],
  [43200, "hour"],
  [86400, "day"],
  [172800, "day"],
  [345600, "day"],
  [604800, "day"],
  [1209600, "day"],
  [2629800, "month"],
  [7889400, "month"],
  [15778800, "month"],
  [31557600, "year"],
  [63115200, "year"],
  [157788000, "year"],
  [315576000, "year"],
  [631152000, "year"],
  [1577880000, "year"],
];

/** A number with at most `digits` figures and a true minus sign. */
export function figure(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return "–";
  const rounded = Number(value.toPrecision(digits));
  const text =
    Math.abs(rounded) >= 1e6 || (rounded !== 0 && Math.abs(rounded) < 1e-4) ? rounded.toExponential() : String(rounded);
  return text.replace("-", "−");
}

/** A weight as a percentage. */
export function percent(weight) {
  return `${figure(100 * weight, 3)} %`;
}

/** Length of time in the unit of the run, without the unit: as in the figures. */
export function duration(run, samples) {
  return figure(samples * run.time.step, 4);
}

/** Length of time with its unit. */
export function lengthOf(run, samples) {
  return `${duration(run, samples)} ${run.time.name}`;
}

/** A moment of the window: a date where the series has dates, else a time from the start of the window. */
export function moment(run, sample) {
  if (!run.dates) return lengthOf(run, sample);
  const at = Math.min(Math.max(Math.round(sample), 0), run.dates.length - 1);
  return dateText(run.dates[at], stepOfDates(run));
}

/** What a token stands for: its first and last sample. */
export function stretch(run, axis, token) {
  const first = axis.start[token];
  const last = axis.end[token] - 1;
  if (run.dates) return last > first ? `${moment(run, first)} to ${moment(run, last)}` : moment(run, first);
  return last > first ? `${duration(run, first)}–${duration(run, last)} ${run.time.name}` : lengthOf(run, first);
}

function stepOfDates(run) {
  return (run.dates[run.dates.length - 1] - run.dates[0]) / (run.dates.length - 1);
}

function dateText(seconds, step) {
  const iso = new Date(1000 * seconds).toISOString();
  if (step >= 300 * 86400) return iso.slice(0, 4);
  if (step >= 25 * 86400) return iso.slice(0, 7);
  return step >= 86400 ? iso.slice(0, 10) : `${iso.slice(0, 10)} ${iso.slice(11, 16)}`;
}

/** Round numbers between two ends, at most `most` steps apart. */
export function roundTicks(low, high, most = 6) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.9999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1)
    ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Ticks of an axis of times in samples, [{at, text}]: multiples of the longest whole period where one fits. */
export function timeTicks(run, low, high, most = 6) {
  if (run.dates) return dateTicks(run, low, high, most);
  return lagTicks(run, low, high, most);
}

/** Ticks of an axis of lags in samples, [{at, text}]. */
export function lagTicks(run, low, high, most = 6) {
  const { step } = run.time;
  const ends = [low * step, high * step];
  const whole = run.known
    .map((rhythm) => rhythm.samples * step)
    .filter(
      (period, i) =>
        run.known[i].repeats && run.known[i].testable !== "no" && isWhole(period) && 3 * period <= ends[1] - ends[0],
    );
  let ticks = roundTicks(ends[0], ends[1], most);
  if (whole.length) {
    const period = Math.round(Math.max(...whole));
    const every = period * Math.ceil((ends[1] - ends[0]) / period / most);
    ticks = [];
    for (let i = Math.ceil(ends[0] / every); i * every <= ends[1]; i += 1) ticks.push(i * every);
  }
  return ticks.map((value) => ({ at: value / step, text: figure(value, 6) }));
}

function isWhole(value) {
  return value >= 2 && Math.abs(value - Math.round(value)) < 1e-6;
}

function dateTicks(run, low, high, most) {
  const step = stepOfDates(run);
  const start = run.dates[0];
  const [from, to] = [start + low * step, start + high * step];
  const [, kind] = CALENDAR.find(([seconds]) => (to - from) / seconds <= most) ?? CALENDAR[CALENDAR.length - 1];
  const size = (CALENDAR.find(([seconds]) => (to - from) / seconds <= most) ?? CALENDAR[CALENDAR.length - 1])[0];
  return calendarTicks(from, to, size, kind).map((seconds) => ({
    at: sampleOf(run, seconds),
    text: tickText(seconds, kind),
  }));
}

/** Sample of a date, by the dates of the samples around it. */
function sampleOf(run, seconds) {
  const after = run.dates.findIndex((date) => date >= seconds);
  if (after <= 0) return (seconds - run.dates[0]) / stepOfDates(run);
  const before = run.dates[after - 1];
  return after - 1 + (seconds - before) / (run.dates[after] - before);
}

function calendarTicks(from, to, size, kind) {
  const ticks = [];
  if (kind === "hour" || kind === "day") {
    for (let at = Math.ceil(from / size) * size; at <= to; at += size) ticks.push(at);
    return ticks;
  }
  const months = Math.round(size / 2629800);
  const first = new Date(1000 * from);
  let month = Math.ceil((12 * first.getUTCFullYear() + first.getUTCMonth()) / months) * months;
  for (; ; month += months) {
    const at = Date.UTC(Math.floor(month / 12), month % 12, 1) / 1000;
    if (at > to) return ticks;
    if (at >= from) ticks.push(at);
  }
}

function tickText(seconds, kind) {
  const iso = new Date(1000 * seconds).toISOString();
  if (kind === "year") return iso.slice(0, 4);
  if (kind === "month") return iso.slice(0, 7);
  return kind === "day" || iso.slice(11, 16) === "00:00" ? iso.slice(5, 10) : iso.slice(11, 16);
}
