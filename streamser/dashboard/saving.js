// Export buttons: the events in many formats, and corrected utterances as a corpus.

import { $, save, timestamp } from "./dom.js";
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

/** Save confirmed and corrected utterances with their sound. */
export function exportCorpus(session, memory) {
  const speaker = $("speaker").value.trim() || "me";
  localStorage.setItem("streamser-speaker", speaker);
  const { blob, clips, corrections } = toCorpus(session, memory, speaker);
  save(`streamser-corpus-${timestamp()}.zip`, blob);
  announce(`${corrections} corrections and ${clips} sound clips were exported.`);
}
