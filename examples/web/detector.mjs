// From a picture to the network's input, and from its outputs to boxes: plain JavaScript, no page and no runtime.

const KEY = '{"face_detector": ';
const MIN_SIDE_PX = 16;
const PADDING = 117; // grey
const MAX_CANDIDATES = 5000;
const MAX_LOG_SIZE = 10;

// What a detector's file says about itself: size, anchors, code of the boxes. `bytes`: a Uint8Array.
export function readDescription(bytes) {
  const text = new TextDecoder("latin1").decode(bytes);
  const start = text.indexOf(KEY);
  if (start < 0) throw new Error("no face_detector in its metadata: write the file anew with tools/export.py");
  let depth = 0;
  for (let end = start; end < text.length; end++) {
    if (text[end] === "{") depth++;
    if (text[end] === "}" && --depth === 0) return checked(JSON.parse(text.slice(start, end + 1)));
  }
  throw new Error("its description is cut short: copy the file again");
}

function checked(facts) {
  const { code } = facts.anchors;
  if (facts.face_detector !== 1 || !["centre", "corners", "plain"].includes(code)) {
    throw new Error(`boxes of version ${facts.face_detector}, code ${code}: use the page of the toolkit that wrote it`);
  }
  return facts;
}

// The size that the network sees and the part of it that the picture fills, px. size: [height, width] or "any".
export function fit(height, width, size, maxSide = Infinity) {
  const fixed = size !== "any";
  const factor = fixed ? Math.min(size[0] / height, size[1] / width) : Math.min(1, maxSide / Math.max(height, width));
  const least = fixed ? 1 : MIN_SIDE_PX;
  const [filledHeight, filledWidth] = [height, width].map((side) => Math.max(least, Math.round(side * factor)));
  const [inputHeight, inputWidth] = fixed ? size : [filledHeight, filledWidth];
  return { inputHeight, inputWidth, filledHeight, filledWidth };
}

// RGBA bytes of a canvas -> RGB floats 0..255; `grey` is what to fill the canvas with before the picture is drawn.
export const grey = `rgb(${PADDING} ${PADDING} ${PADDING})`;
export function pixels(rgba) {
  const rgb = new Float32Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

// Boxes {x1, y1, x2, y2, score}, px of the input, best first. boxes: offsets [n * 4]; scores: [n]; both flat.
export function decode(boxes, scores, { anchors }, inputHeight, inputWidth, threshold) {
  const passing = [];
  for (let i = 0; i < scores.length; i++) if (scores[i] >= threshold) passing.push(i);
  passing.sort((a, b) => scores[b] - scores[a]); // stable: of equal scores the earlier one first
  const levels = grids(anchors, inputHeight, inputWidth);
  const count = levels.reduce((sum, level) => sum + level.count, 0);
  if (count !== scores.length) throw new Error(`expected ${count} anchors, the network gives ${scores.length}`);
  return passing.slice(0, MAX_CANDIDATES).map((i) => {
    const [x, y, width, height] = anchor(levels, anchors, i);
    const [a, b, c, d] = boxes.subarray(4 * i, 4 * i + 4);
    const score = scores[i];
    if (anchors.code === "corners") {
      const x1 = x - width / 2 + (a / anchors.corner_scale) * width;
      const y1 = y - height / 2 + (b / anchors.corner_scale) * height;
      const x2 = Math.max(x1, x + width / 2 + (c / anchors.corner_scale) * width);
      return { x1, y1, x2, y2: Math.max(y1, y + height / 2 + (d / anchors.corner_scale) * height), score };
    }
    const [ofCentre, ofSize] = anchors.variances;
    const [centreX, centreY] = [x + a * ofCentre * width, y + b * ofCentre * height];
    const halfWidth = (width * Math.exp(Math.min(c * ofSize, MAX_LOG_SIZE))) / 2;
    const halfHeight = (height * Math.exp(Math.min(d * ofSize, MAX_LOG_SIZE))) / 2;
    return { x1: centreX - halfWidth, y1: centreY - halfHeight, x2: centreX + halfWidth, y2: centreY + halfHeight, score };
  });
}

// Level 0 has the input over its stride cells, rounded up, each further one half of the one before, rounded up.
function grids({ strides, sizes, scales }, inputHeight, inputWidth) {
  let rows = Math.ceil(inputHeight / strides[0]);
  let columns = Math.ceil(inputWidth / strides[0]);
  return strides.map((stride, level) => {
    const grid = { stride, size: sizes[level], columns, count: rows * columns * scales.length };
    rows = Math.ceil(rows / 2);
    columns = Math.ceil(columns / 2);
    return grid;
  });
}

// Anchor number i: centre x, y, width, height, px. Level by level, row by row, in a cell by scale.
function anchor(levels, { scales, ratio, place }, i) {
  let level = 0;
  while (i >= levels[level].count) i -= levels[level++].count;
  const { stride, size, columns } = levels[level];
  const cell = Math.floor(i / scales.length);
  const width = size * scales[i % scales.length];
  return [((cell % columns) + place) * stride, (Math.floor(cell / columns) + place) * stride, width, width * ratio];
}

// The picture's faces, best first, from a network's outputs; a px of its input is `across` x `down` px of the picture.
export function faces(boxes, scores, facts, inputHeight, inputWidth, threshold, across = 1, down = 1) {
  const found = decode(boxes, scores, facts, inputHeight, inputWidth, threshold).map((box) => ({
    ...box, x1: box.x1 * across, x2: box.x2 * across, y1: box.y1 * down, y2: box.y2 * down,
  }));
  return nms(found, facts.anchors.whole_px);
}

// Those of `boxes`, best first, that no better one overlaps by more than `iouThreshold`. wholePx: boxes are compared
// with corner, width and height cut to whole px each, as OpenCV does.
export function nms(boxes, wholePx = false, iouThreshold = 0.3, maxDetections = 750) {
  const kept = [];
  const compared = [];
  for (const box of boxes) {
    if (kept.length === maxDetections) break;
    const own = wholePx ? inWholePx(box) : box;
    if (compared.some((better) => overlaps(better, own, iouThreshold))) continue;
    kept.push(box);
    compared.push(own);
  }
  return kept;
}

function inWholePx({ x1, y1, x2, y2 }) {
  const [x, y] = [Math.trunc(x1), Math.trunc(y1)];
  return { x1: x, y1: y, x2: x + Math.trunc(x2 - x1), y2: y + Math.trunc(y2 - y1) };
}

function overlaps(a, b, iouThreshold) {
  const width = Math.max(0, Math.min(a.x2, b.x2) - Math.max(a.x1, b.x1));
  const height = Math.max(0, Math.min(a.y2, b.y2) - Math.max(a.y1, b.y1));
  const area = (box) => (box.x2 - box.x1) * (box.y2 - box.y1);
  return width * height > iouThreshold * (area(a) + area(b) - width * height);
}
