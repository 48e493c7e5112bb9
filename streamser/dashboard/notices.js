// What the page says about its state: the connection, troubles, who gets the audio, voice activity.

import { $, setText } from "./dom.js";

const VAD_WORDS = {
  off: "not listening", quiet: "quiet", starting: "speech begins", speaking: "speaking", stopping: "ending",
};

/** The connection's state, at the top of the page. */
export function setLink(state, text) {
  $("link").dataset.state = state;
  setText("link-text", text);
}

/** An error in words; an empty message takes it away. */
export function showTrouble(message) {
  setText("trouble-text", message);
  $("trouble").hidden = !message;
}

/** Words for screen readers only. */
export function announce(text) {
  setText("announce", text);
}

/** Voice activity. */
export function showVad(state) {
  $("vad").dataset.state = state;
  setText("vad-text", VAD_WORDS[state]);
}

const VOICE_WORDS = {
  none: () => "voice: no baseline yet",
  own: (count) => `voice: baseline of ${count} utterance${count === 1 ? "" : "s"}`,
  profile: (count) => `voice: baseline of ${count} utterances, with a profile`,
};

/** The voice's baseline, once there is one; `canReset` shows the button that resets it. */
export function showVoice(event, canReset) {
  if (event?.baseline === "none" && $("voice").hidden) return; // a checkpoint that does not adapt never has a baseline
  $("voice").hidden = !event?.baseline;
  if (!event?.baseline) return;
  setText("voice-text", VOICE_WORDS[event.baseline]?.(event.baseline_utterances ?? 0) ?? "");
  $("new-speaker").hidden = !canReset || event.baseline === "none";
}

/** Who gets the audio and what becomes of it, for as long as a source is open. */
export function showNotice(source, health) {
  $("notice").hidden = !source;
  if (!source) return;
  const { kind } = source;
  const there = `this streamser server (${location.host})`;
  const isRecorded = kind === "server" ? health?.recording : source.recording ?? health?.recording;
  $("notice").dataset.record = Boolean(isRecorded);
  $("notice").dataset.cut = Boolean(source.isCut);
  const stored = isRecorded
    ? " It is being RECORDED to a folder there, because the server was started with ‑‑record."
    : " It is not stored there; the last ten minutes stay in this page’s memory, so that you can play them again.";
  setText("notice", source.isCut ? "The connection is lost: no audio is sent or kept until it is back." : {
    browser: `Listening. The audio goes only to ${there}.${stored}`,
    server: `Listening to the microphone of the computer that runs streamser. Only results come here.${isRecorded ? stored : " No audio is stored."}`,
    file: `The file was sent only to ${there} and recognized there.${isRecorded ? stored : " It is not stored there."}`,
  }[kind]);
}

/** What the table shows before the first utterance; `kind` is that of the open source, if there is one. */
export function showEmpty(kind) {
  const idle = "Start listening and speak, or drop an audio file anywhere on this page.";
  setText("empty-words", `No utterances yet. ${!kind ? idle : kind === "file" ? "The file is playing." : "The microphone is on: speak."}`);
  $("sample").hidden = Boolean(kind);
}
