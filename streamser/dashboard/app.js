// The page: what the user does goes to a source, what the source says goes to the session and onto the screen.

import { Palette, percent } from "./palette.js";
import { clock, Session } from "./session.js";
import { BrowserMicrophone, FileSource, ServerMicrophone, Trouble } from "./sources.js";
import { HEIGHT, Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const SLOW_MS = 100; // numbers and bars change ten times a second, no faster than an eye can read
const HEALTH_MS = 5000;
const VAD_WORDS = {
  off: "not listening", quiet: "quiet", starting: "someone begins", speaking: "speaking", stopping: "ending",
};
const HINTS = {
  browser: "",
  server: "The microphone of the computer that runs streamser; it sends results here, never sound.",
  file: "WAV, FLAC, Ogg, MP3 and what this browser can play. You can also drop a file anywhere on this page.",
};

const session = new Session();
let palette = new Palette({});
const timeline = new Timeline($("canvas"), session, palette);
let source = null; // what is listening now
let starting = false;
let health = null;
let token = takeToken();
let level = 0;
let barsStale = true;
let latest = null; // the last result, partial or final
const rows = new Map(); // utterance key -> table row
const usedNames = new Set();

// ---- talking to the server ------------------------------------------------------------------------------------

/** The token from the address's fragment, which no server log sees, or from earlier in this tab. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("streamser-token", given);
    history.replaceState(null, "", location.pathname);
  }
  return given ?? sessionStorage.getItem("streamser-token");
}

async function ask(path) {
  const answer = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (answer.status === 401) {
    token = await askToken();
    return ask(path);
  }
  if (!answer.ok) throw new Trouble(`The server answered ${answer.status} to ${path}.`);
  return answer.json();
}

function askToken() {
  const dialog = $("ask");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("streamser-token", $("token").value);
      resolve($("token").value);
    }, { once: true });
  });
}

async function checkHealth() {
  try {
    health = await (await fetch("/healthz")).json();
    if ($("link").dataset.state === "lost") setLink("idle", "ready");
  } catch {
    health = null;
    if (!source) setLink("lost", "server not reachable");
  }
  showHealth();
}

function showHealth() {
  showButton();
  $("health").textContent = health ? `streamser ${health.version} on ${location.host}` : "";
  showNotice();
}

async function meetModel() {
  const { current } = await ask("/v1/models");
  usePalette(current.colours);
  $("model").textContent = `model ${current.name} · ${current.labels.length} emotions`;
}

/** Colours, bars and legend for these labels; a checkpoint's labels stay the same while the server runs. */
function usePalette(colours) {
  if (Object.keys(colours).join() === palette.labels.join()) return;
  palette = timeline.palette = new Palette(colours);
  timeline.stale = true;
  const legend = [...palette.labels.map((label) => [label, label]), ["uncertain", null]];
  $("legend").replaceChildren(...legend.map(([word, label]) => item("li", {}, swatch(label), word)));
  $("bars").replaceChildren(...palette.labels.map((label) => {
    const fill = item("span", { className: "fill" });
    palette.dress(fill, label);
    const row = item("li", {}, item("span", {}, label), item("span", { className: "track" }, fill), item("span", { className: "share" }, "–"));
    row.dataset.label = label;
    return row;
  }));
}

// ---- small pieces of page -------------------------------------------------------------------------------------

function item(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function swatch(label) {
  const mark = item("span", { className: "swatch", ariaHidden: "true" });
  palette.dress(mark, label);
  return mark;
}

function setLink(state, text) {
  $("link").dataset.state = state;
  $("link-text").textContent = text;
}

function showTrouble(message) {
  $("trouble-text").textContent = message;
  $("trouble").hidden = !message;
}

function showNotice() {
  const kind = source?.kind;
  $("notice").hidden = !source;
  if (!source) return;
  const there = `this streamser server (${location.host})`;
  const recording = kind === "server" ? health?.recording : source.recording ?? health?.recording;
  $("notice").dataset.record = Boolean(recording);
  $("notice").dataset.cut = Boolean(source.isCut);
  const stored = recording
    ? " It is being RECORDED to a folder there, because the server was started with ‑‑record."
    : " It is not stored.";
  const words = source.isCut ? { [kind]: "The connection is lost: no sound is sent, and none is kept, until it is back." } : {
    browser: `Listening. The sound goes only to ${there}.${stored}`,
    server: `Listening to the microphone of the computer that runs streamser. Only results come here.${recording ? stored : " No sound is stored."}`,
    file: `The file was sent only to ${there} and judged there.${stored}`,
  };
  if ($("notice").textContent !== words[kind]) $("notice").textContent = words[kind];
}

function showVad(state) {
  $("vad").dataset.state = state;
  $("vad-text").textContent = VAD_WORDS[state];
}

function showButton() {
  const kind = chosen();
  const file = source?.kind === "file";
  const words = file ? (source.isPaused ? "Go on" : "Pause") : source ? "Stop listening" : kind === "file" ? "Open a sound file" : "Start listening";
  $("main-text").textContent = starting ? "Starting …" : words;
  $("main").dataset.on = Boolean(source);
  const deaf = !source && kind === "server" && health !== null && !health.microphone;
  $("main").disabled = deaf || starting;
  $("device").disabled = Boolean(source) || starting;
  for (const radio of document.querySelectorAll('input[name="source"]')) radio.disabled = Boolean(source) || starting;
  $("skip").hidden = !file;
  $("hint").textContent = source ? "" : deaf ? "This server listens to no microphone. Start it with: streamser serve ‑‑mic" : HINTS[kind];
}

// ---- results --------------------------------------------------------------------------------------------------

function showVerdict() {
  if (!barsStale) return;
  barsStale = false;
  const kind = !latest ? "none" : latest.final ? "final" : "partial";
  const sure = Boolean(latest) && !latest.uncertain;
  $("verdict").dataset.kind = kind;
  $("verdict").dataset.sure = sure;
  $("bars").dataset.sure = sure;
  palette.dress($("verdict-swatch"), sure ? latest.label : null);
  if (!latest) {
    $("verdict-word").textContent = "–";
    $("verdict-note").textContent = "Nothing heard yet.";
  } else {
    const when = whenJudged(latest);
    $("verdict-word").textContent = sure ? latest.label : "uncertain";
    $("verdict-note").textContent = sure
      ? `${percent(latest.confidence)} confident, ${when}`
      : `not sure enough, ${when}`;
  }
  for (const row of $("bars").children) {
    const share = latest?.scores[row.dataset.label] ?? 0;
    row.querySelector(".fill").style.width = `${100 * share}%`;
    row.querySelector(".share").textContent = latest ? percent(share) : "–";
  }
}

/** Which part of the session a result is about. */
function whenJudged(utterance) {
  if (!utterance.final) return "so far";
  return utterance === session.finals.at(-1) ? "last utterance" : `utterance at ${clock(utterance.start)}`;
}

function showFinal(utterance) {
  const row = item("tr", { className: utterance.uncertain ? "unsure" : "" });
  row.dataset.key = utterance.key;
  row.dataset.label = utterance.label;
  row.dataset.final = "true";
  const go = item("button", { type: "button", className: "go", ariaLabel: `${clock(utterance.start)}, show on the timeline` }, clock(utterance.start));
  go.addEventListener("click", () => select(utterance));
  const meter = item("span", { className: "meter" }, item("i", { ariaHidden: "true" }, item("b", {})), percent(utterance.confidence));
  meter.querySelector("b").style.width = `${100 * utterance.confidence}%`;
  const word = item("span", { className: "emotion" }, swatch(utterance.uncertain ? null : utterance.label));
  if (utterance.uncertain) word.append(item("span", {}, "uncertain ", item("small", {}, `likeliest ${utterance.label}`)));
  else word.append(utterance.label);
  const scores = Object.entries(utterance.scores).sort((a, b) => b[1] - a[1]).slice(0, 3);
  row.append(
    item("td", {}, go),
    item("td", {}, word),
    item("td", {}, meter),
    item("td", { className: "wide scores" }, scores.map(([label, share]) => `${label} ${percent(share)}`).join(", ")),
    item("td", { className: "wide number" }, `${(utterance.end - utterance.start).toFixed(1)} s`),
  );
  rows.get(utterance.key)?.remove();
  rows.set(utterance.key, row);
  $("rows").prepend(row); // the newest on top, where it is seen without scrolling
  $("empty").hidden = true;
  $("count").textContent = session.finals.length;
  for (const id of ["export-jsonl", "export-csv", "export-vtt", "clear"]) $(id).disabled = false;
  const said = utterance.uncertain ? "uncertain" : `${utterance.label}, ${percent(utterance.confidence)}`;
  $("announce").textContent = `Utterance at ${clock(utterance.start, 0)}: ${said}`;
}

function select(utterance) {
  timeline.selected = utterance.key;
  timeline.show(Math.max(utterance.end + timeline.span / 4, timeline.span));
  for (const [key, row] of rows) row.classList.toggle("selected", key === utterance.key);
  if (utterance.final) {
    latest = utterance;
    barsStale = true;
  }
}

/** What a source may tell; `kind` is the source's. */
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
      showNotice();
    },
    level: (rms) => {
      level = Math.max(rms, level * 0.7);
    },
    sound: (start, end, low, high) => {
      session.envelope.add(session.offset + start, session.offset + end, low, high);
      session.heard(end);
      timeline.stale = true;
    },
    status: (status) => {
      if (source) showVad(status.vad_state);
      if (kind === "server") session.heard(status.position_s);
      if (status.dropped) setLink("connected", `connected, ${status.dropped} partial results dropped`);
    },
    event: (event) => takeEvent(event, kind),
    broken: () => {
      if (source) source.isCut = true;
      showNotice();
      session.breakOff();
      showVad("off");
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
    latest = utterance;
    barsStale = true;
    if (event.final) showFinal(utterance);
  }
  if (event.type === "stream_ended" && event.error) showTrouble(`The stream ended: ${event.error}`);
}

/** Streams of one session have names of their own, so that an export tells them apart. */
function uniqueName(wanted) {
  let name = wanted;
  for (let count = 2; usedNames.has(name); count++) name = `${wanted}-${count}`;
  usedNames.add(name);
  return name;
}

// ---- starting and stopping ------------------------------------------------------------------------------------

function chosen() {
  return document.querySelector('input[name="source"]:checked').value;
}

function choose(kind) {
  if (source || starting) return;
  document.querySelector(`input[name="source"][value="${kind}"]`).checked = true;
  showButton();
}

async function start(kind, file) {
  if (source || starting) return;
  showTrouble("");
  starting = true;
  showButton();
  const options = { token, file, deviceId: $("device").value };
  const kinds = { browser: BrowserMicrophone, server: ServerMicrophone, file: FileSource };
  const made = new kinds[kind](makeListener(kind), options);
  made.kind = kind;
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
    source = made; // so that stop() lets go of what was already opened
    await stop(error);
  }
}

function setSource(made) {
  source = made;
  starting = false;
  $("empty-picture").hidden = true;
  timeline.follow();
  showVad("quiet");
  showNotice();
  showButton();
}

async function stop(error) {
  const ending = source;
  if (!ending || ending.isEnding) return;
  ending.isEnding = true;
  await ending.stop().catch(() => {});
  session.breakOff();
  source = null;
  starting = false;
  level = 0;
  if (error) showTrouble(error instanceof Trouble ? error.message : `Something went wrong: ${error.message}`);
  setLink("idle", "ready");
  showVad("off");
  showHealth();
  showButton();
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

async function listDevices() {
  const inputs = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "audioinput");
  $("device-box").hidden = inputs.length < 2;
  const before = $("device").value;
  $("device").replaceChildren(...inputs.map((device, i) => new Option(device.label || `Microphone ${i + 1}`, device.deviceId)));
  if (inputs.some((device) => device.deviceId === before)) $("device").value = before;
}

// ---- the session ----------------------------------------------------------------------------------------------

function save(extension, type, text) {
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const link = item("a", { download: `streamser-${stamp}.${extension}`, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

function clear() {
  const listening = session.streams.at(-1);
  const position = session.position - session.offset;
  session.clear();
  if (source && listening) session.begin(listening.name, source.kind === "file" ? source.position : position);
  rows.clear();
  latest = null;
  barsStale = true;
  $("rows").replaceChildren();
  $("empty").hidden = false;
  $("empty-picture").hidden = Boolean(source);
  $("count").textContent = "";
  for (const id of ["export-jsonl", "export-csv", "export-vtt", "clear"]) $(id).disabled = true;
  timeline.selected = null;
  timeline.follow();
}

// ---- hands and keys -------------------------------------------------------------------------------------------

function bindButtons() {
  $("main").addEventListener("click", press);
  $("skip").addEventListener("click", () => source?.skip?.());
  $("file").addEventListener("change", () => {
    openFile($("file").files[0]);
    $("file").value = "";
  });
  $("sources").addEventListener("change", showButton);
  $("trouble-close").addEventListener("click", () => showTrouble(""));
  $("export-jsonl").addEventListener("click", () => save("jsonl", "application/x-ndjson", session.toJsonl()));
  $("export-csv").addEventListener("click", () => save("csv", "text/csv", session.toCsv(palette.labels)));
  $("export-vtt").addEventListener("click", () => save("vtt", "text/vtt", session.toVtt()));
  $("clear").addEventListener("click", clear);
  $("zoom-in").addEventListener("click", () => timeline.zoom(-1));
  $("zoom-out").addEventListener("click", () => timeline.zoom(1));
  $("follow").addEventListener("click", () => timeline.follow());
  $("help-open").addEventListener("click", () => $("help").showModal());
  for (const id of ["about-open", "about-open-2"]) $(id).addEventListener("click", () => $("about").showModal());
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
}

function bindDrop() {
  let depth = 0; // dragging over a child leaves its parent
  const over = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => event.dataTransfer?.types.includes("Files") && over(1));
  addEventListener("dragleave", (event) => event.dataTransfer?.types.includes("Files") && over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    openFile(event.dataTransfer.files[0]);
  });
}

function bindTimeline() {
  const stage = $("stage");
  let dragged = null;
  stage.addEventListener("pointerdown", (event) => {
    dragged = { x: event.clientX, end: timeline.rightEdge, moved: false };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!dragged || Math.abs(event.clientX - dragged.x) < 4) return;
    dragged.moved = true;
    timeline.show(dragged.end - ((event.clientX - dragged.x) / stage.clientWidth) * timeline.span);
  });
  stage.addEventListener("pointerup", (event) => {
    const hit = dragged && !dragged.moved ? timeline.at(event.clientX) : null;
    dragged = null;
    if (hit) select(hit);
  });
  stage.addEventListener("pointercancel", () => (dragged = null));
  stage.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -0.1, ArrowRight: 0.1, PageUp: -0.9, PageDown: 0.9 };
    if (event.key in moves) timeline.scroll(moves[event.key] * timeline.span);
    else if (event.key === "Home") timeline.show(timeline.span);
    else if (event.key === "End") timeline.follow();
    else return;
    event.preventDefault();
  });
}

function bindKeys() {
  $("keys-on").checked = localStorage.getItem("streamser-keys") !== "off";
  $("keys-on").addEventListener("change", () => localStorage.setItem("streamser-keys", $("keys-on").checked ? "on" : "off"));
  const acts = {
    s: press, o: () => $("file").click(), a: () => source?.skip?.(), "?": () => $("help").showModal(),
    1: () => choose("browser"), 2: () => choose("server"), 3: () => choose("file"),
    "+": () => timeline.zoom(-1), "=": () => timeline.zoom(-1), "-": () => timeline.zoom(1),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !$("keys-on").checked) return;
    if (event.target.matches("input:not([type=radio]), select, textarea") || document.querySelector("dialog[open]")) return;
    const act = acts[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

// ---- the clock of the page ------------------------------------------------------------------------------------

let lastSlow = 0;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function frame(now) {
  requestAnimationFrame(frame);
  const slow = now - lastSlow >= SLOW_MS;
  if (slow || !calm.matches) timeline.draw();
  if (!slow) return;
  lastSlow = now;
  showVerdict();
  $("position").textContent = clock(session.position);
  $("follow").hidden = timeline.following;
  // The meter spans -60 to 0 dB of full scale, as ears do and amplitudes do not.
  const db = 20 * Math.log10(Math.max(level, 1e-6));
  $("level").style.transform = `scaleX(${Math.max(0, Math.min(1, 1 + db / 60))})`;
  $("level").dataset.hot = db > -3;
  level *= 0.7;
}

function begin() {
  $("canvas").style.height = `${HEIGHT}px`;
  bindButtons();
  bindDrop();
  bindTimeline();
  bindKeys();
  new ResizeObserver(() => (timeline.stale = true)).observe($("stage"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (timeline.stale = true));
  showButton();
  requestAnimationFrame(frame);
  checkHealth();
  setInterval(checkHealth, HEALTH_MS);
  meetModel().catch((error) => showTrouble(error instanceof Trouble ? error.message : "No answer from the server. Is streamser still running?"));
}

begin();

export { session, timeline };
