// The selected utterance: play it, and confirm or correct its label.

import { $, item, setText } from "./dom.js";
import { percent } from "./palette.js";
import { clock } from "./session.js";
import { describe } from "./table.js";

/** The panel below the timeline. */
export class Detail {
  /**
   * @param {import("./session.js").Session} session
   * @param {import("./player.js").Player} player
   * @param {import("./audio.js").AudioMemory} memory
   * @param {{changed: (utterance: any) => void, announce: (text: string) => void, select: (utterance: any) => void}} acts
   */
  constructor(session, player, memory, acts) {
    this.session = session;
    this.player = player;
    this.memory = memory;
    this.acts = acts;
    /** @type {import("./palette.js").Palette | null} */
    this.palette = null;
    /** @type {import("./session.js").Utterance | null} */
    this.utterance = null;
    $("hear").addEventListener("click", () => this.hear());
    $("loop").addEventListener("click", () => this.loop());
    $("say-wrong").addEventListener("click", () => this.correct("wrong"));
    $("say-unsure").addEventListener("click", () => this.correct("unsure"));
    $("say-nothing").addEventListener("click", () => this.correct(null));
    $("previous").addEventListener("click", () => this.step(-1));
    $("next").addEventListener("click", () => this.step(1));
    $("note").addEventListener("change", () => this.#write());
  }

  /** @param {import("./palette.js").Palette} palette */
  usePalette(palette) {
    this.palette = palette;
    $("say").replaceChildren(...palette.labels.map((label, i) => {
      const mark = item("span", { className: "swatch", ariaHidden: "true" });
      palette.dress(mark, label);
      const key = i < 9 ? item("kbd", { ariaHidden: "true" }, String(i + 1)) : "";
      const button = item("button", { type: "button", className: "label" }, mark, item("span", {}, label), key);
      button.dataset.label = label;
      if (i < 9) button.setAttribute("aria-keyshortcuts", String(i + 1));
      button.addEventListener("click", () => this.correct("label", label));
      return button;
    }));
    this.show();
  }

  /** The utterance that keys act on: the selected one, else the last. */
  get target() {
    return this.utterance ?? this.session.finals.at(-1) ?? null;
  }

  /** @param {import("./session.js").Utterance | null} utterance */
  set(utterance) {
    this.utterance = utterance;
    this.show();
  }

  show() {
    const { utterance } = this;
    $("detail").hidden = !utterance;
    if (!utterance) return;
    const isSure = !utterance.uncertain;
    setText("detail-what", `${clock(utterance.start)} to ${clock(utterance.end)}: ` +
      (isSure ? `${utterance.label}, ${percent(utterance.confidence)}` : `uncertain, likeliest ${utterance.label}`));
    const { correction } = utterance;
    for (const button of $("say").children) {
      button.setAttribute("aria-pressed", String(correction?.verdict === "label" && correction.label === button.dataset.label));
    }
    $("say-wrong").setAttribute("aria-pressed", String(correction?.verdict === "wrong"));
    $("say-unsure").setAttribute("aria-pressed", String(correction?.verdict === "unsure"));
    $("say-nothing").disabled = !correction;
    $("note").disabled = !correction;
    $("note").value = correction?.note ?? "";
    $("note").placeholder = correction ? "" : "choose a label first";
    const at = this.session.finals.indexOf(utterance);
    $("previous").disabled = at <= 0;
    $("next").disabled = at < 0 || at === this.session.finals.length - 1;
    this.showPlaying();
  }

  showPlaying() {
    const { utterance, player } = this;
    if (!utterance) return;
    const isPlaying = player.isPlaying && player.part.key === utterance.key;
    setText("hear", isPlaying ? "Stop" : "Play utterance");
    $("loop").setAttribute("aria-pressed", String(player.isLooping));
    const isThere = this.memory.between(utterance.start, utterance.end) !== null;
    $("hear").disabled = !isThere;
    setText("detail-note", isThere ? "" : "Its audio is not in this page’s memory.");
  }

  hear(utterance = this.target) {
    if (!utterance) return;
    if (this.player.isPlaying && this.player.part.key === utterance.key) this.player.stop();
    else if (!this.player.play(utterance.start, utterance.end, utterance.key)) {
      this.acts.announce(`The audio of the utterance at ${clock(utterance.start)} is not in this page’s memory.`);
    }
  }

  loop() {
    this.player.loop(!this.player.isLooping);
    this.showPlaying();
  }

  /** Confirm or correct the label of the selected (else the last) utterance; null takes the correction back. */
  correct(verdict, label = null) {
    const utterance = this.target;
    if (!utterance) return;
    const note = utterance.correction?.note ?? "";
    utterance.correction = verdict ? { verdict, label, note } : null;
    this.acts.changed(utterance);
    this.acts.announce(`Utterance at ${clock(utterance.start, 0)}: ${describe(utterance) || "correction removed"}`);
    this.show();
  }

  #write() {
    const { utterance } = this;
    if (!utterance?.correction) return;
    utterance.correction.note = $("note").value.trim();
    this.acts.changed(utterance);
  }

  /** Select the utterance before or after this one. */
  step(by) {
    const { finals } = this.session;
    const at = this.utterance ? finals.indexOf(this.utterance) : finals.length - (by > 0 ? 1 : 0);
    const next = finals[at + by] ?? (this.utterance ? null : finals.at(-1));
    if (next) this.acts.select(next);
  }
}
