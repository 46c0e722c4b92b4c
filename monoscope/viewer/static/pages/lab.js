/** The lab: features of the running model turned up and down, and both answers read side by side. */
import { useApi } from "../api.js";
import { Empty, ErrorState, Panel, toast } from "../components.js";
import { forApi, writtenAll } from "../components/edits.js";
import { Share } from "../components/share.js";
import { Costs, Plain, Steered, useSteering } from "../components/steering.js";
import { remember } from "../components/tolab.js";
import { html, useEffect, useRef, useState } from "../kit.js";
import { useQuery } from "../router.js";
import { useKeys } from "../shell/keys.js";
import { useModel } from "../shell/model.js";
import { useSetting } from "../settings.js";
import { Edits } from "./lab/edits.js";
import { Typed } from "../components/typed.js";
import { Unread } from "../components/unread.js";
import { askable, asCommand, asPython, given, mended, read, readSwept, writeTurns } from "./lab/state.js";
import { Sweep } from "./lab/sweep.js";

export const title = "Lab";
const SETTLE_MS = 150; // a slider moved by keys says many values in a row

/** @param {{atlas: any}} props */
export function Page({ atlas }) {
  const [query, setQuery] = useQuery();
  const model = useModel();
  const lab = read(query);
  const { answers, run, stop } = useSteering();
  const latents = [...new Set(lab.edits.map((e) => e.latent))];
  const { data: rows, error: unknown, loading } = useApi(latents.length ? "/features/rows" : null, { ids: latents });
  const facts = Object.fromEntries((/** @type {any[]} */ (rows) || []).map((row) => [row.latent, row]));
  const lacking = unknown || (rows && !loading) ? latents.filter((latent) => !facts[latent]) : [];
  const ask = { ...given(lab), edits: forApi(lab.edits), max_new_tokens: lab.n, temperature: lab.temperature, top_p: lab.topP, seed: lab.seed };
  const key = JSON.stringify(ask);
  const able = model?.state === "ready" || model?.state === "loading";
  // What is shown follows from the address: while it says run, any change of it asks again.
  useEffect(() => {
    if (!lab.going || !able || !askable(lab)) return;
    const timer = setTimeout(() => run(ask), SETTLE_MS);
    return () => clearTimeout(timer);
  }, [key, lab.going, able]);
  const busy = answers.status === "waiting" || answers.status === "writing";
  const start = () => { if (lab.going) run(ask); else setQuery({ run: 1 }); };
  const halt = () => { stop(); setQuery({ run: "" }); };
  const [shading, setShading] = useSetting("shading");
  const numbers = () => setShading(shading === "numbers" ? "hue" : "numbers");
  useKeys({ r: () => (busy ? halt() : start()), v: numbers });
  useEffect(() => remember(query), [query]);
  if (model?.state === "absent" || model?.state === "failed") {
    return html`<h1>Lab</h1>${model.state === "failed"
      ? html`<${ErrorState} problem=${{ title: "No model", detail: "the model could not be loaded", hint: model.detail }} />`
      : html`<${Empty} title="No model to steer">${model.detail}<//>`}`;
  }
  const setEdits = (/** @type {any} */ edits) => setQuery({ e: writtenAll(edits) });
  const use = (/** @type {number} */ value) => setEdits(lab.edits.map((e) => e.latent === lab.sweep ? { ...e, op: "add", unit: "norm", value, where: "all", off: false } : e));
  const folder = atlas?.folder || "";
  return html`<h1>Lab</h1><p class="sub">Turn features of the running model and read both answers.</p>
    <${Unread} bad=${lab.bad} drop=${() => setQuery(mended(lab))} />
    <${Panel} title="Edits">${lacking.length > 0 && html`<${ErrorState} problem=${{ detail: "no such latent", got: lacking.join(", "), expected: atlas ? `0 to ${atlas.n_features - 1}` : "a latent of this atlas" }} />`}
      <${Edits} edits=${lab.edits} facts=${facts} lacking=${lacking} set=${setEdits} sweep=${(/** @type {number} */ latent) => setQuery({ sweep: latent, sw: "", so: "" })} /><//>
    <${Panel} title=${lab.chat ? "Chat" : "Prompt"} aside=${html`<span class="seg" role="group" aria-label="Mode">
        <button class="btn small" type="button" aria-pressed=${!lab.chat} onClick=${() => { stop(); setQuery({ m: "", run: "" }); }}>complete</button>
        <button class="btn small" type="button" aria-pressed=${lab.chat} onClick=${() => { stop(); setQuery({ m: "chat", run: "" }); }}>chat</button></span>`}>
      ${lab.chat
        ? html`<${Chat} lab=${lab} answers=${answers} busy=${busy} set=${setQuery} halt=${halt} />`
        : html`<${Prompt} text=${lab.prompt} busy=${busy} halt=${halt} go=${(/** @type {string} */ p) => { if (p === lab.prompt && lab.going) start(); else setQuery({ p, run: 1 }); }} keep=${(/** @type {string} */ p) => setQuery({ p })} />`}
      <${Settings} lab=${lab} set=${setQuery} />
    <//>
    ${model?.state === "loading" && html`<p class="note" role="status">The model is loading. What you ask now is answered when it is ready.</p>`}
    ${answers.problem && html`<${Panel}><${ErrorState} problem=${answers.problem} retry=${() => run(ask)} /><//>`}
    <div class="two answers" aria-live="polite" aria-busy=${busy}>
      <${Answer} name="Default" answers=${answers} tokens=${answers.default} before=${lab.chat ? "" : lab.prompt} />
      <${Answer} name="Steered" answers=${answers} tokens=${answers.steered} before=${lab.chat ? "" : lab.prompt} steered />
    </div>
    <${Panel} title="What it cost" class="cost"><${Costs} tokens=${answers.steered} /><//>
    <p class="legend-line dim"><span class="t lit" style=${{ "--a": ".8" }}>likelier</span> <span class="cool"><span class="t lit" style=${{ "--a": ".8" }}>less likely</span></span> under the edits; fully shaded from 3 nats. <button class="btn small" type="button" aria-pressed=${shading === "numbers"} onClick=${numbers} title="The change beside each token (v)">values</button>
      ${spoilt(answers) && html` <b>${spoilt(answers)}</b>`}</p>
    ${lab.sweep !== null && able && html`<${Sweep} key=${lab.sweep} latent=${lab.sweep} body=${{ ...(askable(lab) ? given(lab) : { prompt: lab.prompt || "I think" }), seed: lab.seed }} swept=${readSwept(query)} set=${setQuery} use=${use} model=${model} atlas=${folder} />`}
    <${Share} model=${model} missing=${askable(lab) ? "" : lab.chat ? "when something is said" : "when there is a prompt"}
      command=${(/** @type {any} */ m) => asCommand(lab, m, folder)} python=${(/** @type {any} */ m) => asPython(lab, m, folder)} />`;
}

/** A word of warning where the text has likely broken. @param {import("../components/steering.js").Answers} answers */
function spoilt(answers) {
  const last = answers.steered.at(-1);
  return last && last.relative_norm > 1 ? "The change is larger than the activation itself; text rarely survives that." : "";
}

/** @param {{name: string, answers: any, tokens: any[], before: string, steered?: boolean}} props */
function Answer({ name, answers, tokens, before, steered }) {
  const writing = answers.status === "writing" && !tokens.at(-1)?.ended && !answers.done;
  const end = answers.done?.[name.toLowerCase()];
  const aside = answers.status === "waiting" ? "waiting for the model…" : answers.status === "stopped" ? "stopped" : end ? `${end.n_tokens} tokens${end.finish === "stop" ? ", ended by itself" : ""}` : writing ? "writing…" : "";
  return html`<${Panel} title=${name} class="ans ${steered ? "steered" : "default"}" aside=${html`<span role="status">${aside}</span>`}>
    ${tokens.length || answers.status === "writing"
      ? html`<p class="said"><span class="tokens before">${before}</span>${steered ? html`<${Steered} tokens=${tokens} writing=${writing} />` : html`<${Plain} tokens=${tokens} writing=${writing} />`}</p>`
      : html`<p class="said dim">${answers.status === "idle" ? "Nothing asked yet." : ""}</p>`}<//>`;
}

/** @param {{text: string, busy: boolean, go: (text: string) => void, keep: (text: string) => void, halt: () => void}} props */
function Prompt({ text, busy, go, keep, halt }) {
  const [draft, setDraft] = useState(text);
  useEffect(() => setDraft(text), [text]);
  return html`<form class="ask" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); if (busy) halt(); else go(draft); }}>
    <textarea class="text mono" rows="3" aria-label="Prompt" value=${draft} onInput=${(/** @type {any} */ e) => setDraft(e.target.value)} onBlur=${() => { if (draft !== text) keep(draft); }}
      onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); go(draft); } }}></textarea>
    <button class="btn main" disabled=${!busy && !draft} title=${busy ? "Stop writing" : "Ctrl+Enter"}>${busy ? "Stop" : "Continue both"}</button></form>`;
}

/** A conversation whose memory is of the steered answers; both columns answer the same history. @param {any} props */
function Chat({ lab, answers, busy, set, halt }) {
  const [draft, setDraft] = useState("");
  const end = useRef(/** @type {HTMLElement | null} */ (null));
  const every = /** @type {import("./lab/state.js").Turn[]} */ (lab.turns);
  const system = every[0]?.role === "system" ? every.slice(0, 1) : [];
  const turns = every.slice(system.length);
  const keep = (/** @type {any[]} */ said) => writeTurns([...system, ...said]);
  const waiting = turns.at(-1)?.role === "user";
  const said = (/** @type {any[]} */ tokens) => tokens.map((t) => t.text).join("");
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (busy) return halt();
    if (!draft.trim()) return;
    const before = waiting && answers.steered.length ? [...turns, { role: "assistant", content: said(answers.steered) }] : waiting ? turns.slice(0, -1) : turns;
    set({ c: keep([...before, { role: "user", content: draft.trim() }]), run: 1 });
    setDraft("");
  };
  useEffect(() => { end.current?.scrollIntoView?.({ block: "nearest" }); }, [turns.length]);
  const setSystem = (/** @type {string} */ content) => set({ c: writeTurns([.../** @type {any[]} */ (content.trim() ? [{ role: "system", content: content.trim() }] : []), ...turns]) });
  return html`<div class="chat">
    <label class="system"><span>system</span><${Typed} as="textarea" class="text" rows=${(system[0]?.content.length || 0) > 120 ? 3 : 1} aria-label="System turn" placeholder="what the model is told before the chat, or nothing" value=${system[0]?.content || ""}
      tell=${(/** @type {HTMLInputElement} */ field) => setSystem(field.value)} /></label>
    ${turns.length > 0 && html`<ol class="turns" aria-label="Conversation">${turns.map((turn, i) => html`<li key=${i} class=${turn.role}><b>${turn.role === "user" ? "you" : turn.role === "assistant" ? "steered" : "system"}</b><span class="tokens">${turn.content}</span></li>`)}<li class="end" ref=${end} aria-hidden="true"></li></ol>`}
    <form class="ask" onSubmit=${send}><textarea class="text" rows="2" aria-label="Message" placeholder=${turns.length ? "go on…" : "say something to the steered model"} value=${draft}
        onInput=${(/** @type {any} */ e) => setDraft(e.target.value)} onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); send(e); } }}></textarea>
      <button class="btn main" disabled=${!busy && !draft.trim()}>${busy ? "Stop" : "Send"}</button></form>
    ${turns.length > 0 && html`<div class="row"><button class="linky" type="button" onClick=${() => { halt(); set({ c: keep([]), run: "" }); toast("A new conversation"); }}>start again</button><span class="dim">The conversation goes on from the steered answers; the default column answers the same history.</span></div>`}
  </div>`;
}

/** @param {{lab: import("./lab/state.js").Lab, set: (patch: any) => void}} props */
function Settings({ lab, set }) {
  const field = (/** @type {string} */ name, /** @type {string} */ label, /** @type {number} */ value, /** @type {any} */ how) => html`<label>${label}
    <${Typed} class="text num" type="number" value=${value} ...${how} tell=${(/** @type {HTMLInputElement} */ input) => { if (input.checkValidity() && input.value !== "") set({ [name]: input.value }); else input.reportValidity(); }} /></label>`;
  return html`<div class="row settings">
    ${field("n", "tokens", lab.n, { min: 1, max: 4096, step: 1 })}
    ${field("t", "temperature", lab.temperature, { min: 0, max: 5, step: 0.1, title: "0 always takes the likeliest token" })}
    ${field("tp", "top p", lab.topP, { min: 0.05, max: 1, step: 0.05 })}
    ${field("s", "seed", lab.seed, { min: 0, step: 1 })}</div>`;
}
