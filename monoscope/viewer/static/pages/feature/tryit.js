/** Turning the feature in the running model, from its own page: a strength, and the way to the Lab. */
import { Panel } from "../../components.js";
import { html, useState } from "../../kit.js";
import { link } from "../../router.js";
import { useModel } from "../../shell/model.js";

/** @param {{feature: any, atlas: any}} props */
export function TryIt({ feature }) {
  const model = useModel();
  const [strength, setStrength] = useState(1);
  const said = { absent: model?.detail, loading: "The model is being read; the slider can be set already.", failed: model?.detail, ready: "" };
  const edit = `${feature.latent}=set:${strength}max`;
  return html`<${Panel} title="Try it" aside="× its maximum">
    <div class="try"><input type="range" min="-3" max="5" step="0.1" value=${strength} aria-label="Strength, in multiples of its maximum" onInput=${(/** @type {any} */ e) => setStrength(Number(e.target.value))} /><output class="num">${strength.toFixed(1)} ×</output></div>
    <div class="row"><a class="btn main" href=${link("/steer", { edit })}>Steer with it in the Lab</a></div>
    ${model && said[/** @type {keyof typeof said} */ (model.state)] && html`<p class="note">${said[/** @type {keyof typeof said} */ (model.state)]}</p>`}
  <//>`;
}
