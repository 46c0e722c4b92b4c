/** What the features found are like, and a click or a drag to keep only some of them. */
import { Await } from "../../components.js";
import { Typed } from "../../components/typed.js";
import { short, whole } from "../../format.js";
import { html, useState } from "../../kit.js";
import { bounds, has, limited, toggled } from "./query.js";

const NAMES = /** @type {Record<string, string>} */ ({ density: "fires on (share of tokens)", max: "largest activation", score: "label's held-out F1" });
const SHOWN = 6;

/** @param {{of: any, q: string, onQ: (q: string) => void}} props */
export function Facets({ of, q, onQ }) {
  return html`<${Await} of=${of} lines=${8}>${(/** @type {any} */ facets) => html`
    <div class="facets">
      ${facets.figures.map((/** @type {any} */ f) => html`<${Range} key=${f.name} figure=${f} q=${q} onQ=${onQ} />`)}
      <${Group} name="kind" values=${facets.status} q=${q} onQ=${onQ} />
      ${facets.lists.length > 0 && html`<${Group} name="lists" values=${facets.lists} q=${q} onQ=${onQ} />`}
      ${Object.entries(facets.meta).filter(([, v]) => /** @type {any[]} */ (v).length > 1).map(([name, values]) => html`<${Group} key=${name} name=${name} values=${values} q=${q} onQ=${onQ} />`)}
    </div>`}<//>`;
}

/** @param {{name: string, values: any[], q: string, onQ: (q: string) => void}} props */
function Group({ name, values, q, onQ }) {
  const [all, setAll] = useState(false);
  const shown = all ? values : values.slice(0, SHOWN);
  return html`<div class="facet" role="group" aria-label=${name}><h3>${name}</h3><div class="facet-values">
    ${shown.map((v) => html`<button key=${v.term} class="pick" aria-pressed=${has(q, v.term)} disabled=${!v.count && !has(q, v.term)} onClick=${() => onQ(toggled(q, v.term))}>${v.name} <span class="num">${whole(v.count)}</span></button>`)}
    ${values.length > SHOWN && html`<button class="linky dim" onClick=${() => setAll(!all)}>${all ? "fewer" : `${values.length - SHOWN} more`}</button>`}
  </div></div>`;
}

/**
 * A figure's spread, to be narrowed by dragging over it or by typing its ends.
 * @param {{figure: {name: string, edges: number[], counts: number[], unknown: number}, q: string, onQ: (q: string) => void}} props
 */
function Range({ figure, q, onQ }) {
  const [drag, setDrag] = useState(/** @type {number[] | null} */ (null));
  const { name, edges, counts } = figure;
  const n = counts.length, top = Math.max(1, ...counts);
  const [low, high] = bounds(q, name);
  const bin = (/** @type {any} */ e) => {
    const r = e.currentTarget.getBoundingClientRect();
    return Math.min(n - 1, Math.max(0, Math.floor(((e.clientX - r.left) / r.width) * n)));
  };
  const set = (/** @type {number} */ a, /** @type {number} */ b) => onQ(limited(q, name, [
    ...(a > 0 ? [`${name}>=${tidy(edges[a])}`] : []), ...(b < n - 1 ? [`${name}<${tidy(edges[b + 1])}`] : [])]));
  const bounded = (/** @type {string} */ sign, /** @type {HTMLInputElement} */ field) => {
    const ends = { ">=": low, "<": high, [sign]: field.value === "" ? (sign === "<" ? Infinity : -Infinity) : Number(field.value) };
    onQ(limited(q, name, Object.entries(ends).filter(([, v]) => Number.isFinite(v)).map(([s, v]) => `${name}${s}${tidy(v)}`)));
  };
  const inside = (/** @type {number} */ i) => drag ? i >= Math.min(...drag) && i <= Math.max(...drag) : edges[i + 1] > low * 1.0001 && edges[i] < high;
  return html`<div class="facet"><h3>${NAMES[name]}</h3>
    <svg class="range" viewBox="0 0 ${n} 30" preserveAspectRatio="none" aria-hidden="true"
      onPointerDown=${(/** @type {any} */ e) => { e.currentTarget.setPointerCapture(e.pointerId); const b = bin(e); setDrag([b, b]); }}
      onPointerMove=${(/** @type {any} */ e) => drag && setDrag([drag[0], bin(e)])}
      onPointerUp=${(/** @type {any} */ e) => { if (!drag) return; const b = bin(e); setDrag(null); set(Math.min(drag[0], b), Math.max(drag[0], b)); }}
      onPointerCancel=${() => setDrag(null)}>
      <rect class="floor" width=${n} height="30" />
      ${counts.map((c, i) => { const tall = c ? Math.max(1.5, 28 * Math.sqrt(c / top)) : 0; return html`<rect key=${i} class=${inside(i) ? "in" : "out"} x=${i + 0.06} width="0.88" y=${30 - tall} height=${tall} />`; })}
    </svg>
    <div class="ends"><label><span class="sr">least ${NAMES[name]}</span><${Typed} class="end num" inputmode="decimal" placeholder=${short(edges[0])} value=${Number.isFinite(low) ? tidy(low) : ""} tell=${(/** @type {HTMLInputElement} */ field) => bounded(">=", field)} /></label>
      <label><span class="sr">greatest ${NAMES[name]}</span><${Typed} class="end num right" inputmode="decimal" placeholder=${short(edges[n])} value=${Number.isFinite(high) ? tidy(high) : ""} tell=${(/** @type {HTMLInputElement} */ field) => bounded("<", field)} /></label></div>
  </div>`;
}

/** @param {number} v */
const tidy = (v) => String(Number(v.toPrecision(2)));
