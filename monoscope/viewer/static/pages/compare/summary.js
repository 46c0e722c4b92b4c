/** How two atlases match at a glance: shares of each kind, and the cosines behind them. */
import { Panel } from "../../components.js";
import { percent, whole } from "../../format.js";
import { html, useEffect, useState } from "../../kit.js";

/** Kinds in order: name, and what it means. @type {[string, string][]} */
export const KINDS = [
  ["matched", "one latent of A, one of B"],
  ["split", "one of A, several of B"],
  ["merged", "several of A, one of B"],
  ["regrouped", "several of either side"],
  ["lost", "of A, with nothing near in B"],
  ["new", "of B, with nothing near in A"],
];
const REST_MS = 250; // the slider asks once it rests
const WIDTH = 400, HALF = 46;

/** @param {{data: any, query: Record<string, string>, threshold: number, setQuery: (patch: any) => void, children?: any}} props */
export function Summary({ data, query, threshold, setQuery, children }) {
  return html`<div class="cols compare-head">
    <${Panel} title="How they match">
      <${Bar} name="A" side="a" data=${data} /><${Bar} name="B" side="b" data=${data} />
      <div class="kinds" role="group" aria-label="Show one kind">${KINDS.map(([kind, about]) => {
        const count = data.counts[kind];
        const on = query.kind === kind;
        return html`<button key=${kind} class="kind ${kind}" aria-pressed=${on} title=${about} onClick=${() => setQuery({ kind: on ? "" : kind, n: "" })}>
          <i class="swab ${kind}" aria-hidden="true"></i><b>${kind}</b><span class="num">${numbers(kind, count)}</span></button>`;
      })}</div>
      <p class="note">${data.n_documents
        ? `The atlases keep ${whole(data.n_documents)} documents in common; on those their strongest contexts are compared token by token.`
        : "The atlases keep no document in common, so only decoder directions speak."}
        ${" "}Silent latents are left out. ${data.a.site !== data.b.site ? `The sites differ (${data.a.site}, ${data.b.site}): directions drift from layer to layer, so expect fewer matches.` : ""}</p>
      ${children}
    <//>
    <${Panel} title="Nearest in the other" aside=${html`<span>by cosine</span>`}><${Cosines} data=${data} threshold=${threshold} setQuery=${setQuery} /><//>
  </div>`;
}

/** @param {string} kind @param {{families: number, a: number, b: number}} count */
function numbers(kind, count) {
  if (kind === "matched") return whole(count.families);
  if (kind === "lost") return whole(count.a);
  if (kind === "new") return whole(count.b);
  return count.families ? `${whole(count.a)} → ${whole(count.b)}` : "0";
}

/** @param {{name: string, side: "a" | "b", data: any}} props */
function Bar({ name, side, data }) {
  const total = data[side].n_alive;
  const parts = KINDS.map(([kind]) => ({ kind, n: data.counts[kind][side] })).filter((part) => part.n);
  return html`<div class="bar" role="img" aria-label=${`${name}: ${parts.map((p) => `${p.kind} ${percent(p.n / total)}`).join(", ")} of ${whole(total)} living latents`}>
    <b class="letter">${name}</b><div class="track">${parts.map((part) => html`<i key=${part.kind} class="swab ${part.kind}" style=${{ flexGrow: part.n }} title=${`${part.kind}: ${whole(part.n)} (${percent(part.n / total)})`}></i>`)}</div>
    <span class="num dim">${whole(total)}</span></div>`;
}

/** @param {{data: any, threshold: number, setQuery: (patch: any) => void}} props */
function Cosines({ data, threshold, setQuery }) {
  const [value, setValue] = useState(threshold);
  useEffect(() => setValue(threshold), [threshold]);
  useEffect(() => {
    if (value === threshold) return;
    const timer = setTimeout(() => setQuery({ t: value, n: "" }), REST_MS);
    return () => clearTimeout(timer);
  }, [value]);
  const [a, b] = [data.a.hist, data.b.hist];
  const top = Math.max(1, ...a, ...b), step = WIDTH / a.length;
  const bars = (/** @type {number[]} */ counts, /** @type {boolean} */ up) => counts.map((n, i) => {
    const tall = (n / top) * HALF;
    return html`<rect key=${i} x=${(i * step + 0.5).toFixed(1)} width=${(step - 1).toFixed(1)} y=${(up ? HALF - tall : HALF + 2).toFixed(1)} height=${tall.toFixed(1)}><title>${(i / counts.length).toFixed(2)} to ${((i + 1) / counts.length).toFixed(2)}: ${whole(n)}</title></rect>`;
  });
  return html`<svg class="cosines" viewBox="0 0 ${WIDTH} ${2 * HALF + 2}" width="100%" preserveAspectRatio="none" role="img"
      aria-label=${`Living latents by the cosine of their nearest in the other atlas, A above and B below. Random directions stay below ${data.chance.toFixed(2)}.`}>
      <g class="a">${bars(a, true)}</g><g class="b">${bars(b, false)}</g>
      <line class="chance" x1=${data.chance * WIDTH} x2=${data.chance * WIDTH} y1="0" y2=${2 * HALF + 2} />
      <line class="cut" x1=${value * WIDTH} x2=${value * WIDTH} y1="0" y2=${2 * HALF + 2} /></svg>
    <label class="cut"><span class="sr">Cosine from which two latents count as one</span>
      <input type="range" min="0" max="1" step="0.01" value=${value} onInput=${(/** @type {Event} */ e) => setValue(Number(/** @type {HTMLInputElement} */ (e.target).value))} /></label>
    <p class="note">Linked from <b class="num">${value.toFixed(2)}</b> up. Chance: 99 % of random directions find nothing nearer than <b class="num">${data.chance.toFixed(2)}</b> (dotted). A above, B below.</p>`;
}
