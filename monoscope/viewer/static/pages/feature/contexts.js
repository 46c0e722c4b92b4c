/** Where the feature fires: strongest contexts and samples of each band, each opening into its document. */
import { useApi } from "../../api.js";
import { Await, Empty, Panel, Tokens } from "../../components.js";
import { short, visible, whole } from "../../format.js";
import { html, useEffect, useRef, useState } from "../../kit.js";
import { useQuery } from "../../router.js";
import { useModel } from "../../shell/model.js";
import { useSetting } from "../../settings.js";

const FEW = 6; // contexts shown at first where there is little room
const BANDS = ["weakest fifth", "weak", "middle", "strong", "strongest fifth"];

/** @param {{feature: any}} props */
export function Contexts({ feature }) {
  const [query, setQuery] = useQuery();
  const [shading, setShading] = useSetting("shading");
  const bands = [...new Set(feature.examples.filter((/** @type {any} */ e) => e.kind === "band").map((/** @type {any} */ e) => e.band))].sort((a, b) => /** @type {number} */ (b) - /** @type {number} */ (a));
  const choices = ["top", ...bands.map(String)];
  const shown = choices.includes(query.band) ? query.band : "top";
  const examples = feature.examples.filter((/** @type {any} */ e) => shown === "top" ? e.kind === "top" : e.kind === "band" && e.band === Number(shown));
  const [all, setAll] = useState(!matchMedia("(max-width: 900px)").matches);
  if (!feature.examples.length) return html`<${Panel} title="Contexts"><${Empty} title="No contexts">On none of the ${whole(feature.n_tokens)} tokens of this atlas did it fire. Its direction, what that writes and what lies near it are here all the same.<//><//>`;
  const few = all ? examples : examples.slice(0, FEW);
  const range = feature.max / 5;
  return html`<${Panel} title="Contexts" aside=${html`
      <label class="check"><input type="checkbox" checked=${shading === "numbers"} onChange=${(/** @type {any} */ e) => setShading(e.target.checked ? "numbers" : "hue")} /> values <kbd>v</kbd></label>`}>
    <div class="bands" role="group" aria-label="Which contexts">${choices.map((c) => html`<button key=${c} class="pick" aria-pressed=${c === shown} onClick=${() => setQuery({ band: c === "top" ? "" : c })}>
      ${c === "top" ? "strongest" : html`${short(range * Number(c))}–${short(range * (Number(c) + 1))}<span class="sr"> (${BANDS[Number(c)]})</span>`}</button>`)}</div>
    <p class="note">${shown === "top" ? "The strongest, one a document at most." : `Drawn at random from activations between ${short(range * Number(shown))} and ${short(range * (Number(shown) + 1))}: what a typical firing of that strength looks like.`}</p>
    <ol class="list contexts">${few.map((/** @type {any} */ e) => html`<${Example} key=${`${e.kind}${e.band}.${e.rank}`} example=${e} feature=${feature} />`)}</ol>
    ${few.length < examples.length && html`<button class="btn small more" onClick=${() => setAll(true)}>${examples.length - few.length} more</button>`}
  <//>`;
}

/** @param {{example: any, feature: any}} props */
function Example({ example: e, feature }) {
  const [open, setOpen] = useState(false);
  return html`<li tabindex="-1">
    ${open ? html`<${Document} doc=${e.doc} latent=${feature.latent} max=${feature.max} at=${e.pos} />`
      : html`<div class="line">${e.start > 0 && html`<span class="dim">…</span>`}<${Tokens} pieces=${e.pieces} values=${e.values} max=${feature.max} peak=${e.peak} />${e.start + e.pieces.length < e.n_tokens && html`<span class="dim">…</span>`}</div>`}
    <div class="src"><b class="num">${short(e.value)}</b> · <${Source} meta=${e.meta} /> · <button class="linky" aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? "close" : `whole document (${whole(e.n_tokens)} tokens)`}</button></div>
  </li>`;
}

/** Where a text is from, and under which licence. @param {{meta: Record<string, string>}} props */
function Source({ meta }) {
  const licence = meta.licence || meta.license;
  const name = meta.title || meta.name || meta.path || meta.source || "untitled";
  const url = /^https?:\/\//.test(meta.url || "") ? meta.url : null;
  const rest = [meta.title && meta.source, meta.lang, meta.topic, licence].filter(Boolean).map(visible);
  return html`${url ? html`<a href=${url} target="_blank" rel="noopener noreferrer nofollow">${visible(name)}</a>` : visible(name)}${rest.length ? `, ${rest.join(", ")}` : ""}`;
}

/** A document in whole: what the atlas recorded of it, and the rest as the running model reads it. @param {{doc: number, latent: number, max: number, at: number}} props */
function Document({ doc, latent, max, at }) {
  const document = useApi(`/documents/${doc}`, { latent });
  const model = useModel(), able = model?.state === "ready" || model?.state === "loading";
  const read = useApi(able && document.data ? `/documents/${doc}/values` : null, { latent });
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => { box.current?.querySelector(".peak")?.scrollIntoView({ block: "nearest" }); }, [document.data]);
  const told = /** @type {any} */ (read.data);
  return html`<div class="document" ref=${box} tabindex="0" role="group" aria-label="Document ${doc}"><${Await} of=${document} lines=${5}>${(/** @type {any} */ d) => html`
    <${Tokens} pieces=${d.pieces} values=${told ? d.values.map((/** @type {number | null} */ v, /** @type {number} */ i) => v ?? told.values[i]) : d.values} max=${max} peak=${at} />
    <p class="note" role="status">Document ${d.doc}, ${d.split === "train" ? "of the training split" : "held out"}. <${Rest} d=${d} told=${told} error=${read.error} model=${model} /></p>`}<//></div>`;
}

/** Where the values of a document are from. @param {{d: any, told: any, error: any, model: any}} props */
function Rest({ d, told, error, model }) {
  const n = d.pieces.length, recorded = `Values were recorded for ${whole(d.n_recorded)} of its ${whole(n)} tokens, those around shown contexts`;
  if (d.n_recorded === n) return `Values were recorded for all its ${whole(n)} tokens.`;
  if (told) return `${recorded}; the model has read the others just now, in the same windows of ${told.context_length} tokens.`;
  if (error) return `${recorded}; the model could not read the others: ${error.problem.detail}.`;
  if (model?.state === "ready") return `${recorded}; the model reads the others…`;
  if (model?.state === "loading") return `${recorded}; the others follow when the model is loaded…`;
  return `${recorded}; the others need the running model. ${model?.detail || ""}`;
}
