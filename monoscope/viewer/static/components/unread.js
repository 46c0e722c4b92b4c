/** What an address holds that cannot be read: named where it is met, never passed over. */
import { ErrorState } from "../components.js";
import { html } from "../kit.js";

/** @typedef {{key: string, got: string, expected: string}} Bad a parameter of the address, or a part of it */

/**
 * A number of the address, with its bounds; what is none is noted in `bad` and given by `otherwise`.
 * @param {Record<string, string>} query @param {string} key @param {number} otherwise
 * @param {{min: number, max?: number, whole?: boolean, above?: boolean, said: string}} how above: min itself is too small
 * @param {Bad[]} bad
 */
export function numberOf(query, key, otherwise, { min, max = Infinity, whole = false, above = false, said }, bad) {
  const text = query[key];
  if (text === undefined) return otherwise;
  const value = text.trim() === "" ? NaN : Number(text);
  if (value >= min && value <= max && Number.isFinite(value) && !(above && value === min) && (!whole || Number.isSafeInteger(value))) return value;
  bad.push({ key, got: text, expected: said });
  return otherwise;
}

/** One of the words that a parameter may be; none given is the first. @param {Record<string, string>} query @param {string} key @param {readonly string[]} words @param {Bad[]} bad */
export function wordOf(query, key, words, bad) {
  const text = query[key];
  if (text === undefined || words.includes(text)) return text ?? words[0];
  bad.push({ key, got: text, expected: words.filter(Boolean).join(", ") });
  return words[0];
}

/**
 * A line for each; what is shown below is the rest of the address.
 * @param {{bad: Bad[], drop: () => void}} props drop: put an address in its place that holds the rest alone
 */
export function Unread({ bad, drop }) {
  if (!bad.length) return null;
  return html`<div class="panel unread">${bad.map((one, i) => html`<${ErrorState} key=${i} problem=${{ detail: `the address cannot be read: ${one.key}`, got: cut(one.got), expected: one.expected }} />`)}
    <button class="btn small" type="button" onClick=${drop}>Go on without it</button></div>`;
}

/** @param {string} text */
const cut = (text) => text.length > 80 ? `${text.slice(0, 79)}…` : text;
