// Where the panels of the stage lie, for every width.

const GAP = 18;
const SERIES = 158;
export const MAP = { left: 62, right: 50, top: 66, bottom: 40 };

/** Rectangles {x, y, width, height} of the panels, and the height of the stage without its caption. */
export function layout(width, { maps, hasCurve, aspect }) {
  const rects = { series: { x: 0, y: 0, width, height: SERIES }, maps: [] };
  const below = SERIES + GAP;
  const wide = width >= 860;
  const share = maps === 2 ? 0.5 : wide ? 0.54 : 1;
  const mapWidth = Math.min((width - (maps === 2 ? GAP : 0)) * share, maps === 2 ? 700 : 660);
  const plot = mapWidth - MAP.left - MAP.right;
  const mapHeight = Math.max(plot * aspect, 90) + MAP.top + MAP.bottom;
  for (let i = 0; i < maps; i += 1) rects.maps.push({ x: i * (mapWidth + GAP), y: below, width: mapWidth, height: mapHeight });
  const bottom = below + mapHeight;
  const names = hasCurve ? ["profile", "strip", "curve"] : ["profile", "strip"];
  if (maps === 1 && wide) {
    const height = Math.max(mapHeight, hasCurve ? 560 : 400) - GAP * (names.length - 1);
    const shares = hasCurve ? [0.42, 0.32, 0.26] : [0.56, 0.44];
    stack(rects, names, shares, { x: mapWidth + GAP, y: below, width: width - mapWidth - GAP, height });
    return { ...rects, height: Math.max(bottom, below + height + GAP * (names.length - 1)) };
  }
  if (wide) {
    const half = (width - GAP) / 2;
    rects.profile = { x: 0, y: bottom + GAP, width: half, height: 300 };
    if (hasCurve) stack(rects, names.slice(1), [0.55, 0.45], { x: half + GAP, y: bottom + GAP, width: half, height: 300 - GAP });
    else rects.strip = { x: half + GAP, y: bottom + GAP, width: half, height: 300 };
    return { ...rects, height: bottom + GAP + 300 };
  }
  const heights = { profile: 260, strip: 200, curve: 170 };
  let y = bottom + GAP;
  for (const name of names) {
    rects[name] = { x: 0, y, width, height: heights[name] };
    y += heights[name] + GAP;
  }
  return { ...rects, height: y - GAP };
}

function stack(rects, names, shares, { x, y, width, height }) {
  let top = y;
  names.forEach((name, i) => {
    rects[name] = { x, y: top, width, height: height * shares[i] };
    top += height * shares[i] + GAP;
  });
}
