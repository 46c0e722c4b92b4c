/** How runs are told apart: a colour and a dash each, by their place among those drawn. */
import { html } from "../../kit.js";

export const N_STYLES = 6;
/** Canvas and SVG dashes; colour alone never tells two lines apart. @type {number[][]} */
export const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3], [4, 4], [1, 5]];

/** The colour of a place in the order, as the theme has it now. @param {number} place */
export function colour(place) {
  const probe = document.createElement("i");
  probe.className = `series s${place % N_STYLES}`;
  probe.hidden = true;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** A short piece of the run's line. @param {{place: number}} props place: −1 for a run not drawn */
export function Swatch({ place }) {
  return html`<svg class="swatch series ${place < 0 ? "off" : `s${place % N_STYLES}`}" width="26" height="8" aria-hidden="true">
    <line x1="0" y1="4" x2="26" y2="4" stroke="currentColor" stroke-width="2.5" stroke-dasharray=${place < 0 ? "1 4" : DASHES[place % N_STYLES].join(" ")} /></svg>`;
}

/** The last parts of a run's path, enough to know it by. @param {string} id */
export const nameOf = (id) => id === "." ? "this folder" : id;
