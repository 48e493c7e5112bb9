// The part of the session that the timeline shows: scrolling, zooming, and the utterance under the pointer.

import { Acoustics } from "./acoustics.js";
import { GUTTER, Painter } from "./drawing.js";
import { Palette } from "./palette.js";

const SHORTEST_S = 1;
const LONGEST_S = 1800;

/** The picture of a session. */
export class Timeline {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./session.js").Session} session
   * @param {import("./audio.js").AudioMemory} memory
   */
  constructor(canvas, session, memory) {
    this.canvas = canvas;
    this.session = session;
    this.palette = new Palette({});
    this.acoustics = new Acoustics(memory);
    this.painter = new Painter(this);
    this.span = canvas.clientWidth < 500 ? 10 : 20;
    /** @type {number | null} right edge in seconds; null follows the audio */
    this.end = null;
    /** @type {string | null} */
    this.selected = null;
    /** @type {number | null} session time that is playing */
    this.cursor = null;
    this.stale = true;
  }

  get following() {
    return this.end === null;
  }

  get rightEdge() {
    return Math.max(this.span, this.end ?? this.session.position);
  }

  get left() {
    return this.rightEdge - this.span;
  }

  /** Choose the lanes: spectrogram, pitch, the second checkpoint. */
  arrange(options) {
    this.painter.arrange(options);
    this.stale = true;
  }

  /**
   * Zoom: show a part that is `factor` times as long. The anchor keeps its place on the screen: the given time, else
   * the selected utterance if it is visible, else the right edge.
   * @param {number} factor
   * @param {number | null} [anchor]
   */
  zoom(factor, anchor = this.#anchor()) {
    const selected = anchor !== null && anchor === this.#anchor() ? this.session.byKey.get(this.selected ?? "") : null;
    const share = anchor === null ? 1 : (anchor - this.left) / this.span;
    this.span = Math.max(SHORTEST_S, Math.min(LONGEST_S, this.span * factor));
    // The picture may extend past the audio's end: otherwise the anchor could not keep its place in a short session.
    if (anchor !== null) this.end = Math.max(this.span, anchor + (1 - share) * this.span);
    if (selected && this.end !== null) {
      const [start, end] = [selected.start, this.session.endOf(selected)];
      const margin = Math.max(0, this.span - (end - start)) / 20;
      this.end = Math.max(end + margin, Math.min(this.end, start - margin + this.span));
    }
    this.stale = true;
  }

  /** The middle of the selected utterance, when it is in the picture. */
  #anchor() {
    const utterance = this.session.byKey.get(this.selected ?? "");
    if (!utterance) return null;
    const middle = (utterance.start + this.session.endOf(utterance)) / 2;
    return this.left <= middle && middle <= this.rightEdge ? middle : null;
  }

  /** Fill the picture with a part of the session. */
  zoomTo(start, end) {
    this.span = Math.max(SHORTEST_S, Math.min(LONGEST_S, 1.25 * (end - start)));
    this.show((start + end + this.span) / 2);
  }

  scroll(seconds) {
    this.show(this.rightEdge + seconds);
  }

  /** Put a time at the right edge; at or past the audio's end the picture follows again. */
  show(end) {
    const clamped = Math.max(Math.min(this.span, this.session.position), end);
    this.end = clamped >= this.session.position ? null : clamped;
    this.stale = true;
  }

  /** Scroll only as far as needed to see a part. */
  reveal(start, end) {
    if (start >= this.left && end <= this.rightEdge) return;
    this.show(Math.max(end + this.span / 4, this.span));
  }

  follow() {
    this.end = null;
    this.stale = true;
  }

  /** Session time at a place of the screen. */
  timeAt(clientX) {
    const box = this.canvas.getBoundingClientRect();
    return this.left + ((clientX - box.left - GUTTER) / (box.width - GUTTER)) * this.span;
  }

  /** The utterance at a place of the screen, or null. */
  at(clientX) {
    const time = this.timeAt(clientX);
    return this.session.between(time, time + 1e-6).at(-1) ?? null;
  }

  /** Left and right edge of an utterance in pixels of the canvas, wherever it is. */
  place(key) {
    const utterance = this.session.byKey.get(key);
    if (!utterance) return null;
    const scale = (this.canvas.clientWidth - GUTTER) / this.span;
    return [utterance.start, this.session.endOf(utterance)].map((time) => GUTTER + (time - this.left) * scale);
  }

  /** Draw, when something has changed. */
  draw() {
    if (!this.stale && !this.acoustics.isBehind) return;
    this.stale = false;
    this.painter.paint();
  }
}
