/** The one search box: words, filters, or a sentence; it writes the atlas page's address. */
import { html, useEffect, useState } from "../kit.js";
import { link, navigate, usePlace } from "../router.js";

export function SearchBox() {
  const place = usePlace();
  const shown = place.path === "/" ? place.query.q || "" : "";
  const [text, setText] = useState(shown);
  useEffect(() => setText(shown), [shown]);
  const go = (/** @type {string} */ q, push = false) => {
    const query = place.path === "/" ? { ...place.query, q } : { q };
    navigate(link("/", query), { replace: !push && place.path === "/" });
  };
  useEffect(() => {
    const open = text.split('"').length % 2 === 0; // a quote is still being typed
    if (place.path !== "/" || text === shown || open) return;
    const timer = setTimeout(() => go(text), 250);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<form class="search" role="search" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); go(text, true); }}>
    <kbd aria-hidden="true">/</kbd>
    <input id="search" type="search" value=${text} onInput=${(/** @type {any} */ e) => setText(e.target.value)}
      aria-label="Search features: words or filters" placeholder='paris  score>0.8  logit:" Paris"' autocomplete="off" spellcheck=${false} maxlength="2000" />
  </form>`;
}
