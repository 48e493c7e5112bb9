// Sources of live audio: the browser's microphone and the server's. Each source reports to a listener.

import { ServerError } from "./client.js";

const MAX_BEHIND_S = 2; // audio that may wait in the browser for a slow connection; more is dropped and counted
const STATUS_MS = 100;
const LOADING_MS = 10_000;

/** An error that the user can act on; its message is shown unchanged. */
export class Trouble extends Error {}

/**
 * Callbacks for a source's reports.
 * @typedef {object} SourceListener
 * @property {(wanted: string) => string} name a stream name that is not in use yet
 * @property {(state: string, detail?: string) => void} connection
 * @property {(message: any, joined: number) => void} ready a stream begins; `joined` is its clock now, in seconds
 * @property {() => void} secondReady the second checkpoint's stream begins
 * @property {(rms: number) => void} level
 * @property {(start: number, end: number, low: number, high: number) => void} audio extremes, in stream seconds
 * @property {(start: number, pcm: Int16Array, rate: number) => void} samples the audio itself, in stream seconds
 * @property {(status: any) => void} status
 * @property {(event: any) => void} event
 * @property {(event: any) => void} second an event of the second checkpoint
 * @property {() => void} broken the connection was lost
 * @property {(error: Error) => void} failed the source ended because of this
 */

/** Sends one stream's audio over one connection; audio that cannot be sent in time is counted as lost. */
class Feed {
  /**
   * @param {import("./client.js").Client} client
   * @param {() => Record<string, any>} makeHello
   * @param {import("./client.js").Listener} listener
   */
  constructor(client, makeHello, listener) {
    this.begin();
    const greet = () => {
      this.begin();
      return makeHello();
    };
    this.connection = client.stream(greet, listener, { reconnect: true });
  }

  begin() {
    this.samples = this.dropped = 0;
  }

  /** Returns the index of the first sample in this stream, or null while nothing can be sent. */
  send(pcm, rate) {
    const { connection } = this;
    if (!connection.isReady) return null;
    const start = this.samples;
    const samples = pcm.byteLength / 2;
    this.samples += samples;
    if (connection.buffered > 2 * rate * MAX_BEHIND_S) {
      this.dropped += samples;
      return start;
    }
    if (this.dropped) connection.lose(this.dropped);
    this.dropped = 0;
    connection.send(pcm);
    return start;
  }
}

/** This computer's microphone, through the browser. The server resamples, exactly as it does for files. */
export class BrowserMicrophone {
  kind = "browser";
  isEnding = false;
  isCut = false;

  /**
   * @param {import("./client.js").Client} client
   * @param {SourceListener} listener
   * @param {{deviceId?: string, model?: string, second?: string}} options
   */
  constructor(client, listener, { deviceId, model, second }) {
    this.client = client;
    this.listener = listener;
    this.deviceId = deviceId;
    this.model = model;
    this.secondModel = second;
    this.count = 0;
  }

  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Trouble(
        "Browsers allow the microphone only for pages from this computer or from https://. Open the page as " +
          "http://127.0.0.1 on the computer that runs streamser, or put the server behind https.",
      );
    }
    this.media = await this.#ask();
    this.context = new AudioContext({ latencyHint: "interactive" });
    await this.context.audioWorklet.addModule("worklet.js");
    await this.context.resume();
    const { listener } = this;
    this.feed = new Feed(this.client, () => this.#hello(this.model), {
      ...listener, ready: (message) => listener.ready(message, 0),
    });
    this.feed.connection.done.catch((error) => listener.failed(error));
    if (this.secondModel) {
      this.second = new Feed(this.client, () => ({ ...this.#hello(this.secondModel), status_ms: 0 }), {
        ready: () => listener.secondReady(),
        event: (event) => listener.second(event),
      });
      this.second.connection.done.catch((error) => listener.failed(error));
      // The second checkpoint may have to be loaded first, and both must get the same audio, so wait for it; but not
      // forever, because a lost server must not block the page.
      await Promise.race([this.second.connection.ready, new Promise((resolve) => setTimeout(resolve, LOADING_MS))]);
    }
    const node = new AudioWorkletNode(this.context, "collector", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit",
    });
    node.port.onmessage = ({ data }) => this.#take(data);
    this.context.createMediaStreamSource(this.media).connect(node);
    for (const track of this.media.getAudioTracks()) {
      track.onended = () => listener.failed(new Trouble("The microphone was unplugged, or another program took it over."));
    }
  }

  async #ask() {
    // The browser's own voice processing would change the emotion in the voice.
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    try {
      return await navigator.mediaDevices.getUserMedia({
        audio: this.deviceId ? { ...plain, deviceId: { exact: this.deviceId } } : plain,
      });
    } catch (error) {
      const words = {
        NotAllowedError: "The browser has no permission to use the microphone. Allow it next to the address bar, then start again.",
        NotFoundError: "The browser finds no microphone on this computer. Plug one in, or drop an audio file here.",
        NotReadableError: "The microphone is in use by another program. Close that program, then start again.",
      }[error.name];
      throw new Trouble(words ?? `The microphone did not start: ${error.message}`);
    }
  }

  #hello(model) {
    const name = ++this.count > 1 ? `browser-${this.count}` : "browser";
    return {
      sample_rate: this.context.sampleRate, channels: 1, format: "s16le", stream: this.listener.name(name),
      status_ms: STATUS_MS, ...(model && { model }),
    };
  }

  #take({ pcm, low, high, rms }) {
    const rate = this.context.sampleRate;
    const first = this.feed.send(pcm, rate);
    if (first === null) return; // while the connection is down nothing is sent or kept, and the meter shows nothing
    this.second?.send(pcm, rate);
    const start = first / rate;
    const samples = new Int16Array(pcm);
    this.listener.level(rms);
    this.listener.audio(start, start + samples.length / rate, low, high);
    this.listener.samples(start, samples, rate);
  }

  /** Another person speaks: reset the stream's baseline. */
  newSpeaker() {
    this.feed.connection.newSpeaker();
    this.second?.connection.newSpeaker();
  }

  async stop() {
    for (const track of this.media?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    await this.context?.close();
    await Promise.all([this.feed?.connection.end(), this.second?.connection.end()]);
  }
}

/** The microphone of the computer that runs streamser; it sends results and a level, never audio. */
export class ServerMicrophone {
  kind = "server";
  isEnding = false;
  isCut = false;

  /**
   * @param {import("./client.js").Client} client
   * @param {SourceListener} listener
   */
  constructor(client, listener) {
    this.client = client;
    this.listener = listener;
  }

  async start() {
    let last = 0;
    const { listener } = this;
    this.connection = this.client.microphone({
      ...listener,
      ready: (message) => {
        last = message.position_s ?? 0;
        listener.ready(message, last);
      },
      status: (status) => {
        const rms = 10 ** (status.level_db / 20);
        listener.level(rms);
        listener.status(status);
        if (status.position_s > last) listener.audio(last, status.position_s, -1.4 * rms, 1.4 * rms);
        last = Math.max(last, status.position_s);
      },
    }, { reconnect: true });
    this.connection.done.catch((error) => listener.failed(error));
  }

  async stop() {
    this.connection.close();
  }
}

/** Whether an error's message is meant for the user. */
export function isPlain(error) {
  return error instanceof Trouble || error instanceof ServerError;
}
