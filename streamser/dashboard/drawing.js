// Paints the timeline: audio, speech, probability ribbons and finals on one time axis.

import { percent } from "./palette.js";
import { clock } from "./session.js";

const SPACE = 8;
const AXIS = 22;
const STEPS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
export const GUTTER = 58; // width of the column with the lanes' names
const NAME_PX = 15; // a ribbon shows its name where it is at least this thick over the whole width of the name

/**
 * Lanes from top to bottom with their heights in CSS pixels.
 * @param {{spectrum: boolean, pitch: boolean, second: boolean}} options
 * @returns {[string, number][]}
 */
function lanesFor({ spectrum, pitch, second }) {
  return [
    ["audio", 64],
    ...(spectrum ? [/** @type {[string, number]} */ (["spectrum", 96])] : []),
    ...(pitch ? [/** @type {[string, number]} */ (["pitch", 64])] : []),
    ["speech", 16],
    ["so far", 116],
    ["final", 30],
    ...(second ? [/** @type {[string, number]} */ (["second", 26])] : []),
  ];
}

/** Paints a Timeline. */
export class Painter {
  /** @param {import("./timeline.js").Timeline} view */
  constructor(view) {
    this.view = view;
    this.canvas = view.canvas;
    this.brush = /** @type {CanvasRenderingContext2D} */ (view.canvas.getContext("2d"));
    this.arrange({ spectrum: false, pitch: false, second: false });
  }

  /** Choose the lanes. */
  arrange(options) {
    this.lanes = lanesFor(options);
    this.height = this.lanes.reduce((sum, [, height]) => sum + height + SPACE, 0) + AXIS;
    this.canvas.style.height = `${this.height}px`;
  }

  paint() {
    const { view } = this;
    this.session = view.session;
    this.palette = view.palette;
    this.span = view.span;
    this.#fit();
    const { brush, width } = this;
    brush.clearRect(0, 0, width, this.height);
    this.left = view.left;
    this.scale = (width - GUTTER) / this.span;
    this.#readStyle();
    this.#grid();
    this.#names();
    brush.save();
    brush.beginPath();
    brush.rect(GUTTER, 0, width - GUTTER, this.height);
    brush.clip();
    const seen = this.session.between(this.left, this.left + this.span);
    this.#sound(seen);
    for (const [name, height] of this.lanes) {
      const [top] = this.#lane(name);
      if (name === "spectrum" || name === "pitch") {
        const area = { x: GUTTER, top, width: width - GUTTER, height, left: this.left, scale: this.scale };
        view.acoustics.draw(brush, name, area, { ink: this.ink, soft: this.soft, accent: this.accent, font: this.font });
      }
    }
    for (const utterance of seen) {
      this.#speech(utterance);
      this.#ribbons(utterance);
      this.#final(utterance);
      this.#second(utterance);
    }
    for (const gap of this.session.gaps) this.#gap(gap);
    for (const stream of this.session.streams.slice(1)) this.#line(stream.began, this.ink, [3, 3]);
    if (view.cursor !== null) this.#line(view.cursor, this.alarm, []);
    brush.restore();
  }

  #readStyle() {
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(name).trim();
    this.ink = color("--ink");
    this.soft = color("--soft");
    this.edge = color("--edge");
    this.rule = color("--line");
    this.accent = color("--accent");
    this.alarm = color("--alarm");
    this.ground = color("--lane");
    this.font = style.fontFamily;
  }
  /** One canvas pixel is one device pixel. */
  #fit() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    const [wide, high] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
    }
    this.brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  #x(time) {
    return GUTTER + (time - this.left) * this.scale;
  }

  /** Top and height of a lane. */
  #lane(name) {
    let top = 0;
    for (const [lane, height] of this.lanes) {
      if (lane === name) return [top, height];
      top += height + SPACE;
    }
    return [top, AXIS];
  }

  /**
   * @param {string} text
   * @param {number} x
   * @param {number} y
   * @param {{size?: number, weight?: number, color?: string, align?: CanvasTextAlign}} [look]
   */
  #write(text, x, y, { size = 12, weight = 400, color = this.ink, align = "left" } = {}) {
    this.brush.font = `${weight} ${size}px ${this.font}`;
    this.brush.fillStyle = color;
    this.brush.textAlign = align;
    this.brush.textBaseline = "middle";
    this.brush.fillText(text, x, y);
  }

  #wide(text, size = 12, weight = 400) {
    this.brush.font = `${weight} ${size}px ${this.font}`;
    return this.brush.measureText(text).width;
  }

  #grid() {
    const { brush } = this;
    for (const [name] of this.lanes) {
      const [top, height] = this.#lane(name);
      brush.fillStyle = this.ground;
      brush.beginPath();
      brush.roundRect(GUTTER, top, this.width - GUTTER, height, 4);
      brush.fill();
    }
    const [axis] = this.#lane("axis");
    const step = STEPS_S.find((seconds) => seconds * this.scale >= 58) ?? 600;
    brush.strokeStyle = this.rule;
    brush.lineWidth = 1;
    for (let time = Math.ceil(this.left / step) * step; time <= this.left + this.span; time += step) {
      const x = Math.round(this.#x(time)) + 0.5;
      brush.beginPath();
      brush.moveTo(x, 0);
      brush.lineTo(x, axis);
      brush.stroke();
      if (x > GUTTER + 10 && x < this.width - 14) {
        this.#write(clock(time, 0), x, axis + 8, { size: 11, color: this.soft, align: "center" });
      }
    }
  }

  #sound(seen) {
    const [top, height] = this.#lane("audio");
    const { brush } = this;
    const middle = top + height / 2;
    // Speech stands out from the rest; each is drawn in one stroke.
    const paths = { [this.accent]: new Path2D(), [this.edge]: new Path2D() };
    const last = Math.min(this.width, this.#x(this.session.envelope.end));
    let next = 0; // the utterance that this column may lie in
    for (let x = GUTTER + 0.5; x < last; x += 2) {
      const time = this.left + (x - GUTTER) / this.scale;
      while (next < seen.length && this.session.endOf(seen[next]) < time) next++;
      const inside = next < seen.length && seen[next].start <= time;
      const [low, high] = this.session.envelope.between(time, time + 2 / this.scale);
      // An exponent of 0.6 keeps quiet speech visible and loud audio in proportion.
      const reach = (value) => Math.max(0.5, Math.abs(value) ** 0.6 * (height / 2 - 3));
      const path = paths[inside ? this.accent : this.edge];
      path.moveTo(x, middle - reach(high));
      path.lineTo(x, middle + reach(low));
    }
    brush.lineWidth = 1.25;
    for (const [color, path] of Object.entries(paths)) {
      brush.strokeStyle = color;
      brush.stroke(path);
    }
  }

  #speech(utterance) {
    const [top, height] = this.#lane("speech");
    const [x1, x2] = [this.#x(utterance.start), this.#x(this.session.endOf(utterance))];
    this.brush.fillStyle = this.accent;
    this.brush.globalAlpha = utterance.open ? 0.55 : 0.85;
    this.brush.beginPath();
    this.brush.roundRect(x1, top + 4, Math.max(2, x2 - x1), height - 8, 4);
    this.brush.fill();
    this.brush.globalAlpha = 1;
  }

  /** Results so far as stacked bands; uncertain parts are faded and hatched. */
  #ribbons(utterance) {
    const points = this.#points(utterance);
    if (!points.length) return;
    const { brush } = this;
    const [top, height] = this.#lane("so far");
    const xs = points.map((point) => this.#x(point.at));
    const bands = [];
    let floor = points.map(() => top + height);
    for (const label of this.palette.labels) {
      const ceiling = points.map((point, i) => floor[i] - (point.scores[label] ?? 0) * height);
      const shape = new Path2D();
      for (const [i, x] of xs.entries()) shape.lineTo(x, ceiling[i]);
      for (const [i, x] of xs.toReversed().entries()) shape.lineTo(x, floor.at(-1 - i));
      brush.fillStyle = this.palette.fill(brush, label);
      brush.fill(shape);
      brush.strokeStyle = this.ground;
      brush.lineWidth = 1;
      brush.stroke(shape);
      bands.push({ label, floor, ceiling });
      floor = ceiling;
    }
    this.#veil(points, xs, top, height);
    for (const band of bands) this.#nameBand(band, points, xs);
  }

  #points(utterance) {
    if (!utterance.points.length) return [];
    const first = { ...utterance.points[0], at: utterance.start };
    const last = utterance.points.at(-1);
    const end = Math.max(last.at, utterance.final ? utterance.end : Math.min(this.session.endOf(utterance), last.at + 0.3));
    return [first, ...utterance.points, { ...last, at: end }];
  }

  /** The name where the band is thickest, if the whole word fits there and the result is not uncertain. */
  #nameBand({ label, floor, ceiling }, points, xs) {
    const half = this.#wide(label, 12, 600) / 2 + 5;
    let best = null;
    for (let x = xs[0] + half; x <= xs.at(-1) - half; x += 6) {
      const high = Math.max(...[x - half, x, x + half].map((at) => between(xs, ceiling, at)));
      const low = Math.min(...[x - half, x, x + half].map((at) => between(xs, floor, at)));
      const unsure = points.some((point, i) => i && point.uncertain && xs[i] > x - half && xs[i - 1] < x + half);
      if (!unsure && low - high >= NAME_PX && (!best || low - high > best.room + 1)) {
        best = { x, y: (low + high) / 2, room: low - high };
      }
    }
    if (best) this.#write(label, best.x, best.y, { weight: 600, color: this.palette.of(label).ink, align: "center" });
  }

  #veil(points, xs, top, height) {
    const { brush } = this;
    for (let i = 1; i < points.length; i++) {
      if (!points[i].uncertain) continue;
      const width = xs[i] - xs[i - 1];
      brush.globalAlpha = 0.62;
      brush.fillStyle = this.ground;
      brush.fillRect(xs[i - 1], top, width, height);
      brush.globalAlpha = 0.55;
      brush.fillStyle = this.palette.fill(brush, null);
      brush.fillRect(xs[i - 1], top, width, height);
      brush.globalAlpha = 1;
    }
  }

  #final(utterance) {
    if (!utterance.final) return;
    this.#bar("final", utterance.start, utterance.end, utterance, this.view.selected === utterance.key);
    if (utterance.correction) this.#mark(utterance);
  }

  /** The second checkpoint's final. */
  #second(utterance) {
    if (!utterance.second?.final || !this.lanes.some(([name]) => name === "second")) return;
    this.#bar("second", utterance.start, utterance.end, utterance.second, false);
  }

  #bar(lane, start, end, { label: likeliest, uncertain, confidence }, isSelected) {
    const { brush } = this;
    const [top, height] = this.#lane(lane);
    const x = this.#x(start) + 1;
    const width = Math.max(3, this.#x(end) - x - 1);
    const label = uncertain ? null : likeliest;
    brush.beginPath();
    brush.roundRect(x, top, width, height, 5);
    brush.fillStyle = this.palette.fill(brush, label);
    brush.fill();
    if (isSelected) {
      brush.lineWidth = 2.5;
      brush.strokeStyle = this.ink;
      brush.stroke();
    }
    const word = label ?? "uncertain";
    const text = [`${word} ${label ? percent(confidence) : ""}`.trim(), word, word.slice(0, 3)].find(
      (words) => this.#wide(words, 12, 600) + 14 <= width,
    );
    if (!text) return;
    if (!label) { // the hatch must not run through the word
      brush.fillStyle = this.ground;
      brush.beginPath();
      brush.roundRect(x + 4, top + 5, this.#wide(text, 12, 600) + 8, height - 10, 3);
      brush.fill();
    }
    this.#write(text, x + 8, top + height / 2, { weight: 600, color: label ? this.palette.of(label).ink : this.ink });
  }

  /** A corrected utterance has a mark in its right label's color above its bar; the table has the word. */
  #mark(utterance) {
    const [top] = this.#lane("final");
    const { correction } = utterance;
    const x = this.#x(utterance.start) + 1;
    this.brush.fillStyle = correction.verdict === "label" ? this.palette.fill(this.brush, correction.label) : this.alarm;
    this.brush.fillRect(x, top - SPACE + 2, Math.max(3, this.#x(utterance.end) - x - 1), 4);
  }

  #gap(gap) {
    if (gap.end < this.left || gap.start > this.left + this.span) return;
    const [x1, x2] = [this.#x(gap.start), Math.max(this.#x(gap.start) + 3, this.#x(gap.end))];
    const [axis] = this.#lane("axis");
    this.brush.globalAlpha = 0.28;
    this.brush.fillStyle = this.alarm;
    this.brush.fillRect(x1, 0, x2 - x1, axis - SPACE);
    this.brush.globalAlpha = 1;
    const lost = gap.end - gap.start;
    const text = lost < 1 ? `lost ${Math.round(1000 * lost)} ms` : `lost ${lost.toFixed(1)} s`;
    if (x2 - x1 > this.#wide(text, 11)) {
      this.#write(text, (x1 + x2) / 2, this.#lane("speech")[0] + 8, { size: 11, color: this.alarm, align: "center" });
    }
  }

  /** A line through all lanes, where another stream began or where audio is playing. */
  #line(time, color, dash) {
    const x = Math.round(this.#x(time)) + 0.5;
    if (x < 0 || x > this.width) return;
    this.brush.setLineDash(dash);
    this.brush.strokeStyle = color;
    this.brush.lineWidth = dash.length ? 1 : 2;
    this.brush.beginPath();
    this.brush.moveTo(x, 0);
    this.brush.lineTo(x, this.#lane("axis")[0]);
    this.brush.stroke();
    this.brush.setLineDash([]);
  }

  #names() {
    for (const [name] of this.lanes) {
      const [top, height] = this.#lane(name);
      this.#write(name, GUTTER - 7, top + height / 2, { size: 11, color: this.soft, align: "right" });
    }
  }
}

/** The value at x of the line through the points (xs, ys). */
function between(xs, ys, x) {
  const i = Math.max(1, xs.findIndex((edge) => edge >= x));
  const share = xs[i] > xs[i - 1] ? (x - xs[i - 1]) / (xs[i] - xs[i - 1]) : 1;
  return ys[i - 1] + share * (ys[i] - ys[i - 1]);
}
