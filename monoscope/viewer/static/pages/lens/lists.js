/** Lists of latents beside the text: in total, on one token, pinned, and by how two texts differ. */
import { LabelWords } from "../../components.js";
import { ToLab } from "../../components/tolab.js";
import { html } from "../../kit.js";
import { percent, short, signed } from "../../format.js";
import { link } from "../../router.js";

export const DENSE = 0.1; // share of tokens from which a latent says little about any one of them
export const MOST_PINS = 6;

/**
 * @typedef {{pins: number[], toggle: (latent: number) => void, facts: Record<number, any>,
 *   look: (latent: number | null) => void, lab: Record<string, string>}} Common
 *   look: shade the text by a latent, as long as one looks at its row; lab: the Lab with this text
 */

/** One latent with what it is called; opening it, and pinning it. @param {Common & {latent: number, value: string, share: number, aside?: any}} props */
function Line({ latent, value, share, aside, pins, toggle, facts, look, lab }) {
  const at = pins.indexOf(latent);
  const fact = facts[latent];
  return html`<li class="lat" onMouseEnter=${() => look(latent)} onMouseLeave=${() => look(null)} onFocusIn=${() => look(latent)} onFocusOut=${() => look(null)}><button class="pin ${at >= 0 ? `p${at}` : ""}" type="button" aria-pressed=${at >= 0} disabled=${at < 0 && pins.length >= MOST_PINS}
      aria-label=${at >= 0 ? `${at + 1}: unpin ${latent}` : `+ pin ${latent}`} title=${at >= 0 ? "unpin" : "pin as a coloured row"} onClick=${() => toggle(latent)}>${at >= 0 ? at + 1 : "+"}</button>
    <a class="num" href=${link(`/f/${latent}`)}>${latent}</a>
    <a class="grow" href=${link(`/f/${latent}`)} tabindex="-1" title=${fact?.label || ""}><${LabelWords} text=${fact?.label || "no label"} /></a>
    ${fact?.density > DENSE && html`<span class="chip" title=${`fires on ${percent(fact.density)} of all tokens`}>dense</span>`}
    ${aside}<span class="num val" title=${aside ? undefined : "value"}>${value}</span><${ToLab} latents=${[latent]} otherwise=${lab} />
    <i class="gauge" aria-hidden="true"><i style=${{ width: `${(100 * Math.min(1, share)).toFixed(1)}%` }}></i></i></li>`;
}

/** Strongest first, never by number. @param {any[]} totals @param {string} by */
export const ranked = (totals, by) => [...totals].sort((a, b) => b[by] - a[by] || a.latent - b.latent);

/** @param {Common & {totals: any[], by: string, limit?: number}} props */
export function Totals({ totals, by, limit = 40, ...common }) {
  const rows = ranked(totals, by).slice(0, limit);
  const most = rows[0]?.[by] || 1;
  return html`<ol class="lats">${rows.map((row) => html`<${Line} key=${row.latent} latent=${row.latent} value=${by === "n_tokens" ? row.n_tokens : short(row[by])} share=${row[by] / most}
    aside=${by !== "n_tokens" && html`<span class="num dim" title=${`fires on ${row.n_tokens} tokens`}>${row.n_tokens}×</span>`} ...${common} />`)}</ol>`;
}

/** @param {Common & {token: import("./strip.js").LensToken, dense: boolean}} props */
export function OnToken({ token, dense, ...common }) {
  const rows = token.latents.map((latent, i) => ({ latent, value: token.values[i] })).filter((row) => dense || !(common.facts[row.latent]?.density > DENSE));
  const most = rows[0]?.value || 1;
  return html`<ol class="lats">${rows.map((row) => html`<${Line} key=${row.latent} latent=${row.latent} value=${short(row.value)} share=${row.value / most} ...${common} />`)}</ol>`;
}

/** @param {Common & {rows: any[], side: "a" | "b"}} props */
export function More({ rows, side, ...common }) {
  const mine = rows.filter((row) => side === "a" ? row.difference > 0 : row.difference < 0);
  if (side === "b") mine.reverse();
  const most = Math.abs(mine[0]?.difference || 1);
  return html`<ol class="lats ${side === "b" ? "cool" : ""}">${mine.slice(0, 30).map((row) => html`<${Line} key=${row.latent} latent=${row.latent} value=${signed(Math.abs(row.difference))} share=${Math.abs(row.difference) / most}
    aside=${html`<span class="num dim" title="mean per token in A and in B">${short(row.a)} · ${short(row.b)}</span>`} ...${common} />`)}</ol>`;
}

/** The pinned latents as a key to the colours. @param {Common & {texts: {name: string, text: import("./strip.js").LensText}[]}} props */
export function Pinned({ pins, toggle, facts, texts, look, lab }) {
  if (!pins.length) return null;
  return html`<ul class="pins" aria-label="Pinned latents">${pins.map((latent, i) => html`<li key=${latent} onMouseEnter=${() => look(latent)} onMouseLeave=${() => look(null)}><button class="pin p${i}" type="button" aria-label=${`${i + 1}: unpin ${latent}`} title="unpin" onClick=${() => toggle(latent)}>${i + 1}</button>
    <a class="num" href=${link(`/f/${latent}`)}>${latent}</a><span class="grow"><${LabelWords} text=${facts[latent]?.label || "no label"} /></span>
    ${texts.map(({ name, text }) => html`<span key=${name} class="num dim">${name && `${name} `}${told(text, latent)}</span>`)}<${ToLab} latents=${[latent]} otherwise=${lab} /></li>`)}
    ${pins.length > 1 && html`<li class="all"><${ToLab} latents=${pins} otherwise=${lab}>all ${pins.length} to the Lab<//></li>`}</ul>`;
}

/** @param {import("./strip.js").LensText} text @param {number} latent */
function told(text, latent) {
  const total = text.totals.find((t) => t.latent === latent);
  return total ? `max ${short(total.max)} on ${total.n_tokens} ${total.n_tokens === 1 ? "token" : "tokens"}` : "silent";
}
