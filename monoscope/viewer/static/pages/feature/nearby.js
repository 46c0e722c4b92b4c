/** The latents near a feature: those that point the same way, and those that fire on the same tokens. */
import { Empty, LabelWords, Panel } from "../../components.js";
import { whole } from "../../format.js";
import { html } from "../../kit.js";
import { link } from "../../router.js";
import { Spark } from "../atlas/table.js";

/** @param {string | null} label */
const named = (label) => label && !label.startsWith("unclear");

const NEAR = { decoder: ["Same direction", "cosine of decoder rows"], coactivation: ["Fire together", "Jaccard of firings"] };

/** @param {{feature: any, list: Record<string, any>}} props */
export function Nearby({ feature, list }) {
  return html`${/** @type {const} */ (["decoder", "coactivation"]).map((kind) => {
    const near = feature.neighbours.filter((/** @type {any} */ n) => n.kind === kind);
    return html`<${Panel} key=${kind} title=${NEAR[kind][0]} aside=${NEAR[kind][1]}>
      ${near.length ? html`<ul class="near">${near.map((/** @type {any} */ n) => html`<li key=${n.latent}><a href=${link(`/f/${n.latent}`, list)} title=${n.label || ""}>
        <span class="num dim">${n.latent}</span><span class="name ${named(n.label) ? "" : "unclear"}"><${LabelWords} text=${(n.label || (n.density ? "no label" : "never fired")).replace(/^unclear · (top tokens |best guess )?/, "")} /></span><${Spark} bins=${n.hist} />
        <span class="num" title=${`cosine ${n.cosine.toFixed(2)}, Jaccard ${n.jaccard.toFixed(3)}, both on ${whole(n.n_both)} tokens${n.pmi === null ? "" : `, PMI ${n.pmi.toFixed(1)} nats`}`}>${(kind === "decoder" ? n.cosine : n.jaccard).toFixed(2)}</span></a></li>`)}</ul>`
        : html`<${Empty} title="None">${kind === "coactivation" ? "No other fires with it on five tokens or more." : ""}<//>`}
    <//>`;
  })}`;
}
