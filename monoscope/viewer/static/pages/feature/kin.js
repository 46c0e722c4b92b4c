/** A feature among SAEs of other sizes: what it is part of in a smaller, what it splits into in a larger. */
import { Empty, LabelWords, Panel } from "../../components.js";
import { visible, whole } from "../../format.js";
import { html } from "../../kit.js";
import { ON_DISK, link } from "../../router.js";

const SHOWN = 8;

/** @param {{feature: any}} props */
export function Kindred({ feature }) {
  return html`<${Tied} title="Part of" own=${feature.latent} relation=${feature.part_of} none="It did not fire" />
    <${Tied} title="Splits into" own=${feature.latent} relation=${feature.splits_into} none="No feature of the larger is nearest to it" />`;
}

/** @param {{title: string, own: number, relation: any, none: string}} props own: this feature's number */
function Tied({ title, own, relation, none }) {
  if (!relation) return null;
  const { kin, id, name, d_sae, n_tokens, trouble } = relation;
  const named = `${visible(name)}, ${whole(d_sae)} latents`;
  // Pages opened from disk hold the contexts of families alone.
  const beside = (/** @type {number | null} */ latent) => link("/compare", { b: id, pair: latent === null ? "" : `${own}-${latent}` });
  const rows = (/** @type {any[]} */ some) => html`<ul class="near kin">${some.map((one) => html`<${Row} key=${one.latent} one=${one} relation=${relation} href=${id === null || ON_DISK ? undefined : beside(one.latent)} />`)}</ul>`;
  return html`<${Panel} class="tied" title=${title} aside="cosine, P(parent | child)">
    <p class="src">in ${id === null ? named : html`<a href=${beside(null)} title="This atlas and that one, side by side">${named}</a>`}</p>
    ${id === null && kin.length > 0 && html`<p class="src">To open these, name a folder that holds both atlases: <code>monoscope view ATLAS --runs DIR</code></p>`}
    ${trouble && html`<p class="src">${visible(trouble)}</p>`}
    ${kin.length ? rows(kin.slice(0, SHOWN)) : html`<${Empty} title="None">${none}, on the ${whole(n_tokens)} tokens read.<//>`}
    ${kin.length > SHOWN && html`<details class="note"><summary>${whole(kin.length - SHOWN)} more</summary>${rows(kin.slice(SHOWN))}</details>`}
  <//>`;
}

/** @param {{one: any, relation: any, href: string | undefined}} props href: both side by side, where the other atlas is at hand */
function Row({ one, relation, href }) {
  const label = one.label || (relation.trouble ? "label unknown" : "no label");
  const chance = one.cosine <= relation.chance;
  const doubts = chance ? "by chance" : one.agrees ? "" : "fires otherwise";
  const said = `cosine ${one.cosine.toFixed(2)} (by chance up to ${relation.chance.toFixed(2)}), parent fires on ${(100 * one.parent_given_child).toFixed(0)} % of the child's tokens, both on ${whole(one.n_both)}${one.agrees ? "" : `; in firing it is nearest to ${one.by_firing === null ? "none" : one.by_firing} of the smaller`}`;
  return html`<li class=${doubts ? "doubt" : ""} title=${said}><a href=${href}><span class="num dim">${one.latent}</span>
    <span class="name ${one.label && !one.label.startsWith("unclear") ? "" : "unclear"}" title=${visible(label)}><${LabelWords} text=${label.replace(/^unclear · (top tokens |best guess )?/, "")} /></span>
    <span class="doubts dim">${doubts}</span><span class="num">${one.cosine.toFixed(2)}</span><span class="num">${one.parent_given_child.toFixed(2)}</span></a></li>`;
}
