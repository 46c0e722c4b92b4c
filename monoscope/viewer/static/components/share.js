/** A view to take along: its address, and the command and the Python that say the same. */
import { Copy } from "../components.js";
import { html } from "../kit.js";

/** @typedef {{model: string | null, sae: string}} Loaded what the model is called, and its SAE's folder */

/**
 * The buttons stand from the first; what names the model waits until the model is known, since a
 * command without it could load another.
 * @param {{model: any, command: (model: Loaded) => string, python: (model: Loaded) => string, missing?: string}} props
 *   missing: why there is nothing to say yet
 */
export function Share({ model, command, python, missing }) {
  return html`<div class="row share"><${Copy} label="Copy link" text=${() => location.href} title="An address that holds all of this" />
    <${Commands} model=${model} command=${command} python=${python} missing=${missing} /></div>`;
}

/** @param {{model: any, command: (model: Loaded) => string, python?: (model: Loaded) => string, missing?: string}} props */
export function Commands({ model, command, python, missing }) {
  const waits = model?.state === "ready" ? "" : "when the model is ready";
  const why = missing || waits;
  return html`<${Copy} label="Copy command" disabled=${Boolean(why)} text=${() => command(model)} title=${why || "The same in a terminal"} />
    ${python && html`<${Copy} label="Copy Python" disabled=${Boolean(why)} text=${() => python(model)} title=${why || "The same in Python"} />`}`;
}
