/** The list of families: what each side has, and one opened to the contexts that both saw. */
import { get } from "../../api.js";
import { Empty, LabelWords, Panel, toast } from "../../components.js";
import { whole } from "../../format.js";
import { html, useEffect, useRef, useState } from "../../kit.js";
import { link } from "../../router.js";
import { useKeys } from "../../shell/keys.js";
import { Contexts } from "./contexts.js";
import { KINDS } from "./summary.js";

const SHOWN = 3; // latents of a side named before "and more"
const PAGE = 40, MOST = 200; // families asked for at once, and at most
const REST_MS = 300;
const ABOUT = Object.fromEntries(KINDS);

/** @param {{first: any, found: any, a: string, b: string, threshold: number, query: Record<string, string>, setQuery: (patch: any) => void}} props */
export function Families({ first, found, a, b, threshold, query, setQuery }) {
  const [more, setMore] = useState(/** @type {{items: any[], next: string | null}} */ ({ items: [], next: first.next_cursor }));
  const [busy, setBusy] = useState(false);
  const list = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => setMore({ items: [], next: first.next_cursor }), [first]);
  const items = [...first.items, ...more.items];
  const want = Math.min(first.total, Number(query.n) || 0); // how many were shown, as the address has it
  const short = want - items.length;
  useEffect(() => {
    if (short <= 0 || !more.next) return;
    const stop = new AbortController();
    setBusy(true);
    get("/compare", { a, b, threshold, kind: query.kind, q: query.q, limit: Math.min(MOST, short), cursor: more.next }, stop.signal).then(
      (page) => { setMore({ items: [...more.items, ...page.items], next: page.next_cursor }); setBusy(false); },
      (error) => { if (!stop.signal.aborted) { setBusy(false); toast(String(error.message)); setQuery({ n: items.length }); } },
    );
    return () => stop.abort();
  }, [first, items.length, want]);
  const load = () => setQuery({ n: items.length + PAGE });
  const step = (/** @type {number} */ by) => {
    const heads = /** @type {HTMLElement[]} */ ([...(list.current?.querySelectorAll(".family > button") || [])]);
    const at = heads.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    heads[Math.max(0, Math.min(heads.length - 1, at + by))]?.focus();
  };
  useKeys({ j: () => step(1), k: () => step(-1) });
  const here = { a: isHere(found, a), b: isHere(found, b) };
  const title = `${whole(first.total)} ${query.kind ? `${query.kind} ` : ""}${first.total === 1 ? "family" : "families"}`;
  return html`<${Panel} title=${title} class="families" aside=${html`<${Filter} value=${query.q || ""} set=${(/** @type {string} */ q) => setQuery({ q, n: "" })} />`}>
    ${query.kind && html`<p class="note lead">${ABOUT[query.kind]}; <button class="linky" onClick=${() => setQuery({ kind: "", n: "" })}>show every kind</button></p>`}
    ${!items.length ? html`<${Empty} title="Nothing of the kind">${query.q ? "No label on either side holds these words." : "Move the threshold, or show every kind."}<//>`
      : html`<ol class="famlist" ref=${list}>${items.map((family) => html`<${Row} key=${nameOf(family)} family=${family} a=${a} b=${b} here=${here}
          open=${query.f === nameOf(family)} toggle=${() => setQuery({ f: query.f === nameOf(family) ? "" : nameOf(family) })} />`)}</ol>`}
    ${more.next && html`<p class="more"><button class="btn" disabled=${busy} onClick=${load}>${busy ? "Loading…" : `Show more of ${whole(first.total)}`}</button></p>`}
  <//>`;
}

/** @param {any} found @param {string} id */
const isHere = (found, id) => found.atlases.some((/** @type {any} */ one) => one.id === id && one.here);

/** A family is known by the latents of its closest link. @param {any} family */
const nameOf = (family) => `${family.a[0]?.latent ?? ""}-${family.b[0]?.latent ?? ""}`;

/** @param {{family: any, a: string, b: string, here: {a: boolean, b: boolean}, open: boolean, toggle: () => void}} props */
function Row({ family, a, b, here, open, toggle }) {
  const { kind, cosine, shared } = family;
  const lonely = kind === "lost" || kind === "new";
  return html`<li class="family ${open ? "open" : ""}">
    <button aria-expanded=${open} onClick=${toggle}>
      <span class="tag"><i class="swab ${kind}" aria-hidden="true"></i>${kind}</span>
      <${Members} rows=${family.a} n=${family.n_a} side="a" empty=${lonely ? nearest(family, "a") : ""} />
      <${Members} rows=${family.b} n=${family.n_b} side="b" empty=${lonely ? nearest(family, "b") : ""} />
      <span class="figs num"><span title=${lonely ? "cosine of the nearest, which fell short" : "cosine of the closest two"}>${cosine.toFixed(2)}</span>
        ${shared && shared[1] > 0 && !lonely && html`<span class="dim" title="strongest contexts that are the same token in both">${shared[0]} of ${shared[1]} contexts</span>`}</span>
    </button>
    ${open && html`<${Opened} family=${family} a=${a} b=${b} here=${here} />`}</li>`;
}

/** @param {any} family @param {"a" | "b"} side */
function nearest(family, side) {
  const tie = family.links[0];
  return tie ? `nearest: ${tie[side]}` : "";
}

/** @param {{rows: any[], n: number, side: string, empty: string}} props */
function Members({ rows, n, side, empty }) {
  if (!rows.length) return html`<span class="members ${side} none">${empty}</span>`;
  return html`<span class="members ${side}">${rows.slice(0, SHOWN).map((row) => html`<span key=${row.latent} class="one"><span class="num dim">${row.latent}</span> <${LabelWords} text=${row.label || "no label"} /></span>`)}
    ${n > SHOWN && html`<span class="dim">and ${whole(n - SHOWN)} more</span>`}</span>`;
}

/** @param {{family: any, a: string, b: string, here: {a: boolean, b: boolean}}} props */
function Opened({ family, a, b, here }) {
  const pages = ["a", "b"].flatMap((side) => family[side].slice(0, SHOWN).map((/** @type {any} */ row) => ({ side, row })))
    .filter(({ side }) => here[/** @type {"a" | "b"} */ (side)]);
  return html`<div class="opened">
    ${family.links.length > 1 && html`<p class="note">Links: ${family.links.map((/** @type {any} */ tie, /** @type {number} */ i) => html`${i ? ", " : ""}<span class="num">${tie.a} – ${tie.b} (${tie.cosine.toFixed(2)})</span>`)}</p>`}
    ${pages.length > 0 && html`<p class="note">Open the page of ${pages.map(({ row, side }, i) => html`${i ? ", " : ""}<a key=${side + row.latent} href=${link(`/f/${row.latent}`)}>feature ${row.latent}</a>`)}.</p>`}
    <${Contexts} family=${family} a=${a} b=${b} /></div>`;
}

/** @param {{value: string, set: (q: string) => void}} props */
function Filter({ value, set }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (text === value) return;
    const timer = setTimeout(() => set(text), REST_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<label><span class="sr">Words of a label on either side</span><input class="text filter" type="search" placeholder="words of a label" value=${text} onInput=${(/** @type {Event} */ e) => setText(/** @type {HTMLInputElement} */ (e.target).value)} /></label>`;
}
