/** Compare: two atlases of one model, which latents they share, and the same contexts seen by both. */
import { useApi } from "../api.js";
import { Await, Copy, Empty, ErrorState, Panel } from "../components.js";
import { whole } from "../format.js";
import { html } from "../kit.js";
import { link, useQuery } from "../router.js";
import { Unread, numberOf, wordOf } from "../components/unread.js";
import { asCommand, asPython } from "./compare/copies.js";
import { Contexts } from "./compare/contexts.js";
import { Families } from "./compare/families.js";
import { KINDS, Summary } from "./compare/summary.js";

export const title = "Compare";
const THRESHOLD = 0.7;

export function Page() {
  const list = useApi("/atlases");
  return html`<h1>Compare</h1><${Await} of=${list} lines=${6}>${(/** @type {any} */ found) => html`<${Chosen} found=${found} />`}<//>`;
}

/** @param {{found: any}} props */
function Chosen({ found }) {
  const [query, setQuery] = useQuery();
  const own = found.atlases.find((/** @type {any} */ one) => one.here) || found.atlases[0];
  const other = found.atlases.find((/** @type {any} */ one) => one !== own && !one.trouble);
  const a = query.a || own?.id || "";
  const b = query.b || other?.id || "";
  const bad = /** @type {import("../components/unread.js").Bad[]} */ ([]);
  const threshold = numberOf(query, "t", THRESHOLD, { min: 0, max: 1, said: "a cosine, 0 to 1" }, bad);
  const kind = wordOf(query, "kind", ["", ...KINDS.map(([name]) => name)], bad);
  numberOf(query, "n", 0, { min: 0, whole: true, said: "how many families to show" }, bad);
  const asked = Boolean(a && b);
  const pair = /^(\d+)-(\d+)$/.exec(query.pair || "");
  if (query.pair && !pair) bad.push({ key: "pair", got: query.pair, expected: "a latent of A and one of B, as in 12-34" });
  const view = { a, b, threshold, kind, words: query.q || "", family: query.f || "", pair: /** @type {[number, number] | null} */ (pair && [Number(pair[1]), Number(pair[2])]) };
  // The address as it is may leave a and b to what lies in the folder; what is shared names them.
  const address = () => new URL(link("/compare", { ...query, a, b, t: threshold }), location.href).href;
  const result = useApi(asked ? "/compare" : null, { a, b, threshold, kind, q: query.q, limit: 40 });
  return html`
    <p class="sub">Latents of two autoencoders on one model, joined by the cosine of their decoder directions.</p>
    <${Unread} bad=${bad} drop=${() => setQuery(Object.fromEntries(bad.map((one) => [one.key, ""])))} />
    <${Choice} found=${found} a=${a} b=${b} setQuery=${setQuery} />
    ${asked && pair && html`<${Beside} found=${found} a=${a} b=${b} left=${Number(pair[1])} right=${Number(pair[2])} close=${() => setQuery({ pair: "" })} />`}
    ${!asked ? html`<${Alone} found=${found} />`
      : result.error ? html`<${ErrorState} problem=${result.error.problem} retry=${result.reload} />`
      : html`<${Await} of=${result} lines=${12}>${(/** @type {any} */ data) => html`
        <${Summary} data=${data} query=${{ ...query, kind }} threshold=${threshold} setQuery=${setQuery}>
          <div class="row share"><${Copy} label="Copy link" text=${address} title="An address that holds all of this" />
            <${Copy} label="Copy command" text=${() => asCommand(found.root, view)} title="The same in a terminal" />
            <${Copy} label="Copy Python" text=${() => asPython(found.root, view)} title="The same in Python" /></div><//>
        <${Families} key=${`${a}|${b}`} first=${data} found=${found} a=${a} b=${b} threshold=${threshold} query=${{ ...query, kind }} setQuery=${setQuery} />`}<//>`}`;
}

/** A latent of either side on the contexts of both, whatever family they are in. @param {{found: any, a: string, b: string, left: number, right: number, close: () => void}} props */
function Beside({ found, a, b, left, right, close }) {
  const here = (/** @type {string} */ id) => found.atlases.some((/** @type {any} */ one) => one.id === id && one.here);
  const named = (/** @type {string} */ side, /** @type {string} */ id, /** @type {number} */ latent) => html`<b>${side}</b> ${here(id) ? html`<a href=${link(`/f/${latent}`)}>feature ${latent}</a>` : `feature ${latent}`} of <code>${id}</code>`;
  const family = { a: [{ latent: left }], b: [{ latent: right }], links: [{ a: left, b: right }] };
  return html`<${Panel} title=${`${left} beside ${right}`} aside=${html`<button class="btn small" type="button" onClick=${close} aria-label="Close">✕</button>`}>
    <p class="note">${named("A", a, left)}, ${named("B", b, right)}, on the contexts where either fires most.</p>
    <div class="kept" tabindex="0" role="group" aria-label="Their contexts"><${Contexts} key=${`${left}-${right}`} family=${family} a=${a} b=${b} /></div><//>`;
}

/** @param {{found: any, a: string, b: string, setQuery: (patch: any, how?: any) => void}} props */
function Choice({ found, a, b, setQuery }) {
  const pick = (/** @type {"a" | "b"} */ side) => (/** @type {Event} */ event) =>
    setQuery({ [side]: /** @type {HTMLSelectElement} */ (event.target).value, f: "", n: "", pair: "" }, { push: true });
  const side = (/** @type {"a" | "b"} */ name, /** @type {string} */ value) => html`
    <label class="side ${name}"><span class="letter" aria-hidden="true">${name.toUpperCase()}</span><span class="sr">Atlas ${name.toUpperCase()}</span>
      <select class="text" value=${value} onChange=${pick(name)}>
        ${!found.atlases.some((/** @type {any} */ one) => one.id === value) && html`<option value=${value}>${value || "choose an atlas"}</option>`}
        ${found.atlases.map((/** @type {any} */ one) => html`<option key=${one.id} value=${one.id} disabled=${Boolean(one.trouble)}>${described(one)}</option>`)}
      </select></label>`;
  return html`<div class="choice">${side("a", a)}
    <button class="btn" onClick=${() => setQuery({ a: b, b: a, f: "", n: "", pair: "" }, { push: true })} disabled=${!b} title="Put each in the other's place" aria-label="Swap A and B">⇄</button>${side("b", b)}</div>`;
}

/** @param {any} one */
function described(one) {
  const sae = [one.activation || one.recipe, whole(one.d_sae), one.k ? `k ${one.k}` : ""].filter(Boolean).join(" ");
  return `${one.id}${one.here ? " (this one)" : ""} · ${one.site} · ${sae}${one.trouble ? " · cannot be compared" : ""}`;
}

/** @param {{found: any}} props */
function Alone({ found }) {
  const barred = found.atlases.filter((/** @type {any} */ one) => one.trouble);
  return html`<${Panel}><${Empty} title="There is no second atlas to compare with">Nothing else under <code>${found.root}</code> is an atlas of this model.
      Train another autoencoder on the same store, index it beside this one, or name a folder that holds both: <code>monoscope view ATLAS --runs DIR</code>.<//>
    ${barred.length > 0 && html`<ul class="list">${barred.map((/** @type {any} */ one) => html`<li key=${one.id}><b>${one.id}</b><p class="src">${one.trouble}</p></li>`)}</ul>`}<//>`;
}
