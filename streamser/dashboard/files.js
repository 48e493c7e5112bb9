// An audio file: the server recognizes it in one go; then its results appear along with its audio, as if it were live.

import { ServerError } from "./client.js";
import { Envelope } from "./session.js";
import { Trouble } from "./sources.js";
import { toWav } from "./wav.js";

const DECODED_HZ = 16_000; // enough for the picture and the exported clips; the server reads the file itself

/** Plays a file and its results together. */
export class FileSource {
  kind = "file";
  isEnding = false;
  isCut = false;
  isPaused = false;
  isSkipped = false;
  isStopped = false;
  position = 0;
  shown = 0;

  /**
   * @param {import("./client.js").Client} client
   * @param {import("./sources.js").SourceListener} listener
   * @param {{file: File, model?: string, second?: string}} options
   */
  constructor(client, listener, { file, model, second }) {
    this.client = client;
    this.listener = listener;
    this.file = file;
    this.model = model;
    this.secondModel = second;
    /** @type {(() => void) | null} ends `start`, once the file plays */
    this.finish = null;
  }

  async start() {
    this.listener.connection("connecting");
    const bytes = await this.file.arrayBuffer();
    if (!bytes.byteLength) throw new Trouble(`${this.file.name}: the file is empty (0 bytes).`);
    const sound = this.#decode(bytes.slice(0)).catch(() => null);
    const answers = [await this.#label(bytes, sound, this.model)];
    if (this.secondModel) answers.push(await this.#label(bytes, sound, this.secondModel));
    this.duration = answers[0].duration_s;
    this.events = answers
      .flatMap(({ events }, which) => events.map((event) => ({ event, which, due: this.#due(event) })))
      .sort((a, b) => a.due - b.due || a.which - b.which);
    const decoded = await sound;
    this.envelope = this.#draw(decoded);
    if (this.isStopped) return;
    this.listener.connection("connected");
    this.listener.ready(answers[0], 0);
    if (answers[1]) this.listener.secondReady();
    if (decoded) this.listener.samples(0, toPcm(decoded.getChannelData(0)), decoded.sampleRate);
    await this.#play();
  }

  /** The time in the file at which an event appears, as in a live stream. */
  #due(event) {
    return event.type === "speech_started" || event.type === "gap" ? event.start_s : event.end_s;
  }

  async #label(bytes, sound, model) {
    const stem = this.file.name.replace(/\.[^.]*$/, "") || this.file.name; // as `streamser replay` names a file's stream
    const options = { stream: this.listener.name(stem.slice(0, 60)), partials: true, model };
    try {
      return await this.client.label(bytes, options);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      const decoded = error.status === 415 ? await sound : null; // the browser may know formats that the server does not
      if (decoded) return this.client.label(toWav(toPcm(decoded.getChannelData(0)), decoded.sampleRate), options);
      if (error.status === 401) throw error;
      throw error.status ? new Trouble(`${this.file.name}: ${error.message}`) : error;
    }
  }

  async #decode(bytes) {
    return new OfflineAudioContext(1, 1, DECODED_HZ).decodeAudioData(bytes);
  }

  /** The waveform; there is none if the browser cannot decode the file. */
  #draw(decoded) {
    const envelope = new Envelope();
    if (!decoded) return envelope;
    const samples = decoded.getChannelData(0);
    const step = Math.round(decoded.sampleRate / 50);
    for (let first = 0; first < samples.length; first += step) {
      let [low, high] = [0, 0];
      for (let i = first; i < Math.min(samples.length, first + step); i++) {
        low = Math.min(low, samples[i]);
        high = Math.max(high, samples[i]);
      }
      envelope.add(first / decoded.sampleRate, (first + step) / decoded.sampleRate, low, high);
    }
    return envelope;
  }

  async #play() {
    this.audio = new Audio(URL.createObjectURL(this.file));
    // If the audio may not or cannot be played, the clock alone moves the picture.
    this.isAudible = await this.audio.play().then(() => true, () => false);
    this.began = performance.now();
    await new Promise((/** @type {(value?: any) => void} */ resolve) => {
      this.finish = resolve;
      this.timer = setInterval(() => this.#tick(), 50);
      if (this.isSkipped) this.skip();
    });
  }

  #tick() {
    if (this.isPaused) return;
    const now = performance.now();
    const next = this.isAudible && !this.audio.ended ? this.audio.currentTime : this.position + (now - this.began) / 1000;
    this.began = now;
    this.#reach(Math.min(this.duration, Math.max(this.position, next)));
    if (this.position >= this.duration - 0.01) this.skip();
  }

  /** Move the playhead, and show the results that it passes. */
  #reach(position) {
    for (let at = this.position; at < position; at += 0.02) {
      const [low, high] = this.envelope.between(at, Math.min(position, at + 0.02));
      this.listener.audio(at, Math.min(position, at + 0.02), low, high);
    }
    const [low, high] = this.envelope.between(Math.max(0, position - 0.06), position);
    this.listener.level(Math.max(-low, high) / 2);
    this.position = position;
    while (this.shown < this.events.length && this.events[this.shown].due <= position) this.#show();
  }

  #show() {
    const { event, which } = this.events[this.shown++];
    if (which) this.listener.second(event);
    else this.listener.event(event);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.began = performance.now();
    if (!this.isAudible) return;
    if (isPaused) this.audio.pause();
    else this.audio.play();
  }

  /** Show the rest at once. */
  skip() {
    this.isSkipped = true; // also if the user skips before the server has responded
    if (!this.finish) return;
    this.#reach(this.duration);
    while (this.shown < this.events.length) this.#show();
    this.#end();
  }

  async stop() {
    this.isStopped = true;
    if (this.finish) this.#end();
  }

  #end() {
    clearInterval(this.timer);
    this.audio.pause();
    URL.revokeObjectURL(this.audio.src);
    this.finish();
    this.finish = null;
  }
}

/** Float samples as 16-bit integers. */
export function toPcm(samples) {
  const pcm = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i++) pcm[i] = Math.max(-32768, Math.min(32767, Math.round(samples[i] * 32768)));
  return pcm;
}
