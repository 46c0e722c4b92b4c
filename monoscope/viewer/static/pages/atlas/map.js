/** The map: every latent as a point, near ones near; hovering or arrow keys name, a click or Enter opens, brushing selects. */
import { binary, get, post, useApi } from "../../api.js";
import { ErrorState, Loading, useSize } from "../../components.js";
import { html, useEffect, useMemo, useRef, useState } from "../../kit.js";
import { LabelText } from "./table.js";

const STEP = 0.05; // of the map's side, by which an arrow key with Shift moves a corner of the box
const ARROWS = /** @type {Record<string, [number, number]>} */ ({ ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] });
const CELLS = 128; // of the grid, along a side, by which the nearest point is found

/**
 * @typedef {{n: number, x: Uint16Array, y: Uint16Array, shade: Uint8Array, starts: Uint32Array, byCell: Uint32Array}} Points
 */

/** @param {ArrayBuffer} data @param {number} n @returns {Points} */
function points(data, n) {
  const x = new Uint16Array(data, 0, n), y = new Uint16Array(data, 2 * n, n), shade = new Uint8Array(data, 4 * n, n);
  const cell = (/** @type {number} */ i) => (y[i] >> 9) * CELLS + (x[i] >> 9);
  const starts = new Uint32Array(CELLS * CELLS + 1);
  for (let i = 0; i < n; i++) starts[cell(i) + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) starts[c + 1] += starts[c];
  const free = starts.slice(), byCell = new Uint32Array(n);
  for (let i = 0; i < n; i++) byCell[free[cell(i)]++] = i;
  return { n, x, y, shade, starts, byCell };
}

/** The latent nearest a place, within a reach; all in map units. @param {Points} p @param {number} u @param {number} v @param {number} reach @param {Uint8Array | null} among */
function nearest(p, u, v, reach, among) {
  const size = 65536 / CELLS, r = Math.ceil((reach * 65535) / size);
  const cu = Math.floor((u * 65535) / size), cv = Math.floor((v * 65535) / size);
  let best = -1, least = (reach * 65535) ** 2;
  for (let cy = Math.max(0, cv - r); cy <= Math.min(CELLS - 1, cv + r); cy++) {
    for (let cx = Math.max(0, cu - r); cx <= Math.min(CELLS - 1, cu + r); cx++) {
      for (let k = p.starts[cy * CELLS + cx]; k < p.starts[cy * CELLS + cx + 1]; k++) {
        const i = p.byCell[k];
        if (among && !among[i]) continue;
        const d = (p.x[i] - u * 65535) ** 2 + (p.y[i] - v * 65535) ** 2;
        if (d < least) { least = d; best = i; }
      }
    }
  }
  return best;
}

/**
 * The latent nearest to another among those that lie more its way than beside it; −1 for none.
 * @param {Points} p @param {number} from @param {[number, number]} way @param {Uint8Array | null} among
 */
function beyond(p, from, [right, down], among) {
  let best = -1, least = Infinity;
  for (let i = 0; i < p.n; i++) {
    if (among && !among[i]) continue;
    const x = p.x[i] - p.x[from], y = p.y[i] - p.y[from], ahead = x * right + y * down;
    if (ahead <= 0 || Math.abs(x * down + y * right) > ahead) continue;
    const d = x * x + y * y;
    if (d < least) { least = d; best = i; }
  }
  return best;
}

/**
 * @param {{order: Uint32Array | null, whole: boolean, at: number | null, box: string, onBox: (box: string) => void,
 *   onOpen: (latent: number) => void}} props whole: the order is of every latent
 */
export function MapView({ order, whole, at, box, onBox, onOpen }) {
  const info = useApi("/map");
  const [held, setHeld] = useState(/** @type {Points | null} */ (null));
  const [failed, setFailed] = useState(/** @type {any} */ (null));
  const [making, setMaking] = useState(false);
  const there = /** @type {any} */ (info.data)?.available;
  useEffect(() => {
    if (!there) return;
    const stop = new AbortController();
    binary("/map/points", undefined, stop.signal).then(({ data }) => setHeld(points(data, data.byteLength / 5)), (e) => stop.signal.aborted || setFailed(e));
    return () => stop.abort();
  }, [there]);
  const make = async () => {
    setMaking(true);
    try { info.set(await post("/map", {})); } catch (error) { setFailed(error); }
    setMaking(false);
  };
  if (failed || info.error) return html`<${ErrorState} problem=${(failed || info.error).problem || { detail: String(failed || info.error) }} retry=${() => { setFailed(null); info.reload(); }} />`;
  if (info.data && !there) {
    return html`<div class="empty"><b>This atlas has no map yet</b><p>It is made from the decoder neighbours that the atlas holds, in seconds to minutes.</p>
      <button class="btn" onClick=${make} disabled=${making}>${making ? "Laying it out…" : "Make the map"}</button></div>`;
  }
  if (!held) return html`<div class="map-box"><${Loading} /></div>`;
  return html`<${Plot} p=${held} ...${{ order, whole, at, box, onBox, onOpen }} />`;
}

/** @param {any} props */
function Plot({ p, order, whole, at, box, onBox, onOpen }) {
  const [ref, size] = useSize();
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const [drag, setDrag] = useState(/** @type {number[] | null} */ (null));
  const [over, setOver] = useState(/** @type {{latent: number, u: number, v: number} | null} */ (null));
  const [named, setNamed] = useState(/** @type {any} */ (null));
  const among = useMemo(() => {
    if (whole || !order) return null;
    const set = new Uint8Array(p.n);
    for (const i of order) set[i] = 1;
    return set;
  }, [order, whole, p]);
  const theme = useTheme();
  useEffect(() => { if (canvas.current && size.width) draw(canvas.current, size.width, p, among); }, [size.width, p, among, theme]);
  useEffect(() => {
    if (!over) { setNamed(null); return; }
    const stop = new AbortController();
    const timer = setTimeout(() => get("/features/rows", { ids: [over.latent] }, stop.signal).then((rows) => setNamed(rows[0]), () => {}), 60);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [over?.latent]);

  const place = (/** @type {PointerEvent} */ e) => {
    const r = /** @type {HTMLElement} */ (e.currentTarget).getBoundingClientRect();
    return [clamp((e.clientX - r.left) / r.width), clamp((e.clientY - r.top) / r.height)];
  };
  const down = (/** @type {any} */ e) => { if (e.button === 0) { e.currentTarget.setPointerCapture(e.pointerId); const [u, v] = place(e); setDrag([u, v, u, v]); } };
  const moved = (/** @type {any} */ e) => {
    const [u, v] = place(e);
    if (drag && e.buttons) { setDrag([drag[0], drag[1], u, v]); if (far(drag, u, v)) setOver(null); return; }
    const latent = nearest(p, u, v, 10 / Math.max(200, size.width), among) ;
    if (latent !== over?.latent) { setOver(latent < 0 ? null : { latent, u: p.x[latent] / 65535, v: p.y[latent] / 65535 }); }
  };
  const up = (/** @type {any} */ e) => {
    if (!drag) return;
    const [u, v] = place(e);
    setDrag(null);
    if (far(drag, u, v)) { onBox(sorted([drag[0], drag[1], u, v]).map((c) => c.toFixed(3)).join(",")); return; }
    const latent = nearest(p, u, v, 12 / Math.max(200, size.width), among);
    if (latent >= 0) onOpen(latent); else if (box) onBox("");
  };
  const point = (/** @type {number} */ latent) => setOver(latent < 0 ? null : { latent, u: p.x[latent] / 65535, v: p.y[latent] / 65535 });
  const begin = () => { if (!over) point(at !== null && at < p.n ? at : nearest(p, 0.5, 0.5, 1, among)); };
  const select = () => { if (drag) { onBox(sorted(drag).map((c) => c.toFixed(3)).join(",")); setDrag(null); } };
  const pressed = (/** @type {KeyboardEvent} */ e) => {
    if (e.ctrlKey || e.altKey || e.metaKey) return;
    const way = ARROWS[e.key];
    if (way && e.shiftKey) { const d = drag || (over && [over.u, over.v, over.u, over.v]); if (d) setDrag([d[0], d[1], clamp(d[2] + STEP * way[0]), clamp(d[3] + STEP * way[1])]); }
    else if (way) { if (!over) begin(); else { const next = beyond(p, over.latent, way, among); if (next >= 0) point(next); } setDrag(null); }
    else if (e.key === "Enter" && !drag && over) onOpen(over.latent);
    else if ((e.key === " " || e.key === "Enter") && drag) select();
    else if (e.key === "Escape" && (drag || box)) { if (drag) setDrag(null); else onBox(""); }
    else return;
    e.preventDefault();
  };
  const shown = drag && far(drag, drag[2], drag[3]) ? sorted(drag) : box ? box.split(",").map(Number) : null;
  const ring = over ? over.latent : at;
  return html`<div class="map-box" ref=${ref} role="application" tabindex="0" aria-roledescription="map" aria-label="Map of decoder directions, ${among ? order.length : p.n} features drawn strongly. Arrow keys go to the nearest that way, Enter opens it; Shift and arrow keys draw a box, Space selects it, Escape drops it. The table lists the same features."
      onKeyDown=${pressed} onFocus=${(/** @type {FocusEvent} */ e) => { if (/** @type {Element} */ (e.currentTarget).matches(":focus-visible")) begin(); }} onBlur=${() => { setOver(null); setDrag(null); }}
      onPointerDown=${down} onPointerMove=${moved} onPointerUp=${up} onPointerCancel=${() => setDrag(null)} onPointerLeave=${() => !drag && setOver(null)}>
    <canvas ref=${canvas} aria-hidden="true"></canvas>
    ${ring !== null && ring >= 0 && ring < p.n && html`<i class="map-ring" style=${at_(p.x[ring] / 65535, p.y[ring] / 65535)}></i>`}
    ${shown && html`<i class="map-brush" style=${{ left: pc(shown[0]), top: pc(shown[1]), width: pc(shown[2] - shown[0]), height: pc(shown[3] - shown[1]) }}></i>`}
    ${over && !drag && html`<div role="status" class="map-tip ${over.u > 0.5 ? "left" : ""} ${over.v > 0.8 ? "above" : ""}" style=${at_(over.u, over.v)}><b class="num">${over.latent}</b> ${named && named.latent === over.latent ? html`<${LabelText} row=${named} />` : "…"}</div>`}
  </div>`;
}

/** Two corners as left, top, right, bottom. @param {number[]} d */
const sorted = ([a, b, c, d]) => [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
const clamp = (/** @type {number} */ v) => Math.min(1, Math.max(0, v));
const pc = (/** @type {number} */ v) => `${(100 * v).toFixed(2)}%`;
const at_ = (/** @type {number} */ u, /** @type {number} */ v) => ({ left: pc(u), top: pc(v) });
const far = (/** @type {number[]} */ d, /** @type {number} */ u, /** @type {number} */ v) => Math.hypot(u - d[0], v - d[1]) > 0.015;

/** Redraw when the theme changes. */
function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const next = () => setTheme((n) => n + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", next);
    addEventListener("monoscope:setting", next);
    return () => { dark.removeEventListener("change", next); removeEventListener("monoscope:setting", next); };
  }, []);
  return theme;
}

/** @param {string} name @returns {number[]} */
function colour(name) {
  const value = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  if (/^\d/.test(value)) return value.split(/\s+/).map(Number);
  const hex = value.replace("#", "");
  const full = hex.length === 3 ? [...hex].map((c) => c + c).join("") : hex;
  return [0, 2, 4].map((i) => parseInt(full.slice(i, i + 2), 16));
}

/**
 * Every point straight into the pixels: light adds up where points are dense, a million of them in
 * one pass. What the query found is drawn in the warm hue, over the rest.
 * @param {HTMLCanvasElement} canvas @param {number} width @param {Points} p @param {Uint8Array | null} among
 */
function draw(canvas, width, p, among) {
  const scale = Math.min(2, devicePixelRatio || 1), side = Math.round(width * scale);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  if (!context || !side) return;
  const radius = p.n > 200_000 ? 0 : p.n > 30_000 ? 0.8 * scale : 1.25 * scale;
  const strength = p.n > 200_000 ? 0.35 : p.n > 30_000 ? 0.5 : 0.62;
  const bigger = among && count(among) < 400 ? radius * 1.9 : radius;
  const rest = layer(p, side, radius, strength * (among ? 0.3 : 1), (i) => (among ? !among[i] : true));
  const image = context.createImageData(side, side);
  blend(image.data, rest, colour(among ? "--dim" : "--ink"), among ? 0.55 : 0.8);
  if (among) blend(image.data, layer(p, side, bigger, 0.9, (i) => among[i] === 1, true), colour("--hot"), 1);
  context.putImageData(image, 0, 0);
}

/** @param {Uint8Array} among */
function count(among) { let n = 0; for (let i = 0; i < among.length; i++) n += among[i]; return n; }

/** Coverage by pixel. @param {Points} p @param {number} side @param {number} radius @param {number} strength @param {(i: number) => boolean} wanted @param {boolean} [even] */
function layer(p, side, radius, strength, wanted, even = false) {
  const light = new Float32Array(side * side), r = Math.ceil(radius);
  for (let i = 0; i < p.n; i++) {
    if (!wanted(i)) continue;
    const x = (p.x[i] / 65535) * (side - 1), y = (p.y[i] / 65535) * (side - 1);
    const s = even ? strength : strength * (0.18 + 0.82 * (p.shade[i] / 255));
    if (r === 0) { light[Math.round(y) * side + Math.round(x)] += s; continue; }
    for (let py = Math.max(0, Math.floor(y) - r); py <= Math.min(side - 1, Math.floor(y) + r + 1); py++) {
      for (let px = Math.max(0, Math.floor(x) - r); px <= Math.min(side - 1, Math.floor(x) + r + 1); px++) {
        const cover = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(px - x, py - y)));
        if (cover > 0) light[py * side + px] += s * cover;
      }
    }
  }
  return light;
}

/** Lay a hue over the image, as strong as the light says. @param {Uint8ClampedArray} data @param {Float32Array} light @param {number[]} rgb @param {number} most */
function blend(data, light, rgb, most) {
  for (let i = 0; i < light.length; i++) {
    if (!light[i]) continue;
    const a = Math.min(most, light[i]), under = data[4 * i + 3] / 255, out = a + under * (1 - a);
    for (let c = 0; c < 3; c++) data[4 * i + c] = (rgb[c] * a + data[4 * i + c] * under * (1 - a)) / out;
    data[4 * i + 3] = 255 * out;
  }
}
