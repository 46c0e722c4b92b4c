/** Features taken to the Lab from elsewhere: added to the edits that it last had in this tab. */
import { html } from "../kit.js";
import { link } from "../router.js";
import { parseEdits, writtenAll } from "./edits.js";

const KEY = "monoscope.lab";
const STRENGTH = 0.4; // × the median norm: enough to be seen, rarely enough to break the text

/** Keep the Lab's address as it stands. @param {Record<string, string>} query */
export function remember(query) {
  try { sessionStorage.setItem(KEY, JSON.stringify(query)); } catch { /* a browser that keeps nothing */ }
}

/** @returns {Record<string, string> | null} */
function last() {
  try { return JSON.parse(sessionStorage.getItem(KEY) || "null"); } catch { return null; }
}

/**
 * The Lab's address with these latents among its edits; those that are there stay as they are.
 * @param {number[]} latents @param {Record<string, string>} otherwise its address where it was not open yet
 */
export function labWith(latents, otherwise) {
  const { sweep, sw, sm, so, ...base } = last() || otherwise;
  const edits = parseEdits(base.e); // the Lab itself has said what of its address was none
  for (const latent of latents) {
    if (!edits.some((edit) => edit.latent === latent)) edits.push({ latent, op: "add", value: STRENGTH, unit: "norm", where: "all" });
  }
  return link("/steer", { ...base, e: writtenAll(edits) });
}

/** @param {{latents: number[], otherwise: Record<string, string>, children?: any}} props */
export function ToLab({ latents, otherwise, children = "Lab" }) {
  const name = latents.length === 1 ? `add ${latents[0]} to the Lab` : `add these ${latents.length} to the Lab`;
  return html`<a class="tolab" href=${labWith(latents, otherwise)} title=${name} aria-label=${children === "Lab" ? `Lab: ${name}` : undefined}>${children}</a>`;
}
