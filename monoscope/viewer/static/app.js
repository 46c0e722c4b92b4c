/** The shell: rail, top bar with the one search box, keyboard, and the page that the address names. */
import { useApi } from "./api.js";
import { Facts } from "./shell/facts.js";
import { Keys, useKeys } from "./shell/keys.js";
import { SearchBox } from "./shell/search.js";
import { ModelChip } from "./shell/model.js";
import { ErrorState, Loading, Toasts } from "./components.js";
import { html, render, useEffect, useErrorBoundary, useState } from "./kit.js";
import { PlaceProvider, ROUTES, link, usePlace } from "./router.js";
import { useSetting } from "./settings.js";

function App() {
  const place = usePlace();
  const route = ROUTES.find((r) => r.path.test(place.path));
  const { data: atlas, error } = useApi("/atlas");
  const [help, setHelp] = useState(false);
  useKeys({ "?": () => setHelp((shown) => !shown), "/": () => focusSearch() });
  return html`
    <a class="skip" href="#main">Skip to the page</a>
    <div class="app">
      <${Rail} current=${route} />
      <div class="stage">
        <header class="top">
          <${Facts} atlas=${atlas} error=${error} />
          <${ModelChip} />
          <${SearchBox} />
        </header>
        <main id="main" tabindex="-1">
          ${route
            ? html`<${Routed} key=${route.href} route=${route} place=${place} atlas=${atlas} />`
            : html`<${ErrorState} problem=${{ title: "No such page", detail: `nothing is at ${place.path}`, hint: "The rail at the side has every page." }} />`}
        </main>
      </div>
    </div>
    ${help && html`<${Keys} close=${() => setHelp(false)} />`}
    <${Toasts} />`;
}

function focusSearch() {
  const box = document.getElementById("search");
  if (box instanceof HTMLInputElement) { box.focus(); box.select(); }
}

/** @param {{current: any}} props */
function Rail({ current }) {
  const [theme, setTheme] = useSetting("theme");
  const next = { system: "light", light: "dark", dark: "system" }[theme] || "system";
  return html`<nav class="rail" aria-label="Pages">
    <a class="logo" href=${link("/")} aria-label="monoscope, to the atlas"><span aria-hidden="true">◐</span></a>
    ${ROUTES.filter((r) => r.name).map((r) => html`
      <a key=${r.href} href=${link(r.href)} class=${r === current ? "on" : ""} aria-current=${r === current ? "page" : undefined}>${r.name}</a>`)}
    <button class="theme quiet" onClick=${() => setTheme(next)} title="Theme: ${theme}; click for ${next}" aria-label="Theme: ${theme}. Change to ${next}">
      ${{ system: "◑", light: "○", dark: "●" }[theme]}</button>
  </nav>`;
}

/** Loads the page's module, then shows it; a page that fails says so and leaves the shell standing. @param {any} props */
function Routed({ route, place, atlas }) {
  const [page, setPage] = useState(/** @type {any} */ (null));
  const [failed, setFailed] = useState(/** @type {string | null} */ (null));
  const [broken, mend] = useErrorBoundary((error) => console.error(error));
  useEffect(() => {
    let gone = false;
    route.load().then((/** @type {any} */ m) => gone || setPage(m), (/** @type {Error} */ e) => gone || setFailed(e.message));
    return () => { gone = true; };
  }, [route]);
  const params = place.path.match(route.path)?.groups || {};
  const title = page && (typeof page.title === "function" ? page.title(params) : page.title);
  useEffect(() => { if (title) document.title = `${title} · monoscope`; }, [title]);
  useEffect(() => { if (broken) mend(); }, [place.path]);
  if (failed) return html`<${ErrorState} problem=${{ title: "This page did not load", detail: failed }} />`;
  if (broken) return html`<${ErrorState} problem=${{ title: "This page stumbled", detail: String(broken.message || broken) }} retry=${mend} />`;
  if (!page) return html`<${Loading} />`;
  return html`<${page.Page} params=${params} query=${place.query} atlas=${atlas} />`;
}

const root = /** @type {Element} */ (document.getElementById("app"));
root.textContent = "";
render(html`<${PlaceProvider}><${App} /><//>`, root);
