/** What the rows that a query finds are like, as `viewer/facets.py` counts it. */
import { FLAGS } from "./search.js";

const BINS = 28, MOST_VALUES = 24;
/** @type {[string, (row: any) => number | null][]} */
const FIGURES = [
  ["density", (row) => row.density > 0 ? Math.log10(row.density) : null],
  ["max", (row) => row.peak > 0 ? Math.log10(row.peak) : null],
  ["score", (row) => row.label_f1],
];

/** @param {import("./search.js").TableRow[]} table @param {import("./search.js").TableRow[]} rows @param {Record<string, number[]>} lists */
export function facets(table, rows, lists) {
  const status = Object.entries(FLAGS).map(([name, holds]) => ({ name, term: name, count: rows.filter(holds).length }));
  const told = Object.entries(lists).map(([name, latents]) => ({ name, term: term("list", name), count: rows.filter((row) => latents.includes(row.latent)).length }));
  return { total: rows.length, status, meta: metas(rows), lists: told, figures: FIGURES.map(([name, value]) => figure(table, rows, name, value)) };
}

/** @param {string} field @param {string} value */
const term = (field, value) => value.includes(" ") ? `${field}:"${value}"` : `${field}:${value}`;

/** @param {any[]} rows */
function metas(rows) {
  const counts = /** @type {Map<string, number>} */ (new Map());
  for (const row of rows) for (const [name, share] of row.metas) if (share >= 0.5) counts.set(name, (counts.get(name) || 0) + 1);
  const found = /** @type {Record<string, any[]>} */ ({});
  for (const [name, count] of [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))) {
    const at = name.indexOf("="), values = found[name.slice(0, at)] ??= [];
    if (values.length < MOST_VALUES) values.push({ name: name.slice(at + 1), count, term: term("meta", name) });
  }
  return found;
}

/** @param {any[]} table @param {any[]} rows @param {string} name @param {(row: any) => number | null} value */
function figure(table, rows, name, value) {
  const all = table.map(value).filter((v) => v !== null);
  let low = 0, high = 1;
  if (name !== "score" && all.length) {
    low = Math.floor(4 * Math.min(...all)) / 4;
    high = Math.max(Math.ceil(4 * Math.max(...all)) / 4, low + 0.25);
  }
  const counts = new Array(BINS).fill(0);
  let unknown = 0;
  for (const row of rows) {
    const v = value(row);
    if (v === null) unknown += 1;
    else counts[Math.min(BINS - 1, Math.max(0, Math.floor((v - low) / ((high - low) / BINS))))] += 1;
  }
  const edges = Array.from({ length: BINS + 1 }, (_, i) => low + (high - low) * i / BINS);
  return { name, edges: name === "score" ? edges : edges.map((e) => 10 ** e), counts, unknown };
}
