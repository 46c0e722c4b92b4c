/** The line at the top that says what is being looked at: model, site, autoencoder, data. */
import { html } from "../kit.js";
import { short, whole } from "../format.js";

/** @param {{atlas: any, error: any}} props */
export function Facts({ atlas, error }) {
  if (error) return html`<div class="where warn">${error.message}</div>`;
  if (!atlas) return html`<div class="where" aria-busy="true"> </div>`;
  const { config } = atlas.sae;
  const said = [atlas.model.model || "model", atlas.site, `${config.activation || atlas.sae.recipe || "sae"} ${whole(atlas.n_features)}${config.k ? ` · k ${config.k}` : ""}`];
  return html`<div class="where" title=${said.join(" / ")}>
    <b>${said[0]}</b><span class="sep">/</span>${said[1]}<span class="sep">/</span>
    <b>${said[2]}</b>
    <span class="chips"><span class="chip" title="mean number of active latents a token">L0 ${short(atlas.l0)}</span>
    <span class="chip" title="latents that never fired on the indexed tokens">silent ${(100 * (1 - atlas.n_alive / atlas.n_features)).toFixed(1)} %</span>
    <span class="chip" title="tokens that every figure here rests on">${whole(atlas.n_tokens)} tokens</span></span>
  </div>`;
}
