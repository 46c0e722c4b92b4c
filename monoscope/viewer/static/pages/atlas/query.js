/** The query as text: cut into its terms, terms put in, taken out and replaced. */

/** The terms of a query, cut at spaces outside quotes. @param {string} q @returns {string[]} */
export function pieces(q) {
  return q.match(/(?:"[^"]*"?|[^\s"])+/g) || [];
}

/** @param {string} q @param {string} term */
export const has = (q, term) => pieces(q).includes(term);

/** The query with a term put in, or taken out if it was there. @param {string} q @param {string} term */
export function toggled(q, term) {
  const all = pieces(q);
  return (all.includes(term) ? all.filter((p) => p !== term) : [...all, term]).join(" ");
}

/** The query with the limits on one figure replaced. @param {string} q @param {string} name @param {string[]} limits */
export function limited(q, name, limits) {
  const figure = new RegExp(`^-?${name}\\s*[<>=]`, "i");
  return [...pieces(q).filter((p) => !figure.test(p)), ...limits].join(" ");
}

/** The bounds that a query sets on one figure. @param {string} q @param {string} name @returns {[number, number]} */
export function bounds(q, name) {
  let low = -Infinity, high = Infinity;
  for (const piece of pieces(q)) {
    const found = piece.match(new RegExp(`^${name}(<=|>=|<|>)([^%]+)(%?)$`, "i"));
    if (!found) continue;
    const value = Number(found[2]) / (found[3] ? 100 : 1);
    if (found[1].startsWith(">")) low = Math.max(low, value); else high = Math.min(high, value);
  }
  return [low, high];
}

const FIELD = /^-?((label|token|logit|lowers|meta|id|list|note):.|(density|max|mean|score|auc|fires|reads|writes)[<>=])/i;
const MARK = /^-?("|(dead|alive|dense|labelled|unclear|human)$)/i;

/**
 * Whether what was typed reads like a passage rather than like words and filters: five words, or
 * three that end as a sentence does. A filter settles it; quotes and flags do in what is short.
 * @param {string} q
 */
function reads(q) {
  const all = pieces(q), ends = /[.?!…]["'”’)\]]*$/.test(q.trim());
  if (all.some((p) => FIELD.test(p)) || (all.length < 6 && all.some((p) => MARK.test(p)))) return false;
  return q.includes("\n") || all.length >= 5 || (all.length >= 3 && ends);
}

/** The passage that the model is to read, or null where words are to be found. @param {Record<string, string>} query of the atlas page */
export function passageOf({ q = "", read = "" }) {
  return q.trim() && read !== "words" && (read === "text" || reads(q)) ? q : null;
}

/** Whether a query is words alone, as the command line's search takes them. @param {string} q */
export const isPlain = (q) => !pieces(q).some((p) => FIELD.test(p) || MARK.test(p) || p.startsWith("-"));
