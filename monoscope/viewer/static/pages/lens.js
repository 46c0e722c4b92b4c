/** The lens: which features fire on a text or a chat, token by token and in total; two texts compared. */
import { Empty, ErrorState, LabelWords, Loading, Panel } from "../components.js";
import { Share } from "../components/share.js";
import { short, whole } from "../format.js";
import { html, useEffect, useMemo, useState } from "../kit.js";
import { useQuery } from "../router.js";
import { useSetting } from "../settings.js";
import { along, useKeys } from "../shell/keys.js";
import { useModel } from "../shell/model.js";
import { Unread, numberOf, wordOf } from "../components/unread.js";
import { asCommand, asPython } from "./lens/copies.js";
import { DENSE, MOST_PINS, More, OnToken, Pinned, Totals, ranked } from "./lens/lists.js";
import { turnsOf, useReading } from "./lens/reading.js";
import { Strip } from "./lens/strip.js";
import { writeTurns } from "./lab/state.js";

export const title = "Lens";
const PAUSE_MS = 500; // of typing, after which the text is read
const EXAMPLE = "The Eiffel Tower in Paris was finished in 1889. Its engineers, who had studied physics, built it in two years.";
const EXAMPLE_B = "La tour Eiffel à Paris fut achevée en 1889. Ses ingénieurs, qui avaient étudié la physique, la bâtirent en deux ans.";
const EXAMPLE_CHAT = "system: You answer in one sentence.\nuser: Who built the tower in Paris?\nassistant: Engineers of Gustave Eiffel's company.\nuser: When was it finished?";
const ORDERS = { sum: "Σ value", max: "largest value", n_tokens: "tokens" };

/** @param {{atlas: any}} props */
export function Page({ atlas }) {
  const [query, setQuery] = useQuery();
  const model = useModel();
  const bad = /** @type {import("../components/unread.js").Bad[]} */ ([]);
  const pins = useMemo(() => [...new Set((query.pin || "").split(",").filter((p) => /^\d+$/.test(p)).map(Number))].slice(0, MOST_PINS), [query.pin]);
  const text = query.t || "", other = query.b?.trim() ? query.b : "";
  const two = query.b !== undefined;
  const chat = wordOf(query, "m", ["", "chat"], bad) === "chat" && !two;
  const dense = query.dense === "1";
  const by = /** @type {"sum"} */ (wordOf(query, "by", Object.keys(ORDERS), bad));
  for (const got of (query.pin || "").split(",").filter((p) => p && !/^\d+$/.test(p))) bad.push({ key: "pin", got, expected: "latents' numbers" });
  const able = model?.state === "ready" || model?.state === "loading";
  const { data: read, error, loading, again } = useReading(able ? text : "", able && two ? query.b : null, chat, pins, by);
  const data = read && Boolean(read.differences) === two ? read : null; // for a moment the last answer is another view's
  const facts = data?.features || {};
  const [over, look] = useState(/** @type {number | null} */ (null));
  const [shading, setShading] = useSetting("shading");
  const numbers = () => setShading(shading === "numbers" ? "hue" : "numbers");
  const chosen = (/** @type {"a" | "b"} */ key) => token(query, key, data, bad);
  const at = { a: chosen("a"), b: chosen("b") };
  const lost = data ? pins.filter((pin) => !facts[pin]) : [];
  for (const pin of lost) bad.push({ key: "pin, a latent", got: String(pin), expected: atlas ? `0 to ${atlas.n_features - 1}` : "a latent of this atlas" });
  useKeys({ v: numbers, j: () => along(".lats .lat > a.num", 1), k: () => along(".lats .lat > a.num", -1) });
  const toggle = (/** @type {number} */ latent) => setQuery({ pin: (pins.includes(latent) ? pins.filter((p) => p !== latent) : [...pins, latent]).join(",") });
  if (model?.state === "absent" || model?.state === "failed") {
    return html`<h1>Lens</h1>${model.state === "failed"
      ? html`<${ErrorState} problem=${{ title: "No model", detail: "the model could not be loaded", hint: model.detail }} />`
      : html`<${Empty} title="No model to read with">${model.detail}<//>`}`;
  }
  const asked = Boolean(text.trim() && (!two || other));
  const lab = chat ? { m: "chat", c: writeTurns(turnsOf(text)) } : { p: text };
  const shown = (/** @type {any} */ row) => dense || !(facts[row.latent]?.density > DENSE);
  const common = { pins, toggle, facts, look, lab };
  const view = { text, other: two ? other : null, chat, by, dense, n: Math.max(data?.a.tokens.length || 0, data?.b?.tokens.length || 0) };
  return html`<h1>Lens</h1><p class="sub">${two ? "What fires more in one text than in the other." : "Paste a text, or a chat, and see which features fire on it: strongest first."}</p>
    <div class="row modes"><span class="seg" role="group" aria-label="What is read">
        <button class="btn small" type="button" aria-pressed=${!chat && !two} onClick=${() => setQuery({ m: "", b: "" })}>text</button>
        <button class="btn small" type="button" aria-pressed=${chat} onClick=${() => setQuery({ m: "chat", b: "" })}>chat</button>
        <button class="btn small" type="button" aria-pressed=${two} onClick=${() => setQuery({ m: "", b: query.b ?? " ", at: "", bt: "" })}>compare two</button></span>
      <label class="row"><input type="checkbox" checked=${dense} onChange=${() => setQuery({ dense: dense ? "" : 1 })} /> show dense features</label>
      <button class="btn small" type="button" aria-pressed=${shading === "numbers"} onClick=${numbers} title="Values beside the tokens (v)">values</button></div>
    <div class=${two ? "two" : ""}>
      <${Box} name=${two ? "Text A" : chat ? "Chat" : "Text"} text=${text} chat=${chat} set=${(/** @type {string} */ t) => setQuery({ t, at: "" })} />
      ${two && html`<${Box} name="Text B" text=${other} set=${(/** @type {string} */ b) => setQuery({ b: b || " ", bt: "" })} />`}
    </div>
    <${Unread} bad=${bad} drop=${() => setQuery({ ...Object.fromEntries(bad.map((one) => [one.key.split(",")[0], ""])), pin: pins.filter((pin) => !lost.includes(pin)).join(",") })} />
    ${error ? html`<${Panel}><${ErrorState} problem=${error} retry=${again} /><//>`
      : !asked ? html`<${Empty} title="Nothing to read yet">Type or paste above, or <button class="linky" type="button" onClick=${() => setQuery(two ? { t: EXAMPLE, b: query.b?.trim() ? query.b : EXAMPLE_B } : chat ? { t: EXAMPLE_CHAT } : { t: EXAMPLE })}>take an example</button>.<//>`
      : !data ? html`<${Waiting} two=${two} model=${model} />`
      : two ? html`<${Compared} data=${data} rows=${data.differences.filter(shown)} dense=${dense} at=${at} setQuery=${setQuery} loading=${loading} common=${common} over=${over} />`
      : html`<${One} text=${data.a} totals=${data.a.totals.filter(shown)} dense=${dense} by=${by} at=${at.a} setQuery=${setQuery} loading=${loading} common=${common} over=${over} />`}
    <${Share} model=${model} missing=${asked ? "" : "when there is a text"} command=${(/** @type {any} */ m) => asCommand(view, m, atlas?.folder || "")} python=${(/** @type {any} */ m) => asPython(view, m, atlas?.folder || "")} />`;
}

/** The page as it will be, before there is an answer: nothing jumps when it comes. @param {{two: boolean, model: any}} props */
function Waiting({ two, model }) {
  const said = model?.state === "loading" ? "The model is loading; the text is read when it is ready." : "Reading…";
  const part = (/** @type {string} */ name, /** @type {number} */ lines) => html`<${Panel} title=${name}><${Loading} lines=${lines} label=${name} /><//>`;
  const note = html`<p class="note" role="status">${said}</p>`;
  return two ? html`<div class="cols lens compared waiting" aria-busy="true">${["A", "B"].map((name) => html`<div key=${name}>${part(`Text ${name}`, 3)}${part(`More in ${name}`, 9)}</div>`)}</div>${note}`
    : html`<div class="cols lens waiting" aria-busy="true"><${Panel} title="Tokens"><${Loading} lines=${5} label="Tokens" />${note}<//><aside>${part("In total", 12)}</aside></div>`;
}

const AT = { a: "at", b: "bt" }; // what the address calls the token chosen of either text

/**
 * The token of a text that the address chooses.
 * @param {Record<string, string>} query @param {"a" | "b"} key @param {any} data null: not read yet @param {import("../components/unread.js").Bad[]} bad
 * @returns {number | null}
 */
function token(query, key, data, bad) {
  const n = data?.[key]?.tokens.length;
  if (!n) return null;
  const at = numberOf(query, AT[key], -1, { min: 0, max: n - 1, whole: true, said: `a token, 0 to ${n - 1}` }, bad);
  return at < 0 ? null : at;
}

/** What fires on the token chosen. @param {{text: any, of?: string, at: number | null, dense: boolean, close: () => void, common: any}} props of: which of two texts */
function Chosen({ text, of, at, dense, close, common }) {
  const token = at === null ? null : text.tokens[at];
  if (!token) return null;
  return html`<${Panel} title=${of ? `On this token of ${of}` : "On this token"} aside=${html`<code class="token">${token.piece.replace(/\n/g, "⏎") || "·"}</code> <button class="btn small" type="button" onClick=${close} aria-label="Close">✕</button>`}>
    ${token.kept ? html`<div class=${of === "B" ? "cool" : ""}><${OnToken} token=${token} dense=${dense} ...${common} /></div>` : html`<p class="note">The SAE's mask policy leaves this token out (special tokens and norm sinks), so no feature is read on it.</p>`}<//>`;
}

/** One text: its tokens, what fires on the one chosen, and in total. @param {any} props */
function One({ text, totals, dense, by, at, setQuery, loading, common, over }) {
  const hidden = text.totals.length - totals.length;
  const shade = over ?? (common.pins.length ? null : ranked(totals, by)[0]?.latent ?? null);
  return html`<div class="cols lens ${loading ? "stale" : ""}" aria-busy=${loading}>
    <${Panel} title="Tokens" aside=${counted(text)}><${Pinned} ...${common} texts=${[{ name: "", text }]} />
      <${Strip} text=${text} pins=${common.pins} facts=${common.facts} at=${at} pick=${(/** @type {number | null} */ i) => setQuery({ at: i === null ? "" : i })} label="Tokens" shade=${shade} />
      <${Shaded} latent=${shade} text=${text} facts=${common.facts} pins=${common.pins} /><//>
    <aside><${Chosen} text=${text} at=${at} dense=${dense} close=${() => setQuery({ at: "" })} common=${common} />
      <${Panel} title="In total" aside=${html`<label>by <select class="text" value=${by} onChange=${(/** @type {any} */ e) => setQuery({ by: e.target.value === "sum" ? "" : e.target.value })}>${Object.entries(ORDERS).map(([key, said]) => html`<option key=${key} value=${key}>${said}</option>`)}</select></label>`}>
        <${Totals} totals=${totals} by=${by} ...${common} />
        ${hidden > 0 && html`<p class="note">${hidden} dense ${hidden === 1 ? "feature" : "features"} (on more than ${100 * DENSE} % of all tokens) hidden.</p>`}<//>
    </aside></div>`;
}

/** What the tokens are shaded by, in a line that is always there. @param {{latent: number | null, text: any, facts: Record<number, any>, pins: number[]}} props */
function Shaded({ latent, text, facts, pins }) {
  const most = text.totals.find((/** @type {any} */ t) => t.latent === latent)?.max;
  return html`<p class="note shaded">${latent === null
    ? html`The rows under the tokens are the pinned features${pins.length ? "" : "; pin some"}. Look at a row of a list to shade the tokens by it.`
    : html`<span class="t lit key" style=${{ "--a": ".8" }}>shaded</span> by <b class="num">${latent}</b> <${LabelWords} text=${facts[latent]?.label || "no label"} />${most !== undefined && html`, up to <span class="num">${short(most)}</span>`}`}</p>`;
}

/**
 * Two texts, each above what fires on its chosen token and what fires more in it.
 * @param {{data: any, rows: any[], dense: boolean, at: {a: number | null, b: number | null}, setQuery: (patch: any) => void, loading: boolean, common: any, over: number | null}} props
 */
function Compared({ data, rows, dense, at, setQuery, loading, common, over }) {
  const first = { a: rows[0]?.difference > 0 ? rows[0].latent : null, b: rows.at(-1)?.difference < 0 ? rows.at(-1).latent : null };
  const side = (/** @type {"a" | "b"} */ key, /** @type {string} */ name) => {
    const shade = over ?? (common.pins.length ? null : first[key]);
    return html`<div>
      <${Panel} title=${`Text ${name}`} aside=${counted(data[key])}><${Pinned} ...${common} texts=${[{ name: "", text: data[key] }]} />
        <${Strip} text=${data[key]} pins=${common.pins} facts=${common.facts} at=${at[key]} pick=${(/** @type {number | null} */ i) => setQuery({ [AT[key]]: i === null ? "" : i })} label=${`Text ${name}`} shade=${shade} cool=${key === "b"} />
        <div class=${key === "b" ? "cool" : ""}><${Shaded} latent=${shade} text=${data[key]} facts=${common.facts} pins=${common.pins} /></div><//>
      <${Chosen} text=${data[key]} of=${name} at=${at[key]} dense=${dense} close=${() => setQuery({ [AT[key]]: "" })} common=${common} />
      <${Panel} title=${`More in ${name}`} aside="mean a token in A · in B"><${More} rows=${rows} side=${key} ...${common} /><//></div>`;
  };
  return html`<div class="cols lens compared ${loading ? "stale" : ""}" aria-busy=${loading}>${side("a", "A")}${side("b", "B")}</div>`;
}

/** @param {any} text */
const counted = (text) => `${whole(text.tokens.length)} tokens · ${whole(text.n_active)} features fire`;

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
