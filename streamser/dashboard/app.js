// The page: it passes the user's actions to a source, and the source's reports to the session and the screen.

import { AudioMemory } from "./audio.js";
import { Client } from "./client.js";
import { bindDrop, bindKeys, bindTimeline } from "./controls.js";
import { Detail } from "./detail.js";
import { $, item, setText } from "./dom.js";
import { FORMATS } from "./exports.js";
import { FileSource } from "./files.js";
import { announce, setLink, showEmpty, showNotice, showTrouble, showVad, showVoice } from "./notices.js";
import { Palette, percent } from "./palette.js";
import { Player } from "./player.js";
import { exportAs, exportCorpus, guardCorrections, mayClear } from "./saving.js";
import { chosenModel, meetModels, takeToken, withToken } from "./server.js";
import { clock, Session } from "./session.js";
import { BrowserMicrophone, isPlain, ServerMicrophone } from "./sources.js";
import { showSummary } from "./summary.js";
import { Table } from "./table.js";
import { Timeline } from "./timeline.js";
import { Transport } from "./transport.js";
import { Verdict } from "./verdict.js";

const SLOW_MS = 100; // numbers and bars change ten times a second, no faster than an eye can read
const HEALTH_MS = 5000;
const HINTS = {
  browser: "",
  server: "The microphone of the computer that runs streamser; only results are sent here, no audio.",
  file: "WAV, FLAC, Ogg, MP3, and other formats that this browser can play. You can also drop a file anywhere on this page.",
};

const client = new Client(location.origin, { token: takeToken() });
const session = new Session();
const memory = new AudioMemory();
const timeline = new Timeline($("canvas"), session, memory);
const verdict = new Verdict(session);
const player = new Player(memory, () => detail.showPlaying());
const transport = new Transport(player, timeline);
const dress = (element, label) => timeline.palette.dress(element, label);
const hear = (utterance) => {
  select(utterance);
  detail.hear(utterance);
};
const table = new Table(session, { select, hear, dress });
const detail = new Detail(session, player, memory, { select, announce, changed: showCorrection });
/** @type {any} the source that is open now */
let source = null;
let starting = false;
/** @type {any} */
let health = null;
let level = 0;
const usedNames = new Set();

// ---- requests to the server ------------------------------------------------------------------------------------

async function checkHealth() {
  try {
    health = await client.health();
    if (!source && health.problems?.length) setLink("lost", health.problems[0]);
    else if ($("link").dataset.state === "lost") setLink("idle", "ready");
  } catch {
    health = null;
    if (!source) setLink("lost", "server not reachable");
  }
  showHealth();
}

function showHealth() {
  showButton();
  setText("health", health ? `streamser ${health.version} on ${location.host}` : "");
  showNotice(source, health);
}

/** Colors, bars, legend and buttons for a checkpoint's labels. */
function usePalette(colors) {
  if (Object.keys(colors).join() === timeline.palette.labels.join()) return;
  const palette = new Palette(colors);
  timeline.palette = palette;
  timeline.stale = true;
  const legend = [...palette.labels.map((label) => [label, label]), ["uncertain", null]];
  $("legend").replaceChildren(...legend.map(([word, label]) => {
    const mark = item("span", { className: "swatch", ariaHidden: "true" });
    palette.dress(mark, label);
    return item("li", {}, mark, word);
  }));
  verdict.usePalette(palette);
  detail.usePalette(palette);
}

function showButton() {
  const kind = chosen();
  const isFile = source?.kind === "file";
  const words = isFile ? (source.isPaused ? "Resume" : "Pause") : source ? "Stop listening" : kind === "file" ? "Open an audio file" : "Start listening";
  setText("main-text", starting ? "Starting …" : words);
  $("main").dataset.on = Boolean(source);
  const noMicrophone = !source && kind === "server" && health !== null && !health.microphone;
  $("main").disabled = noMicrophone || starting;
  const isBusy = Boolean(source) || starting;
  for (const control of document.querySelectorAll('input[name="source"], #device, #models select')) {
    /** @type {HTMLInputElement} */ (control).disabled = isBusy;
  }
  $("skip").hidden = !isFile;
  showEmpty(source?.kind);
  $("summary").hidden = isBusy || !session.finals.length;
  setText("hint", source ? "" : noMicrophone ? "This server does not use its microphone. Start it with: streamser serve ‑‑mic" : HINTS[kind]);
}

// ---- results --------------------------------------------------------------------------------------------------

function showFinal(utterance) {
  table.show();
  $("empty").hidden = true;
  setText("count", String(session.finals.length));
  for (const button of document.querySelectorAll("#session-tools button")) /** @type {any} */ (button).disabled = false;
  const result = utterance.uncertain ? "uncertain" : `${utterance.label}, ${percent(utterance.confidence)}`;
  announce(`Utterance at ${clock(utterance.start, 0)}: ${result}`);
  if (detail.utterance) detail.show();
}

function select(utterance) {
  timeline.selected = table.selected = utterance.key;
  timeline.reveal(utterance.start, session.endOf(utterance));
  timeline.stale = true;
  if (!utterance.final) return;
  table.reveal(utterance);
  table.show();
  detail.set(utterance);
  verdict.set(utterance);
}

function showCorrection() {
  table.show();
  timeline.stale = true;
  $("export-corpus").disabled = !session.finals.some(({ correction }) => correction);
  showButton();
  if (!$("summary").hidden) showSummary(session, timeline.palette);
}

/** Callbacks for a source's reports; see sources.js. */
function makeListener(kind) {
  return {
    name: uniqueName,
    connection: (state, detail) => {
      const words = { connecting: "connecting", reconnecting: "connecting again", connected: "connected" };
      setLink(state, detail ?? words[state]);
    },
    ready: (message, joined) => {
      session.begin(message.stream, joined);
      usePalette(message.colours);
      if (source) Object.assign(source, { recording: message.recording, isCut: false });
      showTrouble("");
      showNotice(source, health);
    },
    secondReady: () => session.beginSecond(),
    level: (rms) => {
      level = Math.max(rms, level * 0.7);
    },
    audio: (start, end, low, high) => {
      session.envelope.add(session.offset + start, session.offset + end, low, high);
      session.reach(end);
      timeline.stale = true;
    },
    samples: (start, pcm, rate) => memory.add(session.offset + start, pcm, rate),
    status: (status) => {
      if (source) showVad(status.vad_state);
      if (kind === "server") session.reach(status.position_s);
      if (status.dropped) setLink("connected", `connected, ${status.dropped} partial results dropped`);
    },
    event: (event) => takeEvent(event, kind),
    second: (event) => takeSecond(event),
    broken: () => {
      if (source) source.isCut = true;
      showNotice(source, health);
      session.breakOff();
      showVad("off");
      showVoice(null, false);
      level = 0;
      timeline.stale = true;
    },
    failed: (error) => stop(error),
  };
}

function takeEvent(event, kind) {
  if (event.type === "source") {
    showTrouble(event.state === "lost" ? `The server’s microphone was lost: ${event.detail}` : "");
    return;
  }
  const utterance = session.take(event);
  timeline.stale = true;
  $("empty-picture").hidden = true;
  if (kind === "file" && event.type === "speech_started") showVad("speaking");
  if (kind === "file" && event.type === "speech_ended") showVad("quiet");
  if (event.type === "emotion") {
    verdict.set(utterance);
    showVoice(event, Boolean(source?.newSpeaker));
    if (event.final && utterance) showFinal(utterance);
  }
  if (event.type === "stream_ended" && event.error) showTrouble(`The stream ended: ${event.error}`);
}

function takeSecond(event) {
  const utterance = session.takeSecond(event);
  if (!utterance) return;
  verdict.isStale = timeline.stale = true;
  if (utterance.final) table.show();
}

/** A name that no other stream of the session has, so that an export keeps the streams apart. */
function uniqueName(wanted) {
  let name = wanted;
  for (let count = 2; usedNames.has(name); count++) name = `${wanted}-${count}`;
  usedNames.add(name);
  return name;
}

// ---- starting and stopping ------------------------------------------------------------------------------------

function chosen() {
  return /** @type {any} */ (document.querySelector('input[name="source"]:checked')).value;
}

function choose(kind) {
  if (source || starting) return;
  /** @type {any} */ (document.querySelector(`input[name="source"][value="${kind}"]`)).checked = true;
  showTrouble("");
  showButton();
}

async function start(kind, file = null) {
  if (source || starting) return;
  showTrouble("");
  player.stop();
  starting = true;
  showButton();
  const second = kind === "server" ? null : chosenModel("second");
  const options = { file, deviceId: $("device").value, model: chosenModel("checkpoint"), second };
  useSecond(second);
  const kinds = { browser: BrowserMicrophone, server: ServerMicrophone, file: FileSource };
  const made = new kinds[kind](client, makeListener(kind), options);
  try {
    if (kind === "file") {
      setSource(made);
      await made.start();
      await stop();
    } else {
      await made.start();
      setSource(made);
      if (kind === "browser") listDevices();
    }
  } catch (error) {
    source = made; // so that stop() releases what was already opened
    await stop(error);
  }
}

/** Show or hide the parts for a second checkpoint. */
function useSecond(name) {
  verdict.secondName = name;
  if (name) document.body.dataset.second = name;
  setText("second-head", name ?? "");
  arrangeLanes();
}

function arrangeLanes() {
  const pressed = (id) => $(id).getAttribute("aria-pressed") === "true";
  timeline.arrange({ spectrum: pressed("lane-spectrum"), pitch: pressed("lane-pitch"), second: Boolean(document.body.dataset.second) });
}

function setSource(made) {
  source = made;
  starting = false;
  $("empty-picture").hidden = true;
  timeline.follow();
  showVad("quiet");
  showNotice(source, health);
  showButton();
}

async function stop(error = null) {
  const ending = source;
  if (!ending || ending.isEnding) return;
  ending.isEnding = true;
  await ending.stop().catch(() => {});
  session.breakOff();
  source = null;
  starting = false;
  level = 0;
  if (error) showTrouble(isPlain(error) ? error.message : `Unexpected error: ${error.message}`);
  setLink("idle", "ready");
  showVad("off");
  showVoice(null, false);
  showHealth();
  showButton();
  if (session.finals.length) showSummary(session, timeline.palette);
  timeline.stale = true;
}

function press() {
  if (source?.kind === "file") {
    source.pause(!source.isPaused);
    showButton();
  } else if (source) stop();
  else if (chosen() === "file") $("file").click();
  else start(chosen());
}

async function openFile(file) {
  if (!file) return;
  if (source) await stop();
  choose("file");
  await start("file", file);
}

async function trySample() {
  try {
    const blob = await withToken(client, () => client.sample());
    await openFile(new File([blob], "sample.wav", { type: "audio/wav" }));
  } catch (error) {
    showTrouble(error.message);
  }
}

async function listDevices() {
  const inputs = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "audioinput");
  $("device-box").hidden = inputs.length < 2;
  const before = $("device").value;
  $("device").replaceChildren(...inputs.map((device, i) => new Option(device.label || `Microphone ${i + 1}`, device.deviceId)));
  if (inputs.some((device) => device.deviceId === before)) $("device").value = before;
}

// ---- the session ----------------------------------------------------------------------------------------------

function clear() {
  const listening = session.streams.at(-1);
  const position = session.position - session.offset;
  transport.clear();
  session.clear();
  memory.clear();
  timeline.acoustics.clear();
  if (source && listening) session.begin(listening.name, source.kind === "file" ? source.position : position);
  detail.set(null);
  verdict.set(null);
  timeline.selected = table.selected = null;
  table.show();
  $("empty").hidden = false;
  $("empty-picture").hidden = Boolean(source);
  setText("count", "");
  for (const button of document.querySelectorAll("#session-tools button, #export-corpus")) /** @type {any} */ (button).disabled = true;
  timeline.follow();
  showButton();
}

// ---- the clock of the page ------------------------------------------------------------------------------------

let lastSlow = 0;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function frame(now) {
  requestAnimationFrame(frame);
  transport.show();
  const isSlow = now - lastSlow >= SLOW_MS;
  if (isSlow || !calm.matches) timeline.draw();
  if (!isSlow) return;
  lastSlow = now;
  verdict.show();
  setText("position", clock(session.position));
  $("follow").hidden = timeline.following;
  // The meter spans -60 to 0 dB of full scale: loudness is perceived by ratios.
  const db = 20 * Math.log10(Math.max(level, 1e-6));
  $("level").style.transform = `scaleX(${Math.max(0, Math.min(1, 1 + db / 60))})`;
  $("level").dataset.hot = db > -3;
  level *= 0.7;
}

function bindButtons() {
  const click = (id, act) => $(id).addEventListener("click", act);
  click("main", press);
  click("new-speaker", () => {
    source?.newSpeaker?.();
    showVoice({ baseline: "none" }, false);
  });
  click("skip", () => source?.skip?.());
  $("file").addEventListener("change", () => {
    openFile($("file").files[0]);
    $("file").value = "";
  });
  $("sources").addEventListener("change", () => choose(chosen()));
  click("trouble-close", () => showTrouble(""));
  click("sample", trySample);
  click("export-jsonl", () => exportAs(client, session, "jsonl"));
  for (const format of Object.keys(FORMATS)) click(`export-${format}`, () => exportAs(client, session, format));
  click("export-corpus", () => exportCorpus(session, memory));
  click("clear", async () => (await mayClear(session, memory)) && clear());
  click("zoom-in", () => timeline.zoom(0.5));
  click("zoom-out", () => timeline.zoom(2));
  click("zoom-selection", zoomToSelection);
  for (const id of ["lane-spectrum", "lane-pitch"]) {
    click(id, () => {
      $(id).setAttribute("aria-pressed", String($(id).getAttribute("aria-pressed") !== "true"));
      arrangeLanes();
    });
  }
  click("follow", () => timeline.follow());
  click("help-open", () => $("help").showModal());
  for (const id of ["about-open", "about-open-2"]) click(id, () => $("about").showModal());
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog")?.close());
  }
}

function zoomToSelection() {
  const { target } = detail;
  if (target) timeline.zoomTo(target.start, target.end);
}

function bindEverything() {
  bindButtons();
  bindDrop(openFile);
  bindTimeline(timeline, { select, seek: (time) => transport.seek(time) });
  const label = (i) => () => detail.correct("label", timeline.palette.labels[i]);
  bindKeys({
    s: press, o: () => $("file").click(), a: () => source?.skip?.(), "?": () => $("help").showModal(),
    m: () => choose("browser"), v: () => choose("server"), f: () => choose("file"),
    "+": () => timeline.zoom(0.5), "=": () => timeline.zoom(0.5), "-": () => timeline.zoom(2), z: zoomToSelection,
    p: () => transport.play(), h: () => detail.hear(), l: () => detail.loop(), j: () => detail.step(-1), k: () => detail.step(1),
    w: () => detail.correct("wrong"), u: () => detail.correct("unsure"), x: () => detail.correct(null),
    n: () => $("note").focus(),
    ...Object.fromEntries(Array.from({ length: 9 }, (_, i) => [String(i + 1), () => timeline.palette.labels[i] && label(i)()])),
  });
}

function begin() {
  $("speaker").value = localStorage.getItem("streamser-speaker") ?? "";
  bindEverything();
  guardCorrections(session);
  new ResizeObserver(() => (timeline.stale = true)).observe($("stage"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (timeline.stale = true));
  showButton();
  requestAnimationFrame(frame);
  checkHealth();
  setInterval(checkHealth, HEALTH_MS);
  meetModels(client).then(usePalette).catch((error) => showTrouble(isPlain(error) ? error.message : `Unexpected error: ${error.message}`));
}

begin();

export { makeListener, memory, player, session, timeline };
