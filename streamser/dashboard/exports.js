// The session as files: events as they came, and corrected utterances as a corpus that the trainer reads.

import { toWav, toZip } from "./wav.js";

/** Formats that the server writes, with the words of their buttons. */
export const FORMATS = {
  csv: "CSV", vtt: "WebVTT", textgrid: "TextGrid", eaf: "ELAN", txt: "Audacity", rttm: "RTTM", png: "PNG",
};
const EXTENSIONS = { textgrid: "TextGrid", txt: "txt" };
// These hold one timeline, so all streams of the session are put on its clock; the others name the stream in each row.
const ONE_TIMELINE = new Set(["vtt", "textgrid", "eaf", "txt", "png"]);

/** @param {string} format */
export function extension(format) {
  return EXTENSIONS[format] ?? format;
}

/** Every event, one JSON object a line. */
export function toJsonl(session) {
  return session.events.map(({ event }) => `${JSON.stringify(event)}\n`).join("");
}

/**
 * The events that a format needs.
 * @param {import("./session.js").Session} session
 * @param {string} format
 */
export function eventsFor(session, format) {
  if (!ONE_TIMELINE.has(format)) return session.events.map(({ event }) => event);
  const numbers = new Map();
  const round = (seconds) => Math.round(seconds * 1e5) / 1e5;
  return session.events.filter(({ event }) => event.type !== "stream_ended").map(({ event, offset }) => {
    const moved = { ...event, stream: "session" };
    for (const field of ["start_s", "end_s", "at_s"]) if (field in moved) moved[field] = round(offset + moved[field]);
    if ("utterance" in moved) {
      const key = `${offset}:${event.utterance}`;
      if (!numbers.has(key)) numbers.set(key, numbers.size);
      moved.utterance = numbers.get(key);
    }
    return moved;
  });
}

function csv(rows) {
  const cell = (value) => (/[",\n\r]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return rows.map((row) => `${row.map(cell).join(",")}\n`).join("");
}

const README = `Utterances whose label was confirmed or corrected in the streamser dashboard.

manifest.csv    path, speaker, label: a corpus that the trainer can read ("streamser train"), one WAV file per row
corrections.csv every correction, also "wrong" and "unsure", with the recognized label and the note
session.jsonl   all events of the session

The audio is speech of real people: keep it only if they agreed.
`;

/**
 * The corrected session: a folder that the trainer reads, as a ZIP archive.
 * @param {import("./session.js").Session} session
 * @param {import("./audio.js").AudioMemory} memory
 * @param {string} speaker
 */
export function toCorpus(session, memory, speaker) {
  const manifest = [["path", "speaker", "label", "text_id"]];
  const head = ["stream", "utterance", "start_s", "end_s", "verdict", "label", "recognized", "uncertain", "confidence", "note", "path"];
  const corrections = [head];
  /** @type {[string, string | ArrayBuffer][]} */
  const clips = [];
  for (const utterance of session.finals) {
    const { correction } = utterance;
    if (!correction) continue;
    const sound = correction.verdict === "label" ? memory.between(utterance.start, utterance.end) : null;
    const path = sound ? `clips/${utterance.key.replace(":", "-")}.wav` : "";
    if (sound) {
      clips.push([path, toWav(sound.pcm, sound.rate)]);
      manifest.push([path, speaker, correction.label ?? "", ""]);
    }
    corrections.push([
      utterance.stream, utterance.number, (utterance.start - utterance.offset).toFixed(4),
      (utterance.end - utterance.offset).toFixed(4), correction.verdict, correction.label ?? "", utterance.label,
      utterance.uncertain, utterance.confidence.toFixed(4), correction.note, path,
    ].map(String));
  }
  const blob = toZip([
    ["README.txt", README], ["manifest.csv", csv(manifest)], ["corrections.csv", csv(corrections)],
    ["session.jsonl", toJsonl(session)], ...clips,
  ]);
  return { blob, clips: clips.length, corrections: corrections.length - 1 };
}
