// A session's summary: the share of each emotion, of uncertain results and of lost audio, and a timeline.

import { $, item } from "./dom.js";
import { percent } from "./palette.js";
import { clock } from "./session.js";

/**
 * Figures of a session.
 * @param {import("./session.js").Session} session
 */
export function summarize(session) {
  const { finals } = session;
  const shares = new Map();
  let speech_s = 0;
  for (const utterance of finals) {
    const word = utterance.uncertain ? "uncertain" : utterance.label;
    const length = utterance.end - utterance.start;
    speech_s += length;
    const share = shares.get(word) ?? { count: 0, seconds: 0 };
    shares.set(word, { count: share.count + 1, seconds: share.seconds + length });
  }
  const corrected = finals.filter(({ correction }) => correction);
  const judged = corrected.filter(({ correction, uncertain }) => correction.verdict !== "unsure" && !uncertain);
  return {
    duration_s: session.position,
    speech_s,
    utterances: finals.length,
    shares,
    lost_s: session.gaps.reduce((sum, gap) => sum + gap.end - gap.start, 0),
    gaps: session.gaps.length,
    corrected: corrected.length,
    judged: judged.length,
    right: judged.filter(({ correction, label }) => correction.verdict === "label" && correction.label === label).length,
    both: finals.filter(({ second }) => second?.final).length,
    agreed: finals.filter(({ second, label }) => second?.final && second.label === label).length,
  };
}

/**
 * Fill the summary's card.
 * @param {import("./session.js").Session} session
 * @param {import("./palette.js").Palette} palette
 */
export function showSummary(session, palette) {
  const sums = summarize(session);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const lines = [
    `${clock(sums.duration_s, 0)} of audio, ${clock(sums.speech_s, 0)} of it speech, in ${plural(sums.utterances, "utterance")}`,
    sums.gaps ? `${plural(sums.gaps, "gap")}: ${sums.lost_s.toFixed(1)} s of audio were lost` : "no audio was lost",
  ];
  if (sums.both) lines.push(`the two checkpoints gave the same label to ${sums.agreed} of ${sums.both} utterances`);
  if (sums.corrected) {
    const right = sums.judged ? `; of ${plural(sums.judged, "confident label")}, ${sums.right} ${sums.right === 1 ? "was" : "were"} right according to you` : "";
    lines.push(`${plural(sums.corrected, "utterance")} confirmed or corrected${right}`);
  }
  $("summary-lines").replaceChildren(...lines.map((line) => item("li", {}, line)));
  const words = [...palette.labels, "uncertain"].filter((word) => sums.shares.has(word));
  $("summary-shares").replaceChildren(...words.map((word) => {
    const { count, seconds } = sums.shares.get(word);
    const mark = item("span", { className: "swatch", ariaHidden: "true" });
    palette.dress(mark, word === "uncertain" ? null : word);
    return item("li", {}, mark, item("span", {}, word), item("span", { className: "share" },
      `${percent(seconds / sums.speech_s)} of speech, ${plural(count, "utterance")}`));
  }));
  drawCourse(session, palette, sums.duration_s);
}

/** The whole session as one line; a picture stays one element however many utterances there are. */
function drawCourse(session, palette, duration_s) {
  const canvas = $("summary-course");
  const brush = canvas.getContext("2d");
  canvas.width = Math.round((canvas.clientWidth || 600) * (devicePixelRatio || 1));
  const scale = canvas.width / Math.max(duration_s, 0.001);
  for (const utterance of session.finals) {
    brush.fillStyle = palette.fill(brush, utterance.uncertain ? null : utterance.label);
    brush.fillRect(utterance.start * scale, 0, Math.max(1, (utterance.end - utterance.start) * scale), canvas.height);
  }
}
