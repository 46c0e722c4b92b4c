/** Default and steered answers as they stream in, and how they are drawn. */
import { ApiError, events } from "../api.js";
import { html, useCallback, useEffect, useRef, useState } from "../kit.js";
import { short, signed, visible } from "../format.js";
import { useSetting } from "../settings.js";

/**
 * @typedef {{side: string, index: number, text: string, logp: number, logp_default: number, kl: number, relative_norm: number, ended: boolean}} LiveToken
 * @typedef {{status: "idle" | "waiting" | "writing" | "done" | "stopped" | "failed", default: LiveToken[], steered: LiveToken[],
 *   done: any, problem: any}} Answers
 */

/** @type {Answers} */
export const NOTHING = { status: "idle", default: [], steered: [], done: null, problem: null };
const FULL = 3; // nats of change at which a token is shaded fully
const LEAST = 0.1; // nats below which it is not shaded

/**
 * Write answers, one pair at a time: `run(body)` starts, and stops what runs; `stop()` stops it on
 * the server too, since the engine stops a request when its reader has gone.
 * @returns {{answers: Answers, run: (body: any) => void, stop: () => void}}
 */
export function useSteering() {
  const [answers, setAnswers] = useState(NOTHING);
  const going = useRef(/** @type {AbortController | null} */ (null));
  const stop = useCallback(() => {
    if (!going.current) return;
    going.current.abort();
    going.current = null;
    setAnswers((a) => a.status === "waiting" || a.status === "writing" ? { ...a, status: "stopped" } : a);
  }, []);
  const run = useCallback(async (/** @type {any} */ body) => {
    going.current?.abort();
    const mine = new AbortController();
    going.current = mine;
    /** @type {Answers} */
    const now = { status: "waiting", default: [], steered: [], done: null, problem: null };
    let frame = 0;
    const show = () => {
      frame = 0;
      if (going.current === mine) setAnswers({ ...now, default: [...now.default], steered: [...now.steered] });
    };
    const soon = () => { frame ||= requestAnimationFrame(show); };
    show();
    try {
      for await (const { event, data } of events("/steer", body, { signal: mine.signal })) {
        if (event === "start") now.status = "writing";
        else if (event === "token") (data.side === "default" ? now.default : now.steered).push(data);
        else if (event === "done") { now.done = data; now.status = "done"; }
        soon();
      }
    } catch (error) {
      if (mine.signal.aborted) return;
      now.status = "failed";
      now.problem = error instanceof ApiError ? error.problem : { detail: "the connection broke off", hint: "Is the viewer still running?" };
    }
    cancelAnimationFrame(frame);
    show();
    if (going.current === mine) going.current = null;
  }, []);
  useEffect(() => () => going.current?.abort(), []);
  return { answers, run, stop };
}

/** Figures of what was written so far: mean ‖Δ‖/‖x‖, KL and change of log p a token. @param {LiveToken[]} tokens */
export function costs(tokens) {
  const said = tokens.filter((t) => !t.ended);
  const mean = (/** @type {(t: LiveToken) => number} */ of) => said.length ? said.reduce((sum, t) => sum + of(t), 0) / said.length : null;
  return {
    norm: tokens.length ? tokens[tokens.length - 1].relative_norm : null,
    kl: mean((t) => t.kl), change: mean((t) => t.logp - t.logp_default),
  };
}

/** Steered text; tokens shaded by how much likelier (hot) or less likely (cool) the edits made them. @param {{tokens: LiveToken[], writing?: boolean}} props */
export function Steered({ tokens, writing }) {
  const [shading] = useSetting("shading");
  return html`<span class="tokens">${tokens.map((token) => {
    const change = token.logp - token.logp_default;
    const lit = Math.abs(change) >= LEAST && token.text;
    if (!lit) return broken(token.text);
    const share = Math.min(1, Math.abs(change) / FULL);
    return html`<span key=${token.index} class=${change < 0 ? "cool" : ""}><span class="t lit" style=${{ "--a": share.toFixed(2) }}
      title=${`${signed(change)} nats: p ${short(Math.exp(token.logp_default))} → ${short(Math.exp(token.logp))} · KL ${short(token.kl)}`}>${broken(token.text)}${shading === "numbers" && html`<sub class="val">${signed(change)}</sub>`}</span></span>`;
  })}${writing && html`<span class="caret" aria-hidden="true"></span>`}</span>`;
}

/** @param {{tokens: LiveToken[], writing?: boolean}} props */
export function Plain({ tokens, writing }) {
  return html`<span class="tokens">${tokens.map((token) => broken(token.text))}${writing && html`<span class="caret" aria-hidden="true"></span>`}</span>`;
}

/** Text with its line breaks kept. @param {string} text */
const broken = (text) => text.includes("\n") ? text.split("\n").map((part, i) => [i ? "\n" : "", visible(part)]).flat() : visible(text);

/** @param {{tokens: LiveToken[]}} props */
export function Costs({ tokens }) {
  const { norm, kl, change } = costs(tokens);
  return html`<dl class="costs" aria-label="What the edits cost">
    <div title="Mean size of the change over the size of the activation, over the positions edited"><dt>‖Δ‖ / ‖x‖</dt><dd class="num">${short(norm)}</dd></div>
    <div title="KL(steered ‖ default) of the next-token distributions, both reading the steered text"><dt>KL a token</dt><dd class="num">${short(kl)}<i> nats</i></dd></div>
    <div title="How much likelier the steered model finds its own tokens than the unedited model does"><dt>Δ log p a token</dt><dd class="num">${change === null ? "–" : signed(change)}<i> nats</i></dd></div>
  </dl>`;
}
