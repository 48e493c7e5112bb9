// One color and one pattern for each emotion: the pattern helps people who cannot distinguish the colors; the name is always shown too.

// The server names the colors, so that terminal, pictures and page agree; the patterns are the page's own.
/** @type {[RegExp, string][]} */
const PATTERNS = [
  [/^ang/, "rising"], [/^(hap|joy)/, "dots"], [/^sad/, "falling"], [/^neu/, "plain"], [/^(fea|anx)/, "grid"],
  [/^dis/, "level"], [/^sur/, "upright"], [/^bor/, "rings"], [/^cal/, "waves"],
];
const SPARE = ["rings", "grid", "level", "dots", "upright"];

const TILE = 8; // pixels; all patterns repeat without a seam

const STROKES = {
  rising: [[-2, 2, 2, -2], [0, 8, 8, 0], [6, 10, 10, 6]],
  falling: [[-2, 6, 2, 10], [0, 0, 8, 8], [6, -2, 10, 2]],
  level: [[0, 4, 8, 4]],
  upright: [[4, 0, 4, 8]],
  grid: [[0, 4, 8, 4], [4, 0, 4, 8]],
  waves: [[0, 5, 4, 3], [4, 3, 8, 5]],
};

function paintTile(color, pattern, ink) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = TILE;
  const brush = tile.getContext("2d");
  if (color) {
    brush.fillStyle = color;
    brush.fillRect(0, 0, TILE, TILE);
  }
  brush.strokeStyle = brush.fillStyle = ink;
  for (const [x1, y1, x2, y2] of STROKES[pattern] ?? []) {
    brush.beginPath();
    brush.moveTo(x1, y1);
    brush.lineTo(x2, y2);
    brush.stroke();
  }
  if (pattern === "dots" || pattern === "rings") {
    brush.beginPath();
    brush.arc(TILE / 2, TILE / 2, pattern === "dots" ? 1.2 : 2.2, 0, 2 * Math.PI);
    if (pattern === "dots") brush.fill();
    else brush.stroke();
  }
  return tile;
}

/** Whether a color is so light that black is easier to read on it than white. */
function isLight(color) {
  const [r, g, b] = [1, 3, 5].map((i) => (parseInt(color.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2; // where black and white have about equal contrast
}

/** Colours and patterns for one model's labels; `colors` maps each label to "#rrggbb". */
export class Palette {
  constructor(colors) {
    this.labels = Object.keys(colors);
    this.styles = new Map();
    let spare = 0;
    for (const [label, color] of Object.entries(colors)) {
      const known = PATTERNS.find(([name]) => name.test(label.toLowerCase()));
      this.styles.set(label, this.#style(color, known ? known[1] : SPARE[spare++ % SPARE.length]));
    }
    const tile = paintTile(null, "rising", "rgb(125 132 143 / 0.95)");
    this.unsure = { color: "#7d848f", ink: "#14171c", tile, image: `url(${tile.toDataURL()})` };
  }

  /** Colors of another checkpoint's labels; this palette's own labels keep theirs. */
  learn(colors) {
    for (const [label, style] of new Palette(colors).styles) if (!this.styles.has(label)) this.styles.set(label, style);
  }

  #style(color, pattern) {
    const light = isLight(color);
    const tile = paintTile(color, pattern, light ? "rgb(0 0 0 / 0.16)" : "rgb(255 255 255 / 0.28)");
    return { color, ink: light ? "#14171c" : "#ffffff", tile, image: `url(${tile.toDataURL()})` };
  }

  of(label) {
    return this.styles.get(label) ?? this.unsure;
  }

  /** A canvas fill for a label, or for uncertainty when there is none. */
  fill(brush, label) {
    return brush.createPattern((label ? this.of(label) : this.unsure).tile, "repeat");
  }

  /** Give a DOM element the label's color and pattern, or uncertainty's. */
  dress(element, label) {
    element.style.backgroundImage = (label ? this.of(label) : this.unsure).image;
  }
}

/** A probability as text; it is never shown as 0 or 100 %, because no prediction is certain. */
export function percent(value) {
  const whole = Math.round(100 * value);
  if (whole >= 100) return "> 99 %";
  return whole < 1 ? "< 1 %" : `${whole} %`;
}
