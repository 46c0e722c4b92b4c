/** The runs found, a line each: which are drawn, how far they are, what they came to. */
import { percent, short, whole } from "../../format.js";
import { html } from "../../kit.js";
import { Swatch, nameOf } from "./style.js";

const SAID = /** @type {Record<string, string>} */ ({ running: "training", quiet: "no news", finished: "finished" });

/** @param {{runs: any[], shown: string[], focus: string | undefined, toggle: (id: string) => void, open: (id: string) => void}} props */
export function RunTable({ runs, shown, focus, toggle, open }) {
  const drawn = runs.filter((run) => shown.includes(run.id)).map((run) => run.id);
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Table of runs"><table class="runtable">
    <thead><tr><th><span class="sr">drawn</span></th><th>run</th><th>state</th><th>recipe</th><th class="r">latents</th><th class="r">k</th><th class="r">tokens</th>
      <th class="r" title="share of variance left unexplained: held out where the run was evaluated, else on training data">FVU</th>
      <th class="r" title="latents active on a token, on average">L0</th><th class="r" title="latents that never fired in a window of tokens">dead</th></tr></thead>
    <tbody>${runs.map((run) => html`<tr key=${run.id} class=${run.id === focus ? "on" : ""}>
      <td><label class="tick"><input type="checkbox" checked=${shown.includes(run.id)} onChange=${() => toggle(run.id)} aria-label=${`Draw ${nameOf(run.id)}`} /><${Swatch} place=${drawn.indexOf(run.id)} /></label></td>
      <td class="name"><button class="linky" aria-current=${run.id === focus ? "true" : undefined} onClick=${() => open(run.id)}>${nameOf(run.id)}</button></td>
      <td><span class="state ${run.status}">${SAID[run.status]}</span></td>
      <td>${run.recipe || run.activation || "–"}</td><td class="r num">${whole(run.d_sae)}</td><td class="r num">${run.k ?? "–"}</td>
      <td class="r num">${progress(run)}</td>
      <td class="r num">${figure(run, "fvu", short)}</td><td class="r num">${figure(run, "l0", short)}</td><td class="r num">${figure(run, "dead_fraction", percent)}</td>
    </tr>`)}</tbody></table></div>
    <p class="note">Figures in <b>bold</b> were measured on held-out documents by <code>monoscope eval</code>; the others are the run's own, on its training data.</p>`;
}

/** @param {any} run */
function progress(run) {
  if (run.status === "finished" || !run.total_tokens) return whole(run.n_tokens);
  const share = Math.min(1, run.n_tokens / run.total_tokens);
  return html`<progress value=${share} max="1" aria-label=${`${percent(share)} of ${whole(run.total_tokens)} tokens`}></progress> ${percent(share)}`;
}

/** @param {any} run @param {string} name @param {(v: number | null) => string} show */
function figure(run, name, show) {
  const measured = run.held_out?.[name];
  if (measured === null || measured === undefined) return show(run[name]);
  const ci = run.held_out.ci?.[name];
  return html`<b title=${ci ? `held out; 95 % interval ${show(ci[0])} to ${show(ci[1])}` : "held out"}>${show(measured)}</b>`;
}
