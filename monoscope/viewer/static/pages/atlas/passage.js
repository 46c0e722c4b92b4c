/** What fires on a passage typed into the search box: the latents, strongest first, and where in it. */
import { ApiError, post } from "../../api.js";
import { ErrorState } from "../../components.js";
import { percent, whole } from "../../format.js";
import { html, useEffect, useState } from "../../kit.js";
import { link } from "../../router.js";

const PAUSE_MS = 300; // of typing, before the model is asked
const MOST = 1000, PER_TOKEN = 64;
const DENSE = 0.1; // share of tokens from which a latent says little about any one text

/**
 * A latent on the passage: its largest value there, and the passage with its values.
 * @typedef {{max: number, n_tokens: number, share: number, pieces: string[], values: (number | null)[], peak: number}} Firing
 * @typedef {{text: string, order: Uint32Array, firing: Map<number, Firing>, n_tokens: number, n_active: number, hidden: number}} Reading
 */

/** The last passage read, in whose order a feature's page goes on. @type {{text: string, order: Uint32Array} | null} */
let last = null;

/** The order of a passage's latents, while the page that read it stays open. @param {string | null} text */
export const orderOf = (text) => last && last.text === text ? last.order : null;

/**
 * The passage as the model reads it; null asks nothing.
 * @param {string | null} text @param {boolean} dense @returns {{data: Reading | null, error: any, again: () => void}}
 */
export function usePassage(text, dense) {
  const [state, setState] = useState(/** @type {{told: any, of: string | null, error: any}} */ ({ told: null, of: null, error: null }));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (text === null) return;
    const stop = new AbortController();
    setState((s) => ({ ...s, error: null }));
    const timer = setTimeout(() => post("/lens", { text, limit: MOST, by: "max", per_token: PER_TOKEN }, stop.signal).then(
      (told) => setState({ told, of: text, error: null }),
      (error) => { if (!stop.signal.aborted) setState({ told: null, of: text, error: error instanceof ApiError ? error.problem : { detail: String(error) } }); },
    ), PAUSE_MS);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [text, turn]);
  const data = text !== null && state.told && state.of === text ? read(text, state.told, dense) : null;
  if (data) last = data;
  return { data, error: text !== null && state.of === text ? state.error : null, again: () => setTurn((n) => n + 1) };
}

/** @type {{told: any, dense: boolean, made: Reading} | null} */
let kept = null;

/** @param {string} text @param {any} told the lens's answer @param {boolean} dense @returns {Reading} */
function read(text, told, dense) {
  if (kept && kept.told === told && kept.dense === dense) return kept.made; // the same object, so that nothing is drawn anew
  const pieces = told.tokens.map((/** @type {any} */ token) => token.piece);
  const often = (/** @type {any} */ total) => !dense && told.features[total.latent]?.density > DENSE;
  const totals = told.totals.filter((/** @type {any} */ t) => !often(t)).sort((/** @type {any} */ a, /** @type {any} */ b) => b.max - a.max || a.latent - b.latent);
  const firing = /** @type {Map<number, Firing>} */ (new Map());
  for (const total of totals) {
    const values = new Array(pieces.length).fill(null);
    values[total.peak] = total.max;
    firing.set(total.latent, { max: total.max, n_tokens: total.n_tokens, share: total.max / totals[0].max, pieces, values, peak: total.peak });
  }
  told.tokens.forEach((/** @type {any} */ token, /** @type {number} */ at) => token.latents.forEach((/** @type {number} */ latent, /** @type {number} */ i) => {
    const found = firing.get(latent);
    if (found) found.values[at] = token.values[i];
  }));
  const order = Uint32Array.from(totals, (/** @type {any} */ t) => t.latent);
  const made = { text, order, firing, n_tokens: pieces.length, n_active: told.n_active, hidden: told.totals.length - totals.length };
  kept = { told, dense, made };
  return made;
}

/**
 * What is being done about the passage, above the table.
 * @param {{text: string, model: any, reading: {data: Reading | null, error: any, again: () => void}, dense: boolean,
 *   set: (patch: Record<string, any>) => void}} props
 */
export function PassageHead({ text, model, reading, dense, set }) {
  const { data, error, again } = reading;
  const lens = html`<a href=${link("/lens", { t: text })}>Token by token in the lens</a>`;
  const words = html`<button class="linky" onClick=${() => set({ read: "words" })}>Search for its words instead</button>`;
  if (model?.state === "absent" || model?.state === "failed") {
    return html`<div class="passage warn" role="status"><p>This reads like a passage. Which features fire on it needs a running model, and ${model.state === "failed" ? "the one here could not be loaded" : "there is none here"}: ${model.detail}</p>
      <p class="row">Below: the features that have every one of its words. ${lens}</p></div>`;
  }
  if (error) return html`<div class="passage"><${ErrorState} problem=${error} retry=${again} /><p class="row note">${lens} ${words}</p></div>`;
  if (!data) return html`<p class="passage note" role="status" aria-busy="true">${model?.state === "loading" ? "The model is loading. It reads the passage as soon as it is ready." : "The model reads the passage…"} <span class="row">${lens} ${words}</span></p>`;
  return html`<div class="passage"><p role="status"><b>${whole(data.n_active)} features fire</b> on these ${whole(data.n_tokens)} tokens, the strongest first${data.n_active > MOST ? `; the first ${whole(MOST)} are listed` : ""}.
      ${data.hidden > 0 ? html` ${data.hidden} that fire on more than ${percent(DENSE)} of all text ${data.hidden === 1 ? "is" : "are"} left out: <button class="linky" onClick=${() => set({ dense: 1 })}>show</button>.` : dense ? html` <button class="linky" onClick=${() => set({ dense: "" })}>Leave out dense ones</button>.` : ""}</p>
    <p class="row note">${lens} ${words}</p></div>`;
}
