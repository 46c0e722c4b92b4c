/** Numbers and text as they are shown. */

/** A number in a few characters: 1234, 12.3, 0.12, 0.0031. @param {number | null | undefined} value */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e5) return value.toExponential(1).replace("e+", "e");
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 0.1) return value.toFixed(2);
  return size >= 1e-3 ? String(+value.toPrecision(2)) : value.toExponential(0);
}

/** @param {number | null | undefined} value */
export const whole = (value) => value === null || value === undefined ? "–" : value.toLocaleString("en-US");

/** A share as a percentage; rare ones as one in so many. @param {number | null | undefined} share */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  if (share === 0) return "0 %";
  const value = 100 * share;
  return `${value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value >= 0.01 ? value.toFixed(2) : value.toPrecision(1)} %`;
}

/** @param {number} value */
export const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

const DRAWN = /** @type {Record<string, string>} */ ({ "\n": "⏎", "\r": "␍", "\t": "⇥", "\u2028": "⏎", "\u2029": "⏎", "\x7f": "␡" });

/** Text with every character that would not be seen, or would reorder the line, drawn. @param {string} text */
export const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (c) =>
  DRAWN[c] || (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : "·"));

/** A word for a shell, quoted where it must be. @param {string} word */
export const shell = (word) => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replace(/'/g, `'\\''`)}'`;

/** A flag and its text, which may itself begin with a dash. @param {string} name @param {string} text */
export const flag = (name, text) => text.startsWith("-") ? shell(`${name}=${text}`) : `${name} ${shell(text)}`;

/** A value as Python writes it. @param {string | number} value */
export const python = (value) => typeof value === "number" ? String(value) : JSON.stringify(value);
