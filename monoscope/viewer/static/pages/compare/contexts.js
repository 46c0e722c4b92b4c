/** One family on the same contexts: each line twice, shaded by A's latents and by B's. */
import { useApi } from "../../api.js";
import { Await, Empty, Tokens } from "../../components.js";
import { short } from "../../format.js";
import { html } from "../../kit.js";

const LATENTS = 2; // of either side whose values are drawn
const PLACES = 12;

/** @param {{family: any, a: string, b: string}} props */
export function Contexts({ family, a, b }) {
  const left = family.a.slice(0, LATENTS), right = family.b.slice(0, LATENTS);
  // A lone latent is set beside the one that came nearest.
  const tie = family.links[0];
  const ids = { left: idsOf(left, tie?.a), right: idsOf(right, tie?.b) };
  const peaks = { a: peaksOf(left), b: peaksOf(right) };
  const shown = useApi("/compare/contexts", { a, b, ...ids, limit: PLACES });
  return html`<${Await} of=${shown} lines=${6}>${(/** @type {any[]} */ places) => !places.length
    ? html`<${Empty} title="No context was kept of these latents" />`
    : html`<div class="same">
      <div class="heads" aria-hidden="true"><span class="letter">A</span><span class="letter">B</span></div>
      <ol>${places.map((place, i) => html`<li key=${i}>
        <div class="pair">${lines("A", ids.left, place.a, place, scale(peaks.a, places, "a"), false)}${lines("B", ids.right, place.b, place, scale(peaks.b, places, "b"), true)}</div>
        <p class="src">${place.sides.length === 2 ? "among the strongest of both" : `among ${place.sides[0].toUpperCase()}'s strongest`}${source(place.meta)}</p></li>`)}</ol></div>
      <p class="note">Hover a token for its value. A hatched line: that atlas kept no window there, so its value is not known; it need not be zero.</p>`}<//>`;
}

/** @param {any[]} rows @param {number | undefined} nearest */
const idsOf = (rows, nearest) => rows.length ? rows.map((row) => row.latent) : nearest === undefined ? [] : [nearest];

/** @param {any[]} rows */
const peaksOf = (rows) => rows.map((row) => row.max);

/** The value shaded fully, one for each latent: its largest in the atlas, or where that is not at hand, here. @param {number[]} peaks @param {any[]} places @param {"a" | "b"} side */
function scale(peaks, places, side) {
  return (/** @type {number} */ i) => peaks[i] ?? Math.max(1e-9, ...places.flatMap((place) => (place[side][i] || []).map((/** @type {number | null} */ v) => v ?? 0)));
}

/** @param {string} name @param {number[]} ids @param {(number | null)[][]} values @param {any} place @param {(i: number) => number} max @param {boolean} cool */
function lines(name, ids, values, place, max, cool) {
  return html`<div class="view">${ids.map((id, i) => {
    const known = values[i].some((v) => v !== null);
    return html`<div key=${id} class="seen ${known ? "" : "unknown"}"><span class="who num" title=${`latent ${id} of ${name}`}>${name} ${id}</span>
      <${Tokens} pieces=${place.pieces} values=${values[i]} max=${max(i)} peak=${known ? place.peak : undefined} cool=${cool} />
      <span class="num dim at">${known ? short(values[i][place.peak]) : "not kept"}</span></div>`;
  })}</div>`;
}

/** @param {Record<string, string>} meta */
function source(meta) {
  const told = [meta.title, meta.source, meta.licence].filter(Boolean);
  return told.length ? ` · ${told.join(" · ")}` : "";
}
