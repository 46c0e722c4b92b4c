/** One run: its evaluation beside baselines, settings, data, checkpoints, and what it said of itself. */
import { useApi } from "../../api.js";
import { Await, Copy, Empty, Panel } from "../../components.js";
import { percent, python, shell, short, whole } from "../../format.js";
import { html, useEffect } from "../../kit.js";
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

/** @param {{id: string, row: any, curve: any}} props */
export function Detail({ id, row, curve }) {
  const run = useApi("/runs/one", { id });
  // Its evaluation and data are there only after its end, its notes come as it trains.
  useEffect(() => { if (run.data) run.reload(); }, [row.status, JSON.stringify(row.held_out), curve?.notes.length]);
  return html`<${Panel} title=${`Run ${nameOf(id)}`} class="wide detail"><${Await} of=${{ ...run, loading: false }} lines=${8}>${(/** @type {any} */ data) => html`<${Body} run=${data} />`}<//><//>`;
}

/** @param {{run: any}} props */
function Body({ run }) {
  return html`<div class="row copies"><${Copy} label="Copy as command" text=${command(run)} /><${Copy} label="Copy as Python" text=${code(run)} /></div>
    <${Evaluation} measured=${run.evaluation} />
    ${run.notes.length > 0 && html`<${Notes} notes=${run.notes} />`}
    <div class="facts">
      <section><h3>Training</h3><${Facts} of=${run.config.train} /></section>
      <section><h3>Autoencoder</h3><${Facts} of=${run.config.sae} />${run.metrics && html`<h3>At its end, on training data</h3><${Facts} of=${run.metrics} />`}</section>
      <section><h3>Data</h3>${Object.keys(run.data).length ? html`<${Facts} of=${run.data} />` : html`<p class="dim">Written with the finished autoencoder.</p>`}
        ${run.checkpoints.length > 0 && html`<h3>Checkpoints</h3><ul class="kv">${run.checkpoints.map((/** @type {any} */ c) => html`<li key=${c.name}><span class="grow">${c.name}</span><span class="num">${whole(c.n_tokens)} tokens</span></li>`)}</ul>`}</section>
    </div>`;
}

/** @param {{measured: any}} props */
function Evaluation({ measured }) {
  if (!measured) {
    return html`<${Empty} title="Not evaluated yet">Measure it on held-out documents, beside baselines:
      <code>monoscope eval SAE --store STORE --json > SAE/eval.json</code><//>`;
  }
  const { figures } = measured;
  const shown = MEASURES.filter(([key]) => figures[key] !== undefined);
  const rows = [["sae", "this SAE", figures], ...Object.entries(figures.baselines || {}).map(([key, of]) => [key, BASELINES[key] || key, of])];
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Evaluation beside baselines"><table class="evaltable">
    <thead><tr><th>on held-out documents</th>${shown.map(([key, name, about]) => html`<th key=${key} class="r" title=${about}>${name}</th>`)}</tr></thead>
    <tbody>${rows.map(([key, name, of]) => html`<tr key=${key} class=${key === "sae" ? "ours" : ""}>
      <td>${name}${of.method && html`<span class="src">${of.method}</span>`}</td>
      ${shown.map(([measure, , , show]) => html`<td key=${measure} class="r num">${show(of[measure])}<${Interval} ci=${of.ci?.[measure]} show=${show} /></td>`)}</tr>`)}</tbody></table></div>
    <p class="note">${whole(figures.n_tokens)} tokens of ${whole(figures.n_documents)} documents${figures.n_splice_tokens ? `, ${whole(figures.n_splice_tokens)} of them spliced into the model` : ""}.
      Dead: ${percent(figures.dead_fraction)} silent over ${whole(figures.dead_window_tokens)} tokens. Below each figure its 95 % interval, a bootstrap over documents. From <code>${measured.file}</code>.</p>`;
}

/** @param {{ci: [number, number] | undefined, show: (v: any) => string}} props */
function Interval({ ci, show }) {
  return ci ? html`<span class="src">${show(ci[0])} – ${show(ci[1])}</span>` : null;
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

const ARGUMENTS = /** @type {[string, string][]} */ ([["recipe", "--recipe"], ["batch_size", "--batch-size"], ["n_tokens", "--tokens"], ["lr", "--lr"], ["seed", "--seed"]]);

/** The command that trains such a run again; its store is the reader's to name. @param {any} run */
function command(run) {
  const { sae = {}, train = {} } = run.config;
  const parts = ["monoscope train STORE", `--d-sae ${sae.d_sae}`];
  if (sae.k) parts.push(`--k ${sae.k}`);
  for (const [key, flag] of ARGUMENTS) if (train[key] !== null && train[key] !== undefined) parts.push(`${flag} ${shell(String(train[key]))}`);
  return [...parts, "--out SAE"].join(" ");
}

/** @param {any} run */
function code(run) {
  const { sae = {}, train = {} } = run.config;
  const given = [`d_sae=${sae.d_sae}`, ...(sae.k ? [`k=${sae.k}`] : []),
    ...ARGUMENTS.filter(([key]) => train[key] !== null && train[key] !== undefined).map(([key]) => `${key}=${python(train[key])}`)];
  return `import monoscope as ms\n\nstore = ms.load_store("store/")\nrun = ms.train(store, ${given.join(", ")}, out="sae/")`;
}
