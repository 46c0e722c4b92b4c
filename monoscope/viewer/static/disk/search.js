/** The search box's grammar over an exported table, as `viewer/grammar.py` and `viewer/find.py` have it. */

/** @typedef {{latent: number, label: string | null, label_method: string | null, label_f1: number | null, label_auc: number | null, n_active: number,
 *   density: number, peak: number, mean: number, interest: number, x: number | null, y: number | null, terms: [string, number, number][],
 *   metas: [string, number][], lists: string[], note: string}} TableRow terms: text, tier (2 fires on, 1 raises, 0 lowers), hits */

const FIGURES = /** @type {Record<string, keyof TableRow>} */ ({ density: "density", max: "peak", mean: "mean", score: "label_f1", auc: "label_auc", fires: "n_active" });
const SORTS = /** @type {Record<string, string>} */ ({ ...FIGURES, interest: "interest", relevance: "relevance", latent: "latent" });
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
 * The rows that a query finds, in its order.
 * @param {TableRow[]} table @param {{q?: string, sort?: string, order?: string, box?: string}} query
 * @returns {{rows: TableRow[], sort: string, problem?: string}}
 */
export function selected(table, { q = "", sort = "", order = "", box = "" }) {
  const grades = new Map();
  let rows = table, words = 0;
  for (const piece of q.match(/(?:"[^"]*"?|[^\s"])+/g) || []) {
    const negative = piece.length > 1 && piece.startsWith("-"), body = negative ? piece.slice(1) : piece;
    const test = condition(body);
    if (typeof test === "string") return { rows: [], sort, problem: test };
    if (test === null && !negative) {
      words += 1;
      rows = rows.filter((row) => {
        const grade = graded(row, body);
        if (grade !== null) grades.set(row, Math.min(grade, grades.get(row) ?? Infinity));
        return grade !== null;
      });
    } else {
      const holds = test || anywhere(body);
      rows = rows.filter((row) => holds(row) !== negative);
    }
  }
  if (box) {
    const [x0, y0, x1, y1] = box.split(",").map(Number);
    rows = rows.filter((row) => row.x !== null && row.y !== null && row.x >= x0 && row.x <= x1 && row.y >= y0 && row.y <= y1);
  }
  const by = sort || (words ? "relevance" : "interest");
  if (!(by in SORTS)) return { rows: [], sort, problem: `features cannot be sorted by ${by}` };
  const down = order ? order === "desc" : by !== "latent";
  const value = (/** @type {any} */ row) => by === "relevance" ? (grades.get(row) || 0) + (row.label_f1 ?? (row.label_method === "human" ? 1 : 0)) : row[SORTS[by]] ?? (down ? -1e308 : 1e308);
  const keyed = rows.map((row) => ({ row, key: value(row) }));
  keyed.sort((a, b) => (down ? b.key - a.key : a.key - b.key) || a.row.latent - b.row.latent);
  return { rows: keyed.map(({ row }) => row), sort: by };
}

/** A filter's test; null for a plain word, a sentence for what makes no sense. @param {string} body @returns {((row: TableRow) => boolean) | string | null} */
function condition(body) {
  if (body.startsWith('"')) return null;
  if (body.toLowerCase() in FLAGS) return FLAGS[body.toLowerCase()];
  const [, field = "", given = ""] = body.match(/^([A-Za-z_]+):(.*)$/s) || [];
  const { value, exact } = bare(given);
  switch (field.toLowerCase()) {
    case "label": return (row) => has(row.label, value);
    case "note": return (row) => has(row.note, value);
    case "list": return (row) => row.lists.includes(value);
    case "id": return ids(value);
    case "meta": return meta(value);
    case "token": case "logit": case "lowers": {
      const tier = TIERS[field.toLowerCase()];
      return (row) => row.terms.some(([text, at]) => at === tier && (exact ? text === value : has(text, value)));
    }
  }
  const [, name, sign, number] = body.match(/^([A-Za-z_]+)(<=|>=|<|>|=)(.+)$/s) || [];
  if (!name) return null;
  const key = FIGURES[name.toLowerCase()];
  const limit = parseFloat(number) / (number.endsWith("%") ? 100 : 1);
  if (!key) return `${name} is no figure: one of ${Object.keys(FIGURES).join(", ")}`;
  if (!Number.isFinite(limit)) return `${name} is compared with no number`;
  return (row) => row[key] !== null && COMPARE[sign](Number(row[key]), limit);
}

/** @param {string} value @returns {((row: TableRow) => boolean) | string} */
function ids(value) {
  const ranges = value.split(",").map((part) => part.match(/^(\d+)(?:-(\d+))?$/));
  if (ranges.some((range) => !range)) return "id: names no latents";
  return (row) => ranges.some((range) => range && row.latent >= Number(range[1]) && row.latent <= Number(range[2] ?? range[1]));
}

/** @param {string} value @returns {((row: TableRow) => boolean) | string} */
function meta(value) {
  const [, name, , least] = value.match(/^([^=<>]+=[^<>]*?)(?:(>=?)([^<>]+))?$/s) || [];
  if (!name) return "meta: names no value";
  const share = least === undefined ? 0.5 : parseFloat(least) / (least.endsWith("%") ? 100 : 1);
  return (row) => row.metas.some(([key, value]) => key.toLowerCase() === name.trim().toLowerCase() && value >= share);
}

/** @param {string} body */
const anywhere = (body) => {
  const { value, exact } = bare(body);
  return (/** @type {TableRow} */ row) => has(row.label, value) || row.terms.some(([text, tier]) => tier > 0 && (exact ? text === value : has(text, value)));
};

/** How well a word is hit, as the server grades it; null where it is not. @param {TableRow} row @param {string} body */
function graded(row, body) {
  const { value, exact } = bare(body), word = spaced(value);
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

/** @param {string} text */
function bare(text) {
  const exact = text.length > 1 && text.startsWith('"') && text.endsWith('"');
  return { value: exact ? text.slice(1, -1) : text.replace(/"/g, ""), exact };
}
