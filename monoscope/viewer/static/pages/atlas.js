/** The atlas: every feature as a table and a map, narrowed by the search box and the facets. */
import { binary, useApi } from "../api.js";
import { Copy, ErrorState } from "../components.js";
import { python, shell, whole } from "../format.js";
import { html, useCallback, useEffect, useMemo, useRef, useState } from "../kit.js";
import { link, navigate, useQuery } from "../router.js";
import { Facets } from "./atlas/facets.js";
import { MapView } from "./atlas/map.js";
import { isPlain, isSentence, pieces, toggled } from "./atlas/query.js";
import { Table, forget } from "./atlas/table.js";

export const title = "Atlas";

/** The order of what a query finds. The last stays while the next is awaited. @param {Record<string, any>} asked */
function useOrder(asked) {
  const [state, setState] = useState(/** @type {{order: Uint32Array | null, sort: string, error: any}} */ ({ order: null, sort: "", error: null }));
  const key = JSON.stringify(asked);
  useEffect(() => {
    const stop = new AbortController();
    binary("/features/order", asked, stop.signal).then(
      ({ data, headers }) => setState({ order: new Uint32Array(data), sort: headers.get("x-sort") || "", error: null }),
      (error) => stop.signal.aborted || setState((s) => ({ ...s, error })),
    );
    return () => stop.abort();
  }, [key]);
  return state;
}

/** @param {{atlas: any, query: Record<string, string>}} props */
export function Page({ atlas }) {
  const [query, setQuery] = useQuery();
  const { q = "", sort = "", order: way = "", box = "", map = "" } = query;
  const asked = useMemo(() => ({ q, sort, order: way, box }), [q, sort, way, box]);
  const { order, sort: sorted, error } = useOrder(asked);
  const facets = useApi(error ? null : "/features/facets", { q, box });
  const [at, setAt] = useMarked(query.at, setQuery);
  const [over, setOver] = useState(/** @type {number | null} */ (null));
  useEffect(() => forget, []);
  const descending = way ? way === "desc" : sorted !== "latent";
  const onSort = (/** @type {string} */ by) => setQuery(
    by !== sorted ? { sort: by, order: "" } : { sort: by, order: descending ? "asc" : "desc" }, { push: true });
  const onQ = useCallback((/** @type {string} */ next) => setQuery({ q: next }, { push: true }), [setQuery]);
  const list = useMemo(() => ({ ...asked, sort: sorted }), [asked, sorted]);
  const n = order?.length ?? null;
  const wide = map === "wide";
  const roomy = useMemo(() => wide || !matchMedia("(max-width: 1000px)").matches, [wide]);
  return html`<div class="atlas ${wide ? "wide" : ""}">
    <div class="atlas-head"><div><h1>Atlas</h1><p class="sub">${summary(atlas, n, q, box)}</p></div>
      <${Tools} atlas=${atlas} q=${q} sort=${sort} />
    </div>
    <${Chips} q=${q} box=${box} onQ=${onQ} onBox=${(/** @type {string} */ b) => setQuery({ box: b })} />
    ${isSentence(q) && html`<p class="warn">This reads like a passage. <a href=${link("/lens", { t: q })}>Which features fire on it?</a></p>`}
    <div class="atlas-body">
      <section class="atlas-list" aria-label="Table">
        ${error ? html`<div class="panel"><${ErrorState} problem=${error.problem || { detail: error.message }} /></div>`
          : html`<${Table} order=${order} sort=${sorted} descending=${descending} onSort=${onSort} context=${list} at=${at} onAt=${setAt} onOver=${setOver} />`}
      </section>
      <aside class="atlas-side">
        <details class="panel fold" open=${roomy}><summary><h2>Map</h2><span class="aside">decoder directions, near ones near</span></summary>
          <${MapView} order=${order} whole=${!q && !box} at=${over ?? at} box=${box} onBox=${(/** @type {string} */ b) => setQuery({ box: b }, { push: true })}
            onOpen=${(/** @type {number} */ i) => navigate(link(`/f/${i}`, list))} />
          <p class="note row"><span>Hover names, click opens, drag selects.</span>
            <button class="linky" onClick=${() => setQuery({ map: wide ? "" : "wide" })} aria-pressed=${wide}>${wide ? "smaller" : "larger"}</button></p>
        </details>
        <details class="panel fold" open=${roomy}><summary><h2>Narrow down</h2></summary>
          <${Facets} of=${facets} q=${q} onQ=${onQ} /></details>
      </aside>
    </div>
  </div>`;
}

/**
 * The marked latent, kept in the address a moment after it last changed.
 * @param {string | undefined} given @param {(patch: Record<string, any>) => void} setQuery
 * @returns {[number | null, (latent: number) => void]}
 */
function useMarked(given, setQuery) {
  const [at, setAt] = useState(/** @type {number | null} */ (given ? Number(given) : null));
  const timer = useRef(0);
  const mark = useCallback((/** @type {number} */ latent) => {
    setAt(latent);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setQuery({ at: latent }), 400);
  }, [setQuery]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return [at, mark];
}

/** @param {any} atlas @param {number | null} n @param {string} q @param {string} box */
function summary(atlas, n, q, box) {
  if (!atlas) return " ";
  const all = `${whole(atlas.n_features)} features, ${whole(atlas.n_alive)} of them alive over ${whole(atlas.n_tokens)} tokens of ${atlas.corpus.name || "text"}.`;
  return q || box ? `${all} ${n === null ? "…" : whole(n)} match.` : all;
}

/** @param {{q: string, box: string, onQ: (q: string) => void, onBox: (b: string) => void}} props */
function Chips({ q, box, onQ, onBox }) {
  const all = pieces(q);
  return html`<div class="terms" aria-label="Filters in force">
    ${all.map((term) => html`<button key=${term} class="term" onClick=${() => onQ(toggled(q, term))} aria-label="Take away ${term}"><code>${term}</code><span aria-hidden="true">×</span></button>`)}
    ${box && html`<button class="term" onClick=${() => onBox("")} aria-label="Take away the map's selection"><span>region of the map</span><span aria-hidden="true">×</span></button>`}
    <details class="grammar"><summary>how to search</summary><${Grammar} onQ=${onQ} q=${q} /></details>
  </div>`;
}

const EXAMPLES = [
  ["paris", "in a label, in the tokens it fires on, in what it raises, in metadata"],
  ['" Paris"', "exactly this token"],
  ["density<1e-3", "also max, mean, score (F1), auc, fires; with < <= > >= ="],
  ["score>0.5", "labels that predict well on held-out text"],
  ['logit:" the"', "raises this token; lowers: the other end; token: fires on it"],
  ["label:french", "in the label alone"],
  ["meta:lang=es>0.8", "four fifths of its activation on such documents; half without a number"],
  ["-dead", "not; also alive dense labelled unclear human"],
  ["id:10-20", "by number; list:bookmarks and note:… find what you kept"],
];

/** @param {{q: string, onQ: (q: string) => void}} props */
function Grammar({ q, onQ }) {
  return html`<div class="grammar-sheet"><p class="note">Every term must hold. A minus in front turns one round.</p>
    <dl>${EXAMPLES.map(([term, says]) => html`<div key=${term}><dt><button class="linky mono" onClick=${() => onQ(`${q} ${term}`.trim())}>${term}</button></dt><dd>${says}</dd></div>`)}</dl></div>`;
}

/** @param {{atlas: any, q: string, sort: string}} props */
function Tools({ atlas, q, sort }) {
  if (!atlas) return null;
  const folder = atlas.folder, address = () => `${location.origin}/api/v1/features?${new URLSearchParams({ q, sort, limit: "50" })}`;
  const command = () => isPlain(q)
    ? `monoscope features ${shell(folder)}${q ? ` --search ${shell(q)}` : ""}${["density", "max", "latent"].includes(sort) ? ` --sort ${sort}` : ""}`
    : `curl ${shell(address())}`;
  const code = () => isPlain(q)
    ? `import monoscope as ms\n\natlas = ms.load_atlas(${python(folder)})\nfor row in ${q ? `atlas.search(${python(q)})` : "atlas.list()"}:\n    print(row.latent, row.label, row.label_f1)\n`
    : `import json, urllib.request\n\npage = json.load(urllib.request.urlopen(${python(address())}))\nfor row in page["items"]:\n    print(row["latent"], row["label"], row["label_f1"])\n`;
  return html`<div class="row tools"><${Copy} label="Copy link" text=${() => location.href} title="This page as it stands" />
    <${Copy} label="as command" text=${command} /><${Copy} label="as Python" text=${code} /></div>`;
}
