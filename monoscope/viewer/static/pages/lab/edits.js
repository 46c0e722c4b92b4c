/** The edits of the lab: a row each, with its slider, and the field that adds one. */
import { OPS, OP_MEANS, UNIT_NAMES, WHERE_NAMES, hasUnit, reach, usual } from "../../components/edits.js";
import { LabelWords } from "../../components.js";
import { PickFeature } from "../../components/pick.js";
import { Typed } from "../../components/typed.js";
import { short } from "../../format.js";
import { html, useEffect, useState } from "../../kit.js";
import { link } from "../../router.js";

/** @typedef {import("../../components/edits.js").Edit} Edit */

/** @param {{edits: Edit[], facts: Record<number, any>, lacking: number[], set: (edits: Edit[]) => void, sweep: (latent: number) => void}} props */
export function Edits({ edits, facts, lacking, set, sweep }) {
  const change = (/** @type {number} */ i, /** @type {Partial<Edit>} */ patch) => set(edits.map((e, j) => j === i ? { ...e, ...patch } : e));
  const add = (/** @type {any} */ row) => set([...edits, { latent: row.latent, op: "add", value: 0.4, unit: "norm", where: "all" }]);
  return html`<ul class="edits" aria-label="Edits">
      ${edits.map((edit, i) => html`<${EditRow} key=${`${i}-${edit.latent}`} edit=${edit} fact=${facts[edit.latent]} lacks=${lacking.includes(edit.latent)} sweep=${sweep}
        change=${(/** @type {Partial<Edit>} */ patch) => change(i, patch)} remove=${() => set(edits.filter((_, j) => j !== i))} />`)}
    </ul>
    <div class="row adding"><${PickFeature} label="Add a feature to edit" placeholder="add a feature: number or words" pick=${add} />
      ${!edits.length && html`<span class="dim">Without edits both answers are the same.</span>`}</div>`;
}

/** @param {{edit: Edit, fact: any, lacks: boolean, change: (patch: Partial<Edit>) => void, remove: () => void, sweep: (latent: number) => void}} props */
function EditRow({ edit, fact, lacks, change, remove, sweep }) {
  const max = fact?.max || 0;
  const [draft, setDraft] = useState(edit.value);
  useEffect(() => setDraft(edit.value), [edit.value]);
  const span = reach(edit, max);
  const name = `feature ${edit.latent}`;
  const settle = (/** @type {string} */ text) => { if (text !== "" && Number.isFinite(Number(text))) change({ value: Number(text) }); };
  const setOp = (/** @type {any} */ op) => change({ op, value: usual(op, edit.unit, max) });
  const setUnit = (/** @type {any} */ unit) => change({ unit, value: usual(edit.op, unit, max) });
  return html`<li class="edit ${edit.off ? "off" : ""}">
    <label class="onoff" title=${edit.off ? "off: click to apply" : "applied: click to leave out"}>
      <input type="checkbox" checked=${!edit.off} aria-label="Apply ${name}" onChange=${() => change({ off: !edit.off })} /></label>
    <span class="who"><a class="num" href=${link(`/f/${edit.latent}`)}>${edit.latent}</a>
      <span class="named" title=${fact?.label || ""}>${fact ? html`<${LabelWords} text=${fact.label || "no label"} />` : lacks ? html`<b class="lacks">no such latent</b>` : "…"}</span></span>
    <select class="text" aria-label="What to do with ${name}" title=${OP_MEANS[edit.op]} value=${edit.op} onChange=${(/** @type {any} */ e) => setOp(e.target.value)}>
      ${OPS.map((op) => html`<option key=${op} value=${op}>${op}</option>`)}</select>
    ${edit.op === "ablate" ? html`<span class="reach dim">${OP_MEANS.ablate}</span>` : html`<span class="reach">
      <input type="range" min=${span.min} max=${span.max} step=${span.step} value=${draft} aria-label="Strength of ${name}"
        onInput=${(/** @type {any} */ e) => setDraft(Number(e.target.value))} onChange=${(/** @type {any} */ e) => settle(e.target.value)} />
      <${Typed} class="text num" type="number" step="any" value=${draft} aria-label=${`Strength of ${name}, exactly`}
        tell=${(/** @type {HTMLInputElement} */ field) => settle(field.value)} /></span>`}
    ${hasUnit(edit.op) ? html`<select class="text" aria-label="Unit for ${name}" title=${unitMeans(edit.unit, max)} value=${edit.unit} onChange=${(/** @type {any} */ e) => setUnit(e.target.value)}>
      ${Object.entries(UNIT_NAMES).map(([unit, said]) => html`<option key=${unit} value=${unit}>${said}</option>`)}</select>`
      : html`<span class="dim unit">${edit.op === "scale" ? "×" : ""}</span>`}
    <${Where} where=${edit.where} name=${name} set=${(/** @type {string} */ where) => change({ where })} />
    <span class="row acts"><button class="btn small" type="button" onClick=${() => sweep(edit.latent)} title="Try rising strengths beside controls">sweet spot</button>
      <button class="btn small" type="button" onClick=${remove} aria-label="Remove ${name}">✕</button></span>
  </li>`;
}

/** @param {string} unit @param {number} max */
const unitMeans = (unit, max) => unit === "max" ? `times the largest activation seen, ${short(max)}` : unit === "norm" ? "times the median norm of the activations at the site" : "in the autoencoder's own units";

/** @param {{where: string, name: string, set: (where: string) => void}} props */
function Where({ where, name, set }) {
  const when = where.startsWith("when:");
  const [other, setOther] = useState(when ? where.slice(5) : "");
  const [open, setOpen] = useState(when);
  useEffect(() => { setOpen(when); if (when) setOther(where.slice(5)); }, [where]);
  const chosen = (/** @type {string} */ value) => { if (value === "when") setOpen(true); else { setOpen(false); set(value); } };
  const settle = (/** @type {string} */ text) => { setOther(text); if (/^\d+(:(\d+\.?\d*|\.\d+))?$/.test(text)) set(`when:${text}`); };
  return html`<span class="where-edit"><select class="text" aria-label="Where ${name} is edited" value=${open ? "when" : where === "given" ? "prompt" : where} onChange=${(/** @type {any} */ e) => chosen(e.target.value)}>
      ${Object.entries(WHERE_NAMES).map(([value, said]) => html`<option key=${value} value=${value}>${said}</option>`)}</select>
    ${open && html`<${Typed} class="text num" value=${other} placeholder="latent" size="7" aria-label="The latent that must fire, with :threshold if you like"
      title="A latent's number; 123:4.5 means above 4.5" tell=${(/** @type {HTMLInputElement} */ field) => settle(field.value.trim())} />`}</span>`;
}
