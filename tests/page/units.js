// Tests of the page's modules that need no page: run by tests/test_explorer.py in the browser.
import { cellsOfPixels, colourTable, lit, pixelsFor, quantile, sequential } from "./colour.js";
import { inflate, unpack } from "./decode.js";
import { figure, lagTicks, moment, roundTicks, stretch, timeTicks } from "./format.js";
import { layout } from "./layout.js";
import { neighbour } from "./navigator.js";
import { decimal, firstHead, headNamed, integer, placeOf, readAddress, settle, writeAddress } from "./state.js";
import { meanRow, peaks, profileOf, rangeRatio, strongestLag, tokenAt } from "./study.js";
import { line } from "./svg.js";
import { carriers, keyAt, scoresOf, softmax } from "./vectors.js";

const failures = [];
let count = 0;

function equal(found, expected, what) {
  count += 1;
  const [one, two] = [found, expected].map((value) => JSON.stringify(value));
  if (one !== two) failures.push(`${what}: ${one} instead of ${two}`);
}

const near = (value) => Number(value.toFixed(6));

// One stack of 4 tokens of 2 samples, two heads; head 1 looks one token back.
const edges = Float32Array.of(-0.5, 1.5, 3.5, 5.5, 7.5);
const axis = {
  edges,
  start: Float32Array.of(0, 2, 4, 6),
  end: Float32Array.of(2, 4, 6, 8),
  part: Float32Array.of(0, 0, 1, 1),
};
const back = [1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0];
const lags = {
  lag: Float32Array.of(0, 2, 4),
  ratio: Float32Array.of(9, 1, 1, 9, 4, 1),
  limit: Float32Array.of(1, 2, 2, 1, 2, 2),
  lower: new Float32Array(6),
  upper: new Float32Array(6),
  control_mean: new Float32Array(6),
};
const stack = {
  name: "encoder",
  layers: [3],
  heads: [0, 1],
  rows: 4,
  columns: 4,
  token: 2,
  causal: false,
  query: axis,
  key: axis,
  maps: Float32Array.of(...new Array(16).fill(0.25), ...back),
  parts: ["history->history"],
  profiles: { "history->history": lags },
};
const known = [{ samples: 24, repeats: true, testable: "yes", name: "P", notes: [] }];
const run = {
  place: 0,
  model: "m",
  signal: "s",
  headline: "history->history",
  stacks: [stack],
  series: new Float32Array(8),
  verdicts: null,
  time: { step: 1, name: "hours" },
  dates: null,
  known,
};

function numbers() {
  equal(figure(0.000012345), "1.23e−5", "small numbers");
  equal([figure(-2.5), figure(1234.6, 4), figure(Number.NaN), figure(0)], ["−2.5", "1235", "–", "0"], "numbers");
  equal(roundTicks(0, 10, 5), [0, 2, 4, 6, 8, 10], "round ticks");
  equal(roundTicks(-0.3, 0.3, 3), [-0.2, 0, 0.2], "ticks around 0");
  const days = lagTicks(run, 0, 100, 6).map(({ text }) => text);
  equal(days, ["0", "24", "48", "72", "96"], "ticks at multiples of a whole period");
  equal(stretch(run, axis, 1), "2–3 hours", "a token in words");
}

function dates() {
  const day = 86400;
  const from = Date.UTC(2024, 0, 30) / 1000;
  const dated = { ...run, dates: Array.from({ length: 60 }, (_, i) => from + i * day) };
  equal(moment(dated, 3), "2024-02-02", "a date");
  const ticks = timeTicks(dated, -0.5, 59.5, 4);
  equal(
    ticks.map(({ text }) => text),
    ["2024-02", "2024-03"],
    "ticks at months",
  );
  equal(
    ticks.map(({ at }) => near(at)),
    [2, 31],
    "where months begin",
  );
}

function colours() {
  const table = colourTable(Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0").repeat(3)).join(""));
  const step = (word) => word & 255;
  equal(
    [0, 0.25, 1, 9].map((w) => step(sequential(table, 1, 0.5)(w))),
    [0, 128, 255, 255],
    "colours by the root",
  );
  equal(
    [-1, 0, 0.01, 3].map((v) => step(lit(table, 3)(v)) > 60),
    [false, false, true, true],
    "lit above the limit",
  );
  equal(quantile([4, 1, 3, 2, Number.NaN], 1), 4, "quantile");
  equal([pixelsFor(edges), pixelsFor([0, 1, 4])], [4, 16], "pixels of even and uneven tokens");
  equal([...cellsOfPixels([0, 1, 4], 4)], [0, 1, 1, 1], "pixels in uneven tokens");
}

function heads() {
  const second = profileOf(stack, "history->history", 0, 1);
  equal([...second.ratio], [9, 4, 1], "profile of the second head");
  equal(strongestLag(second).lag, 2, "lag 0 is no finding");
  equal(strongestLag(profileOf(stack, "history->history", 0, 0)), null, "nothing above the limit");
  equal(peaks({ ...second, ratio: Float32Array.of(1, 4, 1) }, 3), [1], "peaks");
  equal([...meanRow(stack.maps.subarray(16), 4, 1, 2)], [0.5, 0.5, 0, 0], "mean row");
  equal(
    [-5, 1.4, 1.6, 99].map((time) => tokenAt(axis, time)),
    [0, 0, 1, 3],
    "token at a time",
  );
  const ratio = rangeRatio(stack, stack.maps.subarray(16), "horizon->history", Float32Array.of(2, 4, 6), 2, 3);
  equal([...ratio], [4, 0, 0], "profile of a range");
  equal(firstHead(run), { run: 0, stack: 0, layer: 0, head: 1 }, "the head to begin with");
}

function addresses() {
  equal(readAddress("#q=3&__proto__=1&x=2&s=a%20b"), { q: "3", s: "a b" }, "keys of an address");
  equal(
    ["3", "-1", "1.5", "NaN", "9e9", "", undefined].map((t) => integer(t, 0, 5)),
    [3, ...new Array(6).fill(null)],
    "integers",
  );
  equal([decimal("-2.5", -9, 9), decimal("1e3", 0, 9), decimal("Infinity", 0, 9)], [-2.5, null, null], "decimals");
  equal([headNamed(run, "encoder", "3", "1")?.head, headNamed(run, "encoder", "0", "1")], [1, null], "heads by number");
  const all = [
    { model: "m", signal: "s" },
    { model: "m", signal: "t" },
    { model: "n", signal: "t" },
  ];
  equal([placeOf(all, "m", "t"), placeOf(all, "n", "s"), placeOf(all, "x", "t"), placeOf(all)], [1, 2, 1, 0], "runs");
  const hash = "#m=m&s=s&k=encoder&l=3&h=1&q=2&lag=-2&b=0.3&g=0.7&t=lags&d=dark";
  equal(writeAddress(settle(readAddress(hash), run, null), new Map([[0, run]])), hash, "there and back");
}

function vectors() {
  const one = {
    dimensions: 2,
    query: Float32Array.of(1, 2, 3, 4),
    key: Float32Array.of(1, 0, 0, 10, 5, 5),
    scale: Float32Array.of(0.5),
    bias: Float32Array.of(0, 0, -Infinity, 1, 0, 0),
    queries: { column: Float32Array.of(0, 1) },
    keys: { column: Float32Array.of(0, 1, 2) },
  };
  equal([...scoresOf(one, 0, 0)].map(String), ["0.5", "10", "-Infinity"], "scores of the first query");
  equal([...scoresOf(one, 0, 1)], [2.5, 20, 17.5], "scores of the second query, with bias");
  equal([...softmax(Float64Array.of(0, Math.log(3), -Infinity))].map(near), [0.25, 0.75, 0], "softmax");
  equal([...softmax(Float64Array.of(-Infinity, -Infinity))], [0, 0], "softmax of a row that sees nothing");
  const found = carriers(Float64Array.of(5, -1, 3, 0), Float64Array.of(4.9, 0, 0, 0.5));
  equal([found.carrying, near(found.lift), found.order], [[2], 1.6, [2, 0, 3, 1]], "what lifts a score");
  equal(carriers(Float64Array.of(1, 2), Float64Array.of(2, 3)).carrying, [], "a score under that of the mean key");
  equal([keyAt(stack, 3, 4), keyAt(stack, 0, 2), keyAt(stack, null, 2)], [1, null, null], "key at a lag");
}

function grid() {
  const tall = {
    stacks: [
      { layers: [0, 1], heads: [0, 1] },
      { layers: [0], heads: [0] },
    ],
  };
  const at = (stackPlace, layer, head) => ({ run: 0, stack: stackPlace, layer, head });
  equal(neighbour(tall, at(0, 1, 1), "ArrowDown"), at(1, 0, 0), "down into a narrower stack");
  equal(neighbour(tall, at(0, 0, 1), "ArrowRight"), at(0, 0, 1), "no further than the edge");
  equal(neighbour(tall, at(0, 0, 0), "a"), null, "other keys");
  for (const width of [320, 780, 1200])
    for (const maps of [1, 2]) {
      const {
        height,
        series,
        maps: rects,
        products,
        ...panels
      } = layout(width, { maps, hasCurve: true, aspect: 1, products: [maps === 1, true].slice(0, maps) });
      equal(products.length, maps, "a query-key view for each head");
      const all = [series, ...rects, ...products, ...Object.values(panels)];
      const overlap = all.some((a, i) => all.some((b, j) => j > i && cross(a, b)));
      equal(overlap, false, `overlap at ${width}`);
      equal(
        all.every(({ x, y, width: w, height: h }) => x >= 0 && x + w <= width + 1 && y + h <= height + 1),
        true,
        `inside ${width}`,
      );
    }
  equal(
    line(
      [0, 1, 2],
      [0, Number.NaN, 2],
      (v) => v,
      (v) => v,
    ),
    "M0.0,0.0M2.0,2.0",
    "a gap in a line",
  );
}

function cross(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

async function arrays() {
  // Deflated planes of the float32 numbers 1 and -2 and of the float16 numbers 1 and 6e-8, made in the browser itself.
  const bytes = Uint8Array.of(0, 0, 0, 0, 128, 0, 63, 192, 0, 1, 60, 0, 0, 255);
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const found = await inflate(btoa(String.fromCharCode(...packed)));
  equal([...found], [...bytes], "inflated");
  equal([...unpack(found, { code: "float32", shape: [2], at: 0 }).data], [1, -2], "float32");
  equal([...unpack(found, { code: "float16", shape: [2], at: 8 }).data].map(near), [1, near(2 ** -24)], "float16");
  equal([...unpack(found, { code: "log8", shape: [2], at: 12 }).data], [0, 1], "log8");
}

/** Everything, and what failed. */
async function main() {
  for (const group of [numbers, dates, colours, heads, addresses, vectors, grid]) group();
  await arrays();
  return { count, failures };
}

globalThis.unitTests = main();
