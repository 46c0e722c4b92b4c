/** A field that finds a feature by number or words. */
import { get } from "../api.js";
import { LabelWords } from "../components.js";
import { html, useEffect, useId, useRef, useState } from "../kit.js";
import { percent } from "../format.js";

const WAIT_MS = 180;

/** @param {{pick: (row: any) => void, label: string, placeholder?: string, autofocus?: boolean}} props */
export function PickFeature({ pick, label, placeholder = "number or words", autofocus }) {
  const [text, setText] = useState("");
  const [rows, setRows] = useState(/** @type {any[] | null} */ (null));
  const [at, setAt] = useState(0);
  const box = useRef(/** @type {HTMLInputElement | null} */ (null));
  const id = useId();
  useEffect(() => { if (autofocus) box.current?.focus(); }, []);
  useEffect(() => {
    const asked = text.trim();
    if (!asked) { setRows(null); return; }
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const found = /^\d+$/.test(asked)
          ? await get("/features/rows", { ids: asked }, stop.signal)
          : (await get("/features", { q: asked, limit: 8 }, stop.signal)).items;
        setRows(found);
        setAt(0);
      } catch { if (!stop.signal.aborted) setRows([]); }
    }, WAIT_MS);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [text]);
  const take = (/** @type {any} */ row) => { pick(row); setText(""); setRows(null); box.current?.focus(); };
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") setRows(null);
    if (!rows?.length) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setAt((at + (event.key === "ArrowDown" ? 1 : rows.length - 1)) % rows.length);
    } else if (event.key === "Enter") { event.preventDefault(); take(rows[at]); }
  };
  return html`<div class="finder" onKeyDown=${pressed}>
    <input class="text" ref=${box} value=${text} placeholder=${placeholder} aria-label=${label} role="combobox" autocomplete="off"
      aria-expanded=${Boolean(rows)} aria-controls=${id} aria-autocomplete="list" aria-activedescendant=${rows?.length ? `${id}-${at}` : undefined}
      onInput=${(/** @type {any} */ e) => setText(e.target.value)} onBlur=${() => setTimeout(() => setRows(null), 150)} />
    ${rows && html`<ul class="finds" id=${id} role="listbox" aria-label="Features found">
      ${rows.map((row, i) => html`<li key=${row.latent} id=${`${id}-${i}`} role="option" aria-selected=${i === at}
        onMouseDown=${(/** @type {Event} */ e) => { e.preventDefault(); take(row); }}>
        <b class="num">${row.latent}</b><span class="grow"><${LabelWords} text=${row.label || "no label"} /></span><span class="num dim">${percent(row.density)}</span></li>`)}
      ${!rows.length && html`<li class="dim" role="option" aria-selected="false">no such feature</li>`}
    </ul>`}
  </div>`;
}
