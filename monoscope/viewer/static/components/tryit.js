/** A steering box in place: one feature, one slider, one prompt. The feature page mounts it. */
import { ErrorState } from "../components.js";
import { flag, shell } from "../format.js";
import { html, useState } from "../kit.js";
import { link } from "../router.js";
import { useModel } from "../shell/model.js";
import { written } from "./edits.js";
import { Commands } from "./share.js";
import { Costs, Plain, Steered, useSteering } from "./steering.js";

const PROMPT = "My favourite thing in the world is";
const TOKENS = 40;

/** @param {{latent: number, atlas: any}} props atlas: the facts of /atlas */
export function TryIt({ latent, atlas }) {
  const model = useModel();
  const [strength, setStrength] = useState(0.5);
  const [prompt, setPrompt] = useState(PROMPT);
  const { answers, run, stop } = useSteering();
  /** @type {import("./edits.js").Edit} */
  const edit = { latent, op: "add", value: strength, unit: "norm", where: "all" };
  const busy = answers.status === "waiting" || answers.status === "writing";
  const ask = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (busy) return stop();
    run({ prompt, edits: [{ latent, op: "add", value: strength, unit: "norm", where: "all" }], max_new_tokens: TOKENS });
  };
  const command = (/** @type {import("./share.js").Loaded} */ { model: name, sae }) => `monoscope steer ${shell(sae)} --atlas ${shell(atlas?.folder || "")}${name ? ` --model ${shell(name)}` : ""} ${flag("--prompt", prompt)} --edit ${shell(written(edit))} --max-new-tokens ${TOKENS}`;
  const ready = model?.state === "ready" || model?.state === "loading";
  return html`<form class="tryit" onSubmit=${ask}>
    <label class="strength"><span>add</span>
      <input type="range" min="-1" max="1" step="0.05" value=${strength} aria-label="Strength of feature ${latent}, times the norm"
        onInput=${(/** @type {any} */ e) => setStrength(Number(e.target.value))} />
      <span class="num">${strength.toFixed(2)} × ‖x‖</span></label>
    <textarea class="text" rows="2" aria-label="Prompt" value=${prompt} onInput=${(/** @type {any} */ e) => setPrompt(e.target.value)}></textarea>
    <div class="row">
      <button class="btn main" disabled=${!ready || !prompt}>${busy ? "Stop" : "Try it"}</button>
      <a class="btn" href=${link("/steer", { e: written(edit), p: prompt, n: TOKENS, run: answers.status === "idle" ? "" : 1 })}>Open in the lab</a>
      ${model?.state !== "absent" && html`<${Commands} model=${model} command=${command} missing=${prompt ? "" : "when there is a prompt"} />`}
    </div>
    ${!ready && model && html`<p class="note">${model.detail || "The model cannot be asked."}</p>`}
    ${model?.state === "loading" && html`<p class="note" role="status">The model is loading; what you ask now is answered when it is ready.</p>`}
    ${answers.problem && html`<${ErrorState} problem=${answers.problem} />`}
    ${answers.status !== "idle" && !answers.problem && html`<div class="tried" aria-live="polite" aria-busy=${busy}>
      <p><b class="dim">default</b> <${Plain} tokens=${answers.default} writing=${busy} /></p>
      <p><b class="dim">steered</b> <${Steered} tokens=${answers.steered} writing=${busy} /></p>
      <${Costs} tokens=${answers.steered} />
    </div>`}
  </form>`;
}
