// Export buttons: the events in many formats, and corrected utterances as a corpus.

import { $, save, setText, timestamp } from "./dom.js";
import { eventsFor, extension, toCorpus, toJsonl } from "./exports.js";
import { announce, showTrouble } from "./notices.js";
import { withToken } from "./server.js";

/** Save the session's events; the server writes every format but JSON lines. */
export async function exportAs(client, session, format) {
  try {
    const blob = format === "jsonl"
      ? new Blob([toJsonl(session)], { type: "application/x-ndjson" })
      : await withToken(client, () => client.export(eventsFor(session, format), format));
    save(`streamser-${timestamp()}.${extension(format)}`, blob);
  } catch (error) {
    showTrouble(`The export failed: ${error.message}`);
  }
}

/** Save confirmed and corrected utterances with their audio. */
export function exportCorpus(session, memory) {
  const speaker = $("speaker").value.trim() || "me";
  localStorage.setItem("streamser-speaker", speaker);
  const { blob, clips, corrections } = toCorpus(session, memory, speaker);
  save(`streamser-corpus-${timestamp()}.zip`, blob);
  session.markExported();
  announce(`${corrections} corrections and ${clips} audio clips were exported.`);
}

/** Ask before a session with corrections that were not exported is cleared; resolves with whether to clear it. */
export async function mayClear(session, memory) {
  const count = session.unexported.length;
  if (!count) return true;
  setText("forget-words", `${count === 1 ? "1 correction is" : `${count} corrections are`} not exported. “Clear” deletes the session and its audio.`);
  $("forget").returnValue = ""; // Escape leaves this value unchanged
  $("forget").showModal();
  await new Promise((resolve) => $("forget").addEventListener("close", resolve, { once: true }));
  const answer = $("forget").returnValue;
  if (answer === "export") exportCorpus(session, memory);
  return answer === "export" || answer === "clear";
}

/** Have the browser ask before its tab is closed while corrections are not exported: they are kept in the page only. */
export function guardCorrections(session) {
  addEventListener("beforeunload", (event) => {
    if (session.unexported.length) event.preventDefault();
  });
}
