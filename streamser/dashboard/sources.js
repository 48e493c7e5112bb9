// Where sound comes from: the browser's microphone, the server's, or a file; each tells a listener what happens.

import { Envelope } from "./session.js";

const RETRY_S = [0.5, 1, 2, 4, 8];
const MAX_BEHIND_S = 2; // sound that may wait in the browser for a slow connection; more is dropped, and said
const END_PATIENCE_MS = 8000;
const STATUS_MS = 100;

/** Something the user can act on; its message is shown as it is. */
export class Trouble extends Error {}

function socketUrl(path) {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
}

/** One WebSocket: hello, then events until it closes. Resolves `closed` with what the server said last. */
class Link {
  constructor(path, hello, listener) {
    this.listener = listener;
    this.refusal = null;
    this.isReady = false;
    this.socket = new WebSocket(socketUrl(path));
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.socket.send(JSON.stringify({ type: "hello", ...hello }));
    this.socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    this.closed = new Promise((resolve) => {
      this.socket.onclose = ({ code, reason }) => {
        this.isReady = false;
        resolve({ code, reason, refusal: this.refusal });
      };
    });
  }

  #take(message) {
    if (message.type === "ready") {
      this.isReady = true;
      this.listener.ready(message);
    } else if (message.type === "status") {
      this.listener.status(message);
    } else if (message.type === "error") {
      this.refusal = message;
    } else {
      this.listener.event(message);
    }
  }

  send(data) {
    if (this.isReady && this.socket.readyState === WebSocket.OPEN) this.socket.send(data);
  }

  close() {
    this.socket.close(1000);
  }
}

/** Keeps a link alive: after a loss it tries again, each time a little later, and says so. */
class Connection {
  constructor(path, makeHello, listener) {
    Object.assign(this, { path, makeHello, listener, wanted: true, tries: 0 });
    this.done = this.#keep();
  }

  async #keep() {
    while (this.wanted) {
      this.listener.connection(this.tries ? "reconnecting" : "connecting");
      this.link = new Link(this.path, this.makeHello(), {
        ...this.#forward(),
        ready: (message) => {
          this.tries = 0;
          this.listener.connection("connected");
          this.listener.ready(message);
        },
      });
      const end = await this.link.closed;
      if (!this.wanted || end.code === 1000) return end;
      this.listener.broken(end);
      // 44xx is the server's considered no, which asking again will not change; a lost line or a full house may.
      if (end.code >= 4400 && end.code !== 4429) throw new Trouble(end.refusal?.message ?? end.reason);
      await this.#wait(RETRY_S[Math.min(this.tries++, RETRY_S.length - 1)], end);
    }
    return null;
  }

  #forward() {
    return { event: (event) => this.listener.event(event), status: (status) => this.listener.status(status) };
  }

  async #wait(seconds, end) {
    const why = end.refusal?.message ?? (end.code === 1001 ? "the server was stopped" : "no answer from the server");
    for (let left = seconds; left > 0 && this.wanted; left -= 0.5) {
      this.listener.connection("waiting", `${why}; trying again in ${Math.ceil(left)} s`);
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  /** Ask for the last results, give the server a moment, and close. */
  async end() {
    this.wanted = false;
    if (this.link.isReady) {
      this.link.send(JSON.stringify({ type: "end" }));
      await Promise.race([this.link.closed, new Promise((resolve) => setTimeout(resolve, END_PATIENCE_MS))]);
    }
    this.link.close();
  }
}

/** This computer's microphone, through the browser; the server resamples, exactly as it does for files. */
export class BrowserMicrophone {
  constructor(listener, { token, deviceId }) {
    Object.assign(this, { listener, token, deviceId, count: 0, sent: 0, dropped: 0, lost: 0 });
  }

  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Trouble(
        "Browsers give the microphone only to pages from this computer or from https://. Open the page as " +
          "http://127.0.0.1 on the computer that runs streamser, or put it behind https.",
      );
    }
    this.media = await this.#ask();
    this.context = new AudioContext({ latencyHint: "interactive" });
    await this.context.audioWorklet.addModule("worklet.js");
    await this.context.resume();
    this.connection = new Connection("/ws/stream", () => this.#hello(), this.#listener());
    const node = new AudioWorkletNode(this.context, "collector", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit",
    });
    node.port.onmessage = ({ data }) => this.#heard(data);
    this.context.createMediaStreamSource(this.media).connect(node);
    for (const track of this.media.getAudioTracks()) {
      track.onended = () => this.listener.failed(new Trouble("The microphone was unplugged or taken away."));
    }
    this.connection.done.catch((error) => this.listener.failed(error));
  }

  async #ask() {
    // The browser's own voice processing changes what the voice carries.
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    try {
      return await navigator.mediaDevices.getUserMedia({
        audio: this.deviceId ? { ...plain, deviceId: { exact: this.deviceId } } : plain,
      });
    } catch (error) {
      const told = {
        NotAllowedError: "The browser was not allowed to use the microphone. Allow it beside the address bar, then start again.",
        NotFoundError: "This computer has no microphone that the browser can see. Plug one in, or drop a sound file here.",
        NotReadableError: "The microphone is in use by another program. Close that program, then start again.",
      }[error.name];
      throw new Trouble(told ?? `The microphone did not start: ${error.message}`);
    }
  }

  #hello() {
    const name = ++this.count > 1 ? `browser-${this.count}` : "browser";
    this.sent = this.lost = 0;
    return {
      sample_rate: this.context.sampleRate, channels: 1, format: "s16le", stream: this.listener.name(name),
      status_ms: STATUS_MS, ...(this.token && { token: this.token }),
    };
  }

  #listener() {
    return { ...this.listener, ready: (message) => this.listener.ready(message, 0) };
  }

  #heard({ pcm, low, high, rms }) {
    const link = this.connection?.link;
    if (!link?.isReady) return; // while the line is down nothing is sent, nothing is kept, and the meter is dark
    this.listener.level(rms);
    const rate = this.context.sampleRate;
    const samples = pcm.byteLength / 2;
    const start = (this.sent + this.lost) / rate;
    if (link.socket.bufferedAmount > 2 * rate * MAX_BEHIND_S) {
      this.lost += samples;
      this.dropped += samples;
    } else {
      this.#tellLoss(link);
      link.send(pcm);
      this.sent += samples;
    }
    this.listener.sound(start, start + samples / rate, low, high);
  }

  /** Sound that was dropped keeps its place in time. */
  #tellLoss(link) {
    if (!this.dropped) return;
    link.send(JSON.stringify({ type: "gap", samples: this.dropped }));
    this.dropped = 0;
  }

  async stop() {
    for (const track of this.media?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    await this.context?.close();
    await this.connection?.end();
  }
}

/** The microphone of the computer that runs streamser; it sends results and a level, never sound. */
export class ServerMicrophone {
  constructor(listener, { token }) {
    Object.assign(this, { listener, token });
  }

  async start() {
    let last = 0;
    this.connection = new Connection("/ws/events", () => (this.token ? { token: this.token } : {}), {
      ...this.listener,
      ready: (message) => {
        last = message.position_s ?? 0;
        this.listener.ready(message, last);
      },
      status: (status) => {
        const rms = 10 ** (status.level_db / 20);
        this.listener.level(rms);
        this.listener.status(status);
        if (status.position_s > last) this.listener.sound(last, status.position_s, -1.4 * rms, 1.4 * rms);
        last = Math.max(last, status.position_s);
      },
    });
    this.connection.done.catch((error) => this.listener.failed(error));
  }

  async stop() {
    this.connection.wanted = false;
    this.connection.link.close();
  }
}

/** 16-bit WAV of mono sound: what the server is sent when only the browser can decode a file. */
export function toWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const words = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  words(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  words(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  words(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(value * 32768))), true));
  return view.buffer;
}

/** A sound file: judged by the server in one go, then shown along with its sound as if it were live. */
export class FileSource {
  constructor(listener, { token, file }) {
    Object.assign(this, { listener, token, file, shown: 0, position: 0, isPaused: false, stopped: false });
  }

  async start() {
    this.listener.connection("connecting");
    const bytes = await this.file.arrayBuffer();
    const sound = this.#decode(bytes.slice(0)).catch(() => null);
    const answer = await this.#label(bytes, sound);
    this.events = answer.events.sort((a, b) => this.#due(a) - this.#due(b));
    this.duration = answer.duration_s;
    this.envelope = await this.#draw(sound);
    if (this.stopped) return;
    this.listener.connection("connected");
    this.listener.ready(answer, 0);
    await this.#play();
  }

  /** When an event of the file is shown: once the playhead has passed the sound that it judges. */
  #due(event) {
    return event.type === "speech_started" || event.type === "gap" ? event.start_s : event.end_s;
  }

  async #label(bytes, sound) {
    let answer = await this.#post(bytes);
    if (answer.status === 415) {
      const decoded = await sound; // the browser knows formats that the server does not, such as AAC
      if (decoded) answer = await this.#post(toWav(decoded.getChannelData(0), decoded.sampleRate));
    }
    const words = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Trouble(`${this.file.name}: ${words.error?.message ?? `the server answered ${answer.status}`}`);
    return words;
  }

  async #post(body) {
    const name = encodeURIComponent(this.listener.name(this.file.name.slice(0, 60)));
    const headers = { "Content-Type": "application/octet-stream" };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    try {
      return await fetch(`/v1/label?partials=true&stream=${name}`, { method: "POST", body, headers });
    } catch {
      throw new Trouble("No answer from the server. Is streamser still running?");
    }
  }

  async #decode(bytes) {
    return new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes);
  }

  /** The waveform; where the browser cannot decode the file there is none. */
  async #draw(sound) {
    const envelope = new Envelope();
    const decoded = await sound;
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
    // Where it may not or cannot be heard, the picture runs by the clock alone.
    this.audible = await this.audio.play().then(() => true, () => false);
    this.began = performance.now();
    await new Promise((resolve) => {
      this.finish = resolve;
      this.timer = setInterval(() => this.#tick(), 50);
      if (this.isSkipped) this.skip();
    });
  }

  #tick() {
    if (this.isPaused) return;
    const now = performance.now();
    const next = this.audible && !this.audio.ended ? this.audio.currentTime : this.position + (now - this.began) / 1000;
    this.began = now;
    this.#reach(Math.min(this.duration, Math.max(this.position, next)));
    if (this.position >= this.duration - 0.01) this.skip();
  }

  /** Move the playhead, and show what it passes. */
  #reach(position) {
    for (let at = this.position; at < position; at += 0.02) {
      const [low, high] = this.envelope.between(at, Math.min(position, at + 0.02));
      this.listener.sound(at, Math.min(position, at + 0.02), low, high);
    }
    const [low, high] = this.envelope.between(Math.max(0, position - 0.06), position);
    this.listener.level(Math.max(-low, high) / 2);
    this.position = position;
    while (this.shown < this.events.length && this.#due(this.events[this.shown]) <= position) {
      this.listener.event(this.events[this.shown++]);
    }
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    this.began = performance.now();
    if (this.audible) isPaused ? this.audio.pause() : this.audio.play();
  }

  /** Show the rest at once. */
  skip() {
    this.isSkipped = true; // also when it is asked for before the server has answered
    if (!this.finish) return;
    clearInterval(this.timer);
    this.audio.pause();
    this.#reach(this.duration);
    while (this.shown < this.events.length) this.listener.event(this.events[this.shown++]);
    URL.revokeObjectURL(this.audio.src);
    this.finish();
    this.finish = null;
  }

  async stop() {
    this.stopped = true;
    if (!this.finish) return;
    clearInterval(this.timer);
    this.audio.pause();
    URL.revokeObjectURL(this.audio.src);
    this.finish();
    this.finish = null;
  }
}
