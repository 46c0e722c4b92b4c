/** How to train a run again, from what it recorded of itself: as a command and as Python. */
import { python, shell } from "../../format.js";

const FLAGS = /** @type {[string, string][]} */ ([["recipe", "--recipe"], ["target_l0", "--target-l0"], ["n_tokens", "--tokens"], ["batch_size", "--batch-size"], ["lr", "--lr"], ["seed", "--seed"]]);

/**
 * @param {any} run @param {string} root the folder that runs are found in
 * @returns {{command?: string, python?: string, lacks?: string}} lacks: why there is no command
 */
export function again(run, root) {
  const { sae = {}, train = {}, data = {} } = run.config, { asked } = run;
  if (!asked) return { lacks: "this run was trained before runs kept what they were asked for." };
  if (!asked.source) return { lacks: "its activations were in memory, which no command can name." };
  const given = FLAGS.filter(([key]) => train[key] !== null && train[key] !== undefined);
  const k = train.target_l0 ? null : asked.k ?? sae.k ?? null;
  const settings = Object.entries(asked.settings || {}), out = `${root}/${run.row.id === "." ? "again" : `${run.row.id}-again`}`;
  const corpus = corpusOf(asked.source), { store, model, site, max_doc_tokens: most } = asked.source;
  if (!store && !corpus) return { lacks: `it read a corpus that no command can name (${asked.source.corpus?.name || asked.source.corpus?.kind}).` };
  const from = store ? shell(store) : `--model ${shell(model)} --corpus ${shell(corpus?.flag || "")} --site ${shell(site)}${most ? ` --max-doc-tokens ${most}` : ""}`;
  const made = ["monoscope train", from, `--d-sae ${sae.d_sae}`, ...(k ? [`--k ${k}`] : []),
    ...given.map(([key, flag]) => `${flag} ${shell(String(train[key]))}`),
    ...settings.map(([key, value]) => `--set ${shell(`${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)}`), `--out ${shell(out)}`].join(" ");
  const loaded = store ? `source = ms.load_store(${python(store)})` : `source = ms.Live(ms.load_lm(${python(model)}), ${corpus?.code}, ${python(site)}${most ? `, max_doc_tokens=${most}` : ""})`;
  const words = [`d_sae=${sae.d_sae}`, ...(k ? [`k=${k}`] : []), ...given.map(([key]) => `${key}=${python(train[key])}`),
    ...(data.seed !== undefined && data.seed !== train.seed ? [`data_seed=${data.seed}`] : []),
    ...(settings.length ? [`settings=json.loads(${python(JSON.stringify(Object.fromEntries(settings)))})`] : []), `out=${python(out)}`];
  const code = `${settings.length ? "import json\n\n" : ""}import monoscope as ms\n\n${loaded}\nrun = ms.train(\n    source,\n${words.map((word) => `    ${word},\n`).join("")})\nprint(run.metrics)\n`;
  if (data.seed !== undefined && data.seed !== train.seed) return { python: code, lacks: "the order of its data has a seed of its own." };
  return { command: made, python: code };
}

/** A corpus as the command line and Python name it; null for one they cannot. @param {any} source */
function corpusOf({ corpus }) {
  if (corpus?.kind === "demo") return { flag: "demo", code: `ms.Corpus.demo(${corpus.seed ?? 0})` };
  if (corpus?.kind === "files" && corpus.path) return { flag: corpus.path, code: `ms.Corpus.from_path(${python(corpus.path)})` };
  return corpus?.kind === "hub" ? { flag: `hf:${corpus.name}`, code: `ms.Corpus.from_hub(${python(corpus.name)})` } : null;
}
