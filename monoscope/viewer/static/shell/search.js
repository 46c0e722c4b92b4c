/** The one search box: words, filters, or a passage to read; it writes the atlas page's address. */
import { useApi } from "../api.js";
import { html, useEffect, useState } from "../kit.js";
import { link, navigate, usePlace } from "../router.js";

const PAUSE_MS = 250, UNFINISHED_MS = 1500; // of typing: after a term, and after a filter that ends in its sign

/** Terms that find something in this atlas. @returns {Record<string, string | null> | null} */
export const useExamples = () => /** @type {any} */ (useApi("/features/examples").data);

export function SearchBox() {
  const place = usePlace();
  const shown = place.path === "/" ? place.query.q || "" : "";
  const [text, setText] = useState(shown);
  const told = useExamples();
  useEffect(() => setText(shown), [shown]);
  const go = (/** @type {string} */ q, push = false) => {
    const query = place.path === "/" ? { ...place.query, q, read: "" } : { q };
    navigate(link("/", query), { replace: !push && place.path === "/" });
  };
  useEffect(() => {
    const open = text.split('"').length % 2 === 0; // a quote is still being typed
    if (place.path !== "/" || text === shown || open) return;
    const timer = setTimeout(() => go(text), /[:<>=]$/.test(text) ? UNFINISHED_MS : PAUSE_MS);
    return () => clearTimeout(timer);
  }, [text]);
  const examples = [told?.word, told?.score, told?.logit].filter(Boolean).join("  ") || (told ? "words, filters, or a sentence" : "");
  return html`<form class="search" role="search" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); go(text, true); }}>
    <kbd aria-hidden="true">/</kbd>
    <input id="search" type="search" value=${text} onInput=${(/** @type {any} */ e) => setText(e.target.value)}
      aria-label="Search features: words, filters, or a passage to read" placeholder=${examples} title="Words, filters, or a passage: then, what fires on it" autocomplete="off" spellcheck=${false} maxlength="8000" />
  </form>`;
}
