/** The lens: which features fire on a text or a chat, token by token and in total; two texts compared. */
import { ApiError, post } from "../api.js";
import { Copy, Empty, ErrorState, Loading, Panel } from "../components.js";
import { shell, whole } from "../format.js";
import { html, useEffect, useMemo, useState } from "../kit.js";
import { useQuery } from "../router.js";
import { useModel } from "../shell/model.js";
import { DENSE, MOST_PINS, More, OnToken, Pinned, Totals } from "./lens/lists.js";
import { Strip } from "./lens/strip.js";

export const title = "Lens";
const PAUSE_MS = 500; // of typing, after which the text is read
const EXAMPLE = "The Eiffel Tower in Paris was finished in 1889. Its engineers, who had studied physics, built it in two years.";
const ORDERS = { sum: "Σ value", max: "largest value", n_tokens: "tokens" };

/** @param {{atlas: any}} props */
export function Page({ atlas }) {
  const [query, setQuery] = useQuery();
  const model = useModel();
  const pins = useMemo(() => [...new Set((query.pin || "").split(",").filter((p) => /^\d+$/.test(p)).map(Number))].slice(0, MOST_PINS), [query.pin]);
  const two = query.b !== undefined;
  const chat = query.m === "chat" && !two;
  const dense = query.dense === "1";
  const by = /** @type {"sum"} */ (query.by && query.by in ORDERS ? query.by : "sum");
  const able = model?.state === "ready" || model?.state === "loading";
  const { data, error, loading, again } = useReading(able ? query.t || "" : "", able && two ? query.b : null, chat, pins);
  const at = /^\d+$/.test(query.at || "") && data?.a && Number(query.at) < data.a.tokens.length ? Number(query.at) : null;
  const toggle = (/** @type {number} */ latent) => setQuery({ pin: (pins.includes(latent) ? pins.filter((p) => p !== latent) : [...pins, latent]).join(",") });
  if (model?.state === "absent" || model?.state === "failed") {
    return html`<h1>Lens</h1>${model.state === "failed"
      ? html`<${ErrorState} problem=${{ title: "No model", detail: "the model could not be loaded", hint: model.detail }} />`
      : html`<${Empty} title="No model to read with">${model.detail}<//>`}`;
  }
  const facts = data?.features || {};
  const common = { pins, toggle, facts };
  const token = at === null ? null : data?.a.tokens[at];
  const totals = (data?.a.totals || []).filter((/** @type {any} */ t) => dense || !(facts[t.latent]?.density > DENSE));
  const hidden = (data?.a.totals.length || 0) - totals.length;
  const differ = (data?.differences || []).filter((/** @type {any} */ d) => dense || !(facts[d.latent]?.density > DENSE));
  return html`<h1>Lens</h1><p class="sub">${two ? "What fires more in one text than in the other." : "Paste a text, or a chat, and see which features fire on it: strongest first."}</p>
    <div class="row modes"><span class="seg" role="group" aria-label="What is read">
        <button class="btn small" type="button" aria-pressed=${!chat && !two} onClick=${() => setQuery({ m: "", b: "" })}>text</button>
        <button class="btn small" type="button" aria-pressed=${chat} onClick=${() => setQuery({ m: "chat", b: "" })}>chat</button>
        <button class="btn small" type="button" aria-pressed=${two} onClick=${() => setQuery({ m: "", b: query.b ?? " ", at: "" })}>compare two</button></span>
      <label class="row"><input type="checkbox" checked=${dense} onChange=${() => setQuery({ dense: dense ? "" : 1 })} /> show dense features</label></div>
    <div class=${two ? "two" : ""}>
      <${Box} name=${two ? "Text A" : chat ? "Chat" : "Text"} text=${query.t || ""} chat=${chat} set=${(/** @type {string} */ t) => setQuery({ t, at: "" })} />
      ${two && html`<${Box} name="Text B" text=${query.b.trim() ? query.b : ""} set=${(/** @type {string} */ b) => setQuery({ b: b || " ", at: "" })} />`}
    </div>
    ${model?.state === "loading" && html`<p class="note" role="status">The model is loading. The text is read when it is ready.</p>`}
    ${error && html`<${Panel}><${ErrorState} problem=${error} retry=${again} /><//>`}
    ${!data && !error && (loading ? html`<${Panel}><${Loading} lines=${5} label="Reading the text" /><//>`
      : html`<${Empty} title="Nothing to read yet">Type or paste above, or <button class="linky" type="button" onClick=${() => setQuery({ t: EXAMPLE })}>take an example</button>.<//>`)}
    ${data && (two ? html`<${Compared} data=${data} rows=${differ} loading=${loading} common=${common} />` : html`<div class="cols lens ${loading ? "stale" : ""}" aria-busy=${loading}>
      <${Panel} title="Tokens" aside=${counted(data.a)}><${Pinned} ...${common} texts=${[{ name: "", text: data.a }]} />
        <${Strip} text=${data.a} pins=${pins} facts=${facts} at=${at} pick=${(/** @type {number | null} */ i) => setQuery({ at: i === null ? "" : i })} label="Tokens" />
        ${!pins.length && html`<p class="note">Choose a token to see what fires on it; pin features to see where they fire.</p>`}<//>
      <aside>${token && html`<${Panel} title="On this token" aside=${html`<code class="token">${token.piece.replace(/\n/g, "⏎") || "·"}</code> <button class="btn small" type="button" onClick=${() => setQuery({ at: "" })} aria-label="Close">✕</button>`}>
          ${token.kept ? html`<${OnToken} token=${token} dense=${dense} ...${common} />` : html`<p class="note">The SAE's mask policy leaves this token out (special tokens and norm sinks), so no feature is read on it.</p>`}<//>`}
        <${Panel} title="In total" aside=${html`<label>by <select class="text" value=${by} onChange=${(/** @type {any} */ e) => setQuery({ by: e.target.value === "sum" ? "" : e.target.value })}>${Object.entries(ORDERS).map(([key, said]) => html`<option key=${key} value=${key}>${said}</option>`)}</select></label>`}>
          <${Totals} totals=${totals} by=${by} ...${common} />
          ${hidden > 0 && html`<p class="note">${hidden} dense ${hidden === 1 ? "feature" : "features"} (on more than ${100 * DENSE} % of all tokens) hidden.</p>`}<//>
      </aside></div>`)}
    <div class="row share"><${Copy} label="Copy link" text=${() => location.href} title="An address that holds all of this" />
      ${data && model?.sae && !two && !chat && html`<${Copy} label="Copy command" text=${`monoscope features ${shell(atlas?.folder || "")} --sae ${shell(model.sae)} --text ${shell(query.t || "")}`} title="monoscope features …" />
        <${Copy} label="Copy Python" text=${() => python(query.t || "", model, atlas)} title="The same in Python" />`}</div>`;
}

/** Two texts, each above what fires more in it. @param {{data: any, rows: any[], loading: boolean, common: any}} props */
function Compared({ data, rows, loading, common }) {
  const side = (/** @type {"a" | "b"} */ key, /** @type {string} */ name) => html`<div>
    <${Panel} title=${`Text ${name}`} aside=${counted(data[key])}><${Pinned} ...${common} texts=${[{ name: "", text: data[key] }]} />
      <${Strip} text=${data[key]} pins=${common.pins} facts=${common.facts} at=${null} pick=${() => {}} label=${`Text ${name}`} /><//>
    <${Panel} title=${`More in ${name}`} aside="mean a token in A · in B"><${More} rows=${rows} side=${key} ...${common} /><//></div>`;
  return html`<div class="cols lens compared ${loading ? "stale" : ""}" aria-busy=${loading}>${side("a", "A")}${side("b", "B")}</div>`;
}

/** @param {any} text */
const counted = (text) => `${whole(text.tokens.length)} tokens · ${whole(text.n_active)} features fire`;

/** @param {string} text @param {any} model @param {any} atlas */
const python = (text, model, atlas) => `import monoscope as ms
from monoscope.features.text import features_on_text

lm = ms.load_lm(${JSON.stringify(model.model)})
sae = ms.load_sae(${JSON.stringify(model.sae)})
labels = ms.load_atlas(${JSON.stringify(atlas?.folder || "")}).labels()
found = features_on_text(lm, sae, ${JSON.stringify(text)}, context_length=lm.context_length)
for total in found.ranked("sum")[:20]:
    print(total.latent, round(total.sum, 2), labels[total.latent])
`;

/**
 * What the lens says of a text, or of two; read again when they change.
 * @param {string} a @param {string | null} b @param {boolean} chat @param {number[]} pins
 */
function useReading(a, b, chat, pins) {
  const [state, setState] = useState(/** @type {{data: any, error: any, loading: boolean}} */ ({ data: null, error: null, loading: false }));
  const [turn, setTurn] = useState(0);
  // Pins the answer already tells of need no new reading; those it leaves out do.
  const key = JSON.stringify([a, b, chat, pins]);
  useEffect(() => {
    if (!a.trim() || (b !== null && !b.trim())) { setState({ data: null, error: null, loading: false }); return; }
    const stop = new AbortController();
    setState((s) => ({ data: s.data && Boolean(s.data.differences) === (b !== null) ? s.data : null, error: null, loading: true }));
    const body = b !== null ? { a: { text: a }, b: { text: b } } : { ...(chat ? { messages: turnsOf(a) } : { text: a }), pinned: pins };
    post(b !== null ? "/lens/compare" : "/lens", body, stop.signal).then(
      (told) => setState({ data: b !== null ? told : { a: told, features: told.features }, error: null, loading: false }),
      (error) => { if (!stop.signal.aborted) setState({ data: null, error: error instanceof ApiError ? error.problem : { detail: String(error) }, loading: false }); },
    );
    return () => stop.abort();
  }, [b === null ? key : JSON.stringify([a, b]), turn]);
  return { ...state, again: () => setTurn((n) => n + 1) };
}

/** A chat from lines that begin with who speaks; a text without any is one message of the user's. @param {string} text */
export function turnsOf(text) {
  /** @type {{role: string, content: string}[]} */
  const turns = [];
  for (const line of text.split("\n")) {
    const spoken = /^(system|user|assistant):\s?(.*)$/i.exec(line);
    if (spoken) turns.push({ role: spoken[1].toLowerCase(), content: spoken[2] });
    else if (turns.length) turns[turns.length - 1].content += `\n${line}`;
    else turns.push({ role: "user", content: line });
  }
  return turns.map((turn) => ({ ...turn, content: turn.content.replace(/\n+$/, "") }));
}

/** A text that is taken over when typing pauses. @param {{name: string, text: string, chat?: boolean, set: (text: string) => void}} props */
function Box({ name, text, chat, set }) {
  const [draft, setDraft] = useState(text);
  useEffect(() => setDraft(text), [text]);
  useEffect(() => {
    if (draft === text) return;
    const timer = setTimeout(() => set(draft), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [draft]);
  return html`<label class="reading"><span class="sr">${name}</span>
    <textarea class="text mono" rows=${draft.length > 400 ? 6 : 3} aria-label=${name} spellcheck=${false} value=${draft} onInput=${(/** @type {any} */ e) => setDraft(e.target.value)} onBlur=${() => { if (draft !== text) set(draft); }}
      placeholder=${chat ? "user: What is the capital of France?\nassistant: Paris.\nuser: And of Spain?" : `${name}: paste or type here`}></textarea></label>`;
}
