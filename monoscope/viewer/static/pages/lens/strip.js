/** Text under the lens: its tokens, with a coloured bar under each for every pinned latent that fires on it. */
import { html, useEffect, useRef } from "../../kit.js";
import { short, visible } from "../../format.js";
import { useSetting } from "../../settings.js";

/**
 * @typedef {{piece: string, kept: boolean, n_active: number, latents: number[], values: number[]}} LensToken
 * @typedef {{tokens: LensToken[], n_kept: number, n_active: number, totals: any[]}} LensText
 */

/** A latent's value on a token. @param {LensToken} token @param {number} latent */
export function valueOn(token, latent) {
  const at = token.latents.indexOf(latent);
  return at < 0 ? 0 : token.values[at];
}

/**
 * @param {{text: LensText, pins: number[], facts: Record<number, any>, at: number | null, pick: (at: number | null) => void, label: string,
 *   shade?: number | null, cool?: boolean}} props shade: the latent that the tokens themselves are shaded by
 */
export function Strip({ text, pins, facts, at, pick, label, shade = null, cool }) {
  const [shading] = useSetting("shading");
  const most = shade === null ? 0 : text.totals.find((t) => t.latent === shade)?.max || 0;
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => { box.current?.querySelector(".lt.on")?.scrollIntoView({ block: "nearest" }); }, [at]);
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (by) pick(Math.max(0, Math.min(text.tokens.length - 1, (at ?? -1) + by)));
    else if (event.key === "Home") pick(0);
    else if (event.key === "End") pick(text.tokens.length - 1);
    else if (event.key === "Escape") pick(null);
    else return;
    event.preventDefault();
  };
  const id = `strip-${label.replace(/\W/g, "")}`;
  return html`<div class="strip ${pins.length ? "pinned" : ""} ${cool ? "cool" : ""}" ref=${box} role="listbox" tabindex="0" aria-label=${`${label}: ${text.tokens.length} tokens; arrow keys choose one`}
    aria-activedescendant=${at === null ? undefined : `${id}-${at}`} onKeyDown=${pressed}>${text.tokens.map((token, i) => html`
      <span key=${i} id=${`${id}-${i}`} role="option" aria-selected=${i === at} class="lt ${i === at ? "on" : ""} ${token.kept ? "" : "masked"}"
        title=${token.kept ? `${shade !== null && valueOn(token, shade) > 0 ? `${shade}: ${short(valueOn(token, shade))}. ` : ""}${token.n_active} latents fire` : "left out by the mask policy"} onClick=${() => pick(i === at ? null : i)}
        >${piece(token, shade, most, shading === "numbers")}${pins.map((latent, p) => bar(token, latent, p, facts[latent]?.max))}</span>${token.piece.includes("\n") && html`<i class="break" aria-hidden="true"></i>`}`)}</div>`;
}

/** A token's text, shaded by its share of the latent's largest value in this text. @param {LensToken} token @param {number | null} shade @param {number} most @param {boolean} numbers */
function piece(token, shade, most, numbers) {
  const value = shade === null ? 0 : valueOn(token, shade);
  if (value <= 0) return html`<span class="piece">${shown(token.piece)}</span>`;
  return html`<span class="piece t lit" style=${{ "--a": (value / most).toFixed(3) }}>${shown(token.piece)}${numbers && html`<sub class="val">${short(value)}</sub>`}</span>`;
}

/** @param {string} piece */
const shown = (piece) => visible(piece).replace(/ $/, " ") || "·";

/** @param {LensToken} token @param {number} latent @param {number} place @param {number} max */
function bar(token, latent, place, max) {
  const value = valueOn(token, latent);
  const share = max > 0 ? Math.min(1, value / max) : value > 0 ? 1 : 0;
  return html`<i key=${latent} class="fire p${place} ${value > 0 ? "on" : ""}" style=${value > 0 ? { "--a": share.toFixed(2) } : undefined} title=${value > 0 ? `${latent}: ${short(value)}` : undefined}></i>`;
}
