/**
 * The API answered from files beside the page, for a page that was exported and is opened from disk.
 * Reads only; what would need the running model says so. Part of exported pages alone.
 */
import { setTransport } from "./api.js";
import { selected } from "./disk/search.js";
import { facets } from "./disk/facets.js";
import { QueryError } from "./disk/grammar.js";

/** Data files are classic scripts that call this: a page from disk may not fetch. */
const given = /** @type {Record<string, (data: any) => void>} */ ({});
const held = /** @type {Record<string, Promise<any>>} */ ({});
/** @type {any} */ (globalThis).monoscopeGive = (/** @type {string} */ name, /** @type {any} */ data) => given[name]?.(data);

/** The content of data/NAME.js. @param {string} name @returns {Promise<any>} */
function load(name) {
  return held[name] ??= new Promise((resolve, reject) => {
    given[name] = resolve;
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onerror = () => { delete held[name]; reject(new TypeError(`data/${name}.js is missing beside the page`)); };
    document.head.append(script);
  });
}

/** @param {any} body @param {number} [status] */
const json = (body, status = 200) => new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
/** @param {number} status @param {string} detail @param {string} [hint] */
const problem = (status, detail, hint) => json({ title: "Not in this export", status, detail, hint }, status);
const LIVE = "Start `monoscope view` on the atlas itself for this.";

setTransport(async (address, init) => {
  const url = new URL(address, "http://disk");
  const path = url.pathname.replace(/^\/api\/v1/, "");
  if ((init?.method || "GET") !== "GET") return problem(405, "an exported page cannot be changed and has no model to ask", LIVE);
  const index = await load("index");
  const known = index.answers[path + url.search] ?? index.answers[path];
  if (known !== undefined) return json(known);
  const query = Object.fromEntries(url.searchParams);
  for (const [pattern, answer] of ROUTES) {
    const match = path.match(pattern);
    if (match) return answered(() => answer(index, query, match, url));
  }
  return problem(404, `an exported page does not hold ${path}`, LIVE);
});

/** An answer; a query that makes no sense becomes the problem that the server would tell. @param {() => Promise<Response> | Response} answer */
async function answered(answer) {
  try { return await answer(); } catch (error) {
    if (!(error instanceof QueryError)) throw error;
    return json({ title: "Bad Request", status: 400, detail: error.message, ...error.more }, 400);
  }
}

/** @type {[RegExp, (index: any, query: Record<string, string>, match: RegExpMatchArray, url: URL) => Promise<Response> | Response][]} */
const ROUTES = [
  [/^\/features\/order$/, async (index, query) => {
    const found = selected(await load("table"), query);
    return new Response(new Uint32Array(found.rows.map((row) => row.latent)), { headers: { "x-sort": found.sort } });
  }],
  [/^\/features\/facets$/, async (index, query) => {
    const table = await load("table");
    const found = selected(table, query);
    return json(facets(table, found.rows, index.lists));
  }],
  [/^\/features\/rows$/, async (index, query, match, url) => {
    const ids = url.searchParams.getAll("ids").map(Number);
    const rows = await Promise.all(ids.map((id) => chunked("rows", index.rows_per_file, id)));
    return json(rows.filter((row) => row !== undefined));
  }],
  [/^\/features\/(\d+)\/around$/, async (index, query, match) => {
    const { rows } = selected(await load("table"), query);
    const latent = Number(match[1]), at = rows.findIndex((row) => row.latent === latent);
    return json({ latent, previous: rows[at - 1]?.latent ?? null, next: at < 0 ? null : rows[at + 1]?.latent ?? null, rank: at < 0 ? null : at + 1, total: rows.length });
  }],
  [/^\/features\/(\d+)\/history$/, () => json({ items: [] })],
  [/^\/features\/(\d+)$/, async (index, query, match) => {
    const found = await chunked("features", index.features_per_file, Number(match[1]));
    return found === undefined ? problem(404, `feature ${match[1]} is not in this export`, `It holds ${index.n_features} of ${index.of}.`) : json(found);
  }],
  [/^\/documents\/(\d+)$/, async (index, query, match) => {
    const doc = Number(match[1]);
    const found = await chunked("documents", index.documents_per_file, doc);
    if (found === undefined) return problem(404, "this document is not in this export", LIVE);
    const values = found.pieces.map(() => null);
    const feature = query.latent === undefined ? null : await chunked("features", index.features_per_file, Number(query.latent));
    for (const example of feature?.examples || []) {
      if (example.doc === doc) example.values.forEach((/** @type {number} */ v, /** @type {number} */ i) => { values[example.start + i] = v; });
    }
    return json({ ...found, values, n_recorded: values.filter((/** @type {number | null} */ v) => v !== null).length });
  }],
  [/^\/map\/points$/, async () => {
    const text = atob(await load("map"));
    return new Response(Uint8Array.from(text, (c) => c.charCodeAt(0)));
  }],
  [/^\/runs\/curve$/, (index, query) => json(index.curves[query.id])],
  [/^\/runs\/one$/, (index, query) => json(index.runs[query.id])],
  [/^\/compare$/, async (index, query) => {
    const name = index.comparisons[`${query.a}|${query.b}`];
    if (name === undefined) return problem(404, "this pair of atlases is not in this export", LIVE);
    const all = await load(name);
    if (Number(query.threshold) !== all.threshold) return problem(404, `an exported comparison stands at a cosine of ${all.threshold}`, LIVE);
    const words = (query.q || "").toLowerCase().split(/\s+/).filter(Boolean);
    const named = (/** @type {any} */ row) => words.every((word) => (row.label || "").toLowerCase().includes(word));
    const items = all.items.filter((/** @type {any} */ f) => (!query.kind || f.kind === query.kind) && (!words.length || [...f.a, ...f.b].some(named)));
    const start = Number(query.cursor || 0), stop = start + Number(query.limit || 50);
    return json({ ...all, items: items.slice(start, stop), total: items.length, next_cursor: stop < items.length ? String(stop) : null });
  }],
];

/** One record of those that lie in files by number. @param {string} kind @param {number} per @param {number} id */
async function chunked(kind, per, id) {
  const index = await load("index"), file = Math.floor(id / per);
  return index.files[kind].includes(file) ? (await load(`${kind}-${file}`))[id] : undefined;
}
