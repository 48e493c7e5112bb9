// The results since the page was opened or cleared; nothing here changes the page.

const BUCKET_S = 0.02; // one step of the waveform's envelope
const MAX_PARTIALS = 20000; // about an hour and a half of unbroken speech; finals are never forgotten

/** Lowest and highest sample of each 20 ms, growing as the session does. */
export class Envelope {
  constructor() {
    this.low = new Float32Array(4096);
    this.high = new Float32Array(4096);
    this.length = 0;
  }

  get end() {
    return this.length * BUCKET_S;
  }

  #reach(length) {
    while (this.low.length < length) {
      for (const side of ["low", "high"]) {
        const larger = new Float32Array(2 * this[side].length);
        larger.set(this[side]);
        this[side] = larger;
      }
    }
    this.length = Math.max(this.length, length);
  }

  /** The audio from `start` to `end` (seconds) lay between `low` and `high`. */
  add(start, end, low, high) {
    const first = Math.max(0, Math.round(start / BUCKET_S));
    const last = Math.max(first + 1, Math.round(end / BUCKET_S));
    this.#reach(last);
    for (let i = first; i < last; i++) {
      this.low[i] = Math.min(this.low[i], low);
      this.high[i] = Math.max(this.high[i], high);
    }
  }

  /** Extremes between two times. */
  between(start, end) {
    const first = Math.max(0, Math.floor(start / BUCKET_S));
    const last = Math.min(this.length, Math.max(first + 1, Math.ceil(end / BUCKET_S)));
    let low = 0;
    let high = 0;
    for (let i = first; i < last; i++) {
      if (this.low[i] < low) low = this.low[i];
      if (this.high[i] > high) high = this.high[i];
    }
    return [low, high];
  }
}

/**
 * The user's verdict on an utterance.
 * @typedef {object} Correction
 * @property {"label" | "wrong" | "unsure"} verdict
 * @property {string | null} label the right label, for the verdict "label"
 * @property {string} note
 */

/**
 * One utterance; times are session seconds.
 * @typedef {object} Utterance
 * @property {string} key unique in this session
 * @property {string} stream
 * @property {number} number of the utterance in its stream
 * @property {number} start
 * @property {number} end
 * @property {number} offset session time at which its stream's clock was 0
 * @property {boolean} open speech continues
 * @property {boolean} final
 * @property {{at: number, scores: Record<string, number>, uncertain: boolean}[]} points partial results
 * @property {string | null} label the likeliest label, also when uncertain
 * @property {Record<string, number> | null} scores
 * @property {number} confidence
 * @property {boolean} uncertain
 * @property {boolean} continues
 * @property {any} event the final event
 * @property {any} second the latest event of the second checkpoint
 * @property {Correction | null} correction
 * @property {string} exported the correction as it was last exported, in JSON
 */

/** All streams of this visit on one clock; each stream begins at the session's current time. */
export class Session {
  constructor() {
    this.clear();
  }

  clear() {
    this.envelope = new Envelope();
    /** @type {Utterance[]} in order of their start */
    this.utterances = [];
    /** @type {Utterance[]} those with a final result, in order of arrival */
    this.finals = [];
    this.gaps = [];
    this.streams = []; // {name, offset, began}
    this.events = [];
    this.position = 0; // seconds of the session so far
    this.partials = 0;
    this.secondOffset = 0;
    /** @type {Map<string, Utterance>} */
    this.byKey = new Map();
  }

  /** A new stream begins now; `joined` is its own clock at this moment. */
  begin(name, joined = 0) {
    this.streams.push({ name, offset: this.position - joined, began: this.position });
  }

  /** The second checkpoint's stream begins now. */
  beginSecond() {
    this.secondOffset = this.position;
  }

  get offset() {
    return this.streams.at(-1)?.offset ?? 0;
  }

  /** The stream has reached this time of its own clock. */
  reach(streamSeconds) {
    this.position = Math.max(this.position, this.offset + streamSeconds);
  }

  /** Take an event of the running stream; returns the utterance that it is about, or null. */
  take(event) {
    this.#keep(event);
    const offset = this.offset;
    if (event.type === "gap") {
      this.gaps.push({ start: offset + event.start_s, end: offset + event.end_s, reason: event.reason });
      return null;
    }
    if (event.utterance === undefined) return null;
    const utterance = this.#utterance(event, offset);
    if (event.type === "emotion") {
      const { label, scores, confidence, uncertain, final } = event;
      if (!final) utterance.points.push({ at: offset + event.end_s, scores, uncertain });
      Object.assign(utterance, { label, scores, confidence, uncertain, end: offset + event.end_s });
      if (final && !utterance.final) this.finals.push(utterance);
      if (final) Object.assign(utterance, { final, event });
    } else if (event.type === "speech_ended") {
      Object.assign(utterance, { end: offset + event.end_s, open: false });
    }
    return utterance;
  }

  /** Take an event of the second checkpoint; returns the utterance that it overlaps most, or null. */
  takeSecond(event) {
    if (event.type !== "emotion") return null;
    const [start, end] = [this.secondOffset + event.start_s, this.secondOffset + event.end_s];
    let [best, most] = [null, 0];
    for (const utterance of this.utterances.slice(-20)) {
      const shared = Math.min(end, Math.max(utterance.end, utterance.open ? end : 0)) - Math.max(start, utterance.start);
      if (shared > most) [best, most] = [utterance, shared];
    }
    if (best && (event.final || !best.second?.final)) best.second = event;
    return best;
  }

  #utterance(event, offset) {
    const key = `${this.streams.length}:${event.utterance}`;
    let utterance = this.byKey.get(key);
    if (!utterance) {
      const start = offset + event.start_s;
      utterance = {
        key, stream: event.stream, number: event.utterance, start, end: start, offset,
        open: true, final: false, points: [], label: null, scores: null, confidence: 0, uncertain: false,
        continues: Boolean(event.continues), event: null, second: null, correction: null, exported: "",
      };
      this.byKey.set(key, utterance);
      this.utterances.push(utterance);
    }
    return utterance;
  }

  #keep(event) {
    this.events.push({ event, offset: this.offset });
    if (event.type === "emotion" && !event.final && ++this.partials > MAX_PARTIALS) this.#forgetPartials();
  }

  /** Forget the older half of the partial results; finals stay. */
  #forgetPartials() {
    let excess = MAX_PARTIALS / 2;
    this.events = this.events.filter(({ event }) => event.type !== "emotion" || event.final || excess-- <= 0);
    this.partials = MAX_PARTIALS / 2;
    let points = this.utterances.reduce((sum, utterance) => sum + utterance.points.length, 0) - MAX_PARTIALS / 2;
    for (const utterance of this.utterances) {
      if (points <= 0) break;
      points -= utterance.points.length;
      utterance.points = [];
    }
  }

  /** The stream was interrupted: open utterances keep their last result. */
  breakOff() {
    for (const utterance of this.utterances.slice(-20)) {
      if (utterance.open) Object.assign(utterance, { open: false, end: Math.max(utterance.end, utterance.start) });
    }
  }

  /** The utterances that overlap a part of the session; binary search keeps an hour-long session fast to draw. */
  between(start, end) {
    const { utterances } = this;
    let [low, high] = [0, utterances.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (utterances[middle].start < end) low = middle + 1;
      else high = middle;
    }
    const found = [];
    // Utterances are far shorter than two minutes, so those that begin earlier than that cannot reach into the part.
    for (let i = low - 1; i >= 0 && utterances[i].start > start - 120; i--) {
      if (this.endOf(utterances[i]) > start) found.push(utterances[i]);
    }
    return found.reverse();
  }

  /** Utterances whose correction, as it is now, was not exported. */
  get unexported() {
    return this.finals.filter(({ correction, exported }) => correction && JSON.stringify(correction) !== exported);
  }

  /** All corrections were exported. */
  markExported() {
    for (const utterance of this.finals) utterance.exported = JSON.stringify(utterance.correction);
  }

  /** @param {Utterance} utterance */
  endOf(utterance) {
    return utterance.open ? Math.max(utterance.end, this.position) : utterance.end;
  }
}

/** Seconds as people read them: 0:07.4, 1:02:03.4. */
export function clock(seconds, digits = 1) {
  const unit = 10 ** digits;
  const whole = Math.round(seconds * unit) / unit;
  const [h, m] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const s = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return h ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`;
}
