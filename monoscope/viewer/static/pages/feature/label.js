/** The feature's name: what it is called, how that was got and how well it holds, edited in place. */
import { get, put } from "../../api.js";
import { Empty, ErrorState, LabelWords, Loading, toast } from "../../components.js";
import { percent, visible, whole } from "../../format.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../../kit.js";

/** @param {{feature: any, onLabel: (label: any) => void, children?: any}} props */
export function LabelHead({ feature, onLabel, children }) {
  const [editing, setEditing] = useState(false);
  const [history, setHistory] = useState(false);
  const { label } = feature;
  return html`<header class="f-head">
    ${editing ? html`<${Edit} feature=${feature} done=${(/** @type {any} */ next) => { setEditing(false); if (next) onLabel(next); }} />`
      : html`<h1 class=${!label.text || label.text.startsWith("unclear") ? "unclear" : ""}><${LabelWords} text=${label.text || (feature.n_active ? "no label" : "never fired")} />
        <button id="edit-label" class="quiet pen" onClick=${() => setEditing(true)} aria-label="Edit the label" title="Edit the label (e)">✎</button></h1>`}
    <p class="sub"><span class="num">latent ${feature.latent}</span> · <${Source} label=${label} dead=${!feature.n_active} />
      ${label.n_changes > 0 && html` · <button class="linky" aria-expanded=${history} onClick=${() => setHistory(!history)}>history</button>`}</p>
    <${Does} label=${label} />
    ${history && html`<${History} latent=${feature.latent} turn=${label.n_changes} rule=${label.rule_text} />`}
    <div class="row f-tools">${children}</div>
  </header>`;
}

/** How the label was got. @param {{label: any, dead: boolean}} props */
function Source({ label, dead }) {
  if (label.method === "human") {
    return html`<span class="score">your label</span>${label.rule_text && html`<span>, the rule says ${visible(label.rule_text)} <${Scores} label=${label} /></span>`}`;
  }
  if (label.method === "llm") return html`<span>named by ${visible(label.explanation?.model || "a language model")} and judged by it on excerpts of held-out documents: <${Judged} told=${label.explanation} /></span>${label.rule_text && html`<span>; the rule says ${visible(label.rule_text)}</span>`}`;
  if (label.method === "ngram") return html`<span>labelled by n-grams that fire it in the model, scored on documents they were not found in: <span class="tabular"><b>F1 ${two(label.f1)}</b>, AUC ${two(label.auc)}</span></span>${label.rule_text && html`<span>; the rule says ${visible(label.rule_text)}</span>`}`;
  if (!label.text && dead) return "nothing to label";
  if (!label.text) return "no label: it fired too rarely, or the atlas was not labelled (monoscope label)";
  return html`<span>labelled by rule (<${Rule} rule=${label.rule} />), scored on documents it was not chosen on: <${Scores} label=${label} /></span>`;
}

const two = (/** @type {number | null} */ value) => value === null || value === undefined ? "–" : value.toFixed(2);
const HOW = /** @type {Record<string, string>} */ ({ rule: "rule", ngram: "n-grams", examples: "likeness to its examples", llm: "language model", judged: "judged label" });

/** Whether it reads, writes or both, and how each method of labelling did, on one line. @param {{label: any}} props */
function Does({ label }) {
  // the line above tells the rule's own scores where the rule's label stands in front
  const { output, judged } = label, shown = (judged || []).filter((/** @type {any} */ one) => one.auc !== null && !(one.method === "rule" && label.method === "rule"));
  if (!output && !shown.length) return null;
  const nats = output && output.writes !== null ? `${output.writes > 0 ? "+" : ""}${two(output.writes)} nats` : "not known";
  return html`<p class="sub does tabular">
    ${output && html`<span>does: <b>${label.does || "not known"}</b> (<span title="held-out AUC of its label; 0.70 and more reads">reads ${two(label.reads)}</span>, <span title=${`log of how much likelier the tokens it fires on become when it is turned up, against no edit and random directions; 0.5 and more writes. By its logit lens: ${two(output.lens)}; another feature's tokens: ${two(output.control)}`}>writes ${nats}</span>)${shown.length ? " · " : ""}</span>`}
    ${shown.map((/** @type {any} */ one, /** @type {number} */ i) => html`<span key=${one.method} title=${`${one.text ? `${visible(one.text)}. ` : ""}Told apart: ${one.unit}s.${one.hard_auc === null ? "" : ` AUC against hard negatives ${two(one.hard_auc)}.`}${one.control === null ? "" : ` Control, another feature's label: ${two(one.control)}.`}`}>${i ? " · " : ""}${HOW[one.method]} AUC ${two(one.auc)}${one.sensitivity === null ? "" : ` (sensitivity ${two(one.sensitivity)}, specificity ${two(one.specificity)})`}</span>`)}</p>`;
}

/** @param {{label: any}} props */
function Scores({ label }) {
  const held = label.rule?.held_out, rule = (label.judged || []).find((/** @type {any} */ one) => one.method === "rule");
  const specificity = rule && rule.specificity !== null ? `, specificity ${two(rule.specificity)}` : "";
  if (label.f1 === null) return html`<span>no score${held ? ` (${whole(held.n_fired)} held-out firings, too few)` : ""}</span>`;
  return html`<span class="tabular"><b class=${label.f1 >= 0.5 ? "score" : ""} title="2·TP / (rule fires + latent fires), on held-out tokens">F1 ${label.f1.toFixed(2)}</b>, <span title="(true-positive rate + true-negative rate) / 2; a coin gets 0.50">AUC ${label.auc.toFixed(2)}</span>
    ${held ? html` <span title="of the rule's firings, how many are the latent's; of the latent's, how many the rule finds; of the silent tokens, how many it leaves alone">(precision ${held.precision.toFixed(2)}, sensitivity ${held.recall.toFixed(2)}${specificity}; ${whole(held.n_fired)} firings in ${whole(held.n_tokens)} held-out tokens)</span>` : ""}</span>`;
}

/** A judge's scores; a coin gets 0.50. @param {{told: any}} props */
function Judged({ told }) {
  const shown = [
    ["detection", "AUC of telling excerpts on which it fires from excerpts on which it is silent"],
    ["contrast", "the same against excerpts on which only its neighbours fire"],
    ["fuzzing", "AUC of telling its own tokens from others in the same excerpt"],
    ["shuffled", "detection with another feature's explanation: what the judge gets for nothing"],
  ].filter(([test]) => typeof told?.[`${test}_auc`] === "number");
  if (!shown.length) return html`<span>no score</span>`;
  return html`<span class="tabular">AUC ${shown.map(([test, title], i) => html`<span key=${test} title=${title}>${i ? ", " : ""}${test} ${told[`${test}_auc`].toFixed(2)}</span>`)}</span>`;
}

/** @param {{rule: any}} props */
function Rule({ rule }) {
  if (!rule) return null;
  if (rule.kind === "both") return html`<span><${Rule} rule=${rule.left} /> and <${Rule} rule=${rule.right} /></span>`;
  const n = (rule.values || []).length, field = String(rule.field || rule.kind).replace("meta:", "");
  return html`<span class="rule" title=${(rule.values || []).map((/** @type {string} */ v) => `“${visible(v)}”`).join(" ")}>${n === 1 ? html`${field} <q>${visible(rule.values[0])}</q>` : `${field}, one of ${n}`}</span>`;
}

/** @param {{feature: any, done: (label: any) => void}} props */
function Edit({ feature, done }) {
  const [text, setText] = useState(feature.label.method === "human" ? feature.label.text : "");
  const [failed, setFailed] = useState(/** @type {any} */ (null));
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  useLayoutEffect(() => { field.current?.focus(); field.current?.select(); }, []);
  const save = async (/** @type {string} */ value) => {
    try { done(await put(`/features/${feature.latent}/label`, { text: value })); toast(value.trim() ? "Label kept" : "The rule's label is back"); }
    catch (error) { setFailed(/** @type {any} */ (error).problem); }
  };
  return html`<form class="edit-label" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); save(text); }}>
    <input ref=${field} class="text" maxlength="400" value=${text} placeholder=${feature.label.text || "what it is"} aria-label="Label"
      onInput=${(/** @type {any} */ e) => setText(e.target.value)} onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === "Escape") { e.preventDefault(); done(null); } }} />
    <button class="btn main">Save</button><button type="button" class="btn" onClick=${() => done(null)}>Cancel</button>
    ${feature.label.method === "human" && html`<button type="button" class="btn" onClick=${() => save("")}>Back to the rule's</button>`}
    ${failed && html`<${ErrorState} problem=${failed} />`}</form>`;
}

/** @param {{latent: number, turn: number, rule: string | null}} props */
function History({ latent, turn, rule }) {
  const [items, setItems] = useState(/** @type {any[] | null} */ (null));
  useEffect(() => { get(`/features/${latent}/history`).then((h) => setItems(h.items), () => setItems([])); }, [latent, turn]);
  if (!items) return html`<${Loading} lines=${2} />`;
  if (!items.length) return html`<${Empty} title="Nobody has changed this label" />`;
  return html`<ol class="history">${items.map((c, i) => html`<li key=${i}><time class="num dim" datetime=${c.changed}>${new Date(c.changed).toLocaleString()}</time> ${c.text === null ? html`<i>removed; back to ${rule ? visible(rule) : "no label"}</i>` : visible(c.text)}</li>`)}</ol>`;
}
