// The network's coarse map of one class, drawn smoothly and in colour over the scan.

// matplotlib's inferno (CC0) at these places, its dark half left out: darkness on a dark scan shows nothing.
// Its lightness grows all the way, so that it is read without telling hues apart.
const STOPS = [
  [0.3, [106, 23, 110]], [0.4, [147, 38, 103]], [0.5, [188, 55, 84]], [0.6, [221, 81, 58]],
  [0.7, [243, 120, 25]], [0.8, [252, 165, 10]], [0.9, [246, 215, 70]], [1, [252, 255, 164]],
];

/** The colour of a strength of 0 to 1: red, green, blue, alpha in 0..255. No evidence is transparent. */
export function colour(strength) {
  const at = 0.3 + 0.7 * strength;
  const above = Math.max(1, STOPS.findIndex(([place]) => place >= at));
  const [[low, from], [high, to]] = [STOPS[above - 1], STOPS[above]];
  const share = (at - low) / (high - low);
  return [...from.map((value, i) => Math.round(value + share * (to[i] - value))), Math.round(255 * Math.min(1, 1.5 * strength))];
}

const TABLE = Array.from({ length: 256 }, (_, i) => colour(i / 255));

/**
 * Scale a class's map to width x height strengths of 0 to 1, by bilinear interpolation between the centres of
 * its cells; `span` says where along the cells the picture's edges lie (octlet.runtime.heatmap).
 */
export function strength({ evidence, span: [begin, end] }, label, width, height) {
  const rows = evidence[label];
  const across = places(begin, end, width, rows[0].length);
  const down = places(begin, end, height, rows.length);
  const out = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const [j, k, v] = down[y];
    for (let x = 0; x < width; x++) {
      const [i, l, u] = across[x];
      const upper = rows[j][i] + u * (rows[j][l] - rows[j][i]);
      const lower = rows[k][i] + u * (rows[k][l] - rows[k][i]);
      out[y * width + x] = (upper + v * (lower - upper)) / 255;
    }
  }
  return out;
}

/** For each pixel: the two cells it lies between, and how far from the first. */
function places(begin, end, pixels, cells) {
  return Array.from({ length: pixels }, (_, pixel) => {
    const at = Math.min(Math.max(begin + ((pixel + 0.5) / pixels) * (end - begin) - 0.5, 0), cells - 1);
    const first = Math.floor(at);
    return [first, Math.min(first + 1, cells - 1), at - first];
  });
}

/** Draw a class's map; the canvas is then laid over `box` by style. */
export function paint(canvas, map, label, side = 384) {
  const [left, top, right, bottom] = map.box;
  const scale = Math.min(1, side / Math.max(right - left, bottom - top));
  canvas.width = Math.max(1, Math.round(scale * (right - left)));
  canvas.height = Math.max(1, Math.round(scale * (bottom - top)));
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const values = strength(map, label, canvas.width, canvas.height);
  values.forEach((value, i) => image.data.set(TABLE[Math.round(255 * value)], 4 * i));
  context.putImageData(image, 0, 0);
}

/** Give a frame the scan's shape as the server decoded it, and lay the canvas over the part that the map covers. */
export function place(stage, canvas, { size: [width, height], box: [left, top, right, bottom] }) {
  stage.style.setProperty("--ratio", width / height);
  if (!canvas) return;
  const { style } = canvas;
  style.left = `${(100 * left) / width}%`;
  style.top = `${(100 * top) / height}%`;
  style.width = `${(100 * (right - left)) / width}%`;
  style.height = `${(100 * (bottom - top)) / height}%`;
}
