/** The latents as a table of which only the rows in view exist; as long as a million of them. */
import { get } from "../../api.js";
import { Empty, Histogram, LabelWords, Loading, Meter, Tokens } from "../../components.js";
import { percent, short, visible } from "../../format.js";
import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from "../../kit.js";
import { link, navigate } from "../../router.js";
import { useKeys } from "../../shell/keys.js";

const CHUNK = 40; // rows asked for at once
const TALLEST = 8_000_000; // pixels; browsers cut elements not far above

const COLUMNS = [
  { sort: "latent", name: "latent", class: "c-id num", title: "number of the latent" },
  { sort: null, name: "label", class: "c-label", title: "a human's label, or the rule that predicts it best" },
  { sort: "score", name: "F1", class: "c-score num", title: "of the label's rule on held-out documents; 1 is perfect" },
  { sort: "density", name: "fires on", class: "c-density num", title: "share of tokens on which it is active" },
  { sort: "max", name: "max", class: "c-max num", title: "largest activation seen" },
  { sort: null, name: "activations", class: "c-hist", title: "how strong its activations are, both axes logarithmic" },
  { sort: null, name: "strongest context", class: "c-context", title: "around its largest activation" },
];

/** On a passage: its strength there in the place of the label's score, and the passage in that of the context. */
const ON_PASSAGE = COLUMNS.map((c) => ({ ...c, sort: null, ...({ "c-score num": { name: "here", title: "largest activation on the passage" }, "c-context": { name: "in the passage", title: "around its largest activation there" } })[c.class] }));

/** Rows by latent, kept for as long as the page is open. @type {Map<number, any>} */
const kept = new Map();
export const forget = () => kept.clear();

/**
 * Rows of latents, fetched a chunk at a time as they come into view.
 * @param {Uint32Array | null} order @param {number} first @param {number} last
 */
function useRows(order, first, last) {
  const [, redraw] = useState(0);
  useEffect(() => {
    if (!order || !order.length) return;
    const low = Math.floor(first / CHUNK) * CHUNK;
    const missing = [...order.subarray(low, Math.min(order.length, Math.ceil((last + 1) / CHUNK) * CHUNK))].filter((i) => !kept.has(i));
    if (!missing.length) return;
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      for (let i = 0; i < missing.length; i += CHUNK) {
        try {
          const rows = await get("/features/rows", { ids: missing.slice(i, i + CHUNK) }, stop.signal);
          if (kept.size > 20_000) kept.clear();
          for (const row of rows) kept.set(row.latent, row);
          redraw((n) => n + 1);
        } catch (error) { if (!stop.signal.aborted) console.warn("rows", error); return; }
      }
    }, kept.size ? 50 : 0);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [order, first, last]);
  return kept;
}

/**
 * @param {{order: Uint32Array | null, sort: string, descending: boolean, onSort: (sort: string) => void,
 *   context: Record<string, any>, at: number | null, onAt: (latent: number) => void, onOver: (latent: number | null) => void,
 *   firing?: Map<number, import("./passage.js").Firing> | null, waiting?: boolean}} props
 *   context: the query that a feature's page goes on in; at: the latent that is marked; firing: on the passage that the order is of; waiting: for the model
 */
export function Table({ order, sort, descending, onSort, context, at, onAt, onOver, firing = null, waiting = false }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [top, setTop] = useState(0);
  const [view, setView] = useState({ height: 600, row: 38 });
  const n = order ? order.length : 0;
  const full = n * view.row;
  const tall = Math.min(full, TALLEST);
  const reach = Math.max(1, tall - view.height);
  // Beyond TALLEST pixels the scrollbar speaks in shares of the whole, not in pixels.
  const offset = full > tall ? (top / reach) * (full - view.height) : top;
  const first = Math.max(0, Math.floor(offset / view.row) - 4);
  const last = Math.min(n - 1, Math.ceil((offset + view.height) / view.row) + 4);
  const rows = useRows(order, first, last);
  const marked = at === null || !order ? -1 : order.indexOf(at);

  useLayoutEffect(() => {
    if (!box.current) return;
    const measure = () => box.current && setView({ height: box.current.clientHeight, row: matchMedia("(max-width: 760px)").matches ? 62 : 38 });
    const watch = new ResizeObserver(measure);
    watch.observe(box.current);
    measure();
    return () => watch.disconnect();
  }, []);
  const show = useCallback((/** @type {number} */ index) => {
    if (!box.current) return;
    const y = index * view.row;
    if (y < offset || y + view.row > offset + view.height) {
      const wanted = Math.max(0, y - view.height / 2 + view.row / 2);
      box.current.scrollTop = full > tall ? (wanted / Math.max(1, full - view.height)) * reach : wanted;
    }
  }, [offset, view, full, tall, reach]);
  useEffect(() => { if (box.current) box.current.scrollTop = 0; }, [order]);
  useEffect(() => { if (marked >= 0) show(marked); }, [order, marked]);

  const move = (/** @type {number} */ by) => {
    if (!order || !n) return;
    const next = Math.min(n - 1, Math.max(0, marked < 0 ? 0 : marked + by));
    onAt(order[next]);
  };
  const open = () => { if (marked >= 0 && order) navigate(link(`/f/${order[marked]}`, context)); };
  const page = Math.max(1, Math.floor(view.height / view.row) - 1);
  useKeys({ j: () => move(1), k: () => move(-1), Enter: open });
  const arrows = (/** @type {KeyboardEvent} */ event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -n, End: n }[event.key];
    if (by !== undefined) { event.preventDefault(); move(by); }
  };

  return html`<div class="grid" role="table" aria-label="Features" aria-rowcount=${n + 1}>
    <div role="rowgroup" class="g-head"><div role="row" class="g-row">${(firing ? ON_PASSAGE : COLUMNS).map((c) => html`
      <div role="columnheader" key=${c.name} class=${c.class} title=${c.title} aria-sort=${c.sort && c.sort === sort ? (descending ? "descending" : "ascending") : undefined}>
        ${c.sort ? html`<button class="sorter ${c.sort === sort ? "on" : ""}" onClick=${() => onSort(/** @type {string} */ (c.sort))}>${c.name}<span aria-hidden="true">${c.sort === sort ? (descending ? " ↓" : " ↑") : ""}</span></button>` : c.name}</div>`)}</div></div>
    <div class="g-body" ref=${box} tabindex="0" role="rowgroup" aria-label="Rows; arrows move, Enter opens" onKeyDown=${arrows}
      onScroll=${(/** @type {any} */ e) => setTop(e.currentTarget.scrollTop)}>
      ${order === null ? html`<${Loading} lines=${9} />${!waiting && html`<p class="late note">The atlas is being read. That is done once, when it is opened; a million features take a while.</p>`}` : n === 0 ? html`<${Empty} title="No feature is like that">Take a filter away, or look at how filters are written.<//>` : html`
      <div class="g-space" role="presentation" style=${{ height: `${tall}px` }}>
        ${Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i).map((index) => html`
          <${Row} key=${index} latent=${order[index]} firing=${firing?.get(order[index])} index=${index} row=${rows.get(order[index])} y=${full > tall ? index * view.row - offset + top : index * view.row}
            height=${view.row} on=${index === marked} context=${context} onOver=${onOver} />`)}
      </div>`}
    </div>
  </div>`;
}

/** @param {any} props */
function Row({ latent, index, row, y, height, on, context, onOver, firing }) {
  const href = link(`/f/${latent}`, context);
  const style = { transform: `translateY(${y}px)`, height: `${height}px` };
  const go = (/** @type {MouseEvent} */ event) => {
    if (/** @type {Element} */ (event.target).closest("a") || getSelection()?.toString()) return;
    navigate(href);
  };
  if (!row) {
    return html`<div role="row" class="g-row body" aria-rowindex=${index + 2} style=${style}><div role="cell" class="c-id num"><a href=${href}>${latent}</a></div><div role="cell" class="c-label"><i class="bone"></i></div></div>`;
  }
  const dead = !row.n_active;
  return html`<div role="row" class="g-row body ${on ? "on" : ""} ${dead ? "dead" : ""}" aria-rowindex=${index + 2} style=${style} onClick=${go} onMouseEnter=${() => onOver(latent)} onMouseLeave=${() => onOver(null)}>
    <div role="cell" class="c-id num"><a href=${href}>${latent}</a></div>
    <div role="cell" class="c-label"><${LabelText} row=${row} /></div>
    <div role="cell" class="c-score num">${firing ? html`<${Meter} value=${firing.share} label=${`${short(firing.max)} here`} /><span> ${short(firing.max)}</span>` : row.label_f1 === null ? html`<span class="dim">${row.label_method === "human" ? "yours" : "–"}</span>` : html`<${Meter} value=${row.label_f1} label="F1 ${row.label_f1.toFixed(2)}" /><span> ${row.label_f1.toFixed(2)}</span>`}</div>
    <div role="cell" class="c-density num">${dead ? "never" : percent(row.density)}</div>
    <div role="cell" class="c-max num">${dead ? "" : short(row.max)}</div>
    <div role="cell" class="c-hist">${dead ? "" : html`<${Spark} bins=${row.hist} />`}</div>
    <div role="cell" class="c-context">${firing ? html`<${Tokens} ...${around(firing)} max=${row.max} flat />` : row.context && html`<${Tokens} ...${around(row.context)} max=${row.max} flat />`}</div>
  </div>`;
}

const BEFORE = 18, AFTER = 24; // characters shown ahead of the peak, tokens from it on

/** A context cut so that its peak is seen in a narrow column. @param {{pieces: string[], values: (number | null)[], peak: number}} context */
function around({ pieces, values, peak }) {
  let first = peak, room = BEFORE;
  while (first > 0 && (room -= pieces[first - 1].length) >= 0) first--;
  const cut = pieces.slice(first, peak + AFTER);
  if (cut.length) cut[0] = cut[0].replace(/^\s+/, peak > first ? "" : " ");
  return { pieces: cut, values: values.slice(first, peak + AFTER), peak: peak - first };
}

/** A label, or what there is in place of one. @param {{row: any}} props */
export function LabelText({ row }) {
  if (row.label && !row.label.startsWith("unclear")) return html`<span class="label ${row.label_method === "human" ? "human" : ""}" title=${row.label}><${LabelWords} text=${row.label} /></span>`;
  if (row.tokens?.length) return html`<span class="label unclear" title=${row.label || "no label"}>${row.tokens.map((/** @type {string} */ t) => visible(t).trim() || "␣").join(", ")}</span>`;
  return html`<span class="label unclear">${row.n_active === 0 ? "never fired" : row.label || "no label"}</span>`;
}

/** A histogram small enough for a row. @param {{bins: {start: number, counts: number[]}}} props */
export function Spark({ bins }) {
  return html`<${Histogram} counts=${bins.counts} log spark width=${64} height=${16} label="activations" />`;
}
