// Spectrogram and pitch of the audio in memory, computed in tiles when they are first seen.

const TILE_S = 0.5;
const HOP_S = 0.02;
const STEPS = TILE_S / HOP_S;
const WINDOW = 1024; // samples at 16 kHz and less: 64 ms, which holds four periods of the lowest voice
const ROWS = 80;
const TOP_HZ = 5000;
const RANGE_DB = 60;
const PITCH_HZ = [60, 450];
const VOICED = 0.45; // height of the autocorrelation's peak, relative to the whole energy
const SILENT_RMS = 0.006;
const KEPT_TILES = 2400; // twenty minutes
const TILES_A_DRAW = 2; // tiles computed in one drawing: few, so that no drawing takes long

/** Fast Fourier transform of one size, in place. */
class Fft {
  constructor(size) {
    this.size = size;
    this.cos = Float32Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sin = Float32Array.from({ length: size / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / size));
  }

  run(re, im) {
    const { size } = this;
    for (let i = 1, j = 0; i < size; i++) {
      let bit = size >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
    }
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let first = 0; first < size; first += 2 * half) {
        for (let k = 0; k < half; k++) {
          const [c, s] = [this.cos[k * step], -this.sin[k * step]];
          const [a, b] = [first + k, first + k + half];
          const x = re[b] * c - im[b] * s;
          const y = re[b] * s + im[b] * c;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
  }
}

const fft = new Fft(2 * WINDOW); // twice the window, so that the autocorrelation does not wrap around
const hann = Float32Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / WINDOW));

/**
 * Autocorrelation and power spectrum of a frame, written into `re` and `power`; `im` is scratch.
 * @param {Float32Array} frame
 * @param {Float32Array} re
 * @param {Float32Array} im
 * @param {Float32Array} power
 */
function correlate(frame, re, im, power) {
  re.fill(0);
  im.fill(0);
  re.set(frame);
  fft.run(re, im);
  for (let i = 0; i < re.length; i++) {
    re[i] = re[i] ** 2 + im[i] ** 2;
    im[i] = 0;
  }
  power.set(re.subarray(0, WINDOW));
  fft.run(re, im); // the spectrum is symmetric, so the forward transform equals the inverse one up to the scale
}

/** The window's autocorrelation; a frame's autocorrelation is divided by it, or short periods would be favored. */
const windowCorrelation = new Float32Array(2 * WINDOW);
correlate(hann, windowCorrelation, new Float32Array(2 * WINDOW), new Float32Array(WINDOW));

/** Samples at a rate of 16 to 32 kHz or less: every `factor`-th sample after a low-pass filter. */
export function decimate(pcm, factor) {
  const out = new Float32Array(Math.floor(pcm.length / factor));
  const reach = factor > 1 ? 8 * factor : 0;
  const taps = Float32Array.from({ length: 2 * reach + 1 }, (_, i) => {
    const x = (i - reach) / factor;
    const sinc = x === 0 ? 1 : Math.sin(Math.PI * x * 0.9) / (Math.PI * x * 0.9);
    return reach ? (sinc * 0.9 * (0.54 + 0.46 * Math.cos((Math.PI * (i - reach)) / reach))) / factor : 1;
  });
  for (let n = 0; n < out.length; n++) {
    let sum = 0;
    for (let k = -reach; k <= reach; k++) sum += (pcm[n * factor + k] ?? 0) * taps[k + reach];
    out[n] = sum / 32768;
  }
  return out;
}

/**
 * Levels and pitch of a tile.
 * @param {Float32Array} samples of the tile with half a window before and after it
 * @param {number} rate
 */
export function analyze(samples, rate) {
  const levels = new Uint8Array(STEPS * ROWS);
  const pitch = new Float32Array(STEPS);
  const frame = new Float32Array(WINDOW);
  const [correlation, scratch] = [new Float32Array(2 * WINDOW), new Float32Array(2 * WINDOW)];
  const power = new Float32Array(WINDOW);
  const hz = rate / (2 * WINDOW);
  for (let step = 0; step < STEPS; step++) {
    const first = Math.round(step * HOP_S * rate);
    let energy = 0;
    for (let i = 0; i < WINDOW; i++) {
      const value = samples[first + i] ?? 0;
      energy += value * value;
      frame[i] = value * hann[i];
    }
    correlate(frame, correlation, scratch, power);
    for (let row = 0; row < ROWS; row++) {
      const [low, high] = [(row * TOP_HZ) / ROWS / hz, ((row + 1) * TOP_HZ) / ROWS / hz].map(Math.round);
      let most = 0;
      for (let bin = low; bin < Math.min(high, WINDOW); bin++) most = Math.max(most, power[bin]);
      const db = 10 * Math.log10(most / (WINDOW / 4) ** 2 + 1e-12);
      levels[row * STEPS + step] = Math.max(0, Math.min(255, (255 * (db + RANGE_DB + 20)) / RANGE_DB));
    }
    pitch[step] = Math.sqrt(energy / WINDOW) < SILENT_RMS ? 0 : peak(correlation, rate);
  }
  return { levels, pitch };
}

/** Pitch in Hz, or 0 if nothing repeats. */
function peak(correlation, rate) {
  const [shortest, longest] = [Math.floor(rate / PITCH_HZ[1]), Math.ceil(rate / PITCH_HZ[0])];
  const at = (lag) => correlation[lag] / correlation[0] / (windowCorrelation[lag] / windowCorrelation[0]);
  let [best, height] = [0, 0];
  for (let lag = shortest; lag <= longest; lag++) {
    const value = at(lag);
    // A later peak must be clearly higher: the double period has nearly the same height.
    if (value > at(lag - 1) && value >= at(lag + 1) && value > height * 1.08) [best, height] = [lag, value];
  }
  return height >= VOICED ? rate / best : 0;
}

/** Draws both lanes from tiles. */
export class Acoustics {
  /** @param {import("./audio.js").AudioMemory} memory */
  constructor(memory) {
    this.memory = memory;
    this.isBehind = false;
    this.clear();
  }

  clear() {
    /** @type {Map<number, {levels: Uint8Array, pitch: Float32Array, picture: any, color: string}>} */
    this.tiles = new Map();
    this.absent = new Set();
  }

  /** The tile at this index, computed if there is time for it in this drawing. */
  #tile(index) {
    const known = this.tiles.get(index);
    if (known) return known;
    const start = index * TILE_S;
    if (this.computed >= TILES_A_DRAW) {
      this.isBehind = true;
      return null;
    }
    const block = this.memory.blocks.findLast(({ start: first }) => first < start + TILE_S);
    if (!block) return null;
    const end = this.memory.blocks.at(-1);
    if (end.start + end.length / end.rate < start + TILE_S) return null; // not all of its audio has arrived
    const factor = Math.max(1, Math.floor(block.rate / 16_000));
    const half = (WINDOW / 2) * (factor / block.rate);
    const sound = this.memory.between(start - half, start + TILE_S + half);
    if (!sound) return null;
    this.computed++;
    const tile = { ...analyze(decimate(sound.pcm, factor), sound.rate / factor), picture: null, color: "" };
    this.tiles.set(index, tile);
    if (this.tiles.size > KEPT_TILES) this.tiles.delete(this.tiles.keys().next().value);
    return tile;
  }

  /**
   * Draw a lane.
   * @param {CanvasRenderingContext2D} brush
   * @param {string} name spectrum or pitch
   * @param {{x: number, top: number, width: number, height: number, left: number, scale: number}} area
   * @param {{ink: string, soft: string, accent: string, font: string}} style
   */
  draw(brush, name, area, style) {
    this.isBehind = false;
    this.computed = 0;
    const first = Math.max(0, Math.floor(area.left / TILE_S));
    const last = Math.ceil((area.left + area.width / area.scale) / TILE_S);
    const points = [];
    for (let index = first; index < last; index++) {
      const tile = this.#tile(index);
      const x = area.x + (index * TILE_S - area.left) * area.scale;
      const width = TILE_S * area.scale;
      if (name === "spectrum" && tile) brush.drawImage(picture(tile, style.ink), x, area.top, width + 0.5, area.height);
      if (name === "pitch") {
        for (let step = 0; step < STEPS; step++) {
          points.push([x + ((step + 0.5) / STEPS) * width, tile ? tile.pitch[step] : 0]);
        }
      }
    }
    if (name === "pitch") drawPitch(brush, points, area, style);
    else this.#ruler(brush, area, style, [[1000, "1 kHz"], [3000, "3 kHz"]], (hz) => 1 - hz / TOP_HZ);
    if (name === "pitch") this.#ruler(brush, area, style, [[100, "100 Hz"], [200, "200"], [400, "400"]], height);
  }

  #ruler(brush, area, style, marks, place) {
    brush.font = `10px ${style.font}`;
    brush.textAlign = "left";
    brush.textBaseline = "middle";
    brush.fillStyle = style.soft;
    for (const [hz, word] of marks) brush.fillText(word, area.x + 4, area.top + place(hz) * area.height);
  }
}

/** Place of a pitch within its lane, from the top: octaves are equally high. */
function height(hz) {
  return 1 - Math.log(hz / PITCH_HZ[0]) / Math.log(PITCH_HZ[1] / PITCH_HZ[0]);
}

function drawPitch(brush, points, area, style) {
  // A single voiced step is a click or a mistake.
  points = points.filter(([, hz], i) => !hz || points[i - 1]?.[1] || points[i + 1]?.[1]);
  brush.strokeStyle = style.accent;
  brush.lineWidth = 2;
  brush.beginPath();
  let before = 0;
  for (const [x, hz] of points) {
    const y = hz ? area.top + 3 + height(hz) * (area.height - 6) : 0;
    // A jump of more than a third of an octave in 20 ms is another voice or a mistake, not a glide.
    if (hz && before && Math.abs(Math.log2(hz / before)) < 0.33) brush.lineTo(x, y);
    else if (hz) {
      brush.moveTo(x - 1, y);
      brush.lineTo(x, y);
    }
    before = hz;
  }
  brush.stroke();
}

/** A tile's levels as a small picture in the ink's color. */
function picture(tile, ink) {
  if (tile.picture && tile.color === ink) return tile.picture;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [STEPS, ROWS];
  const brush = canvas.getContext("2d");
  const image = brush.createImageData(STEPS, ROWS);
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(ink.slice(i, i + 2), 16));
  for (let row = 0; row < ROWS; row++) {
    for (let step = 0; step < STEPS; step++) {
      image.data.set([r, g, b, tile.levels[row * STEPS + step]], 4 * ((ROWS - 1 - row) * STEPS + step));
    }
  }
  brush.putImageData(image, 0, 0);
  tile.picture = canvas;
  tile.color = ink;
  return canvas;
}
