/** One run: its evaluation beside baselines, settings, data, checkpoints, and what it said of itself. */
import { useApi } from "../../api.js";
import { Await, Copy, Empty, Panel } from "../../components.js";
import { percent, short, whole } from "../../format.js";
import { html, useEffect } from "../../kit.js";
import { again } from "./again.js";
import { nameOf } from "./style.js";

/** @param {number | null | undefined} v */
const fine = (v) => typeof v === "number" && Math.abs(v) < 10 ? v.toFixed(3) : short(v);
/** @param {number | null | undefined} v */
const share = (v) => typeof v === "number" ? `${(100 * v).toFixed(1)} %` : "–";

/** Figures of an evaluation: key, heading, definition, how shown. @type {[string, string, string, (v: any) => string][]} */
const MEASURES = [
  ["fvu", "FVU", "Σ‖x−x̂‖² / Σ‖x−μ‖² over all held-out tokens, in raw units", fine],
  ["l0", "L0", "latents active on a token, on average", short],
  ["delta_ce", "ΔCE", "rise of the model's cross-entropy, in nats a token, with x̂ in the place of x", fine],
  ["kl", "KL", "KL(clean ‖ spliced) of the next-token distributions, in nats", fine],
  ["loss_recovered_zero", "recovered, zero", "(CE_ablated − CE_sae) / (CE_ablated − CE_clean), the site set to zero", share],
  ["loss_recovered_mean", "recovered, mean", "the same, the site set to its mean", share],
  ["cosine", "cosine", "of x and x̂, on average", fine],
];
const BASELINES = /** @type {Record<string, string>} */ ({ random: "random directions", neurons: "raw coordinates", pca: "PCA", mean: "the mean" });

/** @param {{id: string, row: any, curve: any, root: string}} props root: the folder that runs are found in */
export function Detail({ id, row, curve, root }) {
  const run = useApi("/runs/one", { id });
  // Its evaluation and data are there only after its end, its notes come as it trains.
  useEffect(() => { if (run.data) run.reload(); }, [row.status, JSON.stringify(row.held_out), curve?.notes.length]);
  return html`<${Panel} title=${`Run ${nameOf(id)}`} class="wide detail"><${Await} of=${{ ...run, loading: false }} lines=${8}>${(/** @type {any} */ data) => html`<${Body} run=${data} root=${root} />`}<//><//>`;
}

/** @param {{run: any, root: string}} props */
function Body({ run, root }) {
  const { command, python, lacks } = again(run, root);
  return html`<div class="row copies">${command && html`<${Copy} label="Copy as command" text=${command} title="Train such a run again" />`}
      ${python && html`<${Copy} label="Copy as Python" text=${python} title="Train such a run again" />`}
      ${lacks && html`<span class="note">${command ? "" : python ? "No command trains this again: " : "No command to copy: "}${lacks}</span>`}</div>
    <${Evaluation} measured=${run.evaluation} />
    <${Checkpoints} rows=${run.checkpoints} finished=${run.row.status === "finished"} />
    ${run.notes.length > 0 && html`<${Notes} notes=${run.notes} />`}
    <div class="facts">
      <section><h3>Training</h3><${Facts} of=${run.config.train} /></section>
      <section><h3>Autoencoder</h3><${Facts} of=${run.config.sae} />${run.metrics && html`<h3>At its end, on training data</h3><${Facts} of=${run.metrics} />`}</section>
      <section><h3>Data</h3>${Object.keys(run.data).length ? html`<${Facts} of=${run.data} />` : html`<p class="dim">Written with the finished autoencoder.</p>`}
</section>
    </div>`;
}

/** @param {{measured: any}} props */
function Evaluation({ measured }) {
  if (!measured) {
    return html`<${Empty} title="Not evaluated yet">Measure it on held-out documents, beside baselines:
      <code>monoscope eval SAE --store STORE --out SAE/eval.json</code><//>`;
  }
  const { figures } = measured;
  const shown = MEASURES.filter(([key]) => figures[key] !== undefined);
  const rows = [["sae", "this SAE", figures], ...Object.entries(figures.baselines || {}).map(([key, of]) => [key, BASELINES[key] || key, of])];
  // Where there is no room for a table its rows become blocks by CSS, which would take their roles from them.
  return html`<div class="evalbox"><table class="evaltable" role="table" aria-label="Evaluation beside baselines">
    <thead role="rowgroup"><tr role="row"><th role="columnheader">on held-out documents</th>${shown.map(([key, name, about]) => html`<th key=${key} role="columnheader" class="r" title=${about}>${name}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map(([key, name, of]) => html`<tr key=${key} role="row" class=${key === "sae" ? "ours" : ""}>
      <td role="rowheader">${name}${of.method && html`<span class="src">${of.method}</span>`}</td>
      ${shown.map(([measure, heading, about, show]) => html`<td key=${measure} role="cell" class="r num"><span class="mname" title=${about} aria-hidden="true">${heading}</span>${show(of[measure])}<${Interval} ci=${of.ci?.[measure]} show=${show} /></td>`)}</tr>`)}</tbody></table></div>
    <p class="note">${whole(figures.n_tokens)} tokens of ${whole(figures.n_documents)} documents${figures.n_splice_tokens ? `, ${whole(figures.n_splice_tokens)} of them spliced into the model` : ""}.
      Dead: ${percent(figures.dead_fraction)} silent over ${whole(figures.dead_window_tokens)} tokens. Below each figure its 95 % interval, a bootstrap over documents. From <code>${measured.file}</code>.</p>`;
}

/** @param {{ci: [number, number] | undefined, show: (v: any) => string}} props */
function Interval({ ci, show }) {
  return ci ? html`<span class="src">${show(ci[0])} – ${show(ci[1])}</span>` : null;
}

/** Figures of a run's log. @type {[string, string, (v: any) => string][]} */
const LOGGED = [["fvu", "FVU", fine], ["loss", "loss", fine], ["l0", "L0", short], ["dead_fraction", "dead", percent], ["lr", "learning rate", short]];

/** The run where it saved itself, side by side. @param {{rows: any[], finished: boolean}} props */
function Checkpoints({ rows, finished }) {
  if (rows.length < 2) return null;
  const last = rows[rows.length - 1], most = Math.max(...rows.map((row) => row.fvu ?? 0));
  return html`<section class="notes"><h3>Checkpoints side by side</h3>
    <div class="scroll" tabindex="0" role="group" aria-label="Checkpoints side by side"><table class="evaltable saves">
    <thead><tr><th class="r">tokens</th>${LOGGED.map(([key, name]) => html`<th key=${key} class="r">${name}</th>`)}<th></th></tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${row.n_tokens} class=${row === last ? "ours" : ""}><td class="r num">${whole(row.n_tokens)}</td>
      ${LOGGED.map(([key, , show]) => html`<td key=${key} class="r num">${key === "fvu" && row.fvu !== null && html`<svg class="meter" viewBox="0 0 44 5" width="44" height="5" aria-hidden="true"><rect class="back" width="44" height="5" rx="2.5" /><rect class="fill" width=${(44 * row.fvu / most).toFixed(1)} height="5" rx="2.5" /></svg> `}${show(row[key])}</td>`)}
      <td class="dim">${row === last ? (finished ? "its end" : "now") : row.kept ? "checkpoint, on disk" : row.saved ? "checkpoint" : ""}</td></tr>`)}</tbody></table></div>
    <p class="note">As the run reported them, on the batches it trained on.${rows.some((row) => row.saved) && finished ? " A finished run keeps no checkpoints: its SAE is the last row." : ""}</p></section>`;
}

/** @param {{notes: any[]}} props */
function Notes({ notes }) {
  return html`<section class="notes"><h3>Diagnosis</h3><ul class="list">${notes.map((note, i) => {
    const { step, n_tokens, ...rest } = note;
    return html`<li key=${i}><span class="num dim">${n_tokens === undefined ? `step ${step ?? "–"}` : `${whole(n_tokens)} tokens`}</span> ${sentence(rest)}</li>`;
  })}</ul></section>`;
}

/** What a note says: its own words where it has some, else its fields. @param {Record<string, any>} note */
function sentence(note) {
  const words = [note.message, note.diagnosis, note.text, note.hint].filter((w) => typeof w === "string");
  return words.length ? words.join(" ") : Object.entries(note).map(([k, v]) => `${k} ${value(v)}`).join(", ");
}

/** @param {{of: Record<string, any> | undefined}} props */
function Facts({ of }) {
  const entries = Object.entries(of || {}).filter(([, v]) => v !== null && v !== undefined);
  return html`<dl class="factlist">${entries.map(([key, v]) => html`<div key=${key}><dt>${key}</dt><dd>${value(v)}</dd></div>`)}</dl>`;
}

/** @param {any} v @returns {string} */
function value(v) {
  if (typeof v === "number") return Number.isInteger(v) ? whole(v) : String(+v.toPrecision(4));
  if (Array.isArray(v)) return !v.length ? "none" : v.length > 8 ? `${v.length} values` : v.map(value).join(", ");
  if (v && typeof v === "object") return Object.entries(v).map(([k, w]) => `${k} ${value(w)}`).join(" · ");
  return /^[0-9a-f]{32,}$/.test(v) ? `${v.slice(0, 12)}…` : String(v);
}
