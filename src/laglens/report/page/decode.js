// Arrays of a run: base64, deflate, planes of bytes, and the number formats of laglens.report.packing.

const BYTES = { float32: 4, float16: 2, log8: 1 };
const LOWEST = 1e-5;
const STEPS = 255;
const tables = {};

/** Values of every code word of a format of one or two bytes. */
function tableOf(code) {
  if (!tables[code]) tables[code] = code === "log8" ? log8Table() : halfTable();
  return tables[code];
}

function log8Table() {
  const table = new Float32Array(256);
  for (let step = 1; step <= STEPS; step += 1) table[step] = LOWEST ** (1 - (step - 1) / (STEPS - 1));
  return table;
}

function halfTable() {
  const table = new Float32Array(65536);
  for (let word = 0; word < 65536; word += 1) table[word] = halfValue(word);
  return table;
}

function halfValue(word) {
  const sign = word & 0x8000 ? -1 : 1;
  const exponent = (word >> 10) & 31;
  const fraction = word & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Bytes of a text of base64, inflated. */
export async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** One array as {data, shape}; its planes of first bytes, second bytes, ... are woven together again. */
export function unpack(bytes, entry) {
  const size = entry.shape.reduce((product, length) => product * length, 1);
  const width = BYTES[entry.code];
  const planes = bytes.subarray(entry.at, entry.at + size * width);
  const data = new Float32Array(size);
  if (entry.code === "float32") {
    const woven = new Uint8Array(data.buffer);
    for (let plane = 0; plane < 4; plane += 1)
      for (let i = 0; i < size; i += 1) woven[4 * i + plane] = planes[plane * size + i];
  } else {
    const table = tableOf(entry.code);
    const high = width === 2 ? planes.subarray(size) : null;
    for (let i = 0; i < size; i += 1) data[i] = table[high ? planes[i] | (high[i] << 8) : planes[i]];
  }
  return { data, shape: entry.shape };
}
