/** A query over an exported table: what holds and in which order, as `viewer/find.py` has it. */
import { QueryError, nearest, parse } from "./grammar.js";

/** @typedef {{latent: number, label: string | null, label_method: string | null, label_f1: number | null, label_auc: number | null, n_active: number,
 *   density: number, peak: number, mean: number, interest: number, x: number | null, y: number | null, reads: number | null, writes: number | null, terms: [string, number, number][],
 *   metas: [string, number][], lists: string[], note: string}} TableRow terms: text, tier (2 fires on, 1 raises, 0 lowers), hits */

const FIGURES = /** @type {Record<string, keyof TableRow>} */ ({ density: "density", max: "peak", mean: "mean", score: "label_f1", auc: "label_auc", fires: "n_active", reads: "reads", writes: "writes" });
const SORTS = /** @type {Record<string, string>} */ ({ ...FIGURES, interest: "interest", relevance: "relevance", latent: "latent" });
const NAMES = ["interest", "relevance", "latent", "density", "fires", "max", "mean", "score", "auc", "reads", "writes"]; // in the server's order
const TIERS = /** @type {Record<string, number>} */ ({ token: 2, logit: 1, lowers: 0 });
const spaced = (/** @type {string} */ text) => " " + text.toLowerCase().replace(/[^\p{L}\p{N}]/gu, " ");
const has = (/** @type {string | null} */ text, /** @type {string} */ part) => text !== null && text.toLowerCase().includes(part.toLowerCase());
const unclear = (/** @type {TableRow} */ row) => row.label === null || row.label.startsWith("unclear");

/** @type {Record<string, (row: TableRow) => boolean>} */
export const FLAGS = {
  dead: (row) => row.n_active === 0, alive: (row) => row.n_active > 0, dense: (row) => row.density >= 0.1,
  labelled: (row) => !unclear(row), unclear, human: (row) => row.label_method === "human",
};

/** @type {Record<string, (a: number, b: number) => boolean>} */
const COMPARE = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };

/**
 * The rows that a query finds, in its order; throws QueryError for one that makes no sense.
 * @param {TableRow[]} table @param {{q?: string, sort?: string, order?: string, box?: string}} query
 * @returns {{rows: TableRow[], sort: string}}
 */
export function selected(table, { q = "", sort = "", order = "", box = "" }) {
  const terms = parse(q), words = terms.filter((term) => term.kind === "word" && !term.negative);
  const by = sort || (words.length ? "relevance" : "interest");
  if (!(by in SORTS)) throw unsorted(by);
  let rows = box ? within(table, box) : table;
  for (const term of terms) {
    if (words.includes(term)) continue;
    const holds = condition(term);
    rows = rows.filter((row) => holds(row) !== term.negative);
  }
  const grades = new Map();
  for (const term of words) {
    rows = rows.filter((row) => {
      const grade = graded(row, term);
      if (grade !== null) grades.set(row, Math.min(grade, grades.get(row) ?? Infinity));
      return grade !== null;
    });
  }
  const down = order ? order === "desc" : by !== "latent";
  const value = (/** @type {any} */ row) => by === "relevance" ? (grades.get(row) || 0) + (row.label_f1 ?? (row.label_method === "human" ? 1 : 0)) : row[SORTS[by]] ?? (down ? -1e308 : 1e308);
  const keyed = rows.map((row) => ({ row, key: value(row) }));
  keyed.sort((a, b) => (down ? b.key - a.key : a.key - b.key) || a.row.latent - b.row.latent);
  return { rows: keyed.map(({ row }) => row), sort: by };
}

/** @param {string} by */
function unsorted(by) {
  const close = nearest(by, NAMES);
  return new QueryError("features cannot be sorted like that", { got: `'${by.slice(0, 40)}'`, expected: `one of ${NAMES.join(", ")}`, hint: close ? `Did you mean ${close}?` : undefined });
}

/** @param {TableRow[]} table @param {string} box */
function within(table, box) {
  const numbers = box.split(",").map((part) => part.trim() === "" ? NaN : Number(part));
  if (numbers.length !== 4 || !numbers.every(Number.isFinite)) throw new QueryError("bad box", { got: box.slice(0, 60), expected: "x0,y0,x1,y1, each from 0 to 1" });
  const [a, b, c, d] = numbers, [x0, x1] = [Math.min(a, c), Math.max(a, c)], [y0, y1] = [Math.min(b, d), Math.max(b, d)];
  return table.filter((row) => row.x !== null && row.y !== null && row.x >= x0 && row.x <= x1 && row.y >= y0 && row.y <= y1);
}

/** A filter's test, its minus left aside. @param {import("./grammar.js").Term} term @returns {(row: TableRow) => boolean} */
function condition({ kind, value, exact, name, operator, number, ranges }) {
  switch (kind) {
    case "flag": return FLAGS[name];
    case "figure": return (row) => row[FIGURES[name]] !== null && COMPARE[operator](Number(row[FIGURES[name]]), number);
    case "label": return (row) => has(row.label, value);
    case "note": return (row) => has(row.note, value);
    case "list": return (row) => row.lists.includes(value);
    case "id": return (row) => ranges.some(([first, last]) => row.latent >= first && row.latent <= last);
    case "meta": return (row) => row.metas.some(([key, share]) => key.toLowerCase() === value.toLowerCase() && share >= number);
    case "word": return (row) => has(row.label, value) || row.terms.some(([text, tier]) => tier > 0 && (exact ? text === value : has(text, value)));
    default: return (row) => row.terms.some(([text, tier]) => tier === TIERS[kind] && (exact ? text === value : has(text, value)));
  }
}

/** How well a word is hit, as the server grades it; null where it is not. @param {TableRow} row @param {import("./grammar.js").Term} term */
function graded(row, { value, exact }) {
  const word = spaced(value);
  /** @type {Record<string, number>} */
  const hits = {};
  for (const [text, tier, n] of row.terms) {
    if (!tier || !(exact ? text === value || (value.trim() === value && text.includes(" ") && text.includes(value) && has(text, value)) : has(text, value))) continue;
    const starts = exact || spaced(text).includes(word);
    hits[`${tier}${starts ? "s" : ""}`] = (hits[`${tier}${starts ? "s" : ""}`] || 0) + n;
  }
  const grades = Object.entries(hits).map(([key, n]) => (key.endsWith("s") ? 400 : 0) + Number(key[0]) * 100 + Math.min(n, 50));
  if (has(row.label, value)) grades.push((spaced(row.label || "").includes(word) ? 400 : 0) + 301);
  for (const [name, share] of row.metas) if (share >= 0.5 && has(name, value)) grades.push(100 * share);
  return grades.length ? Math.max(...grades) : null;
}
