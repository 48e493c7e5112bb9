// A client of `streamser serve` for pages and for Node 22 or newer. It has no dependencies; the dashboard uses it too.
//
//   import { Client } from "./client.js";
//   const client = new Client("http://127.0.0.1:8765");
//   const { segments } = await client.label(file);           // a File, Blob or ArrayBuffer
//   const stream = client.stream({ sample_rate: 48000 }, { event: (event) => console.log(event) });
//   await stream.ready;
//   stream.send(samples);                                    // an Int16Array, 20 ms at a time
//   await stream.end();                                      // after the last final and stream_ended

const RETRY_S = [0.5, 1, 2, 4, 8];
const END_PATIENCE_MS = 8000;
const LAST_CONSIDERED = 4499; // close codes 4400 to 4499 are refusals that a second try would not change ...
const SLOW_READER = 4429; // ... but for this one: the client did not read fast enough

/** A refusal by the server; its message can be shown to the user. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {string} [code] the protocol's code for it
   * @param {number} [status] HTTP status, or the WebSocket's close code; 0 when no response came
   */
  constructor(message, code = "", status = 0) {
    super(message);
    this.name = "ServerError";
    this.code = code;
    this.status = status;
  }
}

/**
 * Callbacks of a connection; all are optional.
 * @typedef {object} Listener
 * @property {(message: any) => void} [ready] the server takes audio; called again after each reconnection
 * @property {(event: any) => void} [event] one event of the stream
 * @property {(status: any) => void} [status] level and voice activity
 * @property {(state: string, detail?: string) => void} [connection] connecting, connected, waiting or reconnecting
 * @property {(end: {code: number, reason: string}) => void} [broken] the connection was lost
 */

/** The server at an address. */
export class Client {
  /**
   * @param {string} [base] the server's address; a page that it serves can leave it out
   * @param {{token?: string | null, WebSocket?: typeof WebSocket}} [options]
   */
  constructor(base = globalThis.location?.origin ?? "http://127.0.0.1:8765", options = {}) {
    this.base = base.replace(/\/+$/, "");
    this.token = options.token ?? null;
    this.WebSocket = options.WebSocket ?? globalThis.WebSocket;
  }

  /** The server's state, and whether it records; a server that cannot do its work responds too. */
  async health() {
    return (await this.#fetch("/healthz", {}, [503])).json();
  }

  /** The checkpoint that is used by default, and all installed ones. */
  models() {
    return this.#json("/v1/models");
  }

  /** A short recording of real voices, to try the server with. @returns {Promise<Blob>} */
  async sample() {
    return (await this.#fetch("/v1/sample")).blob();
  }

  /**
   * Recognize a whole audio file.
   * @param {Blob | ArrayBuffer | Uint8Array<ArrayBuffer>} file
   * @param {{stream?: string, partials?: boolean, model?: string | null}} [options]
   */
  async label(file, { stream = "file", partials = false, model = null } = {}) {
    const query = new URLSearchParams({ stream, partials: String(partials), ...(model && { model }) });
    const answer = await this.#fetch(`/v1/label?${query}`, {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
    });
    return answer.json();
  }

  /**
   * Events as a file for another program.
   * @param {any[]} events
   * @param {string} format jsonl, csv, vtt, textgrid, txt, rttm or png
   * @returns {Promise<Blob>}
   */
  async export(events, format) {
    const body = events.map((event) => `${JSON.stringify(event)}\n`).join("");
    const headers = { "Content-Type": "application/x-ndjson" };
    const answer = await this.#fetch(`/v1/export?format=${format}`, { method: "POST", body, headers });
    return answer.blob();
  }

  /**
   * Send audio and get its events. `hello` is the protocol's first message, or a function that makes one for each try.
   * @param {Record<string, any> | (() => Record<string, any>)} hello
   * @param {Listener} listener
   * @param {{reconnect?: boolean}} [options]
   */
  stream(hello, listener, { reconnect = false } = {}) {
    return this.#connect("/ws/stream", typeof hello === "function" ? hello : () => hello, listener, reconnect);
  }

  /**
   * Events of the microphone of the computer that runs the server.
   * @param {Listener} listener
   * @param {{reconnect?: boolean}} [options]
   */
  microphone(listener, { reconnect = false } = {}) {
    return this.#connect("/ws/events", () => ({}), listener, reconnect);
  }

  #connect(path, makeHello, listener, reconnect) {
    const url = this.base.replace(/^http/, "ws") + path;
    const greet = () => ({ type: "hello", ...makeHello(), ...(this.token && { token: this.token }) });
    return new Connection(() => new this.WebSocket(url), greet, listener, reconnect);
  }

  async #json(path) {
    return (await this.#fetch(path)).json();
  }

  /** @returns {Promise<Response>} */
  async #fetch(path, /** @type {RequestInit} */ options = {}, /** @type {number[]} */ accept = []) {
    const headers = { ...options.headers, ...(this.token && { Authorization: `Bearer ${this.token}` }) };
    const answer = await fetch(this.base + path, { ...options, headers }).catch(() => {
      throw new ServerError("The server does not respond. Is streamser still running?");
    });
    if (answer.ok || accept.includes(answer.status)) return answer;
    const { error } = await answer.json().catch(() => ({ error: null }));
    throw new ServerError(error?.message ?? `the server returned ${answer.status} for ${path}`, error?.code, answer.status);
  }
}

/** One WebSocket; with `reconnect`, it is opened again after a loss. */
export class Connection {
  /**
   * @param {() => WebSocket} open
   * @param {() => Record<string, any>} greet
   * @param {Listener} listener
   * @param {boolean} reconnect
   */
  constructor(open, greet, listener, reconnect) {
    this.listener = listener;
    this.isReady = false;
    this.isWanted = true;
    /** Resolves with the server's first `ready`. @type {Promise<any>} */
    this.ready = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    /** Resolves once the connection is over for good; rejects with a ServerError when the server refused. */
    this.done = this.#keep(open, greet, reconnect);
    this.done.catch((error) => this.settle.reject(error));
    this.ready.catch(() => {}); // code that waits only for `done` gets the error there
  }

  /** Bytes that wait to be sent. */
  get buffered() {
    return this.socket?.bufferedAmount ?? 0;
  }

  async #keep(open, greet, reconnect) {
    for (let tries = 0; this.isWanted; tries++) {
      this.listener.connection?.(tries ? "reconnecting" : "connecting");
      const end = await this.#run(open(), greet, () => (tries = 0));
      if (!this.isWanted || end.code === 1000) return;
      this.listener.broken?.(end);
      const isFinal = end.code >= 4400 && end.code <= LAST_CONSIDERED && end.code !== SLOW_READER;
      if (isFinal || !reconnect) {
        throw new ServerError(end.refusal?.message ?? (end.reason || "The server does not respond."), end.refusal?.code, end.code);
      }
      await this.#wait(RETRY_S[Math.min(tries, RETRY_S.length - 1)], end);
    }
  }

  /** Serve one socket to its end. */
  #run(socket, greet, onReady) {
    let refusal = null;
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify(greet()));
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "ready") {
        this.isReady = true;
        onReady();
        this.listener.connection?.("connected");
        this.listener.ready?.(message);
        this.settle.resolve(message);
      } else if (message.type === "status") this.listener.status?.(message);
      else if (message.type === "error") refusal = message;
      else this.listener.event?.(message);
    };
    return new Promise((resolve) => {
      socket.onclose = ({ code, reason }) => {
        this.isReady = false;
        resolve({ code, reason, refusal });
      };
    });
  }

  async #wait(seconds, end) {
    const why = end.refusal?.message ?? (end.code === 1001 ? "the server was stopped" : "the server does not respond");
    for (let left = seconds; left > 0 && this.isWanted; left -= 0.5) {
      this.listener.connection?.("waiting", `${why}; trying again in ${Math.ceil(left)} s`);
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  #send(data) {
    if (this.isReady && this.socket.readyState === 1) this.socket.send(data);
  }

  /**
   * Send 16-bit samples; while the connection is down they are dropped.
   * @param {ArrayBuffer | Int16Array<ArrayBuffer>} pcm
   */
  send(pcm) {
    this.#send(pcm);
  }

  /** Report samples that were lost before they could be sent; the timeline counts them. */
  lose(samples) {
    this.#send(JSON.stringify({ type: "gap", samples }));
  }

  /** Another person speaks: reset the stream's baseline. */
  newSpeaker() {
    this.#send(JSON.stringify({ type: "new_speaker" }));
  }

  /** Ask for the last results, wait for them, and close. */
  async end() {
    this.isWanted = false;
    if (this.isReady) {
      this.#send(JSON.stringify({ type: "end" }));
      await Promise.race([this.done, new Promise((resolve) => setTimeout(resolve, END_PATIENCE_MS))]);
    }
    this.socket?.close(1000);
  }

  /** Close without waiting. */
  close() {
    this.isWanted = false;
    this.socket?.close(1000);
  }
}
