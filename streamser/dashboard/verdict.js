// The panel "Now": the latest or the selected result in one word, and the probability of each emotion.

import { $, item, setText } from "./dom.js";
import { percent } from "./palette.js";
import { clock } from "./session.js";

/** Shows one utterance; `show` is called ten times a second, no faster than an eye can read. */
export class Verdict {
  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.session = session;
    /** @type {import("./session.js").Utterance | null} */
    this.utterance = null;
    this.isStale = true;
    /** @type {import("./palette.js").Palette | null} */
    this.palette = null;
    /** @type {string | null} the second checkpoint */
    this.secondName = null;
  }

  /** @param {import("./session.js").Utterance | null} utterance */
  set(utterance) {
    this.utterance = utterance;
    this.isStale = true;
  }

  /** Bars for these labels. */
  usePalette(palette) {
    this.palette = palette;
    $("bars").replaceChildren(...palette.labels.map((label) => {
      const fill = item("span", { className: "fill" });
      palette.dress(fill, label);
      const track = item("span", { className: "track" }, fill);
      const row = item("li", {}, item("span", {}, label), track, item("span", { className: "share" }, "–"));
      row.dataset.label = label;
      return row;
    }));
    this.isStale = true;
  }

  show() {
    if (!this.isStale || !this.palette) return;
    this.isStale = false;
    const { utterance } = this;
    const isSure = Boolean(utterance) && !utterance.uncertain;
    $("verdict").dataset.kind = !utterance ? "none" : utterance.final ? "final" : "partial";
    $("verdict").dataset.sure = isSure;
    $("bars").dataset.sure = isSure;
    this.palette.dress($("verdict-swatch"), isSure ? utterance.label : null);
    setText("verdict-word", !utterance ? "–" : isSure ? utterance.label : "uncertain");
    setText("verdict-note", this.#note());
    setText("verdict-second", this.#second());
    for (const row of $("bars").children) {
      const share = utterance?.scores?.[row.dataset.label] ?? 0;
      row.querySelector(".fill").style.width = `${100 * share}%`;
      row.querySelector(".share").textContent = utterance ? percent(share) : "–";
    }
  }

  #note() {
    const { utterance } = this;
    if (!utterance) return "Nothing recognized yet.";
    const when = this.#when(utterance);
    return utterance.uncertain ? `confidence too low, ${when}` : `${percent(utterance.confidence)} confident, ${when}`;
  }

  /** The part of the session to which the result belongs, in words. */
  #when(utterance) {
    if (!utterance.final) return "so far";
    return utterance === this.session.finals.at(-1) ? "last utterance" : `utterance at ${clock(utterance.start)}`;
  }

  /** The second checkpoint's result for the same utterance. */
  #second() {
    const event = this.utterance?.second;
    if (!event) return "";
    const word = event.uncertain ? "uncertain" : `${event.label}, ${percent(event.confidence)}`;
    return `${this.secondName}: ${word}${event.final ? "" : ", so far"}`;
  }
}
