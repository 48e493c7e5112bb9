// The picture of the session: sound, speech, probability ribbons and finals on one time axis.

import { percent } from "./palette.js";
import { clock } from "./session.js";

const LANES = [ // heights in CSS pixels, top to bottom
  ["sound", 64],
  ["speech", 16],
  ["so far", 116],
  ["final", 30],
];
const SPACE = 8;
const AXIS = 22;
export const HEIGHT = LANES.reduce((sum, [, height]) => sum + height + SPACE, 0) + AXIS;
const SPANS_S = [5, 10, 20, 40, 90, 180, 600];
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300];
const GUTTER = 46; // for the lanes' names
const NAME_PX = 15; // a ribbon carries its name where it is at least so thick all along it

export class Timeline {
  constructor(canvas, session, palette) {
    this.canvas = canvas;
    this.session = session;
    this.palette = palette;
    this.brush = canvas.getContext("2d");
    this.spanIndex = canvas.clientWidth < 500 ? 1 : 2;
    this.end = null; // right edge in seconds; null follows the sound
    this.selected = null;
    this.stale = true;
  }

  get span() {
    return SPANS_S[this.spanIndex];
  }

  get following() {
    return this.end === null;
  }

  /**
   * Show a longer (1) or a shorter time (-1). What is at the anchor stays where it is: a given time, else the selected
   * utterance where it can be seen, else the right edge.
   */
  zoom(step, anchor = this.#anchor()) {
    const left = this.rightEdge - this.span;
    const share = anchor === null ? 1 : (anchor - left) / this.span;
    this.spanIndex = Math.max(0, Math.min(SPANS_S.length - 1, this.spanIndex + step));
    if (anchor !== null) this.show(anchor + (1 - share) * this.span);
    this.stale = true;
  }

  /** The middle of the selected utterance, when it is in the picture. */
  #anchor() {
    const utterance = this.session.byKey.get(this.selected);
    if (!utterance) return null;
    const middle = (utterance.start + this.#endOf(utterance)) / 2;
    return this.rightEdge - this.span <= middle && middle <= this.rightEdge ? middle : null;
  }

  scroll(seconds) {
    this.show((this.end ?? this.rightEdge) + seconds);
  }

  /** Put a time at the right edge; at or past the sound's end the picture follows again. */
  show(end) {
    const clamped = Math.max(Math.min(this.span, this.session.position), end);
    this.end = clamped >= this.session.position ? null : clamped;
    this.stale = true;
  }

  follow() {
    this.end = null;
    this.stale = true;
  }

  get rightEdge() {
    return Math.max(this.span, this.end ?? this.session.position);
  }

  /** The utterance at a place of the canvas, or null. */
  at(clientX) {
    const box = this.canvas.getBoundingClientRect();
    const time = this.rightEdge - this.span + ((clientX - box.left - GUTTER) / (box.width - GUTTER)) * this.span;
    return this.session.utterances.findLast((u) => u.start <= time && time <= this.#endOf(u)) ?? null;
  }

  /** Left and right edge of an utterance in pixels of the canvas, wherever it is. */
  place(key) {
    const utterance = this.session.byKey.get(key);
    if (!utterance) return null;
    const scale = (this.canvas.clientWidth - GUTTER) / this.span;
    const left = this.rightEdge - this.span;
    return [utterance.start, this.#endOf(utterance)].map((time) => GUTTER + (time - left) * scale);
  }

  #endOf(utterance) {
    return utterance.open ? Math.max(utterance.end, this.session.position) : utterance.end;
  }

  draw() {
    if (!this.stale) return;
    this.stale = false;
    this.#fit();
    const { brush, width } = this;
    brush.clearRect(0, 0, width, HEIGHT);
    this.left = this.rightEdge - this.span;
    this.scale = (width - GUTTER) / this.span;
    const style = getComputedStyle(this.canvas);
    this.ink = style.getPropertyValue("--ink").trim();
    this.soft = style.getPropertyValue("--soft").trim();
    this.edge = style.getPropertyValue("--edge").trim();
    this.line = style.getPropertyValue("--line").trim();
    this.accent = style.getPropertyValue("--accent").trim();
    this.alarm = style.getPropertyValue("--alarm").trim();
    this.lane = style.getPropertyValue("--lane").trim();
    this.font = style.fontFamily;
    this.#grid();
    this.#names();
    brush.save();
    brush.beginPath();
    brush.rect(GUTTER, 0, width - GUTTER, HEIGHT);
    brush.clip();
    const seen = this.session.utterances.filter((u) => this.#endOf(u) > this.left && u.start < this.left + this.span);
    this.#sound(seen);
    for (const utterance of seen) {
      this.#speech(utterance);
      this.#ribbons(utterance);
      this.#final(utterance);
    }
    for (const gap of this.session.gaps) this.#gap(gap);
    for (const stream of this.session.streams.slice(1)) this.#border(stream);
    brush.restore();
  }

  /** One canvas pixel is one device pixel. */
  #fit() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    const [wide, high] = [Math.round(this.width * ratio), Math.round(HEIGHT * ratio)];
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
    for (const [lane, height] of LANES) {
      if (lane === name) return [top, height];
      top += height + SPACE;
    }
    return [top, AXIS];
  }

  #write(text, x, y, { size = 12, weight = 400, colour = this.ink, align = "left" } = {}) {
    this.brush.font = `${weight} ${size}px ${this.font}`;
    this.brush.fillStyle = colour;
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
    for (const [name] of LANES) {
      const [top, height] = this.#lane(name);
      brush.fillStyle = this.lane;
      brush.beginPath();
      brush.roundRect(GUTTER, top, this.width - GUTTER, height, 4);
      brush.fill();
    }
    const [axis] = this.#lane("axis");
    const step = STEPS_S.find((seconds) => seconds * this.scale >= 58) ?? 600;
    brush.strokeStyle = this.line;
    brush.lineWidth = 1;
    for (let time = Math.ceil(this.left / step) * step; time <= this.left + this.span; time += step) {
      const x = Math.round(this.#x(time)) + 0.5;
      brush.beginPath();
      brush.moveTo(x, 0);
      brush.lineTo(x, axis);
      brush.stroke();
      if (x > GUTTER + 10 && x < this.width - 14) {
        this.#write(clock(time, 0), x, axis + 8, { size: 11, colour: this.soft, align: "center" });
      }
    }
  }

  #sound(seen) {
    const [top, height] = this.#lane("sound");
    const { brush } = this;
    const middle = top + height / 2;
    const inside = (time) => seen.some((u) => u.start <= time && time <= this.#endOf(u));
    // Speech stands out from the rest; both are drawn in one stroke each.
    const paths = { [this.accent]: new Path2D(), [this.edge]: new Path2D() };
    const last = Math.min(this.width, this.#x(this.session.envelope.end));
    for (let x = GUTTER + 0.5; x < last; x += 2) {
      const time = this.left + (x - GUTTER) / this.scale;
      const [low, high] = this.session.envelope.between(time, time + 2 / this.scale);
      // A cube root between a half and the whole keeps quiet speech visible without lying about loud sound.
      const reach = (value) => Math.max(0.5, Math.abs(value) ** 0.6 * (height / 2 - 3));
      const path = paths[inside(time) ? this.accent : this.edge];
      path.moveTo(x, middle - reach(high));
      path.lineTo(x, middle + reach(low));
    }
    brush.lineWidth = 1.25;
    for (const [colour, path] of Object.entries(paths)) {
      brush.strokeStyle = colour;
      brush.stroke(path);
    }
  }

  #speech(utterance) {
    const [top, height] = this.#lane("speech");
    const [x1, x2] = [this.#x(utterance.start), this.#x(this.#endOf(utterance))];
    this.brush.fillStyle = this.accent;
    this.brush.globalAlpha = utterance.open ? 0.55 : 0.85;
    this.brush.beginPath();
    this.brush.roundRect(x1, top + 4, Math.max(2, x2 - x1), height - 8, 4);
    this.brush.fill();
    this.brush.globalAlpha = 1;
  }

  /** Results so far as stacked bands; what the recognizer was unsure of is faded and hatched. */
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
      xs.forEach((x, i) => shape.lineTo(x, ceiling[i]));
      xs.toReversed().forEach((x, i) => shape.lineTo(x, floor.at(-1 - i)));
      brush.fillStyle = this.palette.fill(brush, label);
      brush.fill(shape);
      brush.strokeStyle = this.lane;
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
    const end = Math.max(last.at, utterance.final ? utterance.end : Math.min(this.#endOf(utterance), last.at + 0.3));
    return [first, ...utterance.points, { ...last, at: end }];
  }

  /** The name at the place where the band is thickest, if it holds the whole word there and is sure. */
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
    if (best) this.#write(label, best.x, best.y, { weight: 600, colour: this.palette.of(label).ink, align: "center" });
  }

  #veil(points, xs, top, height) {
    const { brush } = this;
    for (let i = 1; i < points.length; i++) {
      if (!points[i].uncertain) continue;
      const width = xs[i] - xs[i - 1];
      brush.globalAlpha = 0.62;
      brush.fillStyle = this.lane;
      brush.fillRect(xs[i - 1], top, width, height);
      brush.globalAlpha = 0.55;
      brush.fillStyle = this.palette.fill(brush, null);
      brush.fillRect(xs[i - 1], top, width, height);
      brush.globalAlpha = 1;
    }
  }

  #final(utterance) {
    if (!utterance.final) return;
    const { brush } = this;
    const [top, height] = this.#lane("final");
    const x = this.#x(utterance.start) + 1;
    const width = Math.max(3, this.#x(utterance.end) - x - 1);
    const label = utterance.uncertain ? null : utterance.label;
    brush.beginPath();
    brush.roundRect(x, top, width, height, 5);
    brush.fillStyle = this.palette.fill(brush, label);
    brush.fill();
    if (this.selected === utterance.key) {
      brush.lineWidth = 2.5;
      brush.strokeStyle = this.ink;
      brush.stroke();
    }
    const ink = label ? this.palette.of(label).ink : this.ink;
    const word = label ?? "uncertain";
    const text = [`${word} ${label ? percent(utterance.confidence) : ""}`.trim(), word, word.slice(0, 3)].find(
      (words) => this.#wide(words, 12, 600) + 14 <= width,
    );
    if (!text) return;
    if (!label) { // the hatch must not run through the word
      brush.fillStyle = this.lane;
      brush.beginPath();
      brush.roundRect(x + 4, top + 5, this.#wide(text, 12, 600) + 8, height - 10, 3);
      brush.fill();
    }
    this.#write(text, x + 8, top + height / 2, { weight: 600, colour: ink });
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
      this.#write(text, (x1 + x2) / 2, this.#lane("speech")[0] + 8, { size: 11, colour: this.alarm, align: "center" });
    }
  }

  /** Where one stream stopped and another began. */
  #border(stream) {
    const x = Math.round(this.#x(stream.began)) + 0.5;
    if (x < 0 || x > this.width) return;
    this.brush.setLineDash([3, 3]);
    this.brush.strokeStyle = this.ink;
    this.brush.lineWidth = 1;
    this.brush.beginPath();
    this.brush.moveTo(x, 0);
    this.brush.lineTo(x, this.#lane("axis")[0]);
    this.brush.stroke();
    this.brush.setLineDash([]);
  }

  #names() {
    for (const [name] of LANES) {
      const [top, height] = this.#lane(name);
      this.#write(name, GUTTER - 7, top + height / 2, { size: 11, colour: this.soft, align: "right" });
    }
  }
}

/** A line through points (xs, ys), read at x. */
function between(xs, ys, x) {
  const i = Math.max(1, xs.findIndex((edge) => edge >= x));
  const share = xs[i] > xs[i - 1] ? (x - xs[i - 1]) / (xs[i] - xs[i - 1]) : 1;
  return ys[i - 1] + share * (ys[i] - ys[i - 1]);
}
