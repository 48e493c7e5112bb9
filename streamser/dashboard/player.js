// Plays audio from the page's memory: an utterance or any part, once or in a loop.

/** Plays one part at a time; `onChange` is called when playing starts and ends. */
export class Player {
  /**
   * @param {import("./audio.js").AudioMemory} memory
   * @param {() => void} onChange
   */
  constructor(memory, onChange) {
    this.memory = memory;
    this.onChange = onChange;
    this.isLooping = false;
    /** @type {{start: number, end: number, key: string | null} | null} */
    this.part = null;
    /** @type {AudioContext | null} */
    this.context = null;
    /** @type {AudioBufferSourceNode | null} */
    this.node = null;
    this.began = 0; // the context's time at which the part began
  }

  get isPlaying() {
    return this.part !== null;
  }

  /** Session time that is playing now, or null. */
  get position() {
    if (!this.part) return null;
    const played = this.context.currentTime - this.began;
    const length = this.part.end - this.part.start;
    return this.part.start + (this.isLooping ? played % length : Math.min(played, length));
  }

  /**
   * Play from `start` to `end`; returns false when that audio is no longer in memory.
   * @param {number} start
   * @param {number} end
   * @param {string | null} [key] the utterance that it belongs to
   */
  play(start, end, key = null) {
    const sound = this.memory.between(start, end);
    if (!sound) return false;
    this.#silence();
    this.context ??= new AudioContext();
    this.context.resume();
    const buffer = this.context.createBuffer(1, sound.pcm.length, sound.rate);
    buffer.copyToChannel(Float32Array.from(sound.pcm, (value) => value / 32768), 0);
    const node = new AudioBufferSourceNode(this.context, { buffer, loop: this.isLooping });
    node.connect(this.context.destination);
    node.onended = () => node === this.node && this.stop();
    node.start();
    this.node = node;
    this.began = this.context.currentTime;
    this.part = { start, end, key };
    this.onChange();
    return true;
  }

  /** Turn the loop on or off, also for the part that is playing now. */
  loop(isLooping) {
    this.isLooping = isLooping;
    if (!this.node) return;
    const position = this.position;
    this.node.loop = isLooping;
    // After the last round the audio ends where its buffer does; the clock is set so that `position` agrees.
    if (position !== null && this.part) this.began = this.context.currentTime - (position - this.part.start);
  }

  stop() {
    if (!this.part) return;
    this.#silence();
    this.part = null;
    this.onChange();
  }

  #silence() {
    if (!this.node) return;
    this.node.onended = null;
    this.node.stop();
    this.node.disconnect();
    this.node = null;
  }
}
