/** The atlas: every feature as a table and a map, narrowed by the search box and the facets. */
import { binary, useApi } from "../api.js";
import { Copy, ErrorState } from "../components.js";
import { flag, python, shell, whole } from "../format.js";
import { html, useCallback, useEffect, useMemo, useRef, useState } from "../kit.js";
import { link, navigate, useQuery } from "../router.js";
import { useModel } from "../shell/model.js";
import { asCommand, asPython } from "./lens/copies.js";
import { useExamples } from "../shell/search.js";
import { Facets } from "./atlas/facets.js";
import { MapView } from "./atlas/map.js";
import { PassageHead, usePassage } from "./atlas/passage.js";
import { isPlain, passageOf, pieces, toggled } from "./atlas/query.js";
import { Table, forget } from "./atlas/table.js";

export const title = "Atlas";

/** The order of what a query finds. The last stays while the next is awaited. @param {Record<string, any> | null} asked null: nothing */
function useOrder(asked) {
  const [state, setState] = useState(/** @type {{order: Uint32Array | null, sort: string, error: any}} */ ({ order: null, sort: "", error: null }));
  const key = JSON.stringify(asked);
  useEffect(() => {
    if (!asked) { setState({ order: null, sort: "", error: null }); return; }
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
  const model = useModel();
  const passage = passageOf(query), able = model?.state === "ready" || model?.state === "loading";
  const read = passage !== null && (!model || able) ? passage : null; // without a model its words are searched for
  const reading = usePassage(able ? read : null, query.dense === "1");
  const { order: found, sort: sorted, error: failed } = useOrder(read === null ? asked : null);
  const order = read === null ? found : reading.data?.order ?? null, error = read === null ? failed : null;
  const facets = useApi(error || read !== null ? null : "/features/facets", { q, box });
  const [at, setAt] = useMarked(query.at, setQuery);
  const [over, setOver] = useState(/** @type {number | null} */ (null));
  useEffect(() => forget, []);
  const descending = way ? way === "desc" : sorted !== "latent";
  const onSort = (/** @type {string} */ by) => setQuery(
    by !== sorted ? { sort: by, order: "" } : { sort: by, order: descending ? "asc" : "desc" }, { push: true });
  const onQ = useCallback((/** @type {string} */ next) => setQuery({ q: next }, { push: true }), [setQuery]);
  const list = useMemo(() => read === null ? { ...asked, sort: sorted, read: query.read } : { q, read: query.read }, [asked, sorted, read, query.read]);
  const n = order?.length ?? null;
  const wide = map === "wide";
  const roomy = useMemo(() => wide || !matchMedia("(max-width: 1000px)").matches, [wide]);
  return html`<div class="atlas ${wide ? "wide" : ""}">
    <div class="atlas-head"><div><h1>Atlas</h1><p class="sub">${summary(atlas, error ? null : n, read === null && !error ? q : "", error ? "" : box)}</p></div>
      ${read === null ? html`<${Tools} atlas=${atlas} asked=${asked} />` : html`<${PassageTools} atlas=${atlas} model=${model} text=${read} reading=${reading.data} dense=${query.dense === "1"} />`}
    </div>
    <${Chips} q=${read === null ? q : ""} box=${box} onQ=${onQ} onBox=${(/** @type {string} */ b) => setQuery({ box: b })}>
      ${passage === null && able && isPlain(q) && pieces(q).length > 1 && html`<button class="linky dim" onClick=${() => setQuery({ read: "text" }, { push: true })}>what fires on this text?</button>`}<//>
    ${passage !== null && html`<${PassageHead} text=${passage} model=${model} reading=${reading} dense=${query.dense === "1"} set=${(/** @type {any} */ patch) => setQuery(patch, { push: true })} />`}
    <div class="atlas-body">
      <section class="atlas-list" aria-label="Table">
        ${error ? html`<div class="panel"><${ErrorState} problem=${error.problem || { detail: error.message }} /></div>`
          : html`<${Table} order=${order} sort=${sorted} descending=${descending} onSort=${onSort} context=${list} at=${at} onAt=${setAt} onOver=${setOver}
            firing=${read === null ? null : reading.data?.firing} waiting=${read !== null} />`}
      </section>
      <aside class="atlas-side">
        <details class="panel fold" open=${roomy}><summary><h2>Map</h2><span class="aside">decoder directions, near ones near</span></summary>
          <${MapView} order=${order} whole=${!q && !box} at=${over ?? at} box=${read === null ? box : ""} onBox=${(/** @type {string} */ b) => setQuery({ box: b }, { push: true })}
            onOpen=${(/** @type {number} */ i) => navigate(link(`/f/${i}`, list))} />
          <p class="note row"><span>Hover names, click opens, drag selects; arrow keys too.</span>
            <button class="linky" onClick=${() => setQuery({ map: wide ? "" : "wide" })} aria-pressed=${wide}>${wide ? "smaller" : "larger"}</button></p>
        </details>
        <details class="panel fold" open=${roomy}><summary><h2>Narrow down</h2></summary>
          ${error ? html`<p class="note">What is found can be narrowed down once the query makes sense.</p>` : read === null ? html`<${Facets} of=${facets} q=${q} onQ=${onQ} />` : html`<p class="note">Filters narrow a search. What fires on a passage is listed whole.</p>`}</details>
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

/** @param {{q: string, box: string, onQ: (q: string) => void, onBox: (b: string) => void, children?: any}} props */
function Chips({ q, box, onQ, onBox, children }) {
  const all = pieces(q);
  return html`<div class="terms" aria-label="Filters in force">
    ${all.map((term) => html`<button key=${term} class="term" onClick=${() => onQ(toggled(q, term))} aria-label="Take away ${term}"><code>${term}</code><span aria-hidden="true">×</span></button>`)}
    ${box && html`<button class="term" onClick=${() => onBox("")} aria-label="Take away the map's selection"><span>region of the map</span><span aria-hidden="true">×</span></button>`}
    <details class="grammar"><summary>how to search</summary><${Grammar} onQ=${onQ} q=${q} /></details>
    ${children}
  </div>`;
}

/** Ways to search, each with the example that finds something here: its name among the atlas's own, or the term itself. @type {[string, string | null, string][]} */
const WAYS = [
  ["word", null, "in a label, in the tokens it fires on, in what it raises, in metadata"],
  ["token", null, "exactly this token"],
  ["density", "density<1e-3", "also max, mean, score (F1), auc, fires, reads (AUC), writes (nats); with < <= > >= ="],
  ["score", null, "labels that predict as well as that on held-out text"],
  ["logit", null, "raises this token; lowers: the other end; token: fires on it"],
  ["label", null, "in the label alone"],
  ["meta", null, "that much of its activation on such documents; half without a number"],
  ["", "-dead", "not; also alive dense labelled unclear human"],
  ["", "id:0-20", "by number; list:bookmarks and note:… find what you kept"],
];

/** @param {{q: string, onQ: (q: string) => void}} props */
function Grammar({ q, onQ }) {
  const own = useExamples();
  const ways = WAYS.map(([name, term, says]) => /** @type {const} */ ([own?.[name] || term, says])).filter(([term]) => term);
  return html`<div class="grammar-sheet"><p class="note">Every term must hold. A minus in front turns one round. A sentence is read by the model: what fires on it?</p>
    <dl>${ways.map(([term, says]) => html`<div key=${term}><dt><button class="linky mono" onClick=${() => onQ(`${q} ${term}`.trim())}>${term}</button></dt><dd>${says}</dd></div>`)}</dl></div>`;
}

/** @param {{atlas: any, model: any, text: string, reading: import("./atlas/passage.js").Reading | null, dense: boolean}} props */
function PassageTools({ atlas, model, text, reading, dense }) {
  if (!atlas) return null;
  const view = { text, other: null, chat: false, by: "max", n: reading?.n_tokens || 0, dense };
  const why = reading ? "" : "when the passage is read";
  return html`<div class="row tools"><${Copy} label="Copy link" text=${() => location.href} title="This page as it stands" />
    <${Copy} label="as command" disabled=${!reading} text=${() => asCommand(view, model, atlas.folder)} title=${why || "The same in a terminal"} />
    <${Copy} label="as Python" disabled=${!reading} text=${() => asPython(view, model, atlas.folder)} title=${why || "The same in Python"} /></div>`;
}

/** @param {{atlas: any, asked: {q: string, sort: string, order: string, box: string}}} props */
function Tools({ atlas, asked }) {
  if (!atlas) return null;
  const { q, ...rest } = asked;
  const given = Object.entries(rest).filter(([, value]) => value);
  const command = () => [`monoscope features ${shell(atlas.folder)}`, ...(q ? [flag("--search", q)] : []), ...given.map(([name, value]) => flag(`--${name}`, value))].join(" ");
  const code = () => `import monoscope as ms
from monoscope.viewer.finding import find_features

atlas = ms.load_atlas(${python(atlas.folder)})
for row in find_features(${["atlas", ...(q ? [python(q)] : []), ...given.map(([name, value]) => `${name}=${python(value)}`)].join(", ")}):
    print(row.latent, row.label, row.label_f1)
`;
  return html`<div class="row tools"><${Copy} label="Copy link" text=${() => location.href} title="This page as it stands" />
    <${Copy} label="as command" text=${command} title="The same in a terminal" /><${Copy} label="as Python" text=${code} title="The same in Python" /></div>`;
}
