// Pointer, wheel, touch and keys.

import { $ } from "./dom.js";

const CLICK_PX = 4; // a pointer that moves less than this has clicked

/**
 * Drag to scroll, click to select, wheel and pinch to zoom at the pointer, double click to zoom to an utterance.
 * @param {import("./timeline.js").Timeline} timeline
 * @param {{select: (utterance: any) => void, seek: (time: number) => void}} acts
 */
export function bindTimeline(timeline, acts) {
  const stage = $("stage");
  /** @type {Map<number, number>} pointer -> x */
  const pointers = new Map();
  let dragged = null;
  let pinch = 0;
  const spread = () => Math.abs([...pointers.values()][0] - [...pointers.values()][1]);
  const middle = () => ([...pointers.values()][0] + [...pointers.values()][1]) / 2;
  stage.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event.clientX);
    stage.setPointerCapture(event.pointerId);
    if (pointers.size === 2) [dragged, pinch] = [null, spread()];
    else dragged = { x: event.clientX, end: timeline.rightEdge, moved: false };
  });
  stage.addEventListener("pointermove", (event) => {
    if (pointers.has(event.pointerId)) pointers.set(event.pointerId, event.clientX);
    if (pointers.size === 2 && spread() > 10 && pinch > 10) {
      timeline.zoom(pinch / spread(), timeline.timeAt(middle()));
      pinch = spread();
    }
    if (!dragged || (!dragged.moved && Math.abs(event.clientX - dragged.x) < CLICK_PX)) return;
    dragged.moved = true;
    timeline.show(dragged.end - ((event.clientX - dragged.x) / stage.clientWidth) * timeline.span);
  });
  stage.addEventListener("pointerup", (event) => {
    pointers.delete(event.pointerId);
    const isClick = dragged && !dragged.moved;
    dragged = null;
    if (!isClick) return;
    const hit = timeline.at(event.clientX);
    if (hit) acts.select(hit);
    acts.seek(timeline.timeAt(event.clientX));
  });
  stage.addEventListener("pointercancel", (event) => {
    pointers.delete(event.pointerId);
    dragged = null;
  });
  stage.addEventListener("dblclick", (event) => {
    const hit = timeline.at(event.clientX);
    if (hit) timeline.zoomTo(hit.start, hit.end);
  });
  stage.addEventListener("wheel", (event) => {
    const isZoom = event.ctrlKey || Math.abs(event.deltaY) > Math.abs(event.deltaX);
    if (!isZoom) timeline.scroll((event.deltaX / stage.clientWidth) * timeline.span);
    else if (event.ctrlKey || event.altKey || document.activeElement === stage) {
      timeline.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 150), timeline.timeAt(event.clientX));
    } else return; // the page scrolls: if the picture took every wheel event, scrolling would stop over it
    event.preventDefault();
  }, { passive: false });
  stage.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -0.1, ArrowRight: 0.1, PageUp: -0.9, PageDown: 0.9 };
    if (event.key in moves) timeline.scroll(moves[event.key] * timeline.span);
    else if (event.key === "Home") timeline.show(timeline.span);
    else if (event.key === "End") timeline.follow();
    else return;
    event.preventDefault();
  });
}

/**
 * A file can be dropped anywhere on the page.
 * @param {(file: File) => void} open
 */
export function bindDrop(open) {
  let depth = 0; // dragging from an element onto its child counts as leaving the element
  const over = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = depth === 0;
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => hasFiles(event) && over(1));
  addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    if (event.dataTransfer?.files[0]) open(event.dataTransfer.files[0]);
  });
}

/**
 * Single-letter keys, which can be switched off.
 * @param {Record<string, () => void>} acts
 */
export function bindKeys(acts) {
  const box = $("keys-on");
  box.checked = localStorage.getItem("streamser-keys") !== "off";
  box.addEventListener("change", () => localStorage.setItem("streamser-keys", box.checked ? "on" : "off"));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !box.checked) return;
    const target = /** @type {Element} */ (event.target);
    if (target.matches("input:not([type=radio]), select, textarea") || document.querySelector("dialog[open]")) return;
    const act = acts[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
