// The table of utterances: only the rows that can be seen are in the page, however long the session is.

import { $, item } from "./dom.js";
import { percent } from "./palette.js";
import { clock } from "./session.js";

const SPARE_ROWS = 6; // rows drawn above and below the visible ones, so that scrolling shows no hole
const ROW_PX = 47; // a row's assumed height until one was measured

/** The newest utterance is on top, where it is seen without scrolling. */
export class Table {
  /**
   * @param {import("./session.js").Session} session
   * @param {{select: (utterance: any) => void, hear: (utterance: any) => void, dress: (element: any, label: string | null) => void}} acts
   */
  constructor(session, acts) {
    this.session = session;
    this.acts = acts;
    /** @type {string | null} */
    this.selected = null;
    this.rowPx = ROW_PX;
    /** @type {Map<string, {row: any, stamp: string}>} rows that are in the page */
    this.drawn = new Map();
    /** @type {Record<string, any>} */
    this.spacers = {};
    this.box = $("table-box");
    this.box.addEventListener("scroll", () => this.show(), { passive: true });
    new ResizeObserver(() => this.show()).observe(this.box);
  }

  /** The utterance in a row, counted from the top. */
  #at(index) {
    return this.session.finals[this.session.finals.length - 1 - index];
  }

  /** Draw the rows that can be seen. */
  show() {
    const count = this.session.finals.length;
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.rowPx) - SPARE_ROWS);
    const most = Math.ceil((this.box.clientHeight || 600) / this.rowPx) + 2 * SPARE_ROWS;
    const last = Math.min(count, first + most);
    const wanted = [];
    if (first) wanted.push(this.#spacer("above", first));
    for (let index = first; index < last; index++) wanted.push(this.#row(this.#at(index), index));
    if (last < count) wanted.push(this.#spacer("below", count - last));
    place($("rows"), wanted);
    const kept = new Set(wanted);
    for (const [key, { row }] of this.drawn) if (!kept.has(row)) this.drawn.delete(key);
    $("utterances").setAttribute("aria-rowcount", String(count + 1));
    const shown = wanted.filter((row) => row.dataset.key);
    if (shown.length) this.rowPx = shown.reduce((sum, row) => sum + row.offsetHeight, 0) / shown.length;
  }

  /** Room for the rows that are not drawn. */
  #spacer(side, rows) {
    this.spacers[side] ??= item("tr", { className: "spacer", ariaHidden: "true" }, item("td", { colSpan: 7 }));
    this.spacers[side].firstChild.style.height = `${rows * this.rowPx}px`;
    return this.spacers[side];
  }

  /** @param {import("./session.js").Utterance} utterance */
  #row(utterance, index) {
    // A row is made again only when something in it has changed, so that the focus stays where it is.
    const { second, correction } = utterance;
    const stamp = JSON.stringify([utterance.label, utterance.confidence, second?.seq, second?.final, correction, utterance.end]);
    let known = this.drawn.get(utterance.key);
    if (known?.stamp !== stamp) {
      known = { row: this.#make(utterance), stamp };
      this.drawn.set(utterance.key, known);
    }
    known.row.ariaRowIndex = String(index + 2);
    known.row.classList.toggle("selected", utterance.key === this.selected);
    return known.row;
  }

  #make(utterance) {
    const time = clock(utterance.start);
    const row = item("tr", { className: utterance.uncertain ? "unsure" : "" });
    Object.assign(row.dataset, { key: utterance.key, label: utterance.label, final: "true" });
    const go = item("button", { type: "button", className: "go", ariaLabel: `${time}, select` }, time);
    go.addEventListener("click", () => this.acts.select(utterance));
    const hear = item("button", { type: "button", className: "hear quiet", ariaLabel: `Play the utterance at ${time}`, title: "Play utterance" }, "▶");
    hear.addEventListener("click", () => this.acts.hear(utterance));
    const scores = Object.entries(utterance.scores).sort((a, b) => b[1] - a[1]).slice(0, 3);
    row.append(
      item("td", { className: "when" }, hear, go),
      item("td", {}, this.#word(utterance)),
      item("td", {}, meter(utterance.confidence)),
      item("td", { className: "second" }, this.#second(utterance.second)),
      item("td", { className: "wide scores" }, scores.map(([label, share]) => `${label} ${percent(share)}`).join(", ")),
      item("td", { className: "wide number" }, `${(utterance.end - utterance.start).toFixed(1)} s`),
      item("td", { className: "correction" }, describe(utterance)),
    );
    row.addEventListener("click", ({ target }) => target.closest("button") || this.acts.select(utterance));
    return row;
  }

  #word(utterance) {
    const mark = item("span", { className: "swatch", ariaHidden: "true" });
    this.acts.dress(mark, utterance.uncertain ? null : utterance.label);
    const word = item("span", { className: "emotion" }, mark);
    if (utterance.uncertain) word.append(item("span", {}, "uncertain ", item("small", {}, `likeliest ${utterance.label}`)));
    else word.append(utterance.label);
    return word;
  }

  #second(event) {
    if (!event) return "";
    return event.uncertain ? "uncertain" : `${event.label} ${percent(event.confidence)}`;
  }

  /** Scroll to a row. */
  reveal(utterance) {
    const index = this.session.finals.length - 1 - this.session.finals.indexOf(utterance);
    const top = index * this.rowPx;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + 2 * this.rowPx > scrollTop + clientHeight) this.box.scrollTop = top + 2 * this.rowPx - clientHeight;
  }
}

/** Give an element these children without moving those that stay, since a moved element loses the focus. */
function place(parent, wanted) {
  const kept = new Set(wanted);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  let next = parent.firstChild;
  for (const child of wanted) {
    if (child === next) next = next.nextSibling;
    else parent.insertBefore(child, next);
  }
}

function meter(confidence) {
  const fill = item("b", {});
  fill.style.width = `${100 * confidence}%`;
  return item("span", { className: "meter" }, item("i", { ariaHidden: "true" }, fill), percent(confidence));
}

/** The user's verdict on an utterance, in a few words. */
export function describe({ correction, label }) {
  if (!correction) return "";
  if (correction.verdict === "wrong") return "wrong";
  if (correction.verdict === "unsure") return "not sure";
  return correction.label === label ? "confirmed" : `corrected to ${correction.label}`;
}
