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

const FILTER = /^-?(\w+[:<>=]|"|(dead|alive|dense|labelled|unclear|human)$)/i;

/** Whether what was typed looks like a passage to read rather than words to find. @param {string} q */
export const isSentence = (q) => q.length > 24 && pieces(q).length >= 5 && !pieces(q).some((p) => FILTER.test(p));

/** Whether a query is words alone, as the command line's search takes them. @param {string} q */
export const isPlain = (q) => !pieces(q).some((p) => FILTER.test(p) || p.startsWith("-"));
