/** A steering box in place: one feature, one slider, one prompt. The feature page mounts it. */
import { ErrorState } from "../components.js";
import { html, useEffect, useState } from "../kit.js";
import { asCommand, asPython } from "../pages/lab/state.js";
import { TOKENS, tried } from "../pages/feature/copies.js";
import { link, useQuery } from "../router.js";
import { useModel } from "../shell/model.js";
import { writtenAll } from "./edits.js";
import { Commands } from "./share.js";
import { Unread } from "./unread.js";
import { Costs, Plain, Steered, useSteering } from "./steering.js";

/**
 * What is asked stands in the address; the field and the slider go before it while they are moved.
 * @param {{latent: number, atlas: any}} props atlas: the facts of /atlas
 */
export function TryIt({ latent, atlas }) {
  const model = useModel();
  const [query, setQuery] = useQuery();
  const held = tried(latent, query);
  const [strength, setStrength] = useState(held.edits[0].value);
  const [prompt, setPrompt] = useState(held.prompt);
  useEffect(() => setStrength(held.edits[0].value), [held.edits[0].value]);
  useEffect(() => setPrompt(held.prompt), [held.prompt]);
  const { answers, run, stop } = useSteering();
  const lab = tried(latent, { p: prompt, add: String(strength) });
  const body = { prompt, edits: [{ latent, op: "add", value: strength, unit: "norm", where: "all" }], max_new_tokens: TOKENS };
  const able = model?.state === "ready" || model?.state === "loading";
  useEffect(() => { if (query.run === "1" && able && held.prompt && !held.bad.length) run(body); }, [able]); // a link to what was tried
  const busy = answers.status === "waiting" || answers.status === "writing";
  const ask = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (busy) return stop();
    setQuery({ p: prompt, add: strength, run: 1 });
    run(body);
  };
  return html`<form class="tryit" onSubmit=${ask}>
    <${Unread} bad=${held.bad} drop=${() => setQuery({ add: "" })} />
    <label class="strength"><span>add</span>
      <input type="range" min="-1" max="1" step="0.05" value=${strength} aria-label="Strength of feature ${latent}, times the norm"
        onInput=${(/** @type {any} */ e) => setStrength(Number(e.target.value))} onChange=${(/** @type {any} */ e) => setQuery({ add: Number(e.target.value), run: "" })} />
      <span class="num">${strength.toFixed(2)} × ‖x‖</span></label>
    <textarea class="text" rows="2" aria-label="Prompt" value=${prompt} onInput=${(/** @type {any} */ e) => setPrompt(e.target.value)} onChange=${() => setQuery({ p: prompt, run: "" })}></textarea>
    <div class="row">
      <button class="btn main" disabled=${!able || !prompt}>${busy ? "Stop" : "Try it"}</button>
      <a class="btn" href=${link("/steer", { e: writtenAll(lab.edits), p: prompt, n: TOKENS, run: answers.status === "idle" ? "" : 1 })}>Open in the lab</a>
      ${model?.state !== "absent" && html`<${Commands} model=${model} command=${(/** @type {any} */ m) => asCommand(lab, m, atlas?.folder || "")} python=${(/** @type {any} */ m) => asPython(lab, m, atlas?.folder || "")} missing=${prompt ? "" : "when there is a prompt"} />`}
    </div>
    ${!able && model && html`<p class="note">${model.detail || "The model cannot be asked."}</p>`}
    ${model?.state === "loading" && html`<p class="note" role="status">The model is loading; what you ask now is answered when it is ready.</p>`}
    ${answers.problem && html`<${ErrorState} problem=${answers.problem} />`}
    ${answers.status !== "idle" && !answers.problem && html`<div class="tried" aria-live="polite" aria-busy=${busy}>
      <p><b class="dim">default</b> <${Plain} tokens=${answers.default} writing=${busy} /></p>
      <p><b class="dim">steered</b> <${Steered} tokens=${answers.steered} writing=${busy} /></p>
      <${Costs} tokens=${answers.steered} />
    </div>`}
  </form>`;
}
