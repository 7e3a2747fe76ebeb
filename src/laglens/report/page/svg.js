// Drawing: elements of the stage, scales, axes.

const SPACE = "http://www.w3.org/2000/svg";
export const TICK = 10.5;
export const LABEL = 11.5;
export const TITLE = 13;

/** A new element with its attributes, at the end of `parent`. */
export function add(parent, name, attributes = {}, text = null) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes))
    element.setAttribute(key, typeof value === "number" ? round(value) : value);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

function round(value) {
  return Number(value.toFixed(2));
}

/** Linear scale from [low, high] to [from, to]; `inverse` goes back. */
export function linear(low, high, from, to) {
  const scale = (value) => from + ((value - low) / (high - low)) * (to - from);
  scale.inverse = (at) => low + ((at - from) / (to - from)) * (high - low);
  scale.domain = [low, high];
  scale.range = [from, to];
  return scale;
}

/** Logarithmic scale; values below `low` lie at its lower end. */
export function logarithmic(low, high, from, to) {
  const inner = linear(Math.log(low), Math.log(high), from, to);
  const scale = (value) => inner(Math.log(Math.max(value, low)));
  scale.domain = [low, high];
  scale.range = [from, to];
  return scale;
}

/** Path through points; a value that is no number lifts the pen. */
export function line(xs, ys, x, y) {
  let path = "";
  let pen = "M";
  for (let i = 0; i < xs.length; i += 1) {
    if (!Number.isFinite(ys[i])) {
      pen = "M";
      continue;
    }
    path += `${pen}${x(xs[i]).toFixed(1)},${y(ys[i]).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

/** Closed path between a lower and an upper curve; broken where either is no number. */
export function area(xs, lower, upper, x, y) {
  let path = "";
  let start = 0;
  for (let i = 0; i <= xs.length; i += 1) {
    if (i < xs.length && Number.isFinite(lower[i]) && Number.isFinite(upper[i])) continue;
    if (i - start > 1) {
      const [part, back] = [xs.slice(start, i), xs.slice(start, i).reverse()];
      path += `${line(part, upper.slice(start, i), x, y)}L${line(back, lower.slice(start, i).reverse(), x, y).slice(1)}Z`;
    }
    start = i + 1;
  }
  return path;
}

/** Text on the stage. */
export function write(
  parent,
  x,
  y,
  text,
  { fill, size = LABEL, anchor = "start", weight = "normal", turn = null } = {},
) {
  const attributes = { x, y, fill, "font-size": size, "text-anchor": anchor, "font-weight": weight };
  if (turn !== null) attributes.transform = `rotate(${turn} ${round(x)} ${round(y)})`;
  return add(parent, "text", attributes, text);
}

const ruler = document.createElement("canvas").getContext("2d");

/** Width of a text in pixels. */
export function widthOf(text, size = LABEL, weight = "normal") {
  ruler.font = `${weight} ${size}px ${FONT}`;
  return ruler.measureText(text).width;
}

export const FONT = '"DejaVu Sans", Verdana, sans-serif';

/** A text cut in its middle to fit into `room` pixels. */
export function fit(text, room, size = LABEL, weight = "normal") {
  if (widthOf(text, size, weight) <= room) return text;
  let keep = text.length - 1;
  const shorter = () => `${text.slice(0, Math.ceil(keep / 2))}…${text.slice(text.length - Math.floor(keep / 2))}`;
  while (keep > 2 && widthOf(shorter(), size, weight) > room) keep -= 1;
  return shorter();
}

/** A text in lines that fit into `room` pixels. */
export function wrap(text, room, size = TICK) {
  const lines = [];
  let current = "";
  for (const word of text.split(" ")) {
    const longer = current ? `${current} ${word}` : word;
    if (current && widthOf(longer, size) > room) {
      lines.push(current);
      current = word;
    } else current = longer;
  }
  return current ? [...lines, current] : lines;
}

/** Ticks and numbers of an axis at the bottom, right or left; numbers that would touch the one before are left out. */
export function axis(parent, ticks, scale, side, at, colours) {
  const draw = { bottom: tickBelow, left: tickBeside(-1), right: tickBeside(1) }[side];
  let free = -Infinity;
  for (const { at: value, text } of ticks) {
    const half = side === "bottom" ? widthOf(text, TICK) / 2 : TICK / 2;
    const along = side === "bottom" ? scale(value) : -scale(value);
    const fits = along - half >= free;
    if (fits) free = along + half + 4;
    draw(parent, scale(value), at, fits ? text : "", colours);
  }
}

function tickBelow(parent, x, y, text, colours) {
  add(parent, "line", { x1: x, x2: x, y1: y, y2: y + 4, stroke: colours.muted });
  write(parent, x, y + 15, text, { fill: colours.muted, size: TICK, anchor: "middle" });
}

function tickBeside(sign) {
  return (parent, y, x, text, colours) => {
    add(parent, "line", { x1: x, x2: x + 4 * sign, y1: y, y2: y, stroke: colours.muted });
    const anchor = sign > 0 ? "start" : "end";
    write(parent, x + 7 * sign, y + 3.7, text, { fill: colours.muted, size: TICK, anchor });
  };
}
