/** The side of a feature's page: activation, both ends of the lens, metadata, basis. */
import { Empty, Panel, Token } from "../../components.js";
import { percent, short, signed, visible, whole } from "../../format.js";
import { html, useState } from "../../kit.js";

/** @param {{feature: any, edges: number[] | undefined}} props */
export function Activation({ feature: f, edges }) {
  if (!f.n_active) return null;
  const { start, counts } = f.hist, w = 300, h = 92;
  const top = Math.log10(Math.max(...counts) + 1);
  const ticks = [1, 10, 100, 1000, 1e4, 1e5, 1e6].filter((t) => Math.log10(t + 1) <= top * 1.02);
  const step = w / counts.length;
  const y = (/** @type {number} */ n) => h - (Math.log10(n + 1) / top) * (h - 4);
  return html`<${Panel} title="Activation" aside="both axes logarithmic">
    <svg class="big-hist" viewBox="-34 0 ${w + 36} ${h + 16}" role="img" aria-label="Histogram of activations from ${edges ? short(edges[start]) : ""} to ${short(f.max)}">
      ${ticks.map((t) => html`<g key=${t}><line class="tick" x1="0" x2=${w} y1=${y(t)} y2=${y(t)} /><text x="-5" y=${y(t) + 3.5} text-anchor="end">${t >= 1e6 ? `${t / 1e6}M` : t >= 1000 ? `${t / 1000}k` : t}</text></g>`)}
      ${counts.map((/** @type {number} */ n, /** @type {number} */ i) => n > 0 && html`<rect key=${i} class="h-bar" x=${(i * step + 0.5).toFixed(1)} width=${Math.max(1, step - 1).toFixed(1)} y=${y(n).toFixed(1)} height=${(h - y(n)).toFixed(1)}>${edges && html`<title>${short(edges[start + i])} to ${short(edges[start + i + 1] ?? f.max)}: ${whole(n)} tokens</title>`}</rect>`)}
      <line class="axis" x1="0" x2=${w} y1=${h} y2=${h} />
      ${edges && html`<text x="0" y=${h + 13}>${short(edges[start])}</text><text x=${w} y=${h + 13} text-anchor="end">${short(f.max)}</text>`}
    </svg>
    <dl class="f-facts"><div><dt>fires on</dt><dd>${percent(f.density)}</dd></div><div><dt>tokens</dt><dd>${whole(f.n_active)}</dd></div><div><dt>mean</dt><dd>${short(f.mean)}</dd></div><div><dt>max</dt><dd>${short(f.max)}</dd></div></dl>
  <//>`;
}

/** @param {{feature: any, atlas: any}} props */
export function Logits({ feature: f, atlas }) {
  if (!f.raises) return html`<${Panel} title="Raises and lowers"><${Empty} title="No logit lens">${f.lens_reason}<//><//>`;
  const most = Math.max(1e-9, ...[...f.raises, ...(f.lowers || [])].map((l) => Math.abs(l.logit)));
  const layer = Number(/\.(\d+)$/.exec(atlas?.site || "")?.[1] ?? NaN);
  return html`<${Panel} title="Raises and lowers" aside="logit lens">
    <div class="lens-ends">${[["up", f.raises], ["down", f.lowers || []]].map(([way, list]) => html`<ol key=${way} class="logits ${way}s" aria-label=${way === "up" ? "Raised most" : "Lowered most"}>
      ${/** @type {any[]} */ (list).map((l, i) => html`<li key=${i}><i class="l-bar" style=${{ width: `${(100 * Math.abs(l.logit) / most).toFixed(0)}%` }}></i><${Token} text=${l.token} /><span class="num">${signed(l.logit)}</span></li>`)}</ol>`)}</div>
    <p class="note">What the direction writes straight into the output${Number.isFinite(layer) ? `, past every layer after ${layer}` : ""}. In middle layers it often says little: what a feature does is measured by steering.</p>
  <//>`;
}

/** @param {{feature: any}} props */
export function Metadata({ feature }) {
  const [all, setAll] = useState(false);
  if (!feature.meta.length) return null;
  const shown = all ? feature.meta : feature.meta.slice(0, 6);
  return html`<${Panel} title="On which documents" aside="line: of all tokens">
    <ul class="meta">${shown.map((/** @type {any} */ m) => html`<li key=${m.name}><span class="name">${visible(m.name)}</span>
      <svg viewBox="0 0 80 10" width="80" height="10" aria-hidden="true"><rect class="back" width="80" height="6" y="2" rx="2" /><rect class="fill" width=${(80 * m.share).toFixed(1)} height="6" y="2" rx="2" />${m.base !== null && html`<line x1=${(80 * m.base).toFixed(1)} x2=${(80 * m.base).toFixed(1)} y1="0" y2="10" />`}</svg>
      <span class="num" title=${m.base === null ? "" : `${percent(m.base)} of all tokens`}>${percent(m.share)}</span></li>`)}</ul>
    ${feature.meta.length > 6 && html`<button class="linky dim" onClick=${() => setAll(!all)}>${all ? "fewer" : "more"}</button>`}
  <//>`;
}

/** @param {{feature: any, atlas: any}} props */
export function Basis({ feature, atlas }) {
  if (!atlas) return null;
  const policy = atlas.mask_policy || {};
  return html`<${Panel} title="What this rests on">
    <p class="note">${whole(feature.n_tokens)} tokens of ${whole(atlas.n_documents)} documents of ${atlas.corpus.name || "a corpus"}${atlas.sae.n_tokens ? `; the autoencoder was trained on ${whole(atlas.sae.n_tokens)}` : ""}.
      Left out by the mask: ${(policy.special_ids || []).length} special tokens${policy.max_norm ? `, and tokens whose norm is above ${short(policy.max_norm)} (attention sinks; the typical norm is ${short(atlas.norm_stats.median_norm)})` : ""}.</p>
    <details class="note"><summary>Texts and licences</summary><ul>${atlas.attribution.map((/** @type {string} */ a, /** @type {number} */ i) => html`<li key=${i}>${a}</li>`)}</ul></details>
  <//>`;
}
