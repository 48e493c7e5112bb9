// Collect the microphone's audio into messages of 20 ms, exact 16-bit samples at the device's own rate.

class Collector extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate / 50);
    this.fresh();
  }

  fresh() {
    this.pcm = new Int16Array(this.size);
    this.filled = 0;
    this.low = this.high = this.energy = 0;
  }

  process([input]) {
    // A muted or missing track gives no channel at all; its time passes nevertheless.
    const sound = input[0] ?? new Float32Array(128);
    for (const value of sound) {
      this.pcm[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      if (value < this.low) this.low = value;
      if (value > this.high) this.high = value;
      this.energy += value * value;
      if (this.filled === this.size) this.send();
    }
    return true;
  }

  send() {
    const { low, high } = this;
    const rms = Math.sqrt(this.energy / this.size);
    this.port.postMessage({ pcm: this.pcm.buffer, low, high, rms }, [this.pcm.buffer]);
    this.fresh();
  }
}

registerProcessor("collector", Collector);
