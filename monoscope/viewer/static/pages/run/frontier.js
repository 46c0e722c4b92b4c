/** FVU against L0 over every run found: what sparsity costs. */
import { Empty, Panel, useSize } from "../../components.js";
import { short } from "../../format.js";
import { html, useState } from "../../kit.js";
import { N_STYLES, nameOf } from "./style.js";

const HEIGHT = 260, LEFT = 44, BOTTOM = 34, TOP = 12, RIGHT = 14;

/** @param {{runs: any[], shown: string[], focus: string | undefined, open: (id: string) => void}} props */
export function Frontier({ runs, shown, focus, open }) {
  const [box, { width }] = useSize();
  const [over, setOver] = useState(/** @type {string | null} */ (null));
  const drawn = runs.filter((run) => shown.includes(run.id)).map((run) => run.id);
  const points = runs.map((run) => point(run, drawn.indexOf(run.id))).filter((p) => p !== null);
  const named = points.find((p) => p.id === (over || focus));
  return html`<${Panel} title="FVU against L0" class="frontier" aside=${named && html`<span class="num">${nameOf(named.id)}: FVU ${short(named.fvu)}, L0 ${short(named.l0)}</span>`}>
    ${!points.length ? html`<${Empty} title="No figures yet">A run has its point once it has reported.<//>`
      : html`<div ref=${box} class="plot">${width > 0 && html`<${Plot} points=${points} width=${width} focus=${focus} open=${open} setOver=${setOver} />`}</div>
      <p class="note">Lower and further left is better. Filled: held-out documents, with 95 % intervals. Hollow: the run's own training data, which flatters it.</p>`}
  <//>`;
}

/** @param {any} run @param {number} place */
function point(run, place) {
  const held = run.held_out && run.held_out.fvu !== null && run.held_out.l0 !== null;
  const from = held ? run.held_out : run;
  if (from.fvu === null || from.l0 === null) return null;
  return { id: run.id, place, held, fvu: from.fvu, l0: from.l0, ci: held ? run.held_out.ci || {} : {}, d_sae: run.d_sae };
}

/** @param {{points: any[], width: number, focus: string | undefined, open: (id: string) => void, setOver: (id: string | null) => void}} props */
function Plot({ points, width, focus, open, setOver }) {
  const xs = scale(points.flatMap((p) => [p.l0, ...(p.ci.l0 || [])]), LEFT, width - RIGHT);
  const ys = scale(points.flatMap((p) => [p.fvu, ...(p.ci.fvu || [])]), HEIGHT - BOTTOM, TOP);
  return html`<svg class="scatter" width=${width} height=${HEIGHT} role="group" aria-label="FVU against L0, a point a run">
    ${ys.ticks.map((t) => html`<g key=${"y" + t}><line class="grid" x1=${LEFT} x2=${width - RIGHT} y1=${ys.at(t)} y2=${ys.at(t)} /><text x=${LEFT - 6} y=${ys.at(t) + 4} text-anchor="end">${+t.toPrecision(6)}</text></g>`)}
    ${xs.ticks.map((t) => html`<g key=${"x" + t}><line class="grid" x1=${xs.at(t)} x2=${xs.at(t)} y1=${TOP} y2=${HEIGHT - BOTTOM} /><text x=${xs.at(t)} y=${HEIGHT - BOTTOM + 15} text-anchor="middle">${+t.toPrecision(6)}</text></g>`)}
    <text x=${(LEFT + width - RIGHT) / 2} y=${HEIGHT - 3} text-anchor="middle">L0, latents a token</text>
    <text x=${LEFT + 6} y=${TOP + 12}>FVU</text>
    ${points.map((p) => html`<g key=${p.id} class="dotpoint series ${p.place < 0 ? "off" : `s${p.place % N_STYLES}`} ${p.id === focus ? "on" : ""}" role="button" tabindex="0"
      aria-label=${`${nameOf(p.id)}: FVU ${short(p.fvu)}, L0 ${short(p.l0)}, ${p.held ? "held out" : "training data"}`}
      onClick=${() => open(p.id)} onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); open(p.id); } }}
      onMouseEnter=${() => setOver(p.id)} onMouseLeave=${() => setOver(null)} onFocus=${() => setOver(p.id)} onBlur=${() => setOver(null)}>
      <title>${nameOf(p.id)}</title>
      ${p.ci.fvu && html`<line x1=${xs.at(p.l0)} x2=${xs.at(p.l0)} y1=${ys.at(p.ci.fvu[0])} y2=${ys.at(p.ci.fvu[1])} stroke="currentColor" />`}
      ${p.ci.l0 && html`<line x1=${xs.at(p.ci.l0[0])} x2=${xs.at(p.ci.l0[1])} y1=${ys.at(p.fvu)} y2=${ys.at(p.fvu)} stroke="currentColor" />`}
      <circle class="hit" cx=${xs.at(p.l0)} cy=${ys.at(p.fvu)} r="12" />
      <circle cx=${xs.at(p.l0)} cy=${ys.at(p.fvu)} r=${p.id === focus ? 6.5 : 5} class=${p.held ? "held" : "own"} /></g>`)}
  </svg>`;
}

/** A linear scale over the values with some air, and its round ticks. @param {number[]} values @param {number} from @param {number} to */
function scale(values, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  const air = (high - low) * 0.12 || Math.abs(high) * 0.2 || 1;
  low = Math.max(0, low - air);
  high += air;
  const raw = (high - low) / 5, size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * size).find((s) => s >= raw) || raw;
  const ticks = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-6; t += step) ticks.push(t);
  return { at: (/** @type {number} */ v) => +(from + ((v - low) / (high - low)) * (to - from)).toFixed(1), ticks };
}
