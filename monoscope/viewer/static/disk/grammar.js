/**
 * The search box's grammar for exported pages: text to terms, and each mistake in the words of
 * `viewer/grammar.py`, which says what the grammar is.
 */

export const FIGURES = ["density", "max", "mean", "score", "auc", "fires", "reads", "writes"];
const FIELDS = ["label", "token", "logit", "lowers", "meta", "id", "list", "note"];
const FLAGS = ["dead", "alive", "dense", "labelled", "unclear", "human"];
const LEAST_SHARE = 0.1, MOST_TERMS = 32, MOST_IDS = 10_000;
const OPERATORS = "<=, >=, <, > or =";
const COMPARE = /^([A-Za-z_]+)(<=|>=|<|>|=)(.*)$/s;
const LOOSE = /^[<>=]/;
const TURNED = new RegExp(`^[^"]*[<>=](?:${FIGURES.join("|")})(?:[<>=].*)?$`, "is");
const NUMBER = /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
const NAMED = /^([A-Za-z_]+):(.*)$/s;
const RANGE = /^([0-9]{1,9})(?:-([0-9]{1,9}))?$/;
const SHARE = /^([^=<>]+=[^<>]+?)(?:(>=?)([^<>]*))?$/s;
const SPACE = /[\s\x1c-\x1f\x85]/; // as Python's str.isspace has it

/** @typedef {{kind: string, value: string, exact: boolean, negative: boolean, name: string, operator: string, number: number, ranges: [number, number][]}} Term */

/** A query that makes no sense: what was wrong, and the rest of a problem. */
export class QueryError extends Error {
  /** @param {string} what @param {{got?: string, expected?: string, hint?: string}} [more] */
  constructor(what, more = {}) {
    super(what);
    this.more = more;
  }
}

/** @param {string} kind @param {Partial<Term>} given @returns {Term} */
const made = (kind, given) => ({ kind, value: "", exact: false, negative: false, name: "", operator: "", number: 0, ranges: [], ...given });

/** Take a query apart. @param {string} text @returns {Term[]} throws QueryError */
export function parse(text) {
  const pieces = cut(text);
  pieces.slice(1).forEach((piece, i) => {
    const figure = pieces[i].replace(/^-+/, "").toLowerCase();
    if (FIGURES.includes(figure) && LOOSE.test(piece)) throw new QueryError("a comparison is torn apart", { got: shown(`${pieces[i]} ${piece}`), expected: `no spaces, as in ${figure}>0.01` });
  });
  const terms = pieces.map(term);
  if (terms.length > MOST_TERMS) throw new QueryError("too many terms in the query", { got: String(terms.length), expected: `at most ${MOST_TERMS}` });
  return terms;
}

/** The terms as typed: cut at spaces that are not between double quotes. @param {string} text */
function cut(text) {
  const pieces = [];
  let piece = "", quoted = false;
  for (const char of text) {
    if (char === '"') quoted = !quoted;
    if (char !== "\ufeff" && SPACE.test(char) && !quoted) {
      if (piece) pieces.push(piece);
      piece = "";
    } else piece += char;
  }
  if (quoted) throw new QueryError("a quote in the query is not closed", { got: shown(piece), expected: 'another "' });
  return piece ? [...pieces, piece] : pieces;
}

/** @param {string} piece */
function term(piece) {
  const negative = piece.length > 1 && piece.startsWith("-"), body = negative ? piece.slice(1) : piece;
  if (body.startsWith('"')) return word(body, negative);
  if (FLAGS.includes(body.toLowerCase())) return made("flag", { name: body.toLowerCase(), negative });
  const named = NAMED.exec(body);
  if (named && meant(named[1].toLowerCase())) return field(named[1].toLowerCase(), named[2], piece, negative);
  const compared = COMPARE.exec(body);
  if (compared) return figure(compared, piece, negative);
  if (TURNED.test(body)) {
    throw new QueryError("a comparison begins with its figure", { got: shown(piece), expected: "as in density>0.01", hint: "For both ends write it twice: density>0.001 density<0.01." });
  }
  return word(body, negative);
}

/** @param {string} body @param {boolean} negative */
function word(body, negative) {
  const { value, exact } = unquoted(body);
  if (!value) throw new QueryError("an empty word in the query", { got: shown(body), expected: "a word" });
  return made("word", { value, exact, negative });
}

/** @param {RegExpExecArray} compared @param {string} piece @param {boolean} negative */
function figure([, given, operator, limit], piece, negative) {
  const name = given.toLowerCase(), value = number(limit);
  if (!FIGURES.includes(name)) throw unknown(name, piece, FIGURES);
  if (!Number.isFinite(value)) throw new QueryError(`${name} is compared with no number`, { got: shown(piece), expected: `as in ${name}>0.01` });
  return made("figure", { name, operator, number: value, negative });
}

/** @param {string} given */
function number(given) {
  const bare = given.replace(/%$/, "");
  return (NUMBER.test(bare) ? Number(bare) : NaN) / (given.endsWith("%") ? 100 : 1);
}

/** @param {string} name @param {string} given @param {string} piece @param {boolean} negative */
function field(name, given, piece, negative) {
  if (FIGURES.includes(name)) throw new QueryError(`${name} is a figure`, { got: shown(piece), expected: `${name} ${OPERATORS} a number` });
  if (!FIELDS.includes(name)) throw unknown(name, piece, [...FIELDS, ...FIGURES]);
  const { value, exact } = unquoted(given);
  if (!value) throw new QueryError(`${name}: is followed by nothing`, { got: shown(piece), expected: example(name) });
  if (name === "id") return made("id", { value, negative, ranges: ranges(value, piece) });
  return name === "meta" ? meta(value, piece, negative) : made(name, { value, exact, negative });
}

/** @param {string} value @param {string} piece @returns {[number, number][]} */
function ranges(value, piece) {
  const found = value.split(",").map((part) => RANGE.exec(part));
  if (found.some((m) => !m) || found.length > MOST_IDS) throw new QueryError("id: names no latents", { got: shown(piece), expected: example("id") });
  return found.map((m) => [Number(m?.[1]), Number(m?.[2] ?? m?.[1])]);
}

/** @param {string} value @param {string} piece @param {boolean} negative */
function meta(value, piece, negative) {
  const found = SHARE.exec(value);
  if (!found) throw new QueryError("meta: names no value", { got: shown(piece), expected: example("meta") });
  const share = found[3] === undefined ? 0.5 : number(found[3]);
  if (!(share >= LEAST_SHARE && share <= 1)) {
    throw new QueryError("meta: is compared with no share", { got: shown(piece), expected: `a share from ${LEAST_SHARE} to 1, as in meta:lang=es>0.8` });
  }
  return made("meta", { value: found[1].trim(), number: share, negative });
}

/** @param {string} text */
function unquoted(text) {
  const exact = text.length > 1 && text.startsWith('"') && text.endsWith('"');
  return { value: exact ? text.slice(1, -1) : text.replace(/"/g, ""), exact };
}

/** Whether a name before a colon is a slip for a field; `http://…` and `10:30` are words. @param {string} name */
const meant = (name) => [...FIELDS, ...FIGURES].includes(name) || nearest(name, [...FIELDS, ...FIGURES]) !== null;

/** @param {string} name @param {string} piece @param {string[]} known */
function unknown(name, piece, known) {
  const close = nearest(name, known), quote = "Put words with signs in quotes.";
  return new QueryError("the query names something unknown", { got: shown(piece), expected: `one of ${known.join(", ")}`, hint: close ? `Did you mean ${close}? ${quote}` : quote });
}

/** @param {string} name */
function example(name) {
  const told = /** @type {Record<string, string>} */ ({ id: "id:123, id:1,2,3 or id:10-20", meta: "as in meta:lang=es or meta:lang=es>0.8", logit: 'as in logit:" Paris"' });
  return told[name] || `as in ${name}:paris or ${name}:"in Paris"`;
}

/** @param {string} piece */
const shown = (piece) => [...piece].length <= 60 ? piece : [...piece].slice(0, 59).join("") + "…";

/** The closest of some names to a mistyped one, as errors.nearest (difflib) has it. @param {string} name @param {string[]} names */
export function nearest(name, names) {
  const rated = names.map((other) => ({ other, ratio: (2 * shared(other, name)) / (other.length + name.length) })).filter(({ ratio }) => ratio >= 0.5);
  rated.sort((a, b) => b.ratio - a.ratio || (a.other < b.other ? 1 : -1));
  return rated.length ? rated[0].other : null;
}

/** Characters in common, by the longest run in both and then what is left and right of it (Ratcliff and Obershelp). @param {string} a @param {string} b @returns {number} */
function shared(a, b) {
  let best = { i: 0, j: 0, n: 0 };
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < b.length; j++) {
      let n = 0;
      while (i + n < a.length && j + n < b.length && a[i + n] === b[j + n]) n++;
      if (n > best.n) best = { i, j, n };
    }
  }
  if (!best.n) return 0;
  return best.n + shared(a.slice(0, best.i), b.slice(0, best.j)) + shared(a.slice(best.i + best.n), b.slice(best.j + best.n));
}
