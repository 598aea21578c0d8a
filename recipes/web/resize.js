// Resizing as Pillow does it: two passes of a filter that is as wide as the reduction, rounded to 8 bits after each.

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  }],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// For each of `to` pixels: the first of the `from` pixels that it is made of, and their weights
function weightsOf(from, to, resampling) {
  const scale = from / to;
  if (resampling === "nearest") {
    return Array.from({ length: to }, (_, place) => [Math.floor((place + 0.5) * scale), [1]]);
  }
  const [support, filter] = FILTERS[resampling], wide = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support * wide + 0.5));
    const last = Math.min(from, Math.trunc(center + support * wide + 0.5));
    const weights = [];
    for (let pixel = first; pixel < last; pixel++) weights.push(filter((pixel - center + 0.5) / wide));
    const sum = weights.reduce((one, other) => one + other, 0);
    return [first, weights.map((weight) => weight / sum)];
  });
}

// One pass along lines of `length` pixels, which are `step` apart; `lines` begin `next` apart
function pass(pixels, result, weights, lines, next, step, resultNext, resultStep) {
  for (let line = 0; line < lines; line++) {
    for (let place = 0; place < weights.length; place++) {
      const [first, shares] = weights[place];
      const from = line * next + first * step, to = line * resultNext + place * resultStep;
      for (let color = 0; color < 3; color++) {
        let sum = 0.5;
        for (let n = 0; n < shares.length; n++) sum += shares[n] * pixels[from + n * step + color];
        result[to + color] = Math.floor(sum);  // clamped
      }
    }
  }
  return result;
}

// RGBA pixels of width x height to those of another size, whose alpha stays 0
function resized(pixels, width, height, toWidth, toHeight, resampling) {
  const rows = new Uint8ClampedArray(4 * toWidth * height), all = new Uint8ClampedArray(4 * toWidth * toHeight);
  pass(pixels, rows, weightsOf(width, toWidth, resampling), height, 4 * width, 4, 4 * toWidth, 4);
  return pass(rows, all, weightsOf(height, toHeight, resampling), toWidth, 4, 4 * toWidth, 4, 4 * toWidth);
}

// To the even neighbour, as Python rounds halves
function rounded(number) {
  const below = Math.floor(number);
  return number - below === 0.5 ? below + (below % 2) : Math.round(number);
}

// What a graph takes of RGBA pixels: (size, size, 3), by the metadata of its file
export function prepared(pixels, width, height, { image_size: size, resize, resampling }) {
  const side = resize.square ?? resize.shorter_side, shorter = Math.min(width, height);
  const to = (length) => (resize.square ? side : Math.floor((side * length) / shorter));
  const [toWidth, toHeight] = [to(width), to(height)];
  const all = resized(pixels, width, height, toWidth, toHeight, resampling);
  const left = rounded((toWidth - size) / 2), top = rounded((toHeight - size) / 2);
  const cropped = new Uint8Array(3 * size * size);
  for (let y = 0, place = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const from = 4 * ((y + top) * toWidth + x + left);
      for (let color = 0; color < 3; color++) cropped[place++] = all[from + color];
    }
  }
  return cropped;
}
