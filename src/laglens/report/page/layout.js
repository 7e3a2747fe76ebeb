// Where the panels of the stage lie, for every width.

const GAP = 18;
const SERIES = 172;
const WIDE = 860; // pixels from which panels stand beside the map
const SHARES = { profile: 0.4, strip: 0.3, curve: 0.3 };
const HEIGHTS = { profile: 260, strip: 200, curve: 200 }; // where panels lie under one another
const BESIDE = 320; // height of the panels beside one another
const PRODUCTS = { wide: 190, narrow: 290, words: 48 }; // height of the query-key view; where it only says why not
const LARGEST = 680; // width of a map
const LOWEST = 90; // height of the plot of a map
export const NARROW = 700; // pixels below which the words of the query-key view stand above its bars
export const MAP = { left: 62, right: 50, top: 84, bottom: 40 };

/**
 * Rectangles {x, y, width, height} of the panels, and the height of the stage without its caption. `products` says of
 * each head whether it has a query-key view to draw.
 */
export function layout(width, { maps, hasCurve, aspect, products }) {
  const { height, ...rects } = above(width, { maps, hasCurve, aspect });
  let bottom = height;
  rects.products = products.map((drawn) => {
    const tall = drawn ? PRODUCTS[width < NARROW ? "narrow" : "wide"] : PRODUCTS.words;
    const rect = { x: 0, y: bottom + GAP, width, height: tall };
    bottom += GAP + tall;
    return rect;
  });
  return { ...rects, height: bottom };
}

/** The panels of times and lags, and their height. */
function above(width, { maps, hasCurve, aspect }) {
  const names = hasCurve ? ["profile", "strip", "curve"] : ["profile", "strip"];
  const wide = width >= WIDE;
  const y = SERIES + GAP;
  const room = maps === 2 ? (width - GAP) / 2 : width * (wide ? 0.54 : 1);
  const map = { width: Math.min(room, LARGEST), height: mapHeight(Math.min(room, LARGEST), aspect) };
  const rects = {
    series: { x: 0, y: 0, width, height: SERIES },
    maps: Array.from({ length: maps }, (_, i) => ({ x: i * (map.width + GAP), y, ...map })),
  };
  if (maps === 1 && wide) {
    const x = map.width + GAP;
    const height = Math.max(map.height, hasCurve ? 600 : 400);
    return { ...rects, ...column(names, { x, y, width: width - x, height }), height: y + height };
  }
  const below = y + map.height + GAP;
  if (wide) {
    const half = (width - GAP) / 2;
    const right = { x: half + GAP, y: below, width: half, height: BESIDE };
    const profile = { x: 0, y: below, width: half, height: BESIDE };
    return { ...rects, profile, ...column(names.slice(1), right), height: below + BESIDE };
  }
  return { ...rects, ...pile(names, { y: below, width }) };
}

function mapHeight(width, aspect) {
  return Math.max((width - MAP.left - MAP.right) * aspect, LOWEST) + MAP.top + MAP.bottom;
}

/** Panels under one another that share a height. */
function column(names, { x, y, width, height }) {
  const free = height - GAP * (names.length - 1);
  const total = names.reduce((sum, name) => sum + SHARES[name], 0);
  const rects = {};
  let top = y;
  for (const name of names) {
    rects[name] = { x, y: top, width, height: (free * SHARES[name]) / total };
    top += rects[name].height + GAP;
  }
  return rects;
}

/** Panels under one another over the whole width, and the height down to the last. */
function pile(names, { y, width }) {
  const rects = {};
  let top = y;
  for (const name of names) {
    rects[name] = { x: 0, y: top, width, height: HEIGHTS[name] };
    top += HEIGHTS[name] + GAP;
  }
  return { ...rects, height: top - GAP };
}
