/** Runs: training as it goes, several runs side by side, and what each came to. */
import { useApi } from "../api.js";
import { Await, Copy, Empty, ErrorState, Panel } from "../components.js";
import { html, useEffect } from "../kit.js";
import { ON_DISK, link, useQuery } from "../router.js";
import { along, useKeys } from "../shell/keys.js";
import { asCommand, asPython } from "./run/copies.js";
import { Curves } from "./run/curves.js";
import { Detail } from "./run/detail.js";
import { Frontier } from "./run/frontier.js";
import { RunTable } from "./run/table.js";
import { useCurves } from "./run/news.js";

export const title = "Runs";
const POLL_MS = 4000; // between looks for runs that came, ended or were evaluated
const SHOWN = 4; // curves drawn where the address names none

/** @typedef {{id: string, status: string, recipe: string | null, activation: string | null, d_in: number | null, d_sae: number | null,
 *   k: number | null, lr: number | null, seed: number | null, n_tokens: number, total_tokens: number | null, fvu: number | null,
 *   l0: number | null, dead_fraction: number | null, changed: number, held_out: any}} RunRow */

export function Page() {
  const list = useApi("/runs");
  useEffect(() => {
    if (ON_DISK) return;
    const timer = setInterval(() => { if (!document.hidden) list.reload(); }, POLL_MS);
    return () => clearInterval(timer);
  }, []);
  // A poll in flight must not dim the page.
  return html`<h1>Runs</h1><${Await} of=${{ ...list, loading: false }} lines=${8}>${(/** @type {any} */ data) => html`<${Runs} found=${data} />`}<//>`;
}

/** @param {{found: {root: string, runs: RunRow[], more: boolean}}} props */
function Runs({ found }) {
  const [query, setQuery] = useQuery();
  const newest = [...found.runs].sort((a, b) => b.changed - a.changed);
  const known = new Set(found.runs.map((run) => run.id));
  const named = query.show === undefined ? null : query.show.split(",").map(unescaped);
  const asked = named && named.filter((id) => known.has(id));
  const lost = [...(named || []), ...(query.run === undefined ? [] : [query.run])].filter((id) => id !== "-" && !known.has(id));
  const shown = asked || newest.slice(0, SHOWN).map((run) => run.id);
  const order = found.runs.filter((run) => shown.includes(run.id));
  const focus = known.has(query.run) ? query.run : (order[0] || newest[0])?.id;
  const curves = useCurves(order);
  useKeys({ j: () => along(".runtable .name button", 1), k: () => along(".runtable .name button", -1) });
  if (!found.runs.length) {
    return html`<${Empty} title="No runs here yet">Nothing under <code>${found.root}</code> was trained by monoscope.
      Train one with <code>monoscope train STORE --out ${found.root}/sae</code>, or name another folder: <code>monoscope view ATLAS --runs DIR</code>.<//>`;
  }
  const toggle = (/** @type {string} */ id) => setQuery({
    show: (shown.includes(id) ? shown.filter((other) => other !== id) : [...shown, id]).map(encodeURIComponent).join(",") || "-",
  });
  const view = { root: found.root, shown: order.map((run) => run.id), focus };
  // The address as it is may leave the runs to what is newest; what is shared names them.
  const address = () => new URL(link("/run", { ...query, show: order.map((run) => encodeURIComponent(run.id)).join(",") || "-", run: focus }), location.href).href;
  const training = found.runs.filter((run) => run.status === "running").length;
  return html`<p class="sub">${found.runs.length === 1 ? "One run" : `${found.runs.length} runs`} under <code>${found.root}</code>${training ? html`, <b>${training} training now</b>` : ""}.
      ${found.more && "The folder is large: there may be more further down."}</p>
    ${lost.length > 0 && html`<${ErrorState} problem=${{ detail: "the address names a run that is not here", got: [...new Set(lost)].join(", "), expected: "a run of the table below" }} />`}
    <div class="runs">
      <${Panel} title="Runs found" class="wide"><${RunTable} runs=${found.runs} shown=${shown} focus=${focus} toggle=${toggle} open=${(/** @type {string} */ id) => setQuery({ run: id }, { push: true })} /><//>
      <${Curves} runs=${order} curves=${curves} log=${query.axis === "log"} setLog=${(/** @type {boolean} */ on) => setQuery({ axis: on ? "log" : "" })} />
      <${Frontier} runs=${found.runs} shown=${shown} focus=${focus} open=${(/** @type {string} */ id) => setQuery({ run: id }, { push: true })} />
      ${focus && html`<${Detail} key=${focus} id=${focus} row=${found.runs.find((run) => run.id === focus)} curve=${curves[focus]} root=${found.root} />`}
    </div>
    <div class="row share"><${Copy} label="Copy link" text=${address} title="An address that holds all of this" />
      <${Copy} label="Copy command" text=${() => asCommand(view)} title="How it was trained and what it came to, in a terminal" />
      <${Copy} label="Copy Python" text=${() => asPython(view)} title="The figures of the runs drawn, in Python" /></div>`;
}

/** @param {string} id as an address holds it */
function unescaped(id) {
  try { return decodeURIComponent(id); } catch { return id; }
}
