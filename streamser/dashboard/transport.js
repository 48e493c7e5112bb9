// Plays the session's audio from the place that was clicked on the timeline.

import { $, setText } from "./dom.js";
import { announce } from "./notices.js";

/** The button "Play" and the cursor on the timeline. */
export class Transport {
  /**
   * @param {import("./player.js").Player} player
   * @param {import("./timeline.js").Timeline} timeline
   */
  constructor(player, timeline) {
    this.player = player;
    this.timeline = timeline;
    /** @type {number | null} session time that was clicked */
    this.mark = null;
    $("play").addEventListener("click", () => this.play());
  }

  /** Play from the mark, else from the left edge; a second call pauses there. */
  play() {
    const { player, timeline } = this;
    if (player.isPlaying) {
      this.mark = player.position;
      player.stop();
      return;
    }
    const from = Math.max(this.mark ?? timeline.left, player.memory.start ?? 0);
    if (!player.play(from, timeline.session.position)) announce("From here on, this page’s memory has no audio.");
  }

  /** Go to a time; audio that is playing continues from there. */
  seek(time) {
    const { player } = this;
    this.mark = Math.max(0, time);
    this.timeline.cursor = this.mark;
    this.timeline.stale = true;
    if (!player.part) return;
    const { key, end } = player.part;
    player.play(this.mark, key && this.mark < end ? end : this.timeline.session.position, key);
  }

  clear() {
    this.player.stop();
    this.timeline.cursor = this.mark = null;
  }

  /** Move the cursor along with the audio. */
  show() {
    setText("play", this.player.isPlaying ? "Pause" : "Play");
    if (!this.player.isPlaying) return;
    this.timeline.cursor = this.player.position;
    this.timeline.stale = true;
  }
}
