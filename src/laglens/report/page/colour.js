// Colours: of the two themes, and of maps.

export const THEME = {
  light: {
    panel: "#ffffff",
    ink: "#1d2433",
    muted: "#4a5163",
    faint: "#9aa1ae",
    line: "#e6e8ec",
    band: "#d9dbe0",
    a: "#c4480a",
    b: "#0a63a8",
    range: "#0b7a5c",
  },
  dark: {
    panel: "#171b22",
    ink: "#e8eaf0",
    muted: "#aeb5c2",
    faint: "#747c8a",
    line: "#2a303a",
    band: "#3b4350",
    a: "#ff8a4c",
    b: "#6bb3f2",
    range: "#3fd6a6",
  },
};
export const ON_MAP = "#6fe3ff";
const LIT = 64; // first colour of the strip above the limit, as in the figures

/** Colour table from hexadecimal digits: one 32-bit RGBA word for each of 256 steps. */
export function colourTable(digits) {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i += 1) {
    const [red, green, blue] = [0, 2, 4].map((at) => parseInt(digits.slice(6 * i + at, 6 * i + at + 2), 16));
    table[i] = (255 << 24) | (blue << 16) | (green << 8) | red;
  }
  return table;
}

/** A colour of a table as CSS. */
export function css(table, step) {
  const word = table[step];
  return `rgb(${word & 255},${(word >> 8) & 255},${(word >> 16) & 255})`;
}

/** The value that a share of the finite values of an array does not pass. */
export function quantile(values, share) {
  const sorted = Float32Array.from(values)
    .filter((value) => Number.isFinite(value))
    .sort();
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * (sorted.length - 1) + 0.5))] : 0;
}

/** Function from a weight to a colour word: power of the weight over `high`. */
export function sequential(table, high, gamma) {
  return (weight) => table[Math.round(255 * Math.min(Math.max(weight / high, 0), 1) ** gamma)];
}

/** Function from a signed difference to a colour word; 0 is the middle. */
export function diverging(table, high, gamma) {
  return (value) => {
    const share = Math.sign(value) * Math.min(Math.abs(value) / high, 1) ** gamma;
    return table[Math.round(127.5 + 127.5 * share)];
  };
}

/** Function from log2(ratio / limit) to a colour word: dark up to the limit, lit above. */
export function lit(table, doublings) {
  return (value) => (value > 0 ? table[Math.round(LIT + (255 - LIT) * Math.min(value / doublings, 1))] : table[0]);
}

/** For each of `pixels` even pixels between the ends of `edges` the cell that it lies in. */
export function cellsOfPixels(edges, pixels) {
  const cells = new Uint32Array(pixels);
  const [low, high] = [edges[0], edges[edges.length - 1]];
  let cell = 0;
  for (let i = 0; i < pixels; i += 1) {
    const at = low + ((i + 0.5) / pixels) * (high - low);
    while (cell < edges.length - 2 && edges[cell + 1] <= at) cell += 1;
    cells[i] = cell;
  }
  return cells;
}

/** Number of even pixels that shows cells with these borders: one each where they are even. */
export function pixelsFor(edges) {
  const count = edges.length - 1;
  const even = (edges[count] - edges[0]) / count;
  for (let i = 0; i < count; i += 1)
    if (Math.abs(edges[i + 1] - edges[i] - even) > 1e-3 * even) return Math.min(1024, 8 * count);
  return count;
}

/**
 * Paint values (row, column) on a canvas, row 0 at the bottom and column 0 at the left.
 * `rows` and `columns` are the borders of the cells.
 */
export function paint(canvas, values, rows, columns, colourOf) {
  const [width, height] = [pixelsFor(columns), pixelsFor(rows)];
  const [across, down] = [cellsOfPixels(columns, width), cellsOfPixels(rows, height)];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  const count = columns.length - 1;
  for (let y = 0; y < height; y += 1) {
    const row = down[height - 1 - y] * count;
    for (let x = 0; x < width; x += 1) words[y * width + x] = colourOf(values[row + across[x]]);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
