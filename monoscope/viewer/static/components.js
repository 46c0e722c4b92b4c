/** What several pages show: shaded tokens, histograms, panels, and the states of waiting and failing. */
import { html, useEffect, useRef, useState } from "./kit.js";
import { short, visible } from "./format.js";
import { useSetting } from "./settings.js";

const FAINTEST = 0.04; // share of the maximum below which a token is not shaded

/**
 * Text token by token, shaded by a value. Newlines are drawn and kept; what is typed is never HTML.
 * One hue with an underline that thickens besides, so that neither colour sight nor a screen
 * decides; with the setting "numbers" the values stand beside the tokens.
 * @param {{pieces: string[], values: (number | null)[], max: number, peak?: number, cool?: boolean,
 *   masked?: boolean[], selected?: number | null, onToken?: (index: number) => void, flat?: boolean}} props
 *   max: the value shaded fully; cool: the second hue; flat: one line, newlines not broken
 */
export function Tokens({ pieces, values, max, peak, cool, masked, selected, onToken, flat }) {
  const [shading] = useSetting("shading");
  return html`<span class="tokens ${flat ? "flat" : ""} ${cool ? "cool" : ""}">${pieces.map((piece, i) => {
    const value = values[i] ?? 0;
    const share = max > 0 ? Math.min(1, Math.max(0, value / max)) : 0;
    const lit = share >= FAINTEST || (i === peak && value > 0);
    if (!lit && !onToken && !masked?.[i] && i !== selected) return visibleText(piece, flat);
    const names = ["t", lit && "lit", i === peak && "peak", masked?.[i] && "masked", i === selected && "on"].filter(Boolean).join(" ");
    return html`<span class=${names} style=${lit ? { "--a": share.toFixed(3) } : undefined} title=${masked?.[i] ? "left out by the mask" : short(value)}
      onClick=${onToken && (() => onToken(i))}>${visibleText(piece || (lit ? "�" : ""), flat)}${lit && !flat && html`<sub class="val ${shading === "numbers" ? "" : "hush"}">${short(value)}</sub>`}</span>`;
  })}</span>`;
}

/** @param {string} piece @param {boolean} [flat] */
function visibleText(piece, flat) {
  if (!piece.includes("\n")) return visible(piece);
  return piece.split(/(\n)/).map((part) => part === "\n" ? html`<i class="nl">⏎</i>${flat ? "" : "\n"}` : visible(part));
}

/**
 * A label, the tokens that a rule quotes set as tokens: what is quoted is text to be met, not a name.
 * @param {{text: string}} props
 */
export function LabelWords({ text }) {
  return text.split(/(".*?"(?=$|[ ,]))/).map((part, i) => i % 2
    ? html`<q key=${i}>${visible(part.slice(1, -1)).replace(/^ (?=.)/, "").replace(/^ $/, "␣")}</q>`
    : visible(part.replace(/^, $/, " ")).replaceAll("·", " "));
}

/** A piece of the vocabulary, its spaces visible. @param {{text: string}} props */
export function Token({ text }) {
  return html`<code class="token">${visible(text).replace(/^ | $/g, "␣") || "∅"}</code>`;
}

/** @param {{title?: any, aside?: any, id?: string, class?: string, children?: any}} props */
export function Panel({ title, aside, id, class: name, children }) {
  return html`<section class="panel ${name || ""}" id=${id} aria-label=${typeof title === "string" ? title : undefined}>
    ${(title || aside) && html`<header><h2>${title}</h2>${aside && html`<div class="aside">${aside}</div>`}</header>`}${children}</section>`;
}

/** @param {{lines?: number, label?: string}} props */
export function Loading({ lines = 3, label = "Loading" }) {
  return html`<div class="loading" role="status" aria-label=${label}>${Array.from({ length: lines }, (_, i) => html`<i key=${i} class="bone b${i % 3}"></i>`)}</div>`;
}

/** @param {{title?: string, children?: any}} props */
export function Empty({ title = "Nothing here", children }) {
  return html`<div class="empty" role="status"><b>${title}</b>${children && html`<p>${children}</p>`}</div>`;
}

/** @param {{problem: any, retry?: () => void}} props problem: an ApiError's problem, or its like; what is not there is not asked for again */
export function ErrorState({ problem, retry }) {
  return html`<div class="error" role="alert"><b>${problem.detail || problem.title}</b>
    ${(problem.got || problem.expected) && html`<p>${problem.got && html`got <code>${problem.got}</code>`}${problem.got && problem.expected && "; "}${problem.expected && html`expected ${problem.expected}`}</p>`}
    ${problem.hint && html`<p>${problem.hint}</p>`}
    ${retry && problem.status !== 404 && html`<button class="btn" onClick=${retry}>Try again</button>`}</div>`;
}

/**
 * The three states of what useApi gives, then the content.
 * @param {{of: {data: any, error: any, loading: boolean, reload?: () => void}, lines?: number, children: (data: any) => any}} props
 */
export function Await({ of, lines, children }) {
  if (of.error) return html`<${ErrorState} problem=${of.error.problem || { detail: of.error.message }} retry=${of.reload} />`;
  if (of.data === null) return html`<${Loading} lines=${lines} />`;
  return html`<div class=${of.loading ? "stale" : ""} aria-busy=${of.loading}>${children(of.data)}</div>`;
}

/**
 * Counts in bins as bars. @param {{counts: number[], edges?: number[], log?: boolean, width?: number, height?: number,
 *   label: string, spark?: boolean}} props edges: counts + 1 of them, for the titles; log: height by log(1 + count)
 */
export function Histogram({ counts, edges, log = false, width = 290, height = 96, label, spark = false }) {
  const scale = (/** @type {number} */ n) => log ? Math.log1p(n) : n;
  const top = Math.max(1e-9, ...counts.map(scale));
  const step = width / Math.max(1, counts.length);
  const gap = step > 3 ? 1 : 0.4;
  return html`<svg class=${spark ? "hist spark" : "hist"} viewBox="0 0 ${width} ${height}" width=${spark ? width : "100%"} height=${spark ? height : undefined}
    preserveAspectRatio="none" role="img" aria-label=${label}>${counts.map((n, i) => {
      const tall = n ? Math.max(1, (scale(n) / top) * height) : 0;
      return html`<rect key=${i} x=${(i * step).toFixed(2)} y=${(height - tall).toFixed(2)} width=${Math.max(0.5, step - gap).toFixed(2)} height=${tall.toFixed(2)}>
        ${edges && !spark && html`<title>${short(edges[i])} to ${short(edges[i + 1])}: ${n.toLocaleString("en-US")} tokens</title>`}</rect>`;
    })}</svg>`;
}

/** A share from 0 to 1 as a thin bar. @param {{value: number | null, low?: number, label: string}} props */
export function Meter({ value, low = 0, label }) {
  const share = value === null ? 0 : Math.min(1, Math.max(0, (value - low) / (1 - low)));
  return html`<svg class="meter" viewBox="0 0 44 5" width="44" height="5" role="img" aria-label=${label}><rect class="back" width="44" height="5" rx="2.5" /><rect class="fill" width=${(44 * share).toFixed(1)} height="5" rx="2.5" /></svg>`;
}

/** Say something for a moment, to eyes and screen readers. @param {string} text */
export function toast(text) { dispatchEvent(new CustomEvent("monoscope:toast", { detail: text })); }

export function Toasts() {
  const [text, setText] = useState("");
  useEffect(() => {
    let timer = 0;
    const said = (/** @type {any} */ event) => { setText(event.detail); clearTimeout(timer); timer = setTimeout(() => setText(""), 2600); };
    addEventListener("monoscope:toast", said);
    return () => { clearTimeout(timer); removeEventListener("monoscope:toast", said); };
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">${text && html`<span>${text}</span>`}</div>`;
}

/** A button that copies text. @param {{text: string | (() => string), label: string, title?: string, disabled?: boolean}} props */
export function Copy({ text, label, title, disabled }) {
  const copy = async () => {
    const value = typeof text === "function" ? text() : text;
    try { await navigator.clipboard.writeText(value); toast("Copied"); }
    catch { copyBySelection(value); }
  };
  return html`<button class="btn" type="button" disabled=${disabled} onClick=${copy} title=${title || (typeof text === "string" ? text : "")}>${label}</button>`;
}

/** Where the clipboard is shut off (a page opened by address, not localhost). @param {string} text */
function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  toast(document.execCommand("copy") ? "Copied" : "Copying is not allowed here");
  area.remove();
}

/** The size of an element, kept up to date. @returns {[{current: any}, {width: number, height: number}]} */
export function useSize() {
  const ref = useRef(/** @type {any} */ (null));
  const [size, setSize] = useState({ width: 0, height: 0 });
  useEffect(() => {
    if (!ref.current) return;
    const watch = new ResizeObserver(([entry]) => setSize({ width: entry.contentRect.width, height: entry.contentRect.height }));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, size];
}
