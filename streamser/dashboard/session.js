// What was heard and said since the page was opened or cleared, and its export; nothing here touches the page.

const BUCKET_S = 0.02; // one step of the waveform's envelope
const MAX_PARTIALS = 20000; // about an hour and a half of unbroken speech; finals are never let go

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

  /** What sounded from `start` to `end` (seconds) lay between `low` and `high`. */
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

/** All streams of this visit on one clock; each stream begins where the session stood. */
export class Session {
  constructor() {
    this.clear();
  }

  clear() {
    this.envelope = new Envelope();
    this.utterances = []; // in order of their start
    this.gaps = [];
    this.streams = []; // {name, offset}
    this.events = [];
    this.position = 0; // seconds of the session that have been heard
    this.partials = 0;
    this.partialsLet = 0;
    this.byKey = new Map();
  }

  get finals() {
    return this.utterances.filter((utterance) => utterance.final);
  }

  /** A new stream begins now; `joined` is its own clock at this moment. */
  begin(name, joined = 0) {
    this.streams.push({ name, offset: this.position - joined, began: this.position });
  }

  get offset() {
    return this.streams.at(-1)?.offset ?? 0;
  }

  heard(streamSeconds) {
    this.position = Math.max(this.position, this.offset + streamSeconds);
  }

  /** Take an event of the running stream; returns the utterance that it touched, or null. */
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
      const { label, scores, confidence, uncertain } = event;
      if (!event.final) utterance.points.push({ at: offset + event.end_s, scores, uncertain });
      Object.assign(utterance, { label, scores, confidence, uncertain, final: event.final, end: offset + event.end_s });
      utterance.latencyMs = event.latency_ms;
    } else if (event.type === "speech_ended") {
      Object.assign(utterance, { end: offset + event.end_s, open: false, reason: event.reason });
    }
    return utterance;
  }

  #utterance(event, offset) {
    const key = `${this.streams.length}:${event.utterance}`;
    let utterance = this.byKey.get(key);
    if (!utterance) {
      const start = offset + event.start_s;
      utterance = {
        key, stream: event.stream, number: event.utterance, start, end: start, offset,
        open: true, final: false, points: [], label: null, scores: null, confidence: 0, uncertain: false,
        continues: Boolean(event.continues),
      };
      this.byKey.set(key, utterance);
      this.utterances.push(utterance);
    }
    return utterance;
  }

  #keep(event) {
    this.events.push(event);
    if (event.type === "emotion" && !event.final && ++this.partials > MAX_PARTIALS) {
      this.events.splice(this.events.findIndex((old) => old.type === "emotion" && !old.final), 1);
      this.partials--;
      this.partialsLet++;
    }
  }

  /** The stream broke off: what was open stays as it was last judged, and is said to be unfinished. */
  breakOff() {
    for (const utterance of this.utterances) {
      if (utterance.open) Object.assign(utterance, { open: false, end: Math.max(utterance.end, utterance.start) });
    }
  }

  toJsonl() {
    return this.events.map((event) => JSON.stringify(event) + "\n").join("");
  }

  /** The very columns that `streamser replay --out FILE.csv` writes; times are each stream's own. */
  toCsv(labels) {
    const cell = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
    const head = ["stream", "utterance", "start_s", "end_s", "label", "uncertain", "likeliest", "confidence"];
    const rows = this.finals.map((u) => [
      u.stream, u.number, (u.start - u.offset).toFixed(4), (u.end - u.offset).toFixed(4),
      u.uncertain ? "uncertain" : u.label, u.uncertain, u.label, u.confidence.toFixed(4),
      ...labels.map((label) => (u.scores[label] ?? 0).toFixed(4)),
    ]);
    const table = [[...head, ...labels.map((label) => `p_${label}`)], ...rows];
    return table.map((row) => row.map(cell).join(",") + "\n").join("");
  }

  /** Subtitles on the session's clock, whatever streams it was made of. */
  toVtt() {
    const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    const cues = this.finals.map((u) => {
      const share = u.confidence.toFixed(2);
      const said = u.uncertain ? `uncertain (${u.label}? ${share})` : `${u.label} (${share})`;
      return `${vttTime(u.start)} --> ${vttTime(Math.max(u.end, u.start + 0.001))}\n${escape(said)}\n\n`;
    });
    return ["WEBVTT\n\n", ...cues].join("");
  }
}

/** Seconds as 00:00:00.000. */
export function vttTime(seconds) {
  const ms = Math.max(0, Math.round(1000 * seconds));
  const pad = (value, digits) => String(value).padStart(digits, "0");
  const [s, m, h] = [Math.floor(ms / 1000) % 60, Math.floor(ms / 60000) % 60, Math.floor(ms / 3600000)];
  return `${pad(h, 2)}:${pad(m, 2)}:${pad(s, 2)}.${pad(ms % 1000, 3)}`;
}

/** Seconds as people read them: 0:07.4, 1:02:03.4. */
export function clock(seconds, digits = 1) {
  const unit = 10 ** digits;
  const whole = Math.round(seconds * unit) / unit;
  const [h, m] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const s = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return h ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`;
}
