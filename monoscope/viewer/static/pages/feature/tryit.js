/** The place for turning the feature in the running model; what steers is fetched after the page stands. */
import { ErrorState, Loading, Panel } from "../../components.js";
import { html, useEffect, useState } from "../../kit.js";

/** @param {{feature: any, atlas: any}} props */
export function TryIt({ feature, atlas }) {
  const [part, setPart] = useState(/** @type {any} */ (null));
  const [failed, setFailed] = useState("");
  useEffect(() => { import("../../components/tryit.js").then(setPart, (error) => setFailed(error.message)); }, []);
  return html`<${Panel} title="Try it" class="try-it">
    ${failed ? html`<${ErrorState} problem=${{ title: "Steering did not load", detail: failed }} />`
      : part ? html`<${part.TryIt} latent=${feature.latent} atlas=${atlas} />` : html`<${Loading} lines=${5} />`}
  <//>`;
}
