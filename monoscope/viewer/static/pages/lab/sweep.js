/** The strength sweep: effect against fluency at rising strengths, beside three controls. */
import { ApiError, events } from "../../api.js";
import { ErrorState, LabelWords, Panel, useSize } from "../../components.js";
import { Commands } from "../../components/share.js";
import { Typed } from "../../components/typed.js";
import { short, visible } from "../../format.js";
import { html, useEffect, useRef, useState } from "../../kit.js";
import { sweepCommand, sweepPython, wordsOf } from "./state.js";

const NONE = { status: "idle", start: /** @type {any} */ (null), points: /** @type {any[]} */ ([]), spot: /** @type {any} */ (null), progress: /** @type {any} */ (null), problem: /** @type {any} */ (null) };
const KINDS = /** @type {Record<string, string>} */ ({ steered: "this direction", random: "random direction, same length", reversed: "reversed", prompt: "asked in words", default: "unsteered" });
const MEASURES = { score: "score: effect × fluency", effect: "effect", fluency: "fluency" };

/**
 * Tried as soon as it is shown, and again when other words are to be counted.
 * @param {{latent: number, body: any, swept: import("./state.js").Swept, set: (patch: any) => void, use: (value: number) => void, model: any, atlas: string}} props
 *   body: prompt or messages, and seed; set: into the address
 */
export function Sweep({ latent, body, swept, set, use, model, atlas }) {
  const { words, measure } = swept;
  const [state, setState] = useState(NONE);
  const [asked, setAsked] = useState(body);
  const open = swept.open ?? state.spot?.best.times_norm ?? null;
  const setOpen = (/** @type {number} */ at) => set({ so: at });
  const going = useRef(/** @type {AbortController | null} */ (null));
  const stop = () => { going.current?.abort(); setState((s) => ({ ...s, status: "stopped", progress: null })); };
  const run = async () => {
    going.current?.abort();
    const mine = new AbortController();
    going.current = mine;
    let now = { ...NONE, status: "waiting" };
    const put = (/** @type {any} */ patch) => { now = { ...now, ...patch }; if (going.current === mine) setState(now); };
    put({});
    setAsked(body);
    try {
      for await (const { event, data } of events("/sweep", { ...body, latent, words }, { signal: mine.signal })) {
        if (event === "start") put({ start: data, status: "running" });
        else if (event === "progress") put({ progress: data });
        else if (event === "point") put({ points: [...now.points, data] });
        else if (event === "sweetspot") put({ spot: data, status: "done", progress: null });
      }
    } catch (error) {
      if (!mine.signal.aborted) put({ status: "failed", problem: error instanceof ApiError ? error.problem : { detail: "the connection broke off" } });
    }
  };
  useEffect(() => { run(); return () => going.current?.abort(); }, [latent, words.join(",")]);
  const again = () => { set({ so: "" }); run(); };
  const busy = state.status === "waiting" || state.status === "running";
  return html`<${Panel} title="Sweet spot of ${latent}" id="sweep" class="sweep" aside=${html`
      <button class="btn small" type="button" onClick=${busy ? stop : again}>${busy ? "Stop" : "Run again"}</button>
      <button class="btn small" type="button" onClick=${() => set({ sweep: "", sw: "", sm: "", so: "" })} aria-label="Close the sweep">✕</button>`}>
    ${state.problem && html`<${ErrorState} problem=${state.problem} retry=${run} />`}
    <p class="sub verdict" role="status">${verdict(state)}
      ${state.spot?.found && html` <button class="btn small" type="button" onClick=${() => use(state.spot.best.times_norm)}>Use ${short(state.spot.best.times_norm)} × ‖x‖</button>`}</p>
    ${JSON.stringify(asked) !== JSON.stringify(body) && html`<p class="warn">The prompt or the seed has changed since; run again to try it on that.</p>`}
    ${busy && html`<progress max=${state.progress?.total || 1} value=${state.progress?.done || 0} aria-label="Sweep"></progress>`}
    <div class="row"><span class="seg" role="group" aria-label="What is drawn">${Object.entries(MEASURES).map(([key, said]) => html`
      <button key=${key} class="btn small" type="button" aria-pressed=${measure === key} onClick=${() => set({ sm: key === "score" ? "" : key })}>${said}</button>`)}</span></div>
    <${Plot} points=${state.points} measure=${measure} spot=${state.spot} open=${open} pick=${setOpen} />
    <${Texts} points=${state.points} at=${open} start=${state.start} pick=${setOpen} />
    <details class="note" open=${words.length > 0}><summary>How this is counted</summary>
      <p>Effect: the geometric mean of two gains over the unsteered text, each full at a fifth of the tokens: the share that are tokens the feature promises, and the share on which the feature fires when the unedited model reads the text. Fluency falls with repeated word pairs and with surprise beyond 1 nat a token. Added at all positions${state.start?.neutral?.length ? `, on your prompt and ${state.start.neutral.length} neutral ones` : ""}.</p>
      <p>Counted: ${(state.start?.tokens || []).map((/** @type {string} */ t, /** @type {number} */ i) => html`${i ? " " : ""}<code class="token">${visible(t)}</code>`)}${state.start ? ` (from ${({ label: "its label", contexts: "its strongest contexts", logits: "its logit lens", given: "you" })[/** @type {"given"} */ (state.start.basis)]})` : ""}</p>
      <label class="row">Count other words: <${Typed} class="text" value=${words.join(", ")} placeholder="physics, energy" tell=${(/** @type {HTMLInputElement} */ input) => set({ sw: wordsOf(input.value).join(","), so: "" })} /></label></details>
    <div class="row share"><${Commands} model=${model} command=${(/** @type {any} */ m) => sweepCommand(latent, body, words, m, atlas)} python=${(/** @type {any} */ m) => sweepPython(latent, body, words, m, atlas)} /></div>
  <//>`;
}

/** @param {any} state */
function verdict({ status, spot, start }) {
  if (status === "waiting") return "Waiting for the model…";
  if (status === "stopped") return "Stopped.";
  if (status === "failed") return "";
  if (!spot) return start ? html`Trying <${LabelWords} text=${start.label || "the feature"} /> at rising strengths, beside its controls…` : "";
  const asked = spot.prompt === null ? "" : ` Asking in words scores ${spot.prompt.toFixed(2)}.`;
  if (!spot.found) return `No sweet spot: at no strength does the direction write what the feature promises better than its controls do. A feature that reads is not always one that writes.${asked}`;
  return `Best at ${short(spot.best.times_norm)} × ‖x‖: score ${spot.best.score.toFixed(2)}, the better control ${spot.control.toFixed(2)}.${asked}`;
}

/** @param {{points: any[], measure: "score" | "effect" | "fluency", spot: any, open: number | null, pick: (at: number) => void}} props */
function Plot({ points, measure, spot, open, pick }) {
  const [ref, { width }] = useSize();
  const w = Math.max(260, width || 600), h = 190, left = 34, right = 12, top = 10, bottom = 30;
  const steered = points.filter((p) => p.kind === "steered");
  const most = Math.max(0.8, ...steered.map((p) => p.times_norm));
  const x = (/** @type {number} */ s) => left + (w - left - right) * Math.abs(s) / most;
  const y = (/** @type {number} */ v) => top + (h - top - bottom) * (1 - v);
  const begin = points.find((p) => p.kind === "default");
  const asked = points.find((p) => p.kind === "prompt");
  const line = (/** @type {string} */ kind) => {
    const these = points.filter((p) => p.kind === kind);
    const all = begin ? [begin, ...these] : these;
    return html`<g class="curve ${kind}"><polyline points=${all.map((p) => `${x(p.times_norm).toFixed(1)},${y(p[measure]).toFixed(1)}`).join(" ")} />
      ${these.map((p) => mark(kind, x(p.times_norm), y(p[measure]), `${KINDS[kind]} at ${short(p.times_norm)}: ${p[measure].toFixed(2)}. ‖Δ‖/‖x‖ ${p.relative_norm.toFixed(2)}, KL ${short(p.kl)} nats a token`))}</g>`;
  };
  const said = steered.map((p) => `${short(p.times_norm)}: ${p[measure].toFixed(2)}`).join(", ");
  return html`<div class="plot" ref=${ref}><svg width=${w} height=${h} role="img" aria-label=${`${measure} by strength. ${said || "Nothing yet"}`}>
      ${[0, 0.5, 1].map((v) => html`<g key=${v} class="axis"><line x1=${left} x2=${w - right} y1=${y(v)} y2=${y(v)} /><text x=${left - 6} y=${y(v) + 4} text-anchor="end">${v}</text></g>`)}
      ${[0, 0.2, 0.4, 0.6, 0.8, 1].filter((s) => s <= most).map((s) => html`<text key=${s} class="tick" x=${x(s)} y=${h - 12} text-anchor="middle">${s}</text>`)}
      <text class="tick" x=${w - right} y=${h - 1} text-anchor="end">× ‖x‖</text>
      ${asked && html`<line class="asked" x1=${left} x2=${w - right} y1=${y(asked[measure])} y2=${y(asked[measure])}><title>asked in words: ${asked[measure].toFixed(2)}</title></line>`}
      ${spot?.found && html`<line class="spot" x1=${x(spot.best.times_norm)} x2=${x(spot.best.times_norm)} y1=${top} y2=${h - bottom} />`}
      ${["reversed", "random", "steered"].map(line)}
      ${open !== null && html`<circle class="open" cx=${x(open)} cy=${y(steered.find((p) => p.times_norm === open)?.[measure] ?? 0)} r="8" />`}
      ${steered.map((p) => html`<rect key=${p.times_norm} class="hit" x=${x(p.times_norm) - 14} y=${top} width="28" height=${h - top - bottom} onClick=${() => pick(p.times_norm)}><title>${short(p.times_norm)} × ‖x‖</title></rect>`)}
    </svg>
    <ul class="legend">${["steered", "random", "reversed", "prompt"].map((kind) => html`<li key=${kind} class=${kind}><svg width="26" height="10" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" />${kind !== "prompt" && mark(kind, 13, 5)}</svg>${KINDS[kind]}</li>`)}</ul></div>`;
}

/** A point whose shape tells its kind besides its colour. @param {string} kind @param {number} x @param {number} y @param {string} [title] */
function mark(kind, x, y, title) {
  const said = title && html`<title>${title}</title>`;
  if (kind === "random") return html`<rect x=${x - 3} y=${y - 3} width="6" height="6">${said}</rect>`;
  if (kind === "reversed") return html`<path d="M${x - 4},${y + 3}h8l-4,-7z">${said}</path>`;
  return html`<circle cx=${x} cy=${y} r="3.5">${said}</circle>`;
}

/** @param {{points: any[], at: number | null, start: any, pick: (at: number) => void}} props */
function Texts({ points, at, start, pick }) {
  const steered = points.filter((p) => p.kind === "steered");
  if (!steered.length) return html`<p class="note">Each strength writes with the direction, a random one of the same length, and the direction reversed.</p>`;
  const strength = at ?? steered[0].times_norm;
  const rows = [points.find((p) => p.kind === "default"), ...["steered", "random", "reversed"].map((kind) => points.find((p) => p.kind === kind && Math.abs(p.times_norm) === strength)), points.find((p) => p.kind === "prompt")].filter(Boolean);
  return html`<div class="row" role="group" aria-label="Strength whose texts are shown">${steered.map((p) => html`<button key=${p.times_norm} class="btn small" type="button" aria-pressed=${p.times_norm === strength} onClick=${() => pick(p.times_norm)}>${short(p.times_norm)}</button>`)}<span class="dim">× ‖x‖</span></div>
    <div class="scroll" tabindex="0" role="region" aria-label="Texts at ${short(strength)} times the norm"><table class="trials"><thead><tr><th>written with</th><th class="num">score</th><th class="num">effect</th><th class="num">fluency</th><th class="num" title="Mean size of the change over the size of the activation, over the positions moved">‖Δ‖/‖x‖</th><th class="num" title="KL(steered ‖ default) of the next-token distributions on this text, nats a token">KL</th><th>after your prompt</th></tr></thead>
    <tbody>${rows.map((p) => html`<tr key=${p.kind} class=${p.kind}><th scope="row">${p.kind === "prompt" && start ? html`<span title=${start.ask}>${KINDS[p.kind]}</span>` : KINDS[p.kind]}</th>
      <td class="num">${p.score.toFixed(2)}</td><td class="num">${p.effect.toFixed(2)}</td><td class="num">${p.fluency.toFixed(2)}</td><td class="num">${p.relative_norm.toFixed(2)}</td><td class="num">${short(p.kl)}</td><td class="mono">${visible(p.texts[0] || "")}</td></tr>`)}</tbody></table></div>`;
}
