// The last ten minutes of audio, in this page's memory only, so that an utterance can be played again.

export const KEPT_S = 600;
const BLOCK_S = 5; // audio that arrives in small pieces is joined into blocks of this length

/**
 * Audio that was received without a gap.
 * @typedef {{start: number, rate: number, pcm: Int16Array, length: number}} Block `start` in session seconds
 */

/** Keeps audio by session time and forgets the oldest; a whole file is one block and stays until newer audio replaces it. */
export class AudioMemory {
  constructor() {
    this.clear();
  }

  clear() {
    /** @type {Block[]} */
    this.blocks = [];
  }

  /** Seconds of audio in memory. */
  get seconds() {
    return this.blocks.reduce((sum, block) => sum + block.length / block.rate, 0);
  }

  /** Session time of the oldest audio, or null when there is none. */
  get start() {
    return this.blocks.length ? this.blocks[0].start : null;
  }

  /** @param {number} start @param {Int16Array} pcm @param {number} rate */
  add(start, pcm, rate) {
    const last = this.blocks.at(-1);
    const gap = last ? start - (last.start + last.length / last.rate) : 1;
    if (last && last.rate === rate && Math.abs(gap) < 0.005 && last.length + pcm.length <= last.pcm.length) {
      last.pcm.set(pcm, last.length);
      last.length += pcm.length;
      return;
    }
    const room = new Int16Array(Math.max(pcm.length, BLOCK_S * rate));
    room.set(pcm);
    this.blocks.push({ start, rate, pcm: room, length: pcm.length });
    while (this.blocks.length > 1 && this.seconds - this.blocks[0].length / this.blocks[0].rate > KEPT_S) this.blocks.shift();
  }

  /**
   * The audio between two times, with silence where some is missing; null when less than half of it is there.
   * @param {number} start
   * @param {number} end
   */
  between(start, end) {
    const rate = this.blocks.findLast((block) => block.start < end)?.rate;
    if (!rate || end <= start) return null;
    const pcm = new Int16Array(Math.round((end - start) * rate));
    let found = 0;
    for (const block of this.blocks) {
      if (block.rate !== rate) continue;
      const shift = Math.round((block.start - start) * rate);
      const first = Math.max(0, -shift);
      const last = Math.min(block.length, pcm.length - shift);
      if (last <= first) continue;
      pcm.set(block.pcm.subarray(first, last), first + shift);
      found += last - first;
    }
    return found >= pcm.length / 2 ? { pcm, rate } : null;
  }
}
